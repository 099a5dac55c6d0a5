#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The units and rules of packaging/ in a system that boots with them: tests/systemd/init.sh, in a guest.
set -eu
export PATH=$PATH:/usr/sbin:/sbin
skip() {
  echo "SKIPPED: $*"
  exit 0
}
[ "${BUSE_TEST_KERNEL:-guest}" = guest ] || skip "it boots a system of its own, whatever BUSE_TEST_KERNEL says"
[ -x /lib/systemd/systemd ] && [ -x /lib/systemd/systemd-udevd ] || skip "systemd or udev is missing: tools/setup installs them"

here=$(dirname "$(readlink -e tests/systemd/init.sh)")
packaging=$(dirname "$(dirname "$(readlink -e packaging/udev/60-buse.rules)")")
programs=$(dirname "$(readlink -e examples/loopback)")
docs=$(dirname "$(readlink -e docs/administration.md)")
systemd-analyze verify "$packaging"/systemd/buse@.service "$packaging"/systemd/buse@.socket "$packaging"/systemd/buse-export@.service
exec tests/kernel/guest -t 200 -w "${TEST_TMPDIR:-$PWD}" -r "$here" -r "$packaging" -r "$programs" -r "$docs" \
  bash "$here/init.sh" "$docs" "$packaging" "$programs" "$here/story.sh"

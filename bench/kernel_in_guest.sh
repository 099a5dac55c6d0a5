#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Measures kernel devices where there is an nbd driver: in a guest, a user-mode Linux, or with BUSE_TEST_KERNEL=smp in an emulated one
# with two CPUs (CONTRIBUTING.md says what that needs). All arguments go to the benchmark; the guest has BUSE_GUEST_MEMORY, 3G.
#
#   bazel run -c opt //bench:kernel_in_guest -- --json kernel.json
set -eu
bench=$(readlink -e bench/bench)
[ "${BUSE_TEST_KERNEL:-guest}" = smp ] && guest=tests/kernel/smp_guest || guest=tests/kernel/guest
rows=(--rows kernel)
for argument; do [[ $argument != --rows* ]] || rows=(); done
echo "Booting a guest kernel that has nbd ..."
exec "$guest" -m "${BUSE_GUEST_MEMORY:-3G}" -w "${BUILD_WORKING_DIRECTORY:-$PWD}" -r "$(dirname "$bench")" \
  "$bench" ${rows[@]+"${rows[@]}"} --size 64M "$@"

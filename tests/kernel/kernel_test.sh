#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the kernel tests where a kernel has nbd: in a guest; with BUSE_TEST_KERNEL=smp in one with several CPUs, which is slow; or
# with BUSE_TEST_KERNEL=host (bazel test --config=privileged) on this machine's own kernel. BUSE_KERNEL_SUITE is the binary, BUSE_TEST_LIMIT the seconds that it may take.
set -eu

die() {
  echo "kernel_test: $*" >&2
  exit 1
}

suite=$(readlink -e "tests/kernel/${BUSE_KERNEL_SUITE:-suite}")
limit=${BUSE_TEST_LIMIT:-240}
export BUSE_MEMDISK BUSE_LOOPBACK BUSE_RAMDISK BUSE_SAFEDISK BUSE_RAID
BUSE_MEMDISK=$(readlink -e examples/memdisk)
BUSE_LOOPBACK=$(readlink -e examples/loopback)
BUSE_RAMDISK=$(readlink -e tests/c/ramdisk)
BUSE_SAFEDISK=$(readlink -e examples/safedisk || true)  # for its own test alone
BUSE_RAID=$(readlink -e examples/raid || true)  # the same
export PATH=$PATH:/usr/sbin:/sbin
# Bazel's report files are not writable in the guest; the log has it all.
unset XML_OUTPUT_FILE GTEST_OUTPUT TEST_PREMATURE_EXIT_FILE TEST_WARNINGS_OUTPUT_FILE

: "${BUSE_TEST_KERNEL:=guest}"
case $BUSE_TEST_KERNEL in
  host)
    [ "$(id -u)" = 0 ] || die "--config=privileged needs root; without it the tests boot a guest kernel"
    [ -e /sys/module/nbd ] || [ -e /sys/block/nbd0 ] || die "this kernel has no nbd: run modprobe nbd as root"
    exec timeout -k 5 "$limit" "$suite" "$@"
    ;;
  guest | smp)
    [ "$BUSE_TEST_KERNEL" = guest ] && guest=tests/kernel/guest || guest=tests/kernel/smp_guest
    exec "$guest" -t "$limit" -w "${TEST_TMPDIR:-$PWD}" -r "$(dirname "$suite")" -r "$(dirname "$BUSE_MEMDISK")" \
      -r "$(dirname "$BUSE_RAMDISK")" \
      "$suite" "$@"
    ;;
  *) die "BUSE_TEST_KERNEL=$BUSE_TEST_KERNEL: it is guest, smp or host" ;;
esac

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The benchmark of kernel devices works from end to end, in a guest: everyone is attached, measured and detached again. What it
# measures here is worth nothing.
set -eu

export BUILD_WORKING_DIRECTORY=$TEST_TMPDIR  # which the guest may write to
output=$(bench/kernel_in_guest.sh --quick --rows kernel/4k-randread-d4,kernel/64k-seqwrite-d2 \
  --subjects buse,buse-c4,classic,nbdkit-t1,nbdkit-c4,qemu-nbd --json kernel.json 2>&1) || {
  echo "$output"
  exit 1
}
echo "$output"
status=0
expect() {
  grep -q -- "$1" <<<"$output$(cat "$TEST_TMPDIR/kernel.json")" || { echo "FAILED: there is no \"$1\""; status=1; }
}
for subject in buse buse-c4 classic nbdkit-t1 nbdkit-c4 qemu-nbd; do
  [ "$(grep -c "^  $subject  *[0-9][0-9,]* " <<<"$output")" = 2 ] || { echo "FAILED: $subject was not measured twice"; status=1; }
done
expect "No ratios from 1 run"
expect '"server_sleeps_per_request": {'
expect '"latency_p99_us": {'
! grep -q "failed:\|Not measured" <<<"$output" || { echo "FAILED: something failed"; status=1; }
exit "$status"

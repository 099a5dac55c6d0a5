#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# corpus_test.sh REPLAY nothing|finding FOLDER: runs a fuzz target over its corpus and says whether the outcome is that expected.
set -uo pipefail

output=$("$1" "$3" 2>&1)
status=$?
case "$2" in
  nothing)
    if ((status == 0)); then exit 0; fi
    printf '%s\n' "$output" "ended with $status" ;;
  finding)
    if ((status != 0)) && grep -q '^found: ' <<<"$output"; then exit 0; fi
    printf '%s\n' "$output" "the planted error was not found" ;;
esac
exit 1

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# conformance_test.sh TABLE TEST...: every `Suite.Name` that the table names is a test in one of the files.
set -uo pipefail

table=$1
shift
missing=0
checked=0
while read -r suite name; do
  ((++checked))
  if ! grep -Pzq "TEST(_F|_P)?\($suite,\s*$name\)|TYPED_TEST\($suite,\s*$name\)" "$@"; then
    echo "$table names $suite.$name, and there is no such test"
    missing=1
  fi
done < <(grep -oE '`[A-Za-z]+Test\.[A-Za-z0-9]+`' "$table" | tr -d '`' | tr . ' ' | sort -u)
echo "$checked tests are named"
if ((checked < 50)); then exit 1; fi
exit "$missing"

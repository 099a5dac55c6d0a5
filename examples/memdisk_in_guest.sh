#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Shows a disk of our own on a real kernel: boots a guest (user-mode Linux, no root needed) and plays the story in it.
set -eu
memdisk=$(readlink -e examples/memdisk) story=$(readlink -e examples/memdisk_story.sh)
echo "Booting a guest kernel that has nbd ..."
folder=$(mktemp -d)
trap 'rmdir "$folder"' EXIT
tests/kernel/guest -t 120 -w "$folder" -r "$(dirname "$memdisk")" -r "$(dirname "$story")" bash "$story" "$memdisk"

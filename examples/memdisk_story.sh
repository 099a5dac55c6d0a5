#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What memdisk_in_guest does in the guest: attach, make a file system, mount, list, end.
set -eu
memdisk=$1

show() {
  echo
  echo "# $*"
  "$@"
}

echo "Linux $(uname -r)"
echo
echo "# memdisk 128M /dev/nbd0 &"
"$memdisk" 128M /dev/nbd0 &
server=$!
for _ in $(seq 100); do
  [ "$(cat /sys/block/nbd0/size)" = 0 ] || break
  sleep 0.1
done
show lsblk /dev/nbd0
show mkfs.ext4 -q /dev/nbd0
mkdir -p /tmp/mnt
show mount /dev/nbd0 /tmp/mnt
show cp /etc/os-release /tmp/mnt/
show ls -l /tmp/mnt
show df -h /tmp/mnt
show umount /tmp/mnt
show fsck.ext4 -fn /dev/nbd0
echo
echo "# kill -TERM $server"
kill -TERM "$server"
wait "$server"
echo "memdisk ended with exit code $? and /dev/nbd0 is free again."

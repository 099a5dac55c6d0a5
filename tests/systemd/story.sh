#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# story.sh first|second PAGE: what an administrator does with the units and the rule. The commands are those of PAGE,
# docs/administration.md. A service of the system that init.sh boots.
set -u
page=$2
failed=0
check() {  # check WHAT COMMAND...: says WHAT if the command fails
  local what=$1
  shift
  "$@" && return
  echo "FAILED: $what: $*"
  failed=1
}
# The commands that PAGE has under this heading.
follow() {
  local block
  block=$(sed -n "/^## $1\$/,/^## /{/^ *\`\`\`sh\$/,/^ *\`\`\`\$/{s/^  //;/^ *\`\`\`/d;p}}" "$page")
  echo "== $1"
  [ -n "$block" ] || { echo "FAILED: no commands under $1"; failed=1; }
  bash -euo pipefail -c "$block" || { echo "FAILED: $1"; failed=1; }
}
pid() { systemctl show --value --property=MainPID "buse@$1"; }
until_true() { for _ in $(seq 300); do "$@" && return; sleep 0.1; done; return 1; }
another_pid() { [ "$(pid data)" != 0 ] && [ "$(pid data)" != "$1" ]; }

write() { while dd if=/dev/zero of=/mnt/data/file bs=64k count=4 conv=fsync status=none; do date +%N >/run/story/written; done; }
progress() {
  local from
  from=$(cat /run/story/written)
  until_true eval "[ \"\$(cat /run/story/written)\" != '$from' ]"
}

first() {
  follow Install
  follow 'Attach at boot'
  check "the name is there at once" test -b /dev/buse/data
  check "locked memory" grep -q '^VmLck:.* [1-9][0-9]* kB' "/proc/$(pid data)/status"
  check "not for the OOM killer" grep -qx -- -1000 "/proc/$(pid data)/oom_score_adj"
  # Shorter than the defaults, from the next start on.
  sed -i 's/$/ --request-timeout 2 --dead-timeout 20/' /etc/buse/data.conf
  follow 'Mount by fstab'
  echo kept >/mnt/data/kept
}

upgrade_and_crash() {
  write &
  local writer=$! before mounted
  until_true test -s /run/story/written
  before=$(pid data)
  follow Upgrade
  check "another process" another_pid "$before"
  check "the old one ends" until_true test ! -d "/proc/$before"
  sleep 1
  check "the service goes on" systemctl -q is-active buse@data
  check "writing goes on" progress
  before=$(pid data)
  mounted=$(systemctl show --property=InvocationID mnt-data.mount)
  kill -KILL "$before"
  check "started again" until_true another_pid "$before"
  check "and ready" until_true systemctl -q is-active buse@data
  check "writing goes on after the crash" progress
  check "the mount has seen nothing" test "$(systemctl show --property=InvocationID mnt-data.mount)" = "$mounted"
  check "no error" eval '! dmesg | grep -iE "EXT4-fs error|I/O error, dev nbd0"'
  cp /etc/buse/data.conf /run/story/data.conf
  sed -i s/data.img/missing.img/ /etc/buse/data.conf
  before=$(pid data)
  check "no upgrade to what is not there" eval '! systemctl reload buse@data 2>/dev/null'
  cp /run/story/data.conf /etc/buse/data.conf
  check "the old one stays" test "$(pid data)" = "$before"
  check "writing goes on after that" progress
  kill "$writer"
  wait "$writer" 2>/dev/null
}

recover() {
  mv /srv/data.img /srv/moved.img
  kill -KILL "$(pid data)"
  check "I/O fails in the end" eval '! timeout 120 dd if=/dev/zero of=/mnt/data/lost bs=64k count=4 conv=fsync status=none 2>/dev/null'
  mv /srv/moved.img /srv/data.img
  follow Recover
  check "what was flushed is there" grep -qx kept /mnt/data/kept
}

# A disk with a volume group on it, as udev finds it at boot: not activated, and activated where that is wanted.
volume_group() {
  if ! command -v lvm >/dev/null || [ ! -e /sys/module/dm_mod ]; then
    echo "SKIPPED: volume groups: lvm2 is not installed, or this kernel has no device mapper"
    return
  fi
  rm /etc/udev/rules.d/50-buse-scan.rules
  udevadm control --reload
  truncate -s 0 /srv/data.img
  truncate -s 64M /srv/data.img
  systemctl start buse@data
  local device
  device=$(readlink -f /dev/buse/data)
  check "make a volume group" eval "{ pvcreate -y $device && vgcreate story $device && lvcreate -y -L 8M -n volume story &&
    vgchange -an story; } >/dev/null"
  for wanted in no yes; do
    [ $wanted = no ] || follow 'What lies on a disk'
    udevadm trigger --action=add --settle "$device"
    if [ $wanted = no ]; then
      sleep 2
      check "the volume group is left alone" test ! -e /dev/story/volume
    else
      check "the volume group is activated" until_true test -e /dev/story/volume
    fi
  done
  vgchange -an story >/dev/null
  systemctl stop buse@data
}

left_alone() {
  umount /mnt/data
  systemctl stop buse@data
  check "the name is gone" until_true test ! -e /dev/buse/data
  cp /srv/data.img /run/story/data.img
  wipefs -qa /srv/data.img
  echo ',,L' | sfdisk -q /srv/data.img
  systemctl start buse@data
  local device
  device=$(readlink -f /dev/buse/data)
  # A program that writes to it, and ends, makes udev look.
  dd if=/dev/zero of="$device" bs=4k count=1 seek=100 conv=notrunc,fsync status=none
  udevadm settle
  check "no partition" test ! -e "${device}p1"
  check "udev knows nothing" eval "! udevadm info --query=property $device | grep -E 'ID_PART_TABLE|ID_FS'"
  follow 'What lies on a disk'
  check "a partition" until_true test -b "${device}p1"
  check "its name" until_true test -b /dev/buse/data-part1
  check "udev knows" eval "udevadm info --query=property $device | grep -q ID_PART_TABLE_TYPE=dos"
  systemctl stop buse@data
  check "no partition is left" until_true test ! -e "${device}p1"
  volume_group
  rm -f /etc/udev/rules.d/50-buse-scan.rules
  udevadm control --reload
  cp /run/story/data.img /srv/data.img
  systemctl start buse@data
  mount /mnt/data
}

second() {
  check "attached and mounted at boot" grep -qx kept /mnt/data/kept
  check "not found by its UUID" test -z "$(ls /dev/disk/by-uuid 2>/dev/null)"
  upgrade_and_crash
  follow Resize
  check "larger" test "$(blockdev --getsize64 /dev/buse/data)" = 100663296
  recover
  left_alone
  follow 'For NBD clients'
  check "the client found a server" systemctl -q is-active buse-export@other
  follow Stop
  check "stopped" until_true test ! -e /dev/buse/data
  systemctl start buse@data
  mount /mnt/data # for the end of the system
}

"$1"
exit "$failed"

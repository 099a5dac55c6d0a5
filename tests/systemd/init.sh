#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# init.sh DOCS PACKAGING PROGRAMS STORY: in a guest, as root. Boots systemd with udev twice, and has STORY run in it: `first`, in which an
# administrator installs the units, then `second`. Ends with the first exit code that is not 0. Looks at what the ends of the
# system leave.
set -eu
docs=$1 packaging=$2 programs=$3 story=$4

mount -t cgroup2 none /sys/fs/cgroup
for folder in /srv /mnt /usr/local/bin; do mount -t tmpfs none "$folder"; done
# The host's files are read-only: /etc becomes a copy. What an ordinary user may not read is not needed.
mkdir -p /run/story/etc /run/story/checkout/bazel-bin
cp -a /etc/. /run/story/etc 2>/dev/null || true
mount --bind /run/story/etc /etc
rm -rf /etc/systemd/system/* /etc/udev/rules.d/* /etc/modprobe.d /etc/fstab /etc/buse
cp -a "$packaging" /run/story/checkout/packaging
ln -s "$programs" /run/story/checkout/bazel-bin/examples
# As the documentation has it loaded: the installation's file is not there yet, but says this.
busybox rmmod nbd
busybox insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/nbd.ko" \
  "$(sed -n 's/^options nbd //p' "$packaging"/modprobe.d/buse.conf)"
busybox insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/md/dm-mod.ko" || true
cat >/etc/systemd/system/story.target <<X
[Unit]
DefaultDependencies=no
Wants=systemd-udevd.service local-fs.target story.service
X
# The rest of a system's start is not needed.
for unit in buse@.socket buse-export@.service; do
  mkdir "/etc/systemd/system/$unit.d"
  printf '[Unit]\nDefaultDependencies=no\n' >"/etc/systemd/system/$unit.d/story.conf"
done

export container=guest
for part in first second; do
  cat >/etc/systemd/system/story.service <<X
[Unit]
DefaultDependencies=no
After=local-fs.target systemd-udevd.service
Conflicts=shutdown.target
Before=shutdown.target
[Service]
Type=oneshot
WorkingDirectory=/run/story/checkout
Environment=PATH=/usr/local/bin:$PATH SYSTEMD_PAGER= SYSTEMD_COLORS=0
ExecStart=/bin/bash $story $part $docs/administration.md
ExecStopPost=/bin/sh -c 'systemctl --no-block exit \$EXIT_STATUS'
StandardOutput=tty
StandardError=tty
TTYPath=/dev/tty1
X
  status=0
  unshare -fp --mount-proc /lib/systemd/systemd --system --unit=story.target --log-target=kmsg || status=$?
  # Whatever was mounted was unmounted before its server ended, so it is clean.
  if dumpe2fs -h /srv/data.img 2>/dev/null | grep -E 'needs_recovery|^Filesystem state: *not clean'; then
    echo "FAILED: not unmounted before its server ended"
    status=1
  fi
  e2fsck -fn /srv/data.img >/tmp/e2fsck 2>&1 || { cat /tmp/e2fsck; status=1; }
  if ((status != 0)); then
    dmesg | grep -v 'the journal socket' | tail -60
    exit "$status"
  fi
done

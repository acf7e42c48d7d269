#!/bin/busybox sh
# Runs as init of the guest: the product, a TLS exchange and a plain one, and what the product says of them.
busybox mkdir -p /proc /sys /dev /tmp /run /data /bin /www /etc
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t tracefs trace /sys/kernel/tracing 2>/dev/null
busybox mkdir -p /sys/fs/cgroup && busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
busybox mount -t tmpfs tmp /tmp
busybox mount -t tmpfs data /data
busybox --install -s /bin
ip link set lo up
export PATH=/bin:/usr/bin:/sbin HOME=/tmp
echo vmtest began
# Go caches the mount table at start, so the product starts in a process of its own, after the mounts.
exec /bin/sh /guest-run.sh

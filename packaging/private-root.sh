# shellcheck shell=sh
# Sourced by check.sh and test.sh: a root of one's own.
#
# A copy-on-write view of this system, with mount and pid namespaces of its own.
# Nothing that is written in it reaches the host, and nothing that is started in
# it outlives it.

# The caller's file, seen from the root of the repository, where it works.
caller=packaging/${0##*/}

# private_root FUNCTION [ARG...]: runs a function of the caller's file with $root
# made. The caller's file has to call private_root "$@" when it is started so.
private_root() {
    if [ "${GATEWAY_PRIVATE_ROOT:-}" ]; then
        make_private_root
        "$@"
        return
    fi
    must_be_root
    GATEWAY_PRIVATE_ROOT=yes unshare --mount --propagation private --pid --fork --kill-child sh "$caller" "$@"
}

# private_system DIR: boots systemd in such a root, runs DIR/inside there as a
# service, and prints what it says. DIR is /test in there.
private_system() {
    if [ "${GATEWAY_PRIVATE_ROOT:-}" ]; then
        make_private_root
        boot_systemd "$@"
        return
    fi
    must_be_root
    make_cgroup
    # A shell that is told to stop hears of it in wait alone.
    trap 'remove_cgroup; exit 1' HUP INT TERM
    GATEWAY_PRIVATE_ROOT=yes sh -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$cgroup" \
        timeout --signal=KILL 600 \
        unshare --mount --propagation private --pid --cgroup --ipc --uts --net --fork --kill-child \
        sh "$caller" private_system "$@" &
    status=0
    wait $! || status=$?
    remove_cgroup
    trap - HUP INT TERM
    return "$status"
}

make_cgroup() {
    cgroup=$(findmnt --noheadings --types cgroup2 --output TARGET | head -n1)
    if [ -z "$cgroup" ]; then
        echo "$0: a systemd needs a cgroup of version 2, and none is mounted; try: mount -t cgroup2 none /sys/fs/cgroup" >&2
        exit 1
    fi
    cgroup=$cgroup/gateway-test-$$
    mkdir "$cgroup" || exit 1
}

# Ends what is in it: with unshare goes its child, the first process of a pid
# namespace, and with that all that it started. The last ones may take a moment.
remove_cgroup() {
    for _ in $(seq 200); do
        # shellcheck disable=SC2046 # numbers
        kill -KILL $(cat "$cgroup/cgroup.procs") 2>/dev/null || :
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null && return
        sleep 0.05
    done
    echo "$0: cannot remove $cgroup" >&2
}

must_be_root() {
    [ "$(id -u)" -eq 0 ] && return
    echo "$0: this makes namespaces and mounts: run it as root" >&2
    exit 1
}

make_private_root() {
    # A tmpfs at a place that every system has; this mount namespace alone sees it.
    layers=/mnt
    root=$layers/root
    mount -t tmpfs -o mode=755 gateway-test "$layers"
    mkdir "$layers/upper" "$layers/work" "$root"
    mount -t overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" gateway-test "$root"
    mount -t proc proc "$root/proc"
    make_devices "$root/dev"
    # None of the host's sockets.
    mount -t tmpfs -o mode=755 gateway-test "$root/run"
    mount -t tmpfs -o mode=1777 gateway-test "$root/tmp"
    # Images for containers leave out manuals and documentation.
    for file in "$root/etc/dpkg/dpkg.cfg" "$root/etc/dpkg/dpkg.cfg.d"/*; do
        [ ! -f "$file" ] || sed -i '/^path-\(in\|ex\)clude/d' "$file"
    done
}

make_devices() {
    mount -t tmpfs -o mode=755 gateway-test "$1"
    for device in null zero full random urandom tty; do
        : >"$1/$device"
        mount --bind "/dev/$device" "$1/$device"
    done
    mkdir "$1/pts" "$1/shm"
    mount -t devpts -o newinstance,ptmxmode=666 gateway-test "$1/pts"
    ln -s pts/ptmx "$1/ptmx"
    ln -s /proc/self/fd "$1/fd"
}

inside() {
    chroot "$root" "$@"
}

boot_systemd() {
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    # What systemd sets at boot, for the queue of its notification socket; this is
    # the private network's. All else below /proc/sys would be the host's.
    echo 512 >"$root/proc/sys/net/unix/max_dgram_qlen"
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mkdir -p "$root/test"
    mount --bind "$1" "$root/test"
    # Only what a service needs, and nothing that this host has enabled.
    find "$root/etc/systemd/system" -name '*.wants' -exec rm -r {} +
    rm -f "$root/etc/fstab"
    printf '[Unit]\nWants=systemd-journald.service\n' >"$root/etc/systemd/system/sysinit.target"
    : >"$root/etc/machine-id"
    cat >"$root/etc/systemd/system/test.service" <<EOF
[Service]
Type=oneshot
ExecStart=/test/inside
ExecStopPost=/bin/sh -c 'systemctl exit --force --force \$EXIT_STATUS'
StandardOutput=file:/test/log
StandardError=inherit
TimeoutStartSec=infinity
EOF
    # As root of this mount namespace: systemctl has to see its manager's root.
    mkdir -p "$root/mnt"
    cd "$root" || exit 1
    pivot_root . mnt
    umount -l /mnt
    exec env -i container=gateway-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system --unit=test.service --show-status=no --log-target=null
}

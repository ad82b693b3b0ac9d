# Sourced by check.sh and test.sh: a root of one's own.
#
# private_root SCRIPT [ARG...] runs SCRIPT, a function of the caller's file, in
# a copy-on-write view of this system with mount and pid namespaces of its own.
# Nothing that it writes reaches the host, and nothing that it starts outlives it.
# In it, $root is the private root, and `inside` runs a command there.

private_root() {
    if [ "${GATEWAY_PRIVATE_ROOT:-}" ]; then
        make_private_root
        "$@"
        return
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "$0: this makes namespaces and mounts: run it as root" >&2
        return 1
    fi
    GATEWAY_PRIVATE_ROOT=yes unshare --mount --propagation private --pid --fork --kill-child \
        "$0" "$@"
}

make_private_root() {
    # A tmpfs at a place that every system has; this mount namespace alone sees it.
    layers=/mnt
    root=$layers/root
    mount -t tmpfs -o mode=755 gateway-test "$layers"
    mkdir "$layers/upper" "$layers/work" "$root"
    mount -t overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" gateway-test "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    # No systemd here, and none of the host's sockets.
    mount -t tmpfs -o mode=755 gateway-test "$root/run"
    mount -t tmpfs -o mode=1777 gateway-test "$root/tmp"
}

inside() {
    chroot "$root" "$@"
}

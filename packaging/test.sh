#!/bin/sh
# Installs, upgrades, removes and purges the packages in a private root, while a
# gateway runs there: packaging/test.sh
#
# packaging/build.sh makes the packages first. lintian has to have nothing to
# say about the .deb that no override answers.
set -eu
cd "$(dirname "$0")/.."
. packaging/private-root.sh

target=${CARGO_TARGET_DIR:-target}
passed=0

fault() {
    echo "packaging/test.sh: $*" >&2
    exit 1
}

# ok WHAT COMMAND...: the command succeeds.
ok() {
    what=$1
    shift
    said=$("$@" 2>&1) || fault "$what: $* ended $?: $said"
    echo "ok: $what"
    passed=$((passed + 1))
}

# code WHAT N COMMAND...: the command ends with N.
code() {
    what=$1 expected=$2
    shift 2
    got=0
    said=$("$@" 2>&1) || got=$?
    [ "$got" -eq "$expected" ] || fault "$what: $* ended $got, not $expected: $said"
    echo "ok: $what"
    passed=$((passed + 1))
}

# eventually COMMAND...: within ten seconds, the command succeeds.
eventually() {
    for _ in $(seq 1000); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.01
    done
    fault "not within ten seconds: $*"
}

# ------------------------------------------------------------------ the packages

# The same package as the next version, with a program of other bytes.
next_version() {
    dpkg-deb --raw-extract "$1" "$root/tmp/next"
    sed -i 's/^Version: .*/Version: 999.0-1/' "$root/tmp/next/DEBIAN/control"
    printf 'next' >>"$root/tmp/next/usr/bin/gateway"
    dpkg-deb --root-owner-group --build "$root/tmp/next" "$2" >/dev/null
    rm -r "$root/tmp/next"
}

file_is_there() {
    [ -e "$root$1" ] || fault "$1 is not there"
}

shipped_everywhere='/usr/bin/gateway
    /usr/lib/systemd/system/gateway@.service
    /usr/lib/systemd/system/hermes-gateway.service
    /usr/lib/systemd/user/gateway@.service
    /usr/share/bash-completion/completions/gateway
    /usr/share/fish/vendor_completions.d/gateway.fish
    /usr/share/doc/gateway-lock/examples/drop-in.conf
    /usr/share/doc/gateway-lock/examples/give-way.conf'

everything_is_there() {
    for file in $shipped_everywhere "$@"; do
        file_is_there "$file"
    done
}

nothing_is_left() {
    for file in $shipped_everywhere "$@"; do
        [ ! -e "$root$file" ] || fault "$file is left"
    done
}

no_unit_is_enabled() {
    [ -z "$(find "$root/etc/systemd" -name '*gateway*')" ]
}

# ------------------------------------------------------------------ the holder

# start_holder PROGRAM: a gateway named demo, started by that program.
start_holder() {
    inside "$1" run --replace -n demo -- sleep 1000 &
    eventually sh -c "chroot $root $1 -n demo status | grep -q ^held:"
    holder=$(head -n1 "$root$pid_file")
    payload=$(pgrep -P "$holder")
    born=$(start_time "$holder") payload_born=$(start_time "$payload")
}

start_time() {
    cut -d' ' -f22 "/proc/$1/stat"
}

# Holder and payload are the very processes that they were, and the lock holds.
holder_is_untouched() {
    [ "$(start_time "$holder")" = "$born" ] &&
        [ "$(start_time "$payload")" = "$payload_born" ] &&
        [ "$(head -n1 "$root$pid_file")" = "$holder" ] &&
        ! flock --nonblock "$root$pid_file" true
}

# ------------------------------------------------------------------ .deb

deb() {
    pid_file=/var/lib/gateway/demo/gateway.pid
    cp "$1" "$root/tmp/1.deb"
    next_version "$1" "$root/tmp/2.deb"

    ok 'deb: installs' inside dpkg --install /tmp/1.deb
    ok 'deb: all of it is there' everything_is_there /usr/share/zsh/vendor-completions/_gateway \
        /usr/share/man/man1/gateway.1.gz /usr/share/doc/gateway-lock/copyright
    ok 'deb: enables no unit' no_unit_is_enabled
    ok 'deb: the units verify' inside systemd-analyze verify gateway@.service hermes-gateway.service
    code 'deb: the program runs anywhere, without a library' 3 \
        env -i "$(command -v chroot)" "$root" /usr/bin/gateway -n nobody status
    ok 'deb: man finds the manual' inside man -w gateway

    start_holder gateway
    install -D -m 755 /bin/true "$root/etc/gateway/mine"
    ok 'deb: upgrades' inside dpkg --install /tmp/2.deb
    ok 'deb: an upgrade leaves a holder as it is' holder_is_untouched
    code 'deb: the new program knows the holder of the old one' 0 inside gateway -n demo status
    code 'deb: the new program is refused by the holder of the old one' 80 inside gateway run -n demo -- true
    before=$holder
    start_holder gateway
    ok 'deb: the new program takes over from the old one' [ "$holder" != "$before" ]

    cp "$root/usr/bin/gateway" "$root/tmp/gateway"
    ok 'deb: is removed' inside dpkg --remove gateway-lock
    ok 'deb: a removal leaves a holder as it is' holder_is_untouched
    ok 'deb: a removal leaves no file' nothing_is_left /usr/share/zsh/vendor-completions/_gateway

    inside /tmp/gateway run -n ended -- true
    ok 'deb: is purged' inside dpkg --purge gateway-lock
    ok 'deb: a purge leaves a holder as it is' holder_is_untouched
    ok 'deb: a purge removes the pid file that nobody holds' [ ! -e "$root/var/lib/gateway/ended" ]
    ok "deb: a purge leaves the administrator's scripts" [ -e "$root/etc/gateway/mine" ]

    code 'deb: the program stops the holder from wherever it lies' 0 inside /tmp/gateway -n demo stop
    ok 'deb: installs again' inside dpkg --install /tmp/1.deb
    ok 'deb: is purged again' inside dpkg --purge gateway-lock
    ok 'deb: a purge leaves no state' [ ! -e "$root/var/lib/gateway" ]
    ok 'deb: is not known any more' sh -c "! chroot $root dpkg --status gateway-lock"
}

# ------------------------------------------------------------------ .rpm

rpm_package() {
    cp "$1" "$root/tmp/1.rpm"
    # A data base of its own: the host's is that of another package manager.
    set -- --dbpath /tmp/rpm --nodeps
    ok 'rpm: installs' inside rpm "$@" --install /tmp/1.rpm
    ok 'rpm: all of it is there' everything_is_there /usr/share/zsh/site-functions/_gateway \
        /usr/share/man/man1/gateway.1 /usr/share/licenses/gateway-lock/LICENSE
    ok 'rpm: every file is as it was packed' inside rpm "$@" --verify gateway-lock
    start_holder gateway
    ok 'rpm: upgrades' inside rpm "$@" --upgrade --replacepkgs /tmp/1.rpm
    ok 'rpm: an upgrade leaves a holder as it is' holder_is_untouched
    cp "$root/usr/bin/gateway" "$root/tmp/gateway"
    ok 'rpm: is removed' inside rpm "$@" --erase gateway-lock
    ok 'rpm: a removal leaves a holder as it is' holder_is_untouched
    ok 'rpm: a removal leaves no file' nothing_is_left /usr/share/zsh/site-functions/_gateway
    code 'rpm: the program stops the holder from wherever it lies' 0 inside /tmp/gateway -n demo stop
}

# ------------------------------------------------------------------ all of it

packages() {
    # pids of the private namespace, in the host's /proc as well
    mount -t proc proc /proc
    deb "$1"
    rpm_package "$2"
    echo "packaging/test.sh: $passed passed, 0 failed"
}

if [ "${1:-}" = packages ]; then
    private_root "$@"
    exit
fi

sh packaging/need dpkg-deb:dpkg lintian:lintian rpm:rpm man:man-db pgrep:procps flock:util-linux \
    systemd-analyze:systemd unshare:util-linux
packaging/build.sh
lintian=$(lintian --allow-root --display-info --pedantic --tag-display-limit 0 "$target"/debian/*.deb 2>&1) || true
[ -z "$lintian" ] || fault "lintian: $lintian"
echo 'ok: lintian has nothing to say'
private_root packages "$target"/debian/*.deb "$target"/generate-rpm/*.rpm

#!/bin/sh
# What packaging/test.sh does inside the private system, with the files in /test.
set -eu
export HOME=/root
passed=0

fault() {
    echo "packaging/test.sh: $*"
    journalctl --no-pager --quiet --lines 40
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

# eventually COMMAND...: within fifteen seconds, the command succeeds.
eventually() {
    for _ in $(seq 1500); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.01
    done
    fault "not within fifteen seconds: $*"
}

# shows UNIT PROPERTY=VALUE
shows() {
    [ "$(systemctl show --property "${2%%=*}" "$1")" = "$2" ]
}

# ------------------------------------------------------------------ the files

# The same package as the next version, with a program of other bytes.
next_version() {
    dpkg-deb --raw-extract /test/1.deb /tmp/next
    sed -i 's/^Version: .*/Version: 999.0-1/' /tmp/next/DEBIAN/control
    printf 'next' >>/tmp/next/usr/bin/gateway
    dpkg-deb --root-owner-group --build /tmp/next /tmp/2.deb
}

SHIPPED='/usr/bin/gateway
    /usr/lib/systemd/system/gateway@.service
    /usr/lib/systemd/system/hermes-gateway.service
    /usr/lib/systemd/user/gateway@.service
    /usr/share/bash-completion/completions/gateway
    /usr/share/fish/vendor_completions.d/gateway.fish
    /usr/share/doc/gateway-lock/README.md
    /usr/share/doc/gateway-lock/examples/drop-in.conf
    /usr/share/doc/gateway-lock/examples/give-way.conf'
DEB="$SHIPPED"'
    /etc/needrestart/conf.d/gateway.conf
    /usr/share/doc/gateway-lock/changelog.Debian.gz
    /usr/share/doc/gateway-lock/copyright
    /usr/share/lintian/overrides/gateway-lock
    /usr/share/man/man1/gateway.1.gz
    /usr/share/zsh/vendor-completions/_gateway'
RPM="$SHIPPED"'
    /usr/share/licenses/gateway-lock/LICENSE
    /usr/share/man/man1/gateway.1
    /usr/share/zsh/site-functions/_gateway'

# all_there LIST COMMAND...: all of it is there, and it is all that the package
# has, as COMMAND lists it.
all_there() {
    for file in $1; do
        [ -e "$file" ] || fault "$file is not there"
    done
    echo "$1" | tr -s ' ' '\n' | sort >/tmp/meant
    shift
    "$@" | while read -r file; do
        [ -d "$file" ] || echo "$file"
    done | sort >/tmp/packed
    diff /tmp/meant /tmp/packed
}

none_there() {
    for file in $1; do
        [ ! -e "$file" ] || fault "$file is left"
    done
}

enabled() {
    find /etc/systemd -name '*gateway*' | wc -l
}

# What is there instead is told.
is_gone() {
    [ ! -e "$1" ] || {
        ls -lR "$1"
        lslocks
        return 1
    }
}

no_unit_is_enabled() {
    [ "$(enabled)" -eq 0 ]
}

# A run in a unit whose user systemd makes up: its directory is a link.
own_user() {
    systemd-run --quiet --property=Type=oneshot --property=DynamicUser=yes --property=StateDirectory=gateway/private \
        gateway run -n private -- true
    [ -L /var/lib/gateway/private ] && [ -s /var/lib/private/gateway/private/gateway.pid ]
}

# ------------------------------------------------------------------ holders

start_time() {
    cut -d' ' -f22 "/proc/$1/stat"
}

held() {
    gateway -n "$1" status | grep -q '^held: pid'
}

# by_hand PROGRAM: a gateway named demo, outside of any unit of ours.
by_hand() {
    "$1" run --replace -n demo -- sleep 1000 &
    hand=$!
    eventually pgrep --parent "$hand"
    remember demo
}

# The record is that of a holder, not of one that has ended, and names its payload.
runs() {
    grep -q '^[0-9]' "$1" && grep -q '"payload":{' "$1"
}

# What holds NAME now, to be compared with what does so later.
remember() {
    pid_file=/var/lib/gateway/$1/gateway.pid
    eventually runs "$pid_file"
    holder=$(head -n1 "$pid_file")
    payload=$(pgrep --parent "$holder")
    born=$(start_time "$holder") payload_born=$(start_time "$payload")
}

# Holder and payload are the very processes that they were, and the lock holds.
untouched() {
    [ "$(start_time "$holder")" = "$born" ] &&
        [ "$(start_time "$payload")" = "$payload_born" ] &&
        [ "$(head -n1 "$pid_file")" = "$holder" ] &&
        ! flock --nonblock "$pid_file" true
}

# ------------------------------------------------------------------ .deb

script() {
    install -D -m 755 /dev/stdin "$1" <<'EOF'
#!/bin/sh
exec sleep 2000
EOF
}

deb() {
    ok 'deb: installs' dpkg --install /test/1.deb
    ok 'deb: all of it is there' all_there "$DEB" dpkg --listfiles gateway-lock
    ok 'deb: enables no unit' no_unit_is_enabled
    ok 'deb: systemd knows the units' systemctl cat gateway@demo hermes-gateway
    ok 'deb: the program runs without any library' unshare --root /usr/bin --wd / /gateway --version
    # Nor is there a /proc in there, without which nobody can tell.
    code 'deb: without /proc, status says that it cannot tell' 4 \
        unshare --root /usr/bin --wd / /gateway -f /nothing status
    ok 'deb: man finds the manual' man -w gateway

    script /etc/gateway/service
    ok 'deb: a unit starts' systemctl start gateway@service
    by_hand gateway

    ok 'deb: upgrades' dpkg --install /tmp/2.deb
    ok 'deb: an upgrade leaves a holder as it is' untouched
    ok 'deb: an upgrade restarts no unit' shows gateway@service NRestarts=0
    ok 'deb: an upgrade leaves the unit active' systemctl is-active gateway@service
    ok 'deb: the new program knows the holder of the old one' held demo
    code 'deb: the new program is refused by the holder of the old one' 80 gateway run -n demo -- true
    old=$holder
    by_hand gateway
    ok 'deb: the new program takes over from the old one' [ "$holder" != "$old" ]
    ok 'deb: a unit is restarted with the new program' systemctl restart gateway@service

    cp /usr/bin/gateway /tmp/gateway
    ok 'deb: is removed' dpkg --remove gateway-lock
    ok 'deb: a removal leaves a holder as it is' untouched
    ok 'deb: a removal leaves the unit active' systemctl is-active gateway@service
    ok 'deb: a removal leaves no file but a setting' none_there "$(echo "$DEB" | grep -v /etc/)"
    /tmp/gateway run -n ended -- true
    ok 'deb: is purged' dpkg --purge gateway-lock
    ok 'deb: a purge leaves no file' none_there "$DEB"
    ok 'deb: a purge leaves a holder as it is' untouched
    ok 'deb: a purge removes the pid file that nobody holds' is_gone /var/lib/gateway/ended
    ok "deb: a purge leaves the administrator's scripts" [ -e /etc/gateway/service ]
    code 'deb: a program elsewhere stops the holder' 0 /tmp/gateway -n demo stop
    ok 'deb: the unit stops' systemctl stop gateway@service

    ok 'deb: installs again' dpkg --install /test/1.deb
    ok 'deb: a unit with a user of its own starts' own_user
    ok 'deb: units are enabled' systemctl enable gateway@service hermes-gateway
    ok 'deb: is removed again' dpkg --remove gateway-lock
    ok 'deb: a removal leaves what is enabled' [ "$(enabled)" = 2 ]
    ok 'deb: is purged again' dpkg --purge gateway-lock
    ok 'deb: a purge leaves nothing enabled' no_unit_is_enabled
    ok 'deb: a purge leaves no state' is_gone /var/lib/gateway
    ok 'deb: a purge leaves no private state' is_gone /var/lib/private/gateway
    code 'deb: is not known any more' 1 dpkg --status gateway-lock
}

# ------------------------------------------------------------------ .rpm

rpm_package() {
    # A data base of its own: this system's packages are another manager's.
    # And with manuals, which images for containers leave out.
    set -- --dbpath /tmp/rpm --nodeps --define "_excludedocs 0"
    ok 'rpm: installs' rpm "$@" --install /test/1.rpm
    ok 'rpm: all of it is there' all_there "$RPM" rpm --dbpath /tmp/rpm --query --list gateway-lock
    ok 'rpm: every file is as it was packed' rpm --dbpath /tmp/rpm --verify --nodeps gateway-lock
    ok 'rpm: systemd knows the units' systemctl cat gateway@demo hermes-gateway
    ok 'rpm: a unit starts' systemctl start gateway@service
    by_hand gateway
    cp /usr/bin/gateway /tmp/old
    ok 'rpm: upgrades' rpm "$@" --upgrade /test/2.rpm
    ok 'rpm: it is the next version' [ "$(rpm --dbpath /tmp/rpm --query gateway-lock | cut -d- -f3)" = 999.0 ]
    code 'rpm: the next version has another program' 1 cmp --quiet /tmp/old /usr/bin/gateway
    ok 'rpm: after an upgrade, all of it is there' all_there "$RPM" rpm --dbpath /tmp/rpm --query --list gateway-lock
    ok 'rpm: an upgrade leaves a holder as it is' untouched
    ok 'rpm: an upgrade restarts no unit' shows gateway@service NRestarts=0
    ok 'rpm: an upgrade leaves the unit active' systemctl is-active gateway@service
    code 'rpm: the new program is refused by the holder of the old one' 80 gateway run -n demo -- true
    cp /usr/bin/gateway /tmp/gateway
    ok 'rpm: is removed' rpm "$@" --erase gateway-lock
    ok 'rpm: a removal leaves a holder as it is' untouched
    ok 'rpm: a removal leaves the unit active' systemctl is-active gateway@service
    ok 'rpm: a removal leaves no file' none_there "$RPM"
    code 'rpm: a program elsewhere stops the holder' 0 /tmp/gateway -n demo stop
    ok 'rpm: the unit stops' systemctl stop gateway@service
}

# ------------------------------------------------------------------ units

main_pid() {
    systemctl show --property MainPID --value "$1"
}

# again UNIT N: it is up, and has been restarted N times.
again() {
    [ "$(systemctl show --property ActiveState --value "$1")" = active ] && shows "$1" "NRestarts=$2"
}

crash() {
    kill -KILL "$(main_pid "$1")"
}

# The units as shipped, but without the five seconds before each restart.
impatient() {
    mkdir -p "/run/systemd/system/$1.service.d"
    printf '[Service]\nRestartSec=100ms\n' >"/run/systemd/system/$1.service.d/impatient.conf"
    systemctl daemon-reload
}

units() {
    dpkg --install /test/1.deb >/dev/null
    code 'units: an instance without its executable is refused' 1 systemctl start gateway@nobody
    template
    give_way
    hermes
    user_twin
    drop_in
    hardened
}

template() {
    impatient gateway@service
    ok 'gateway@: starts' systemctl start gateway@service
    ok 'gateway@: status names the unit' sh -c 'gateway -n service status | grep -q "unit .*gateway@service.service"'
    for crashes in 1 2 3 4 5 6 7; do
        crash gateway@service
        eventually again gateway@service "$crashes"
    done
    ok 'gateway@: is up again after each of seven crashes' held service
    gateway run --replace -n service -- sleep 3000 &
    hand=$!
    eventually shows gateway@service ActiveState=inactive
    ok 'gateway@: ends clean when it is taken over from' shows gateway@service Result=success
    ok 'gateway@: takes back' systemctl start gateway@service
    status=0
    wait "$hand" || status=$?
    ok 'gateway@: the run by hand died of TERM' [ "$status" -eq 143 ]
    ok 'gateway@: stops' systemctl stop gateway@service
    ok 'gateway@: stopped is a success' shows gateway@service Result=success
    code 'gateway@: the lock is free then' 3 gateway -n service status
}

give_way() {
    install -D -m 644 /test/examples/give-way.conf /run/systemd/system/gateway@service.service.d/give-way.conf
    systemctl daemon-reload
    ok 'give-way: starts' systemctl start gateway@service
    gateway run --replace -n service -- sleep 3001 &
    hand=$!
    eventually pgrep --parent "$hand"
    eventually again gateway@service 1
    ok 'give-way: stands in line' sh -c 'systemctl show --property StatusText gateway@service | grep -q standby'
    kill -TERM "$hand"
    eventually sh -c "[ \"\$(head -n1 /var/lib/gateway/service/gateway.pid)\" = \"$(main_pid gateway@service)\" ]"
    ok 'give-way: comes back by itself' held service
    ok 'give-way: stops' systemctl stop gateway@service
    rm -r /run/systemd/system/gateway@service.service.d
    systemctl daemon-reload
}

as_hermes() {
    setpriv --reuid hermes --regid hermes --clear-groups env -i PATH="$PATH" HOME=/var/lib/hermes \
        XDG_RUNTIME_DIR=/run/user/hermes "$@"
}

hermes() {
    useradd --system --home-dir /var/lib/hermes --create-home hermes
    script /usr/local/bin/hermes
    impatient hermes-gateway
    ok 'hermes-gateway: starts' systemctl start hermes-gateway
    ok "hermes-gateway: root means the same file" held hermes
    ok "hermes-gateway: its user means the same file" as_hermes gateway -n hermes status
    crash hermes-gateway
    eventually again hermes-gateway 1
    ok 'hermes-gateway: is up again after a crash' held hermes
    against_root
    as_its_user
}

# Its user may not signal a run of root's, and waits until that ends.
against_root() {
    gateway run --replace -n hermes -- sleep 3003 &
    hand=$!
    eventually shows hermes-gateway ActiveState=inactive
    remember hermes
    code "hermes-gateway: cannot take over from a run of root's" 1 systemctl start hermes-gateway
    eventually shows hermes-gateway ExecMainStatus=82
    ok 'hermes-gateway: leaves that run as it is' untouched
    ok "hermes-gateway: root's run is stopped" gateway -n hermes stop
    eventually shows hermes-gateway ActiveState=active
    ok 'hermes-gateway: is up then by itself' held hermes
    wait "$hand" || :
}

as_its_user() {
    as_hermes gateway run --replace -n hermes -- sleep 3004 &
    hand=$!
    eventually shows hermes-gateway ActiveState=inactive
    ok 'hermes-gateway: ends clean when its user takes over' shows hermes-gateway Result=success
    remember hermes
    ok "hermes-gateway: takes back from its user's run" systemctl start hermes-gateway
    wait "$hand" || :
    ok 'hermes-gateway: stops' systemctl stop hermes-gateway
}

user_is_up_again() {
    as_hermes systemctl --user show gateway@mine | grep -qx NRestarts=1 &&
        as_hermes systemctl --user is-active gateway@mine
}

# A user's manager, as logind would start it.
user_twin() {
    install -d -o hermes -g hermes -m 700 /run/user/hermes
    systemd-run --quiet --unit=user-manager --uid=hermes --property=Delegate=yes --property=Type=notify \
        --setenv=HOME=/var/lib/hermes --setenv=XDG_RUNTIME_DIR=/run/user/hermes /lib/systemd/systemd --user
    as_hermes install -D -m 755 /etc/gateway/service /var/lib/hermes/.config/gateway/mine
    code 'user: an instance without its executable is refused' 1 as_hermes systemctl --user start gateway@nobody
    ok 'user: starts' as_hermes systemctl --user start gateway@mine
    ok 'user: the file lies below the home' [ -s /var/lib/hermes/.local/state/gateway/mine/gateway.pid ]
    ok "user: the user's shell means the same file" as_hermes gateway -n mine status
    kill -KILL "$(as_hermes systemctl --user show --property MainPID --value gateway@mine)"
    eventually user_is_up_again
    ok 'user: stops' as_hermes systemctl --user stop gateway@mine
    systemctl stop user-manager
}

drop_in() {
    script /usr/local/bin/web
    printf '[Service]\nType=forking\nPIDFile=/run/web.pid\nExecStart=/usr/local/bin/web\n' \
        >/run/systemd/system/web.service
    install -D -m 644 /test/examples/drop-in.conf /run/systemd/system/web.service.d/gateway.conf
    systemctl daemon-reload
    ok 'drop-in: the service starts under the lock' systemctl start web
    ok 'drop-in: status names the unit' sh -c 'gateway -n web status | grep -q "unit .*web.service"'
    code 'drop-in: a second one is refused' 80 gateway run -n web -- true
    ok 'drop-in: stops' systemctl stop web
    blinded
}

# The drop-in on a unit that hides what the proof needs, and whose own way to stop
# fails: without the lines that the drop-in offers against that, and with them.
blinded() {
    printf '[Service]\nProtectProc=invisible\nProcSubset=pid\nPrivateUsers=yes\nExecStop=/bin/false\n' \
        >>/run/systemd/system/web.service
    systemctl daemon-reload
    code 'drop-in: a blinded gateway does not start' 1 systemctl start web
    ok 'drop-in: a blinded gateway says so' shows web ExecMainStatus=70
    systemctl stop web
    sed -i -E 's/^#(ExecStop=|ProtectProc=|ProcSubset=|PrivateUsers=)/\1/' /run/systemd/system/web.service.d/gateway.conf
    systemctl daemon-reload
    gateway run --replace -n web -- sleep 3005 &
    hand=$!
    eventually held web
    ok 'drop-in: takes over in a unit that hid processes' systemctl start web
    wait "$hand" || :
    ok "drop-in: stops without the unit's own ExecStop=" systemctl stop web
    ok 'drop-in: stopped is a success' shows web Result=success
}

by_hand_of_service() {
    gateway run --replace -n service -- sleep 3002 &
    eventually held service
}

# Each line of hardening that the template offers, alone.
hardened() {
    grep -E '^#[A-Z][A-Za-z]*=' /usr/lib/systemd/system/gateway@.service | grep -v '^#User=' | cut -c2- >/tmp/lines
    mkdir -p /run/systemd/system/gateway@service.service.d
    while read -r line; do
        printf '[Service]\n%s\n' "$line" >/run/systemd/system/gateway@service.service.d/hard.conf
        systemctl daemon-reload
        by_hand_of_service
        ok "hardening: takes over with $line" systemctl start gateway@service
        ok "hardening: stops with $line" systemctl stop gateway@service
        ok "hardening: succeeds with $line" shows gateway@service Result=success
    done </tmp/lines
    [ -s /tmp/lines ] || fault 'hardening: the template offers none'
}

# ------------------------------------------------------------------ all of it

next_version >/dev/null
deb
rpm_package
units
echo "packaging/test.sh: $passed passed, 0 failed"

#!/bin/sh
# Proves that what is shipped tells the truth: packaging/check.sh
#
#   units         systemd-analyze has nothing to say about any of them
#   manual        it has every option, exit code, environment variable, state, key
#                 and column of the program, and none that the program does not have, and
#                 it fits into 80 columns
#   README        its drop-in is the one that is shipped
#   needrestart   its setting is valid, and means the program
#   completions   they load in bash, zsh and fish, and complete
#   versions      are the same everywhere
#
# packaging/check.sh --write renews what the manual takes from the program.
set -eu
cd "$(dirname "$0")/.."
. packaging/private-root.sh

manual=packaging/man/gateway.1
target=${CARGO_TARGET_DIR:-target}
program=$target/release/gateway
failures=0

fault() {
    echo "packaging/check.sh: $*" >&2
    failures=$((failures + 1))
}

# same WHAT FILE FILE: two sorted lists of words.
same() {
    if difference=$(diff "$2" "$3"); then
        echo "ok: $1 ($(wc -l <"$2"))"
    else
        fault "$1 differ (< one, > the other):
$difference"
    fi
}

# quiet WHAT COMMAND...: succeeds, and prints nothing.
quiet() {
    what=$1
    shift
    if said=$("$@" 2>&1) && [ -z "$said" ]; then
        echo "ok: $what"
    else
        fault "$what: $said"
    fi
}

# answers WHAT PATTERN COMMAND...: prints a line that matches.
answers() {
    what=$1 pattern=$2
    shift 2
    if said=$("$@" 2>&1) && printf '%s\n' "$said" | grep -qE -- "$pattern"; then
        echo "ok: $what"
    else
        fault "$what: no '$pattern' in: $said"
    fi
}

# ------------------------------------------------------------------ manual

# rendered [COLUMNS]
rendered() {
    MANWIDTH=${1:-1000} man -E UTF-8 --no-hyphenation --no-justification -l "$manual" | col -bx
}

# section NAME: its lines in the rendered manual.
section() {
    rendered | awk -v name="$1" '/^[A-Z]/ { on = ($0 == name); next } on'
}

# The manual with the part that the program makes.
renewed_manual() {
    "$program" completions man >"$work/options"
    awk -v options="$work/options" '
        /END OPTIONS/ { on = 0 }
        !on { print }
        /BEGIN OPTIONS/ { on = 1; while ((getline line < options) > 0) print line }
    ' "$manual"
}

long_options() {
    grep -oE -- '(^|[^-[:alnum:]])--[a-z][a-z-]*[a-z]' | grep -oE -- '--.*' | sort -u
}

# Every option of the program, whichever command has it.
program_options() {
    "$program" completions man | sed 's/\\-/-/g; s/\\f[BIR]/ /g' | long_options
}

check_manual() {
    quiet 'manual: mandoc' mandoc -T lint "$manual"
    quiet 'manual: groff' sh -c "man --warnings -E UTF-8 -l -Tutf8 -Z $manual >/dev/null"
    # What is not filled, as an example, is not broken either. (A character may have more bytes than columns.)
    rendered 80 | LC_ALL=C.UTF-8 grep -E '.{81}' >"$work/wide" || true
    quiet 'manual: fits into 80 columns' cat "$work/wide"
    renewed_manual >"$work/manual"
    quiet 'manual: options are those of the program (packaging/check.sh --write renews them)' \
        cmp "$manual" "$work/manual"

    for command in '' run status stop list; do
        # shellcheck disable=SC2086 # nothing, or one word
        "$program" $command --help
    done | long_options >"$work/help"
    program_options >"$work/options"
    same 'manual: options in it and in --help' "$work/options" "$work/help"

    # Other programs' options, that the manual's text names.
    printf -- '--chdir\n--shared\n--user\n' | sort -u - "$work/options" >"$work/known"
    rendered | long_options | comm -23 - "$work/known" >"$work/unknown"
    quiet 'manual: no option in its text that the program lacks' cat "$work/unknown"

    # What stands before -- in each command line of ours.
    cat README.md packaging/systemd/*.service packaging/systemd/*/* | grep -oE '\bgateway [^`|#]*' |
        sed 's/ -- .*//; s/.*--user.*//' | long_options | comm -23 - "$work/options" >"$work/unknown"
    quiet 'README, units: no option that the program lacks' cat "$work/unknown"
}

# ------------------------------------------------------------------ codes, names

# Words of the program's own, from its source without the tests.
source_words() {
    find src -name '*.rs' -exec sed -s '/^#\[cfg(test)\]/,$d' {} + | grep -vE '^[[:space:]]*//' | grep -oE "$1" | sort -u
}

# declared PATTERN: the numbers of the codes that the program declares.
declared() {
    sed -n "s/^pub const \($1\): u8 = \([0-9]*\);/\1 \2/p" src/bin/gateway/exit.rs
}

check_exit_codes() {
    # 0 needs no declaration.
    { echo SUCCESS 0; declared '[A-Z_]*' | grep -v '^STATUS_'; } | cut -d' ' -f2 | sort -un >"$work/codes"
    section 'EXIT STATUS' | sed '/^ *Of status/,$d' |
        grep -oE '^ {7}[0-9]+' | tr -d ' ' | sort -un >"$work/manual-codes"
    same 'manual: exit codes' "$work/codes" "$work/manual-codes"
    sed -n '/^## Exit codes/,/^## Where/p' README.md |
        grep -oE '^\| [0-9, ]+ \|' | grep -oE '[0-9]+' | sort -un >"$work/readme-codes"
    same 'README: exit codes' "$work/codes" "$work/readme-codes"

    declared 'STATUS_[A-Z]*' | cut -d' ' -f2 | sort -un >"$work/codes"
    section 'EXIT STATUS' | sed -n '/^ *Of status/,/^ *Of list/p' | sed 's/Of list.*//' |
        grep -oE '[0-9]+' | sort -un >"$work/manual-codes"
    same "manual: status's exit codes" "$work/codes" "$work/manual-codes"
}

check_environment() {
    source_words '"(GATEWAY|SYSTEMD|WATCHDOG|NOTIFY|JOURNAL|INVOCATION|LISTEN|XDG)_[A-Z_]+"|"(HOME|PATH)"' | tr -d '"' >"$work/environment"
    section ENVIRONMENT | grep -E '^ {7}[A-Z]' | grep -oE '[A-Z]+_[A-Z_]+|\b(HOME|PATH)\b' | sort -u >"$work/manual-environment"
    same 'manual: environment variables' "$work/environment" "$work/manual-environment"
}

check_states() {
    sed -n -e '/pub fn name/,/^    }/s/.*=> "\(.*\)",/\1/p' -e 's/^pub const UNKNOWN.* = "\(.*\)";/\1/p' src/view.rs |
        sort -u >"$work/words"
    rendered | sed -n '/^ *The states/,/^ *JSON/p' | grep -oE '^ {7}[a-z]+' | tr -d ' ' | sort -u >"$work/states"
    same 'manual: states' "$work/words" "$work/states"
}

# documented PART: the words that stand in bold between the manual's marks.
documented() {
    sed -n "/^\.\\\\\" KEYS $1\$/,/^\.\\\\\" KEYS end\$/s/^\.\(B\|BR\|RB\) //p" "$manual" |
        grep -oE '[a-z_]+|[A-Z]+( [A-Z]+)*' | sort -u
}

# keys FILE: the keys of all JSON in it, nested ones as well.
keys() {
    grep -oE '"[a-z_]+":' "$1" | tr -d '":' | sort -u
}

# As the main process of a unit: what systemd tells such a process, without one.
in_a_unit() {
    echo '0::/system.slice/web.service' >"$work/cgroup"
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount --propagation private sh -c 'mount --bind "$0" "/proc/$$/cgroup"
        SYSTEMD_EXEC_PID=$$ INVOCATION_ID=0123456789abcdef0123456789abcdef exec "$@"' "$work/cgroup" "$@"
}

# stopped FILE: a run under it that somebody else has stopped.
stopped() {
    "$program" run -f "$1" -- sleep 1000 &
    for _ in $(seq 1000); do
        ! grep -qs '"payload"' "$1" || break
        sleep 0.01
    done
    "$program" -q -f "$1" stop
    wait $! || [ $? -eq 143 ]
}

# Every kind of record: in a unit, with a signal of its own, become COMMAND, held,
# ended by itself, and stopped by somebody.
records() {
    in_a_unit "$program" run -f "$work/pid" --stop-signal INT -- cat "$work/pid"
    cat "$work/pid"
    "$program" run -f "$work/pid" --exec -- cat "$work/pid"
    stopped "$work/stopped"
    cat "$work/stopped"
}

check_record() {
    records >"$work/record"
    keys "$work/record" >"$work/keys"
    documented record >"$work/words"
    same 'manual: keys of the record' "$work/keys" "$work/words"
}

# What status tells of a holder, and of a run that somebody has ended.
check_json() {
    "$program" run -f "$work/pid" -- "$program" status --json >"$work/held"
    stopped "$work/other"
    "$program" -f "$work/other" status --json >"$work/ended" || [ $? -eq 3 ]
    # Each level by itself, with the objects in it as numbers.
    sed 's/.*"holder":{\(.*\)},"last":.*/\1/; s/:{[^{}]*}/:0/g' "$work/held" >"$work/holder"
    sed 's/.*"last":{\(.*\)},"survivors":.*/\1/; s/:{[^{}]*}/:0/g' "$work/ended" >"$work/last"
    sed 's/"holder":{.*},"last":/"holder":0,"last":/' "$work/held" >"$work/json"
    for part in json holder last; do
        keys "$work/$part" >"$work/keys"
        documented "$part" >"$work/words"
        same "manual: keys of JSON, $part" "$work/keys" "$work/words"
    done
}

check_columns() {
    GATEWAY_STATE_DIR=$work "$program" list | head -n1 | sed 's/   */\n/g' | sort -u >"$work/columns"
    documented columns >"$work/words"
    same 'manual: columns of list' "$work/columns" "$work/words"
}

# ------------------------------------------------------------------ examples, settings

# The settings in a unit's text, without what explains them.
settings() {
    grep -vE '^[[:space:]]*(#|$)'
}

check_drop_in() {
    settings <packaging/systemd/examples/drop-in.conf >"$work/shipped"
    sed -n '/^```ini$/,/^```$/p' README.md | grep -v '^```' | settings >"$work/shown"
    same 'README: the drop-in is drop-in.conf' "$work/shown" "$work/shipped"
}

# As needrestart reads it, and asks it of a program whose file is gone or new.
check_needrestart() {
    # shellcheck disable=SC2016 # perl's own variables
    quiet 'needrestart: spares the program, and nothing else' perl -we '
        use strict;
        our %nrconf = (blacklist => []);
        open my $file, "<", $ARGV[0] or die "$ARGV[0]: $!";
        eval do { local $/; <$file> };
        die $@ if $@;
        my $spared = sub { grep { $_[0] =~ /$_/ } @{$nrconf{blacklist}} };
        print "not spared\n" unless $spared->("/usr/bin/gateway");
        for my $other (qw(/usr/bin/gatewayd /usr/local/usr/bin/gateway /usr/bin/gateway/x)) {
            print "$other is spared\n" if $spared->($other);
        }' packaging/debian/needrestart.conf
}

# ------------------------------------------------------------------ completions

check_completions() {
    for shell in bash zsh fish; do
        "$program" completions "$shell" >"$work/$shell"
    done
    answers 'bash: option' '^--replace$' bash packaging/complete.bash "$work/bash" gateway run --repl
    answers 'bash: command' '^status$' bash packaging/complete.bash "$work/bash" gateway stat
    answers 'bash: COMMAND' '^sleep$' bash packaging/complete.bash "$work/bash" gateway -n demo run --replace -- slee
    answers 'zsh: option' '^gateway run --replace $' zsh -f packaging/complete.zsh "$work/zsh" 'gateway run --repl'
    answers 'zsh: command' '^gateway status $' zsh -f packaging/complete.zsh "$work/zsh" 'gateway stat'
    answers 'zsh: COMMAND' '^gateway -n demo run --replace -- sleep ' zsh -f packaging/complete.zsh "$work/zsh" 'gateway -n demo run --replace -- slee'
    complete_fish() {
        # shellcheck disable=SC2016 # fish's own variables
        fish --no-config -c 'source $argv[1]; complete -C $argv[2]' "$work/fish" "$1"
    }
    answers 'fish: option' '^--replace' complete_fish 'gateway run --repl'
    answers 'fish: command' '^status' complete_fish 'gateway stat'
    answers 'fish: COMMAND' '^sleep' complete_fish 'gateway -n demo run --replace -- slee'
}

# ------------------------------------------------------------------ versions

check_versions() {
    sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n1 >"$work/version"
    "$program" --version | cut -d' ' -f2 >"$work/own"
    same 'version: Cargo.toml, --version' "$work/version" "$work/own"
    sed -n 's/^\.TH .*"gateway \(.*\)" .*/\1/p' "$manual" >"$work/own"
    same 'version: Cargo.toml, manual' "$work/version" "$work/own"
    sed -n '1s/.*(\(.*\)-.*).*/\1/p' packaging/debian/changelog >"$work/own"
    same 'version: Cargo.toml, changelog' "$work/version" "$work/own"
}

# ------------------------------------------------------------------ units

# In the private root: everything where a package puts it.
units() {
    units=$root/usr/lib/systemd
    cp "$program" "$root/usr/bin/gateway"
    cp packaging/systemd/*.service "$units/system/"
    cp packaging/systemd/user/*.service "$units/user/"
    install -D -m 644 "$manual" "$root/usr/share/man/man1/gateway.1"
    install -D -m 755 /bin/true "$root/etc/gateway/demo"
    # The service that is there already, as drop-in.conf has it.
    printf '[Service]\nType=forking\nPIDFile=/run/web.pid\nExecStart=/usr/local/bin/web\n' >"$units/system/web.service"
    install -D -m 644 packaging/systemd/examples/drop-in.conf "$units/system/web.service.d/gateway.conf"
    install -D -m 644 packaging/systemd/examples/give-way.conf "$units/system/gateway@demo.service.d/give-way.conf"

    # A check that cannot fail proves nothing.
    printf '[Service]\nExecStart=/usr/bin/gateway run\nNoSuchSetting=yes\n' >"$units/system/broken.service"
    if [ -z "$(inside systemd-analyze verify broken.service 2>&1)" ]; then
        fault 'units: systemd-analyze has nothing to say about a broken unit'
    fi
    for unit in gateway@.service gateway@other.service gateway@demo.service hermes-gateway.service web.service; do
        quiet "units: $unit" inside systemd-analyze verify "$unit"
    done
    quiet 'units: gateway@.service of a user' inside env HOME=/root XDG_RUNTIME_DIR=/run \
        systemd-analyze --user verify /usr/lib/systemd/user/gateway@.service
    [ "$failures" -eq 0 ]
}

# ------------------------------------------------------------------ all of it

if [ "${1:-}" = units ]; then
    private_root units
    exit
fi

must_be_root
sh packaging/need cc:gcc /usr/include/stdio.h:libc6-dev man:man-db mandoc:mandoc col:bsdextrautils \
    bash:bash zsh:zsh fish:fish perl:perl-base systemd-analyze:systemd unshare:util-linux mount:mount
cargo build --quiet --release --locked
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

if [ "${1:-}" = --write ]; then
    renewed_manual >"$work/manual"
    cat "$work/manual" >"$manual"
    exit
fi

check_manual
check_exit_codes
check_environment
check_states
check_record
check_json
check_columns
check_drop_in
check_needrestart
check_completions
check_versions
private_root units || fault 'units'
if [ "$failures" -ne 0 ]; then
    echo "packaging/check.sh: $failures failed" >&2
    exit 1
fi
echo 'packaging/check.sh: all of it is true'

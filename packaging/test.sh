#!/bin/sh
# Installs, upgrades, removes and purges the packages while gateways run, and
# starts every unit that is shipped: packaging/test.sh
#
# packaging/build.sh makes the packages first, and lintian has to have nothing
# to say about the .deb that no override answers. Then a systemd of its own boots
# in a private root, and packaging/test-inside.sh does the rest there.
set -eu
cd "$(dirname "$0")/.."
. packaging/private-root.sh

if [ "${1:-}" = private_system ]; then
    "$@"
fi

target=${CARGO_TARGET_DIR:-target}
sh packaging/need dpkg-deb:dpkg lintian:lintian rpm:rpm man:man-db pgrep:procps useradd:passwd perl:perl-base \
    unshare:util-linux flock:util-linux setpriv:util-linux findmnt:util-linux mount:mount \
    /lib/systemd/systemd:systemd journalctl:systemd
packaging/build.sh

# What it says without the overrides, and with them. An override that another
# version does not need, or words differently, is no fault of the package.
# Written with lintian 2.116.3.
says() {
    lintian --allow-root --display-info --pedantic --tag-display-limit 0 \
        --suppress-tags unused-override,mismatched-override "$@" "$target"/debian/*.deb 2>&1 || :
}
# A check that cannot fail proves nothing.
if [ -z "$(says --no-override)" ]; then
    echo 'packaging/test.sh: lintian has nothing to say even without overrides' >&2
    exit 1
fi
lintian=$(says)
if [ -n "$lintian" ]; then
    echo "packaging/test.sh: $(lintian --version), written with 2.116.3: $lintian" >&2
    exit 1
fi
echo 'ok: lintian has nothing to say'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$target"/debian/*.deb "$work/1.deb"
cp "$target"/generate-rpm/*.rpm "$work/1.rpm"
cp -r packaging/systemd/examples "$work/examples"
cp packaging/test-inside.sh "$work/inside"

# The next version, with a program of other bytes. (The .deb's is made inside.)
mkdir -p "$work/next/release"
cp -r "$target/release/gateway" "$target/release/completions" "$work/next/release"
printf 'next' >>"$work/next/release/gateway"
PATH=$PATH:${GATEWAY_TOOLS:-$target/tools}/bin \
    cargo generate-rpm --target-dir "$work/next" --set-metadata 'version = "999.0"' --output "$work/2.rpm"

status=0
private_system "$work" || status=$?
[ ! -e "$work/log" ] || cat "$work/log"
exit "$status"

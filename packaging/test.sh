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
sh packaging/need dpkg-deb:dpkg lintian:lintian rpm:rpm man:man-db pgrep:procps findmnt:util-linux \
    /lib/systemd/systemd:systemd
packaging/build.sh

lintian=$(lintian --allow-root --display-info --pedantic --tag-display-limit 0 "$target"/debian/*.deb 2>&1) || true
if [ -n "$lintian" ]; then
    echo "packaging/test.sh: lintian: $lintian" >&2
    exit 1
fi
echo 'ok: lintian has nothing to say'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$target"/debian/*.deb "$work/1.deb"
cp "$target"/generate-rpm/*.rpm "$work/1.rpm"
cp -r packaging/systemd/examples "$work/examples"
cp packaging/test-inside.sh "$work/inside"
status=0
private_system "$work" || status=$?
cat "$work/log"
exit "$status"

# Run as the first process of new pid, mount, uts, ipc, network and cgroup
# namespaces. Makes a root in which nothing can be written that belongs to the
# host, and becomes systemd. $1 is the gateway to be tested.
set -eu
fail() { echo "boot: $*" >&2; exit 1; }
ours() { mkdir -p "$1" && mount -t tmpfs -o mode="${2:-755}" tmpfs "$1"; }

mount --make-rprivate /
ours /run
: >/run/gateway
mount --bind "$1" /run/gateway || fail "no such program: $1"

# The program stands where the shipped units look for it.
mkdir /run/usr-bin && : >/run/usr-bin/gateway
mount -t overlay -o lowerdir=/run/usr-bin:/usr/bin overlay /usr/bin || fail "this kernel has no overlayfs"
mount --bind /run/gateway /usr/bin/gateway

# A writable copy of /etc, without the host's units and settings.
mkdir /run/etc /run/etc-work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc-work overlay /etc
ours /etc/systemd
ours /etc/gateway
rm -f /etc/machine-id
echo 676174657761792d6c6f636b2d746573 >/etc/machine-id
mkdir /etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nForwardToWall=no\n' \
    >/etc/systemd/journald.conf.d/test.conf

for folder in /var/lib /var/log /home /root /usr/local/bin; do ours "$folder"; done
for folder in /tmp /var/tmp; do ours "$folder" 1777; done

# Device nodes, but neither the console nor the kernel's log.
ours /run/dev
for node in null zero full random urandom tty; do
    : >/run/dev/$node && mount --bind /dev/$node /run/dev/$node
done
mkdir /run/dev/pts /run/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts /run/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /run/dev/shm
ln -s pts/ptmx /run/dev/ptmx
ln -s /proc/self/fd /run/dev/fd
mount --move /run/dev /dev

mount -o remount,bind,ro /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# What systemd sets at boot, for the queue of its notification socket.
echo 512 >/proc/sys/net/unix/max_dgram_qlen
# As pid 1, systemd raises limits there, for the whole host.
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /

mkdir -p /run/systemd/system /run/test
for systemd in /usr/lib/systemd /lib/systemd; do
    [ -x $systemd/systemd ] && break
done
unit() { cat >"/run/systemd/system/$1"; }

# The few units that everything leans on, without what they would drag in.
for target in sysinit basic shutdown umount network network-online multi-user; do
    printf '[Unit]\nDefaultDependencies=no\n' | unit $target.target
done
unit test.target <<END
[Unit]
DefaultDependencies=no
Wants=systemd-journald.service
After=systemd-journald.service
END
unit systemd-journald.socket <<END
[Unit]
DefaultDependencies=no
[Socket]
ListenDatagram=/run/systemd/journal/socket
ListenStream=/run/systemd/journal/stdout
PassCredentials=yes
ReceiveBuffer=8M
Timestamping=us
Service=systemd-journald.service
END
unit systemd-journald.service <<END
[Unit]
DefaultDependencies=no
Requires=systemd-journald.socket
After=systemd-journald.socket
[Service]
Type=notify
ExecStart=$systemd/systemd-journald
Sockets=systemd-journald.socket
StandardOutput=null
RuntimeDirectory=systemd/journal
RuntimeDirectoryPreserve=yes
FileDescriptorStoreMax=4224
LimitNOFILE=65536
END

# Only our units, no generators: what the host has installed plays no part.
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=test \
    SYSTEMD_UNIT_PATH=/run/systemd/system SYSTEMD_GENERATOR_PATH=/run/none \
    SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none \
    $systemd/systemd --system --unit=test.target --log-target=journal --show-status=0

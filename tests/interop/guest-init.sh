#!/bin/busybox sh
# First process of the guest of `make interop`: a Linux initiator that uses our target, and LIO for our initiator.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /run/lock/iscsi /var/lib/iscsi
for module in $(cat /modules/order); do insmod "$module" || echo "insmod $module failed"; done
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
route add default gw 10.0.2.2

# --- LIO: one target without and one with CHAP ---
mount -t configfs configfs /sys/kernel/config
lio=/sys/kernel/config/target
mkdir -p $lio/core/fileio_0/disk
dd if=/dev/zero of=/tmp/lio.img bs=1M count=0 seek=64 2>/dev/null
echo "fd_dev_name=/tmp/lio.img,fd_dev_size=67108864,fd_buffered_io=1" >$lio/core/fileio_0/disk/control
echo 1 >$lio/core/fileio_0/disk/enable
credentials() {
    printf host >"$1/auth/userid"
    printf secret-of-the-host >"$1/auth/password"
    printf disk >"$1/auth/userid_mutual"
    printf secret-of-the-disk >"$1/auth/password_mutual"
}
export_lio() { # name port chap
    tpg=$lio/iscsi/iqn.2026-01.test:$1/tpgt_1
    mkdir -p $tpg/lun/lun_1 "$tpg/np/0.0.0.0:$2"
    ln -s $lio/core/fileio_0/disk $tpg/lun/lun_1/port
    echo "$3" >$tpg/attrib/authentication
    echo 1 >$tpg/attrib/generate_node_acls
    echo 1 >$tpg/attrib/cache_dynamic_acls
    echo 0 >$tpg/attrib/demo_mode_write_protect
    if [ "$3" = 1 ]; then
        acl=$tpg/acls/iqn.2026-01.io.twinsite:probe
        mkdir -p $acl/lun_1
        ln -s $tpg/lun/lun_1 $acl/lun_1/disk
        credentials $tpg
        credentials $acl
    fi
    echo 1 >$tpg/enable
}
# A unit of its own to be qualified as a leg: whoever reserves it is named, and its state has a place to last.
mkdir -p /disk /etc/target/pr /var/target/pr
mount -t tmpfs none /disk
dd if=/dev/zero of=/disk/leg.img bs=1M count=0 seek=256 2>/dev/null
leg=$lio/core/fileio_1/leg
mkdir -p $leg
echo "fd_dev_name=/disk/leg.img,fd_dev_size=268435456,fd_buffered_io=1" >$leg/control
echo 1 >$leg/enable
echo 6001405000000000000000000000abcd >$leg/wwn/vpd_unit_serial
echo 1 >$leg/attrib/emulate_tpu
echo 1 >$leg/attrib/emulate_tpws
tpg=$lio/iscsi/iqn.2026-01.test:leg/tpgt_1
mkdir -p $tpg/lun/lun_1 $tpg/np/0.0.0.0:3262
ln -s $leg $tpg/lun/lun_1/port
echo 0 >$tpg/attrib/authentication
for name in qualify qualify-other; do
    acl=$tpg/acls/iqn.2026-01.io.twinsite:$name
    mkdir -p $acl/lun_1
    ln -s $tpg/lun/lun_1 $acl/lun_1/disk
done
echo 1 >$tpg/enable

export_lio lio 3260 0
export_lio liochap 3261 1
echo "LIO READY"

# --- the Linux initiator against our target ---
use_disk() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -b /dev/sda ] && break
        sleep 1
    done
    mkfs.ext4 -q -F /dev/sda && mount -t ext4 /dev/sda /mnt || return 1
    dd if=/dev/urandom of=/mnt/file bs=1M count=24 2>/dev/null
    sync
    before=$(md5sum </mnt/file)
    umount /mnt
    echo 3 >/proc/sys/vm/drop_caches
    mount -t ext4 /dev/sda /mnt || return 1
    after=$(md5sum </mnt/file)
    umount /mnt
    [ "$before" = "$after" ]
}
node() { iscsiadm -m node -T iqn.2026-01.test:twinsite -p "10.0.2.2:$port" "$@"; }
try() { # name setting=value...
    name=$1
    shift
    for setting in "$@"; do
        node -o update -n "${setting%%=*}" -v "${setting#*=}"
    done
    if node --login && use_disk; then echo "RESULT $name ok"; else echo "RESULT $name failed"; fi
    node --logout
    sleep 1
}
iscsid
sleep 1
port=@PLAIN@
iscsiadm -m discovery -t st -p 10.0.2.2:$port && echo "RESULT discovery ok"
iscsiadm -m node -o delete
node -o new
header='node.conn[0].iscsi.HeaderDigest'
data='node.conn[0].iscsi.DataDigest'
try plain
try digests $header=CRC32C $data=CRC32C
try r2t $header=None $data=None node.session.iscsi.InitialR2T=Yes node.session.iscsi.ImmediateData=No \
    'node.conn[0].iscsi.MaxRecvDataSegmentLength=8192'
port=@CHAP@
node -o new
try chap-md5 node.session.auth.authmethod=CHAP node.session.auth.username=host node.session.auth.password=secret-of-the-host
try mutual-chap-md5 node.session.auth.username_in=disk node.session.auth.password_in=secret-of-the-disk
try mutual-chap-sha3 node.session.auth.chap_algs=SHA3-256,SHA256,SHA1,MD5
node -o update -n node.session.auth.password -v wrong-secret-of-the-host
if node --login; then echo "RESULT wrong-secret failed"; else echo "RESULT wrong-secret ok"; fi

# --- the path is cut by the host in mid-write, and comes back: the file system on it must not notice ---
write_through_the_cut() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -b /dev/sda ] && break
        sleep 1
    done
    dd if=/dev/urandom of=/tmp/source bs=1M count=48 2>/dev/null
    mkfs.ext4 -q -F /dev/sda && mount -t ext4 /dev/sda /mnt || return 1
    dmesg -c >/dev/null
    start=$(date +%s)
    echo "CUT THE LINE"
    chunk=0
    while [ $chunk -lt 48 ]; do
        dd if=/tmp/source of=/mnt/file bs=1M count=1 skip=$chunk seek=$chunk conv=notrunc,fsync 2>/dev/null || return 1
        chunk=$((chunk + 1))
    done
    echo "wrote for $(($(date +%s) - start)) s"
    dmesg | grep -E 'connection|I/O error|EXT4-fs error'
    umount /mnt
    echo 3 >/proc/sys/vm/drop_caches
    mount -t ext4 /dev/sda /mnt || return 1
    before=$(md5sum </tmp/source)
    after=$(md5sum </mnt/file)
    umount /mnt
    # The kernel must have lost the connection, or nothing was tried; and nobody above it may have seen an error.
    dmesg | grep -q 'detected conn error' && ! dmesg | grep -qE 'I/O error|EXT4-fs error' && [ "$before" = "$after" ]
}
port=@LINE@
node -o new
for setting in 'node.conn[0].timeo.noop_out_interval=4' 'node.conn[0].timeo.noop_out_timeout=4' \
    'node.conn[0].timeo.login_timeout=6'; do
    node -o update -n "${setting%%=*}" -v "${setting#*=}"
done
if node --login && write_through_the_cut; then echo "RESULT path-cut ok"; else echo "RESULT path-cut failed"; fi
node --logout
echo "INITIATOR DONE"
# The probes of LIO go on meanwhile; the host ends this machine.
sleep 600
poweroff -f

#!/usr/bin/env bash
# Our target under Linux' own initiator (open-iscsi and the kernel's iscsi_tcp), and our initiator against LIO, both in one QEMU
# guest with Debian's stock kernel. No KVM and no network set-up is needed; about five minutes.
# usage: linux-guest.sh [work-dir]     AGENT=path and PROBE=path use programs that are built already
# Ends with one line of figures; the exit code is not zero if anything failed, 77 if something needed is missing.
set -u
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-$here/../../../target/interop}
plain=23260 chap=23262 lio=23400 liochap=23401
mkdir -p "$work" && cd "$work" || exit 1

missing=()
for tool in qemu-system-x86_64 busybox cpio modprobe dpkg apt-get mkfs.ext4 iscsid; do
    PATH=$PATH:/sbin:/usr/sbin command -v $tool >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "interop: skipped, missing: ${missing[*]}" \
        "(apt-get install --no-install-recommends qemu-system-x86 busybox-static cpio kmod open-iscsi)"
    exit 77
fi

if [ -z "${AGENT:-}" ] || [ -z "${PROBE:-}" ]; then
    (cd "$here/../../.." && cargo build -q -p twinsite-agent && cargo build -q -p twinsite-iscsi --example probe) || exit 1
    AGENT=$here/../../../target/debug/twinsite-agent
    PROBE=$here/../../../target/debug/examples/probe
fi

started=()
finish() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null; done
    wait 2>/dev/null
}
trap finish EXIT

if [ ! -d kernel ]; then
    image=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
    apt-get download "$image" >/dev/null 2>&1 && dpkg -x "$image"_*.deb kernel.new && rm "$image"_*.deb && mv kernel.new kernel ||
        { echo "interop: skipped, no package linux-image-cloud-amd64"; exit 77; }
fi
version=$(ls kernel/lib/modules)
[ -f "kernel/lib/modules/$version/modules.dep.bin" ] || depmod -b kernel "$version"

rm -rf root && mkdir -p root/{bin,sbin,proc,sys,dev,etc/iscsi,tmp,run,mnt,var,modules}
cp "$(command -v busybox)" root/bin/
for module in virtio_pci virtio_net iscsi_tcp sd_mod crc32c-intel sha3_generic configfs target_core_mod target_core_file iscsi_target_mod; do
    modprobe -d kernel -S "$version" --show-depends $module 2>/dev/null | awk '$1 == "insmod" {print $2}'
done | awk '!seen[$0]++' | while read -r file; do
    cp "$file" root/modules/ && echo "/modules/$(basename "$file")"
done >order && mv order root/modules/
for program in iscsid iscsiadm mkfs.ext4; do
    path=$(PATH=$PATH:/sbin:/usr/sbin command -v $program)
    cp "$path" root/sbin/
    ldd "$path" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "root$(dirname "$library")" && cp -L "$library" "root$library"
    done
done
cp /etc/iscsi/iscsid.conf root/etc/iscsi/
echo "InitiatorName=iqn.2026-01.test:guest" >root/etc/iscsi/initiatorname.iscsi
echo "root:x:0:0:root:/:/bin/sh" >root/etc/passwd
sed "s/@PLAIN@/$plain/; s/@CHAP@/$chap/" "$here/guest-init.sh" >root/init && chmod +x root/init
(cd root && find . | cpio -o -H newc 2>/dev/null | gzip -1) >initrd.gz

iqn=iqn.2026-01.test:twinsite
printf 'user host secret-of-the-host\ntarget disk secret-of-the-disk\n' >accounts
rm -f plain.img chap.img && truncate -s 256M plain.img chap.img
"$AGENT" target --listen 127.0.0.1:$plain --iqn $iqn --lun 1=plain.img >target-plain.log 2>&1 &
started+=($!)
"$AGENT" target --listen 127.0.0.1:$chap --iqn $iqn --lun 1=chap.img --chap accounts >target-chap.log 2>&1 &
started+=($!)
# cx16=off and no_timer_check: without KVM on a busy host the guest else dies early, now and then.
timeout 600 qemu-system-x86_64 -accel tcg,thread=multi -cpu max,cx16=off -m 512 -smp 1 -nographic -no-reboot \
    -kernel kernel/boot/vmlinuz-"$version" -initrd initrd.gz -append "console=ttyS0 quiet panic=-1 no_timer_check" \
    -netdev user,id=n0,hostfwd=tcp:127.0.0.1:$lio-:3260,hostfwd=tcp:127.0.0.1:$liochap-:3261 \
    -device virtio-net-pci,netdev=n0,romfile= >guest.log 2>&1 </dev/null &
started+=($!)
await() { # text seconds
    for _ in $(seq "$2"); do
        grep -q "$1" guest.log && return 0
        sleep 1
    done
    echo "interop: the guest does not come to: $1"
    return 1
}

ok=0 failed=0
verdict() { # name status
    if [ "$2" = ok ]; then ok=$((ok + 1)); else failed=$((failed + 1)); fi
    printf '  %-44s %s\n' "$1" "$2"
}
probe() { # name expected-exit-code argument...
    name=$1 expected=$2
    shift 2
    timeout 120 "$PROBE" "$@" >probe.log 2>&1
    if [ $? = "$expected" ]; then verdict "$name" ok; else verdict "$name" "failed: $(tail -1 probe.log)"; fi
}
await "LIO READY" 300 || exit 1
host="user=host secret=secret-of-the-host"
probe "our initiator, LIO: discovery" 0 127.0.0.1:$lio
probe "our initiator, LIO: plain" 0 127.0.0.1:$lio iqn.2026-01.test:lio
probe "our initiator, LIO: digests" 0 127.0.0.1:$lio iqn.2026-01.test:lio digests
probe "our initiator, LIO: r2t" 0 127.0.0.1:$lio iqn.2026-01.test:lio r2t
for algorithm in 5 6 7 8; do
    probe "our initiator, LIO: mutual CHAP $algorithm" 0 127.0.0.1:$liochap iqn.2026-01.test:liochap $host \
        target-secret=secret-of-the-disk algorithm=$algorithm
done
probe "our initiator, LIO: wrong secret" 1 127.0.0.1:$liochap iqn.2026-01.test:liochap user=host secret=wrong-secret-of-host
await "INITIATOR DONE" 420
while read -r _ name status; do
    verdict "Linux initiator, our target: $name" "$status"
done < <(tr -d '\r' <guest.log | grep '^RESULT ')
[ "$ok" -ge 17 ] || failed=$((failed + 1))
echo "interop: linux $version ok=$ok failed=$failed"
[ "$failed" = 0 ]

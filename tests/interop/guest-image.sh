#!/usr/bin/env bash
# Makes the kernel and the first file system of the guest in which Linux' own initiator and LIO run: Debian's stock cloud
# kernel, busybox, open-iscsi and mkfs.ext4.
# usage: guest-image.sh FOLDER PLAIN-PORT CHAP-PORT LINE-PORT
# Leaves FOLDER/vmlinuz and FOLDER/initrd.gz and prints the kernel's version; exit code 77 and a reason if something is missing.
set -u
here=$(cd "$(dirname "$0")" && pwd)
work=$1 plain=$2 chap=$3 line=$4
PATH=$PATH:/sbin:/usr/sbin
mkdir -p "$work" && cd "$work" || exit 1

missing=()
for tool in qemu-system-x86_64 busybox cpio modprobe dpkg apt-get mkfs.ext4 iscsid; do
    command -v $tool >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "missing: ${missing[*]}" \
        "(apt-get install --no-install-recommends qemu-system-x86 busybox-static cpio kmod open-iscsi)"
    exit 77
fi

if [ ! -d kernel ]; then
    rm -rf kernel.new
    image=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
    apt-get download "$image" >/dev/null 2>&1 && dpkg -x "$image"_*.deb kernel.new && rm "$image"_*.deb && mv kernel.new kernel ||
        { echo "the package linux-image-cloud-amd64 cannot be had"; exit 77; }
fi
version=$(ls kernel/lib/modules)
[ -f "kernel/lib/modules/$version/modules.dep.bin" ] || depmod -b kernel "$version" || exit 1

rm -rf root && mkdir -p root/{bin,sbin,proc,sys,dev,etc/iscsi,tmp,run,mnt,var,modules}
cp "$(command -v busybox)" root/bin/
for module in virtio_pci virtio_net iscsi_tcp sd_mod crc32c-intel sha3_generic configfs target_core_mod target_core_file iscsi_target_mod; do
    modprobe -d kernel -S "$version" --show-depends $module 2>/dev/null | awk '$1 == "insmod" {print $2}'
done | awk '!seen[$0]++' | while read -r file; do
    cp "$file" root/modules/ && echo "/modules/$(basename "$file")"
done >order && mv order root/modules/
for program in iscsid iscsiadm mkfs.ext4; do
    path=$(command -v $program)
    cp "$path" root/sbin/
    ldd "$path" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "root$(dirname "$library")" && cp -L "$library" "root$library"
    done
done
cp /etc/iscsi/iscsid.conf root/etc/iscsi/
echo "InitiatorName=iqn.2026-01.test:guest" >root/etc/iscsi/initiatorname.iscsi
echo "root:x:0:0:root:/:/bin/sh" >root/etc/passwd
sed "s/@PLAIN@/$plain/; s/@CHAP@/$chap/; s/@LINE@/$line/" "$here/guest-init.sh" >root/init && chmod +x root/init
(cd root && find . | cpio -o -H newc 2>/dev/null | gzip -1) >initrd.gz
rm -rf root
cp "kernel/boot/vmlinuz-$version" vmlinuz && echo "$version"

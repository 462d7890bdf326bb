#!/usr/bin/env bash
# Makes the kernel and the first file system of the guest in which ublk is tried: Debian's backported cloud kernel (the
# stock one has no ublk), the agent's own tests of the front ends, the demo, and the programs that these call.
# usage: guest-image.sh FOLDER TESTS AGENT DEMO
# Leaves FOLDER/vmlinuz and FOLDER/initrd.gz and prints the kernel's version; exit code 77 and a reason if something is missing.
set -u
here=$(cd "$(dirname "$0")" && pwd)
work=$1 tests=$2 agent=$3 demo=$4
PATH=$PATH:/sbin:/usr/sbin
mkdir -p "$work" && cd "$work" || exit 1

programs=(dash dd sync sha256sum cmp cat mkdir rmdir rm seq sleep kill echo mount umount losetup blkdiscard blockdev mkfs.ext4 e2fsck setsid)
missing=()
for tool in qemu-system-x86_64 busybox cpio modprobe depmod dpkg apt-get xz "${programs[@]}"; do
    type -P $tool >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "missing: ${missing[*]} (apt-get install --no-install-recommends qemu-system-x86 busybox-static cpio kmod xz-utils)"
    exit 77
fi

# A kernel of 6.12 from Debian's backports, by an apt of its own: the machine's sources stay as they are.
if [ ! -d kernel ]; then
    rm -rf kernel.new apt && mkdir -p apt/lists/partial apt/cache/archives/partial
    echo "deb http://deb.debian.org/debian bookworm-backports main" >apt/sources.list
    own=(-o "Dir::Etc::sourcelist=$PWD/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache")
    apt-get "${own[@]}" update >/dev/null 2>&1
    image=$(apt-cache "${own[@]}" search --names-only '^linux-image-6\.12\..*-cloud-amd64$' | awk '{print $1}' | sort -V | tail -1)
    [ -n "$image" ] && apt-get "${own[@]}" download "$image" >/dev/null 2>&1 &&
        dpkg -x "$image"_*.deb kernel.new && rm "$image"_*.deb && mv kernel.new kernel ||
        { echo "no kernel of 6.12 can be had from bookworm-backports"; exit 77; }
fi
version=$(ls kernel/usr/lib/modules 2>/dev/null || ls kernel/lib/modules)
modules=kernel/lib/modules/$version
[ -d "$modules" ] || { mkdir -p kernel/lib && ln -s ../usr/lib/modules kernel/lib/modules; }
[ -f "$modules/modules.dep.bin" ] || depmod -b kernel "$version" || exit 1

rm -rf root && mkdir -p root/{bin,sbin,proc,sys,dev,etc,tmp,run,modules,target/release}
cp "$(type -P busybox)" root/bin/
for module in ublk_drv loop ext4 crc32c_generic crc32c-intel; do
    modprobe -d kernel -S "$version" --show-depends $module 2>/dev/null | awk '$1 == "insmod" {print $2}'
done | awk '!seen[$0]++' | while read -r file; do
    name=$(basename "${file%.xz}")
    case $file in *.xz) xz -dc "$file" >"root/modules/$name" ;; *) cp "$file" "root/modules/$name" ;; esac
    echo "/modules/$name"
done >order && mv order root/modules/
add() { # FILE PLACE
    cp -L "$1" "root$2"
    ldd "$1" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "root$(dirname "$library")" && cp -L "$library" "root$library"
    done
}
for program in "${programs[@]}"; do
    path=$(type -P "$program") && add "$path" "/bin/$program"
done
ln -sf dash root/bin/sh
add "$tests" /target/tests
add "$agent" /target/release/twinsite-agent
add "$demo" /target/release/demo
strip root/target/tests root/target/release/* 2>/dev/null
echo "root:x:0:0:root:/:/bin/sh" >root/etc/passwd
cp "$here/guest-init.sh" root/init && chmod +x root/init
(cd root && find . | cpio -o -H newc 2>/dev/null | gzip -1) >initrd.gz
rm -rf root
cp "kernel/boot/vmlinuz-$version" vmlinuz && echo "$version"

#!/usr/bin/env bash
# Builds the Dockerfile as it stands, without a container engine and without a registry, and looks at what came out (docs/image.md).
#
# buildah runs its steps in a chroot. For the two images that it begins with stand local ones of the same name: Debian by debootstrap,
# and the same with a C compiler and this machine's Rust. All of it lies in target/image and goes at the end, but for the report and
# the logs; KEEP=1 keeps it. PROGRAMS=target/debug puts programs that are built already in the place of the compiler's work.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly out=${OUT:-$PWD/target/image}
readonly mirror=${MIRROR:-http://deb.debian.org/debian}
readonly base=docker.io/library/debian:trixie-slim
readonly rust=docker.io/library/rust:1.95-trixie
readonly image=localhost/twinsite:check
sysroot=$(rustc --print sysroot)
readonly sysroot
begun=$SECONDS

fail() {
    echo "image: FAILED $*"
    exit 1
}

[ "$(id -u)" = 0 ] || fail "it takes root: it mounts file systems"
for program in buildah debootstrap; do
    command -v $program >/dev/null || fail "missing $program (apt-get install buildah debootstrap)"
done
for name in "$base" "$rust"; do
    grep -q "^FROM ${name#docker.io/library/}\( \|$\)" Dockerfile || fail "the Dockerfile does not begin with ${name#docker.io/library/}"
done

mkdir -p "$out/tmp"
export TMPDIR=$out/tmp
engine=(buildah --root "$out/store" --runroot "$out/run")
sweep() {
    if [ -n "${KEEP:-}" ]; then
        echo "image: everything is kept in $out"
        return
    fi
    "${engine[@]}" umount --all >/dev/null 2>&1 || true
    "${engine[@]}" rm --all >/dev/null 2>&1 || true
    # What was mounted for a step that was cut short.
    awk -v at="$out/" 'index($2, at) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r -n 1 umount || true
    if ! grep -q " $out/" /proc/mounts; then
        rm -rf "$out/store" "$out/run" "$out/tmp" "$out/debian"
    fi
}
trap sweep EXIT
trap 'exit 1' INT TERM

debian=${DEBIAN:-$out/debian}
if [ -z "${DEBIAN:-}" ]; then
    echo "image: Debian trixie by debootstrap"
    debootstrap --variant=minbase trixie "$debian" "$mirror" >"$out/debootstrap.log" 2>&1 ||
        fail "debootstrap: see $out/debootstrap.log"
    for folder in proc sys; do
        if mountpoint -q "$debian/$folder"; then umount "$debian/$folder"; fi
    done
fi
container=$("${engine[@]}" from scratch)
"${engine[@]}" copy --quiet "$container" "$debian" / >/dev/null
"${engine[@]}" config --cmd bash "$container"
"${engine[@]}" commit --quiet "$container" "$base" >/dev/null
"${engine[@]}" rm "$container" >/dev/null

echo "image: the same with a C compiler, and $(rustc --version)"
container=$("${engine[@]}" from --pull-never "$base")
"${engine[@]}" run --isolation chroot "$container" -- sh -c \
    'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates gcc libc6-dev' \
    >"$out/rust.log" 2>&1 || fail "see $out/rust.log"
# Where somebody reads along on the network, this machine knows their certificate.
"${engine[@]}" copy --quiet "$container" /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ >/dev/null
"${engine[@]}" config --env CARGO_HOME=/usr/local/cargo --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
volumes=(--volume "$sysroot:/usr/local/rust:ro")
if [ -n "${PROGRAMS:-}" ]; then
    cat >"$out/tmp/cargo" <<'STANDIN'
#!/bin/sh
set -e
mkdir -p target/release
for name; do
    [ ! -f "/programs/$name" ] || cp "/programs/$name" target/release/
done
STANDIN
    chmod +x "$out/tmp/cargo"
    "${engine[@]}" copy --quiet "$container" "$out/tmp/cargo" /usr/local/bin/ >/dev/null
    volumes=(--volume "$(realpath "$PROGRAMS"):/programs:ro")
fi
"${engine[@]}" commit --quiet "$container" "$rust" >/dev/null
"${engine[@]}" rm "$container" >/dev/null

if [ -n "${PROGRAMS:-}" ]; then what="the programs of $PROGRAMS"; else what="a release build"; fi
echo "image: the Dockerfile, $what"
"${engine[@]}" bud --isolation chroot --pull-never --layers=false "${volumes[@]}" --tag "$image" . >"$out/build.log" 2>&1 ||
    fail "the build: see $out/build.log"
built=$((SECONDS - begun))

echo "image: what is in it"
container=$("${engine[@]}" from --pull-never "$image")
root=$("${engine[@]}" mount "$container")
user=$("${engine[@]}" inspect --format '{{.OCIv1.Config.User}}' "$container")
[ "$user" = 65532:65532 ] || fail "it runs as '$user'"
inside() {
    "${engine[@]}" run --isolation chroot "$@"
}
for program in twinsite-operator twinsite-csi twinsite-agent kubectl-twinsite; do
    said=$(inside "$container" -- $program --version) || fail "$program does not run as $user"
    echo "  $said"
    [ "$(stat -c '%u:%g %a' "$root/usr/local/bin/$program")" = "0:0 755" ] || fail "$program belongs to somebody else"
done
# What the node plugin and the agent call.
for program in mkfs.ext4 e2fsck resize2fs dumpe2fs mkfs.xfs xfs_repair xfs_growfs blkid blockdev mount umount losetup findmnt; do
    inside --user 0:0 "$container" -- sh -c "command -v $program" >/dev/null || fail "there is no $program"
done
[ -s "$root/etc/ssl/certs/ca-certificates.crt" ] || fail "there are no certificates of public authorities"
# A file system of each kind, made and checked by what is in the image.
for kind in ext4 xfs; do
    check="e2fsck -fn"
    [ $kind = ext4 ] || check="xfs_repair -n"
    inside --user 0:0 "$container" -- sh -c "truncate -s 400M /tmp/$kind && mkfs.$kind -q /tmp/$kind && $check /tmp/$kind && rm /tmp/$kind" \
        >"$out/$kind.log" 2>&1 || fail "$kind: see $out/$kind.log"
done
left=$(cd "$root" && find src out usr/local/cargo usr/local/rust var/lib/apt/lists -mindepth 1 2>/dev/null | head -5 || true)
[ -z "$left" ] || fail "of the build was left: $left"
others=$(cd "$root/usr/local/bin" && ls | grep -v -x -e twinsite-operator -e twinsite-csi -e twinsite-agent -e kubectl-twinsite || true)
[ -z "$others" ] || fail "beside the programs there is $others"
bytes=$(du -sx --block-size=1 --apparent-size "$root" | cut -f1)
programs=$(du -s --block-size=1 --apparent-size "$root/usr/local/bin" | cut -f1)
took=$((SECONDS - begun))
echo "{\"user\":\"$user\",\"bytes\":$bytes,\"program_bytes\":$programs,\"build_seconds\":$built,\"seconds\":$took}" >"$out/report.json"
echo "image: ok user=$user mib=$((bytes >> 20)) programs_mib=$((programs >> 20)) build_seconds=$built seconds=$took"

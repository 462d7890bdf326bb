#!/usr/bin/env bash
# `make ublk`: the ublk front end on a kernel that has it, in a QEMU guest. Exit code 0 also when it had to be skipped.
# usage: run.sh TARGET-FOLDER TESTS
set -u
here=$(cd "$(dirname "$0")" && pwd)
target=$(cd "$1" && pwd) tests=$(realpath "$2")
out=$target/ublk
mkdir -p "$out"
told=$("$here/guest-image.sh" "$out" "$tests" "$target/release/twinsite-agent" "$target/release/demo")
case $? in
0) echo "the guest's kernel is $(tail -1 <<<"$told")" ;;
77) echo "ublk: skipped: $(tail -1 <<<"$told")"; exit 0 ;;
*) echo "ublk: FAILED: the guest's image cannot be made: $told"; exit 1 ;;
esac
# As in `make interop`: emulated, so that it needs neither KVM nor rights.
timeout "${LIMIT:-1800}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max,cx16=off -m 4096 -smp 2 -nographic -no-reboot -nic none \
    -kernel "$out/vmlinuz" -initrd "$out/initrd.gz" \
    -append "console=ttyS0 quiet panic=-1 no_timer_check" </dev/null 2>&1 | tr -d '\r' | tee "$out/guest.log"
result() { grep -q "^$1 ok" "$out/guest.log" && echo ok || echo failed; }
measured=$(grep -c "us each" "$out/guest.log")
line="tests=$(result "UBLK TESTS") demo=$(result "UBLK DEMO") figures=$measured"
printf '{"tests":"%s","demo":"%s"}\n' "$(result "UBLK TESTS")" "$(result "UBLK DEMO")" >"$out/report.json"
case $line in
*failed*) echo "ublk: FAILED $line"; exit 1 ;;
*) echo "ublk: ok $line" ;;
esac

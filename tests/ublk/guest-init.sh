#!/bin/busybox sh
# First process of the guest of `make ublk`: runs the tests of the front ends and the demo, and says how they ended.
/bin/busybox mkdir -p /bin2
/bin/busybox --install -s /bin2
export PATH=/bin:/sbin:/bin2
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=80% tmpfs /tmp
for module in $(cat /modules/order); do insmod "$module" || echo "insmod $module failed"; done
ip link set lo up
export HOME=/tmp TMPDIR=/tmp
cd /tmp
/target/tests frontend::ublk --test-threads 2 && echo "UBLK TESTS ok" || echo "UBLK TESTS failed"
/target/tests measure_the_way_through_the_kernel --ignored --nocapture --test-threads 1
mkdir -p /tmp/target/release && cp /target/release/* /tmp/target/release/
SIZE=512Mi /tmp/target/release/demo && echo "UBLK DEMO ok" || echo "UBLK DEMO failed"
echo "devices left: $(ls /sys/class/ublk-char 2>/dev/null | wc -l)"
echo "GUEST DONE"
busybox poweroff -f

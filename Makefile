# The list of chores. Each target that measures or proves something ends with one line of figures and
# writes target/<name>/report.json (the kills are a kind of demo; `test` and `history` have no report).
#
# Options are taken alike from the command line and from the environment, `make sim ROUNDS=10` and `ROUNDS=10 make sim`. So a default stands
# where it is used: make 4.3 hides a variable of the environment from all recipes once one target has a `target: NAME ?= ..` for it.

CARGO ?= cargo
export CARGO_TERM_COLOR ?= never

.PHONY: help demo kills test history sim model faults mutants conformance csi-sanity bench bench-iscsi interop ublk fuzz \
	kubernetes-programs demo-kubernetes test-clusters clusters quick-start image lint crds setup setup-kubernetes

# What there is to make, and the options of each.
help:
	@awk '/^# / { text = text (text == "" ? "" : " ") substr($$0, 3); next } \
	  /^[a-z][a-z-]*:/ { name = $$1; sub(/:.*/, "", name); if (text != "") printf "%-20s %s\n", name, text } { text = "" }' Makefile

# The main job: a mirrored volume at two sites, one of them killed in mid-write (docs/demo.md).
# Options: KILL=research FS=xfs SIZE=2Gi AT=0.5 ROUNDS=30 SEED=7
demo: setup
	$(CARGO) build --release --bin twinsite-agent --bin demo
	target/release/demo

# Deaths at random instants, in the middle of whatever is under way. KILLS=200 SEED=7
kills: setup
	$(CARGO) build --release --bin twinsite-agent --bin demo
	KILLS=$(or $(KILLS),200) target/release/demo

# Everything that CI runs. The whole clusters take about ten minutes of it; TWINSITE_CLUSTERS=0 leaves them out.
test: setup setup-kubernetes
	$(CARGO) fmt --all --check
	$(CARGO) build --workspace --all-targets
	$(CARGO) test --workspace

# Judges the history of a run again. FILE=target/demo/history.jsonl
history:
	$(CARGO) run --quiet --release --package twinsite-tests --bin history -- $(or $(FILE),target/demo/history.jsonl)

# Simulated histories of faults in virtual time. ROUNDS=10000 SEED=1; SEED=7 ROUNDS=1 PRINT=1 tells one history.
sim:
	$(CARGO) build --release --package twinsite-sim
	target/release/twinsite-sim rounds=$(or $(ROUNDS),1000) seed=$(or $(SEED),1) print=$(or $(PRINT),0)

# The protocol as a checked model: all rules on, then each rule off (docs/evidence.md): an hour or more; PART=short: a minute.
model:
	$(CARGO) build --release --package twinsite-model
	target/release/twinsite-model $(or $(PART),all)

# The fault catalogue, row by row: on real processes, simulated, shown by a named test, or the reason why not.
faults: setup
	$(CARGO) build --release --package twinsite-faults
	$(CARGO) build --bin twinsite-agent
	$(CARGO) test --package twinsite-faults --test processes
	target/release/twinsite-faults

# One rule at a time taken out of the code; the tests, and for some the simulator, must notice.
mutants:
	$(CARGO) run --release --package twinsite-sim --bin twinsite-mutants

# libiscsi's test suite on our target, beside tgt in the same run.
conformance: setup
	$(CARGO) build --release --bin twinsite-agent --bin conformance
	target/release/conformance

# The CSI community's conformance suite on the real driver, agents and devices (docs/csi.md).
csi-sanity: setup
	$(CARGO) build --bin twinsite-agent
	$(CARGO) test --package twinsite-csi --test sanity -- --nocapture

# What the mirror adds to a leg alone (docs/bench.md), then the ends of iSCSI beside their peers.
bench:
	$(CARGO) build --release --package twinsite-tests --features bench --bin bench
	target/release/bench
	$(MAKE) bench-iscsi

# Our target beside tgt, our initiator beside libiscsi, both beside plain TCP (docs/bench-iscsi.md).
bench-iscsi: setup
	-@tests/setup.sh gcc libc6-dev libiscsi-dev
	$(CARGO) build --release --package twinsite-agent --bin twinsite-agent --example load
	$(CARGO) build --release --package twinsite-tests --bin bench-iscsi
	target/release/bench-iscsi $(BENCH)

# Our ends against libiscsi, QEMU, tgt, open-iscsi and LIO (docs/interop.md); what cannot be installed is skipped.
interop: setup
	-@tests/setup.sh qemu-utils qemu-block-extra qemu-system-x86 busybox-static cpio kmod open-iscsi
	$(CARGO) build --release --bin twinsite-agent --bin interop
	$(CARGO) build --release --package twinsite-iscsi --example probe
	target/release/interop

# The ublk front end and the demo on it, on a kernel that has it, in a QEMU guest (docs/demo.md). Not part of `test`.
ublk: setup
	-@tests/setup.sh qemu-system-x86 busybox-static cpio kmod xz-utils
	$(CARGO) build --release --bin twinsite-agent --bin demo
	tests/ublk/run.sh target "$$($(CARGO) test --package twinsite-agent --lib --no-run --message-format=json 2>/dev/null | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)"

# Every reader of strange bytes under coverage-guided inputs, TIME seconds each (docs/fuzz.md). Not part of `test`.
fuzz:
	@csi-driver/iscsi/fuzz/run.sh $(or $(TIME),60)

# The programs of Kubernetes that the cluster tests run, from their Go modules into the cache: about 20 minutes, once
# (docs/kubernetes-tests.md).
kubernetes-programs:
	$(CARGO) run --package twinsite-kubernetes --bin programs

# What the cluster tests take beside the programs of Kubernetes.
setup-kubernetes:
	@tests/setup.sh containerd runc containernetworking-plugins iproute2 busybox-static binutils

# The demo on two real clusters: one of them dies in mid-write. ROUNDS=n; NODE=1: in each round the node that writes dies too.
demo-kubernetes: setup setup-kubernetes
	$(CARGO) build --bin twinsite-agent --bin twinsite-csi --bin twinsite-operator --bin kubectl-twinsite --bin records --bin demo-kubernetes
	target/debug/demo-kubernetes

# Whole clusters and all their bad days. BAD_DAYS=name,name
test-clusters: setup setup-kubernetes
	$(CARGO) build --workspace --bins --test stage --test two_clusters
	BAD_DAYS=$(or $(BAD_DAYS),all) $(CARGO) test --workspace --test stage --test two_clusters

# Two clusters and a third API server to try things on, until Ctrl-C.
clusters: setup-kubernetes
	$(CARGO) build --bin twinsite-agent --bin twinsite-csi --bin twinsite-operator --bin kubectl-twinsite --bin records --bin clusters
	target/debug/clusters

# Follows the quick start of docs/kubernetes.md, its very text, on such clusters: three minutes.
quick-start: setup-kubernetes
	$(CARGO) build --bin twinsite-agent --bin twinsite-csi --bin twinsite-operator --bin kubectl-twinsite --bin records --bin clusters
	$(CARGO) run --quiet --package twinsite-kubernetes --bin programs >/dev/null
	tests/kubernetes/quick-start.sh

# The Dockerfile, built without a container engine, and a look at what came out (docs/image.md). DEBIAN=folder of a Debian trixie that is
# there already; PROGRAMS=target/debug: without the compiler's work. Not part of `test`.
image:
	-@tests/setup.sh buildah debootstrap
	tests/image/run.sh

# Clippy over everything, the benchmarks too; a warning is an error.
lint:
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --package twinsite-tests --features bench --all-targets -- -D warnings

# The definitions in crds/, from the types of operator/api; the chart carries a copy.
crds:
	$(CARGO) run --package twinsite-operator --bin crdgen -- crds
	$(CARGO) run --package twinsite-operator --bin crdgen -- charts/twinsite/files/crds

# Debian packages, by apt-get when root; otherwise one line says which are missing.
setup:
	@tests/setup.sh

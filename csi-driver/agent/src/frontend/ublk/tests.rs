//! The front end against a volume in memory, on a kernel with ublk (Linux 6.9 and later); `make ublk` brings one in a guest.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::frontend::clear_leftovers;
use crate::frontend::trial::{self, MIB, Order, PATIENCE, SIZE, Shown, run, sh, soon};

macro_rules! needs_ublk {
    () => {
        if !available() {
            eprintln!("skipped: no ublk here");
            return;
        }
    };
}

fn ublk(spec: &DeviceSpec, run: &Path, events: Events) -> Box<dyn Frontend> {
    Box::new(Ublk::show(spec, run, events).unwrap())
}

fn show(name: &str) -> Shown {
    trial::show(ublk, name)
}

fn is_gone(device: &Path) -> bool {
    let block = Path::new("/sys/block").join(device.file_name().unwrap());
    soon(|| !block.exists())
}

#[test]
fn a_file_system_lives_on_the_device_and_the_device_goes_when_told() {
    needs_ublk!();
    let shown = show("fs");
    let device = shown.path.display().to_string();
    let at = shown.run.path().join("at");
    sh(&format!(
        "mkfs.ext4 -q {device}; mkdir {at}; mount {device} {at}; \
         dd if=/dev/urandom of={at}/a bs=1M count=8 oflag=direct conv=fsync status=none; \
         dd if=/dev/urandom of={at}/b bs=4k count=200 conv=fsync status=none; \
         cat {at}/a {at}/b | sha256sum > {run}/sum1; umount {at}; \
         mount {device} {at}; cat {at}/a {at}/b | sha256sum > {run}/sum2; umount {at}; rmdir {at}; \
         cmp {run}/sum1 {run}/sum2; e2fsck -fn {device}",
        at = at.display(),
        run = shown.run.path().display()
    ))
    .unwrap();
    let path = shown.path.clone();
    let (memory, _run) = shown.remove(Removal::Orderly);
    for kind in ["write", "flush", "read"] {
        assert!(memory.counts[kind] > 0, "{:?}", memory.counts);
    }
    assert!(is_gone(&path));
}

#[test]
fn large_lengths_arrive_whole() {
    needs_ublk!();
    let shown = show("large");
    let device = shown.path.display().to_string();
    sh(&format!(
        "dd if=/dev/urandom of={run}/data bs=1M count=16 status=none; \
         dd if={run}/data of={device} bs=16M oflag=direct status=none; \
         dd if={device} of={run}/back bs=16M count=1 iflag=direct status=none; cmp {run}/data {run}/back",
        run = shown.run.path().display()
    ))
    .unwrap();
    let data = fs::read(shown.run.path().join("data")).unwrap();
    let (memory, _run) = shown.remove(Removal::Orderly);
    assert!(memory.bytes[..data.len()] == data[..]);
}

#[test]
fn discard_and_zero_arrive_as_such() {
    needs_ublk!();
    let shown = show("discard");
    let device = shown.path.display().to_string();
    run("blkdiscard", &["-o", "65536", "-l", "131072", &device]).unwrap();
    run("blkdiscard", &["-z", "-o", "0", "-l", "65536", &device]).unwrap();
    let (memory, _run) = shown.remove(Removal::Orderly);
    assert!(memory.counts["discard"] >= 1, "{:?}", memory.counts);
    assert!(memory.counts["zero"] >= 1, "{:?}", memory.counts);
}

#[test]
fn a_discard_that_is_not_offered_is_refused() {
    needs_ublk!();
    let shown = trial::show_in(ublk, "none", tempfile::tempdir().unwrap(), 0);
    let device = shown.path.display().to_string();
    assert!(run("blkdiscard", &["-l", "65536", &device]).is_err());
    let (memory, _run) = shown.remove(Removal::Orderly);
    assert!(!memory.counts.contains_key("discard"));
}

#[test]
fn an_error_reaches_the_application() {
    needs_ublk!();
    let shown = show("error");
    let device = shown.path.display().to_string();
    shown.orders.post(Order::FailEverything).unwrap();
    let failed = sh(&format!(
        "dd if=/dev/zero of={device} bs=4k count=1 oflag=direct status=none"
    ));
    assert!(failed.unwrap_err().contains("Input/output error"));
    shown.remove(Removal::Orderly);
}

#[test]
fn an_abort_gives_eio_at_once_under_a_mounted_file_system() {
    needs_ublk!();
    let shown = show("abort");
    let device = shown.path.display().to_string();
    let at = shown.run.path().join("at").display().to_string();
    sh(&format!("mkfs.ext4 -q {device}; mkdir {at}; mount {device} {at}; echo hello > {at}/file; sync -f {at}")).unwrap();
    let begun = Instant::now();
    let path = shown.path.clone();
    let (_memory, _run) = shown.remove(Removal::Abort);
    let failed = sh(&format!(
        "dd if=/dev/zero of={at}/more bs=4k count=1 conv=fsync status=none"
    ));
    assert!(failed.is_err(), "a write after the abort must fail");
    assert!(begun.elapsed() < Duration::from_secs(5));
    sh(&format!("umount {at}; rmdir {at}")).unwrap();
    assert!(is_gone(&path));
}

const KILL_DIR: &str = "TWINSITE_TEST_KILL_DIR";

/// Not a test: the process that the kill tests kill. It serves until it dies.
#[test]
#[ignore = "run by the kill tests"]
fn serve_until_killed() {
    let Some(folder) = std::env::var_os(KILL_DIR) else {
        return;
    };
    let folder = Path::new(&folder);
    fs::write(folder.join("begun"), "").unwrap();
    let (_orders, path, done) = trial::serve(ublk, "victim", folder, 0);
    let path: PathBuf = path.recv_timeout(PATIENCE).unwrap();
    let new = folder.join("shown.new");
    fs::write(&new, path.display().to_string()).unwrap();
    fs::rename(new, folder.join("shown")).unwrap();
    // Nobody kills it if the test itself was killed.
    let _ = done.recv_timeout(3 * PATIENCE);
}

fn victim(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "frontend::ublk::tests::serve_until_killed",
            "--ignored",
        ])
        .env(KILL_DIR, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn ends(child: &mut Child) -> bool {
    soon(|| child.try_wait().unwrap().is_some())
}

#[test]
fn a_killed_agent_ends_at_once_and_its_leftovers_are_cleared() {
    needs_ublk!();
    let folder = tempfile::tempdir().unwrap();
    let mut child = victim(folder.path());
    assert!(soon(|| folder.path().join("shown").exists()));
    let device = fs::read_to_string(folder.path().join("shown")).unwrap();
    let at = folder.path().join("at").display().to_string();
    sh(&format!("mkfs.ext4 -q {device}; mkdir {at}; mount {device} {at}; echo hello > {at}/file; sync -f {at}")).unwrap();
    let mut writer = Command::new("sh")
        .args(["-c", &format!("while dd if=/dev/zero of={at}/more bs=4k count=64 conv=fsync status=none; do :; done")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(100));
    child.kill().unwrap();
    assert!(ends(&mut child), "the killed process is gone");
    assert!(ends(&mut writer), "its writer got an error");
    sh(&format!("umount {at}; rmdir {at}")).unwrap();
    clear_leftovers(folder.path()).unwrap();
    assert!(is_gone(Path::new(&device)));
    assert!(
        soon(|| control::devices().is_empty()),
        "no device is left in the driver"
    );
}

#[test]
fn an_agent_killed_at_any_moment_of_the_set_up_leaves_nothing_that_stays() {
    needs_ublk!();
    let folder = tempfile::tempdir().unwrap();
    for microseconds in (0..8000).step_by(800) {
        let _ = fs::remove_file(folder.path().join("begun"));
        let mut child = victim(folder.path());
        let begun = folder.path().join("begun");
        let end = Instant::now() + PATIENCE;
        while !begun.exists() {
            assert!(Instant::now() < end);
            std::hint::spin_loop();
        }
        thread::sleep(Duration::from_micros(microseconds));
        child.kill().unwrap();
        assert!(ends(&mut child), "killed after {microseconds} us");
        clear_leftovers(folder.path()).unwrap();
    }
    assert!(soon(|| control::devices().is_empty()));
}

/// Figures, not a test: the way through the kernel alone, beside FUSE and loop in `fuse_loop/tests.rs`.
#[test]
#[ignore = "a measurement"]
fn measure_the_way_through_the_kernel() {
    needs_ublk!();
    let shown = show("speed");
    let device = shown.path.display().to_string();
    for (what, block, count) in [("4 KiB", 4096, 20_000_u64), ("128 KiB", 131_072, 4_000)] {
        let begun = Instant::now();
        let times = count.min(SIZE / block);
        sh(&format!(
            "for i in $(seq {}); do dd if=/dev/zero of={device} bs={block} count={times} oflag=direct status=none; done",
            count / times
        ))
        .unwrap();
        let took = begun.elapsed();
        let each = took.as_secs_f64() * 1e6 / count as f64;
        println!(
            "{what} writes, one at a time: {each:.1} us each, {:.0} MiB/s",
            (block * count / MIB) as f64 / took.as_secs_f64()
        );
    }
    shown.remove(Removal::Orderly);
}

//! The front end against a volume in memory, with the machine's own mkfs, mount and dd. Needs root, FUSE and loop.
//!
//! Whatever touches the device runs in processes of its own: this one answers the requests, and must be killable.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::frontend::clear_leftovers;
use crate::frontend::trial::{self, Order, PATIENCE, SIZE, Shown, run, sh, soon};

/// Why these tests cannot run here, if so.
fn missing() -> Option<&'static str> {
    // SAFETY: no arguments.
    #[allow(unsafe_code, reason = "geteuid has no form in std")]
    let root = unsafe { libc::geteuid() } == 0;
    match () {
        () if !root => Some("not root"),
        () if Channel::open().is_err() => Some("no /dev/fuse"),
        () if !Path::new(CONTROL).exists() => Some("no /dev/loop-control"),
        () => None,
    }
}

macro_rules! needs_devices {
    () => {
        if let Some(why) = missing() {
            eprintln!("skipped: {why}");
            return;
        }
    };
}

fn fuse_loop(spec: &DeviceSpec, run: &Path, events: Events) -> Box<dyn Frontend> {
    Box::new(FuseLoop::show(spec, run, events).unwrap())
}

fn show(name: &str) -> Shown {
    trial::show(fuse_loop, name)
}

fn show_in(name: &str, run: tempfile::TempDir) -> Shown {
    trial::show_in(fuse_loop, name, run, 65536)
}

/// Whether the loop device is not bound any more, soon.
fn unbound(device: &Path) -> bool {
    let backing = Path::new("/sys/block")
        .join(device.file_name().unwrap())
        .join("loop/backing_file");
    soon(|| !backing.exists())
}

#[test]
fn a_file_system_lives_on_the_device_and_the_device_goes_when_told() {
    needs_devices!();
    let shown = show("fs");
    let device = shown.path.display().to_string();
    let at = shown.run.path().join("at");
    let dio = Path::new("/sys/block")
        .join(shown.path.file_name().unwrap())
        .join("loop/dio");
    assert_eq!(
        fs::read_to_string(dio).unwrap().trim(),
        "1",
        "the loop device works without a page cache"
    );
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
    let (memory, run) = shown.remove(Removal::Orderly);
    assert!(memory.counts["write"] > 10, "{:?}", memory.counts);
    assert!(memory.counts["flush"] > 0, "{:?}", memory.counts);
    assert!(memory.counts["read"] > 0, "{:?}", memory.counts);
    assert!(unbound(&path));
    assert!(!run.path().join("fs").exists(), "the mount point is gone");
}

#[test]
fn large_and_unaligned_lengths_arrive_whole() {
    needs_devices!();
    let shown = show("large");
    let (device, run) = (
        shown.path.display().to_string(),
        shown.run.path().display().to_string(),
    );
    sh(&format!(
        "dd if=/dev/urandom of={run}/data bs=12288 count=1000 status=none; \
         dd if={run}/data of={device} bs=3M oflag=direct conv=fsync status=none; \
         dd if={device} of={run}/back bs=12288 count=1000 iflag=direct status=none; cmp {run}/data {run}/back"
    ))
    .unwrap();
    let (memory, _run) = shown.remove(Removal::Orderly);
    assert!(memory.bytes[..12288 * 1000].iter().any(|byte| *byte != 0));
    assert!(memory.bytes[12288 * 1000..].iter().all(|byte| *byte == 0));
}

#[test]
fn discard_and_zero_arrive_as_such() {
    needs_devices!();
    let shown = show("discard");
    let device = shown.path.display().to_string();
    sh(&format!(
        "dd if=/dev/urandom of={device} bs=1M count=4 oflag=direct status=none; \
         blkdiscard -o 1048576 -l 1048576 {device}; blkdiscard -z -o 2097152 -l 1048576 {device}"
    ))
    .unwrap();
    let (memory, _run) = shown.remove(Removal::Orderly);
    assert_eq!(memory.counts["discard"], 1);
    assert_eq!(memory.counts["zero"], 1);
    let filled = |at: usize| {
        memory.bytes[at << 20..(at + 1) << 20]
            .iter()
            .any(|byte| *byte != 0)
    };
    assert_eq!([0, 1, 2, 3].map(filled), [true, false, false, true]);
}

#[test]
fn a_discard_that_is_not_offered_is_refused_and_nothing_else() {
    needs_devices!();
    let shown = trial::show_in(fuse_loop, "nodiscard", tempfile::tempdir().unwrap(), 0);
    let device = shown.path.display().to_string();
    // The kernel reports success for a discard that a device does not have: nothing may have happened.
    sh(&format!(
        "dd if=/dev/urandom of={device} bs=1M count=1 oflag=direct status=none; \
         blkdiscard -o 0 -l 1048576 {device} || true; blkdiscard -z -o 524288 -l 524288 {device}"
    ))
    .unwrap();
    let (memory, _run) = shown.remove(Removal::Orderly);
    assert_eq!(memory.counts.get("discard"), None);
    assert!(memory.bytes[..524_288].iter().any(|byte| *byte != 0));
    assert!(memory.bytes[524_288..1 << 20].iter().all(|byte| *byte == 0));
}

#[test]
fn an_error_reaches_the_application() {
    needs_devices!();
    let shown = show("eio");
    let device = shown.path.display().to_string();
    sh(&format!(
        "dd if=/dev/zero of={device} bs=4k count=1 oflag=direct conv=fsync status=none"
    ))
    .unwrap();
    shown.orders.post(Order::FailEverything).unwrap();
    let failed = sh(&format!(
        "dd if=/dev/zero of={device} bs=4k count=1 oflag=direct status=none"
    ))
    .unwrap_err();
    assert!(failed.contains("Input/output error"), "{failed}");
    shown.remove(Removal::Orderly);
}

#[test]
fn an_abort_gives_eio_at_once_under_a_mounted_file_system() {
    needs_devices!();
    let shown = show("abort");
    let (device, at) = (
        shown.path.display().to_string(),
        shown.run.path().join("at"),
    );
    let at = at.display().to_string();
    sh(&format!("mkfs.ext4 -q {device}; mkdir {at}; mount {device} {at}; echo hello > {at}/file; sync -f {at}")).unwrap();
    let begun = Instant::now();
    let path = shown.path.clone();
    let (_memory, run) = shown.remove(Removal::Abort);
    let failed = sh(&format!(
        "dd if=/dev/zero of={at}/more bs=4k count=1 conv=fsync status=none"
    ));
    assert!(failed.is_err(), "a write after the abort must fail");
    assert!(begun.elapsed() < Duration::from_secs(5));
    sh(&format!("umount {at}; rmdir {at}")).unwrap();
    assert!(unbound(&path), "the loop device goes with its last user");
    drop(run);
}

#[test]
fn a_device_grows_under_use() {
    needs_devices!();
    let shown = show("grow");
    let device = shown.path.display().to_string();
    assert_eq!(
        run("blockdev", &["--getsize64", &device]).unwrap().trim(),
        SIZE.to_string()
    );
    shown.orders.post(Order::Resize(2 * SIZE)).unwrap();
    assert!(soon(|| run("blockdev", &["--getsize64", &device])
        .unwrap()
        .trim()
        == (2 * SIZE).to_string()));
    shown.remove(Removal::Orderly);
}

#[test]
fn a_name_that_leaves_its_folder_is_refused() {
    let run = tempfile::tempdir().unwrap();
    for name in ["", "..", ".hidden", "a/b", "a b", "a\0b"] {
        let spec = DeviceSpec {
            name: name.to_owned(),
            size: SIZE,
            discard_granularity: 0,
        };
        let shown = FuseLoop::show(&spec, run.path(), Arc::new(|_| {}));
        assert!(
            matches!(shown, Err(FrontendError::BadName { .. })),
            "{name:?}"
        );
    }
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
    let (_orders, path, done) = trial::serve(fuse_loop, "victim", folder, 0);
    let path: PathBuf = path.recv_timeout(PATIENCE).unwrap();
    let new = folder.join("shown.new");
    fs::write(&new, path.display().to_string()).unwrap();
    fs::rename(new, folder.join("shown")).unwrap();
    // Nobody kills it if the test itself was killed.
    let _ = done.recv_timeout(3 * PATIENCE);
}

fn victim(folder: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "frontend::fuse_loop::tests::serve_until_killed",
            "--ignored",
        ])
        .env(KILL_DIR, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Ends within the patience of these tests, however it was killed.
fn ends(child: &mut std::process::Child) -> bool {
    soon(|| child.try_wait().unwrap().is_some())
}

#[test]
fn a_killed_agent_ends_at_once_and_its_leftovers_are_cleared() {
    needs_devices!();
    let folder = tempfile::tempdir().unwrap();
    let mut child = victim(folder.path());
    assert!(soon(|| folder.path().join("shown").exists()));
    let device = fs::read_to_string(folder.path().join("shown")).unwrap();
    let at = folder.path().join("at").display().to_string();
    sh(&format!("mkfs.ext4 -q {device}; mkdir {at}; mount {device} {at}; echo hello > {at}/file; sync -f {at}")).unwrap();
    // A writer is in the middle of its work when the agent dies.
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
    // Whoever comes first clears a device that nobody serves: another agent of this machine may do it before us, or we what a
    // test beside this one left.
    let device = PathBuf::from(device);
    let cleared = clear_leftovers(folder.path()).unwrap();
    assert_eq!(cleared.mounts, [folder.path().join("victim")]);
    assert!(!folder.path().join("victim").exists());
    assert!(unbound(&device));
    let again = clear_leftovers(folder.path()).unwrap();
    assert!(!again.devices.contains(&device) && again.mounts.is_empty());
    // The same place can be used again.
    let again = show_in("victim", folder);
    again.remove(Removal::Orderly);
}

/// Another agent of the machine may have cleared the device, which nobody serves: nothing uses the mount then.
#[test]
fn a_mount_whose_device_is_gone_already_is_cleared_with_its_folder() {
    needs_devices!();
    let folder = tempfile::tempdir().unwrap();
    let mut child = victim(folder.path());
    assert!(soon(|| folder.path().join("shown").exists()));
    let device = fs::read_to_string(folder.path().join("shown")).unwrap();
    child.kill().unwrap();
    assert!(ends(&mut child));
    // Somebody else may be as fast.
    let _ = sh(&format!("losetup -d {device}"));
    assert!(unbound(Path::new(&device)));
    let cleared = clear_leftovers(folder.path()).unwrap();
    assert_eq!(cleared.mounts, [folder.path().join("victim")]);
    assert!(!folder.path().join("victim").exists());
}

/// A harness or a person may take the mount out of the tree first; the kernel then names the backing file by the root
/// of that mount.
#[test]
fn a_device_is_found_after_its_mount_was_taken_out_of_the_tree() {
    needs_devices!();
    let folder = tempfile::tempdir().unwrap();
    let mut child = victim(folder.path());
    assert!(soon(|| folder.path().join("shown").exists()));
    let device = fs::read_to_string(folder.path().join("shown")).unwrap();
    child.kill().unwrap();
    assert!(ends(&mut child));
    sh(&format!(
        "umount -l {}",
        folder.path().join("victim").display()
    ))
    .unwrap();
    // Anybody's clearing may take it by now: it gives errors to everybody.
    clear_leftovers(folder.path()).unwrap();
    assert!(unbound(Path::new(&device)));
}

/// What a stale number costs: somebody else's device.
#[test]
fn a_number_that_was_given_to_somebody_else_is_left_alone() {
    needs_devices!();
    let folder = tempfile::tempdir().unwrap();
    let shown = show_in("stale", folder);
    let device = shown.path.display().to_string();
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let image = image.path().display().to_string();
    sh(&format!("losetup -d {device}")).unwrap();
    // Whoever looks at the device at this moment, or was given its number in between, keeps it busy for a while.
    assert!(soon(|| sh(&format!("losetup {device} {image}")).is_ok()));
    shown.remove(Removal::Orderly);
    let bound = sh(&format!("losetup -n -O BACK-FILE {device}"));
    sh(&format!("losetup -d {device}")).unwrap();
    assert_eq!(bound.unwrap().trim(), image);
}

#[test]
fn an_agent_killed_at_any_moment_of_the_set_up_ends() {
    needs_devices!();
    let folder = tempfile::tempdir().unwrap();
    for microseconds in (0..8000).step_by(400) {
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
    assert_eq!(
        clear_leftovers(folder.path()).unwrap(),
        crate::frontend::Cleared::default()
    );
}

#[test]
fn a_mount_taken_away_behind_our_back_is_noticed() {
    needs_devices!();
    let shown = show("taken");
    let path = shown.path.clone();
    sh(&format!(
        "losetup -d {}; umount {}",
        path.display(),
        shown.run.path().join("taken").display()
    ))
    .unwrap();
    shown
        .done
        .recv_timeout(PATIENCE)
        .expect("the front end says that it is gone");
}

/// Not a test: prints what a request through the kernel costs. Run it in a release build.
#[test]
#[ignore = "a measurement"]
fn measure_the_way_through_the_kernel() {
    needs_devices!();
    let shown = show("measure");
    let device = shown.path.display().to_string();
    for (what, line) in [
        (
            "4k write",
            format!("dd if=/dev/zero of={device} bs=4k count=8000 oflag=direct"),
        ),
        (
            "4k read",
            format!("dd if={device} of=/dev/null bs=4k count=8000 iflag=direct"),
        ),
        (
            "1M write",
            format!("dd if=/dev/zero of={device} bs=1M count=60 oflag=direct"),
        ),
        (
            "1M read",
            format!("dd if={device} of=/dev/null bs=1M count=60 iflag=direct"),
        ),
    ] {
        let told = sh(&format!("LC_ALL=C {line} 2>&1")).unwrap();
        println!("{what}: {}", told.lines().last().unwrap_or_default());
    }
    shown.remove(Removal::Orderly);
}

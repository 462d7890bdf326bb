//! What no kernel takes away with a machine: loop devices, which belong to no namespace, and cgroups.
//!
//! Invariants: a loop device is only taken down if its file is one of the agent's and nobody serves it any more, so that it is of
//! no use to anybody; a cgroup only if its name was made from the folder of its machine.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process_group::until;

/// The agent's name for the file behind a device; the kernel shows it as the backing file.
const AGENT_FILE: &str = "dev";
/// A cgroup stays busy for as long as a killed process of it is still dying.
const CGROUP_LIMIT: Duration = Duration::from_secs(10);

/// Takes down the loop devices of agents that are dead.
pub(crate) fn remove_dead_loop_devices() {
    let Ok(output) = Command::new("losetup")
        .args(["-l", "-n", "-O", "NAME,BACK-FILE"])
        .output()
    else {
        return;
    };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut words = line.split_whitespace();
        let (Some(device), Some(file)) = (words.next(), words.next()) else {
            continue;
        };
        let of_an_agent = Path::new(file)
            .file_name()
            .is_some_and(|name| name == AGENT_FILE);
        if of_an_agent && nobody_serves(device) {
            let _ = Command::new("losetup")
                .args(["-d", device])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// Whether a read fails at once. One that waits is served by somebody who stands still.
fn nobody_serves(device: &str) -> bool {
    const TIMED_OUT: i32 = 124;
    let read = Command::new("timeout")
        .args([
            "-s",
            "KILL",
            "2",
            "dd",
            "of=/dev/null",
            "bs=4096",
            "count=1",
            "iflag=direct",
        ])
        .arg(format!("if={device}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    read.is_ok_and(|status| matches!(status.code(), Some(code) if code != 0 && code != TIMED_OUT))
}

/// How the cgroups of machines with their disks below one folder begin.
pub(crate) fn cgroup_prefix(folder: &Path) -> String {
    // The folder's own path, short: two runs side by side have different folders.
    let world = folder.parent().and_then(Path::parent).unwrap_or(folder);
    let mut number: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in world.as_os_str().as_encoded_bytes() {
        number = (number ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("twinsite-{number:016x}-")
}

/// Removes the cgroups whose names begin so, with everything in them, if no process is left there.
pub(crate) fn remove_cgroups(prefix: &str) {
    let hierarchies = fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten();
    let roots = hierarchies
        .map(|entry| entry.path())
        .chain([Path::new("/sys/fs/cgroup").to_owned()]);
    for root in roots {
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                let path = entry.path();
                let _ = until(CGROUP_LIMIT, "an empty cgroup", || remove_tree(&path));
            }
        }
    }
}

/// Only folders can be removed in a cgroup file system, and only from below; whether all are gone.
fn remove_tree(folder: &Path) -> bool {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(folder).is_ok() || !folder.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_of_one_world_share_a_prefix_and_two_worlds_do_not() {
        let one = cgroup_prefix(Path::new("/a/medical/m1"));
        assert_eq!(one, cgroup_prefix(Path::new("/a/research/r1")));
        assert_ne!(one, cgroup_prefix(Path::new("/b/medical/m1")));
    }
}

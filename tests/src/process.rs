//! Processes of one site, killed together as a power cut kills them, and the sweeping up after them.
//!
//! Invariants: only process groups that were started here are ever signalled; only mounts and loop devices whose path lies
//! below the given folder are ever removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A child in a process group of its own.
#[derive(Debug)]
pub struct Group {
    child: Child,
}

/// How a group is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: drain, mark clean, end.
    Term,
    /// SIGKILL: the plug is pulled.
    Kill,
    /// SIGSTOP: the machine stands still.
    Stop,
    /// SIGCONT: and goes on.
    Continue,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "-TERM",
            Self::Kill => "-KILL",
            Self::Stop => "-STOP",
            Self::Continue => "-CONT",
        }
    }
}

impl Group {
    /// Starts `command` in a new process group, its output going to `log`.
    ///
    /// # Errors
    /// The program or the log cannot be opened.
    pub fn start(command: &mut Command, log: &Path) -> io::Result<Self> {
        let log: File = OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        Ok(Self { child })
    }

    /// The process group's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Signals the whole group.
    pub fn signal(&mut self, signal: Signal) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill")
                .args([signal.name(), "--", &format!("-{}", self.child.id())])
                .stderr(Stdio::null())
                .status();
        }
    }

    /// Waits at most `limit` for the end; the exit code if it ended by itself.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.code(),
                Ok(None) if start.elapsed() < limit => thread::sleep(Duration::from_millis(5)),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills the group and waits for it.
    pub fn kill(&mut self) {
        self.signal(Signal::Kill);
        let _ = self.wait(Duration::from_secs(10));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Mount points below `folder`, deepest first.
#[must_use]
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect();
    points.sort();
    points.reverse();
    points
}

/// Loop devices whose backing file lies below `folder`.
#[must_use]
pub fn loops_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(output) = Command::new("losetup")
        .args(["-l", "-n", "-O", "NAME,BACK-FILE"])
        .output()
    else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?))
        })
        .filter(|(_, file)| Path::new(file).starts_with(folder))
        .map(|(device, _)| PathBuf::from(device))
        .collect()
}

/// Removes every mount and loop device below `folder`, as a power cut would have.
pub fn sweep(folder: &Path) {
    wait_for_children(folder);
    for _ in 0..5 {
        let mounts = mounts_below(folder);
        let loops = loops_below(folder);
        if mounts.is_empty() && loops.is_empty() {
            return;
        }
        // The file system first, then the loop device, then the FUSE mount that backs it.
        let (fuse, disks): (Vec<_>, Vec<_>) = mounts.into_iter().partition(|point| is_fuse(point));
        run_quietly("umount", "-l", &disks);
        run_quietly("losetup", "-d", &loops);
        run_quietly("umount", "-l", &fuse);
        thread::sleep(Duration::from_millis(50));
    }
}

/// How long the child of a killed agent may take to end.
const CHILD_LIMIT: Duration = Duration::from_secs(10);

/// A child that was binding a loop device when its agent was killed finishes that one call first, and holds a lock on
/// `.devices.lock` in the agent's folder until it is gone. A sweep before that would miss the device.
fn wait_for_children(folder: &Path) {
    let end = Instant::now() + CHILD_LIMIT;
    for path in lock_files(folder, 6) {
        let Ok(file) = File::open(&path) else {
            continue;
        };
        while file.try_lock().is_err() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn lock_files(folder: &Path, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let file = folder.join(".devices.lock");
    if file.is_file() {
        found.push(file);
    }
    if depth > 0 {
        let below = fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for entry in folders {
            found.extend(lock_files(&entry.path(), depth - 1));
        }
    }
    found
}

fn is_fuse(point: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter(|line| {
            line.split(' ')
                .nth(4)
                .is_some_and(|p| Path::new(p) == point)
        })
        .any(|line| line.contains(" - fuse"))
}

fn run_quietly(program: &str, option: &str, paths: &[PathBuf]) {
    for path in paths {
        let _ = Command::new(program)
            .arg(option)
            .arg(path)
            .stderr(Stdio::null())
            .status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_group_takes_its_children_along() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut group = Group::start(
            Command::new("sh").args(["-c", "sleep 1000 & echo $!; wait"]),
            &log,
        )
        .unwrap();
        let child = loop {
            let text = fs::read_to_string(&log).unwrap();
            if text.ends_with('\n') {
                break text.trim().to_owned();
            }
            thread::sleep(Duration::from_millis(5));
        };
        group.kill();
        assert!(!group.running());
        for _ in 0..200 {
            let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the grandchild {child} outlived its group");
    }
}

//! Processes that live and die together.
//!
//! A group has a keeper: a shell that waits on a pipe from us. When the pipe closes, because the group is dropped or because we
//! died in whatever way, the keeper kills the whole process group, itself included.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const KEEPER: &str = "read -r _; kill -KILL 0";
const KEEPER_LIMIT: Duration = Duration::from_secs(10);
/// How long killed processes may take to be gone.
const DEATH_LIMIT: Duration = Duration::from_secs(20);

/// How processes are told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The plug is pulled.
    Kill,
    /// Please end.
    Term,
    /// The machine stands still.
    Stop,
    /// And goes on.
    Continue,
}

impl Signal {
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Kill => "-KILL",
            Self::Term => "-TERM",
            Self::Stop => "-STOP",
            Self::Continue => "-CONT",
        }
    }
}

/// A process group and its keeper.
#[derive(Debug)]
pub struct ProcessGroup {
    keeper: Child,
    own_network: bool,
    members: Vec<(String, Child)>,
}

impl ProcessGroup {
    /// An empty group.
    ///
    /// # Errors
    /// The keeper cannot be started.
    pub fn new() -> io::Result<Self> {
        Self::kept_by(Command::new("sh").args(["-c", KEEPER]), false)
    }

    /// An empty group with a network of its own, in which there is only a loopback device that is down.
    ///
    /// # Errors
    /// The keeper cannot be started: it takes root and the program `unshare`.
    pub fn with_own_network() -> Result<Self> {
        let mut keeper = Command::new("unshare");
        let group = Self::kept_by(keeper.args(["--net", "sh", "-c", KEEPER]), true)?;
        let network = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
        let (ours, keeper) = (network("self"), group.keeper.id().to_string());
        until(KEEPER_LIMIT, "a network of its own", || {
            network(&keeper) != ours
        })?;
        Ok(group)
    }

    fn kept_by(keeper: &mut Command, own_network: bool) -> io::Result<Self> {
        let keeper = keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self {
            keeper,
            own_network,
            members: Vec::new(),
        })
    }

    /// A process in whose network the group's members run.
    #[must_use]
    pub fn keeper(&self) -> u32 {
        self.keeper.id()
    }

    /// A command for `program` in the group's network.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        if !self.own_network {
            return Command::new(program);
        }
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "-t", &self.keeper.id().to_string()])
            .arg(program);
        command
    }

    /// Starts `command` in this group as `name`, what it says going to the end of `log`.
    ///
    /// # Errors
    /// The program or the log cannot be opened.
    pub fn start(&mut self, name: &str, command: &mut Command, log: &Path) -> Result<()> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let id = i32::try_from(self.keeper.id()).context("a process id")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(id)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        self.members.push((name.to_owned(), child));
        Ok(())
    }

    /// The process id of a member.
    #[must_use]
    pub fn id(&self, name: &str) -> Option<u32> {
        let (_, child) = self.members.iter().find(|(member, _)| member == name)?;
        Some(child.id())
    }

    /// Whether a member runs.
    pub fn running(&mut self, name: &str) -> bool {
        self.members
            .iter_mut()
            .filter(|(member, _)| member == name)
            .any(|(_, child)| matches!(child.try_wait(), Ok(None)))
    }

    /// Signals one member that still runs.
    pub fn signal(&mut self, name: &str, signal: Signal) {
        for (member, child) in &mut self.members {
            if member == name && matches!(child.try_wait(), Ok(None)) {
                send(signal, &child.id().to_string());
            }
        }
    }

    /// Kills one member and waits for its end; it can be started again.
    pub fn kill(&mut self, name: &str) {
        self.signal(name, Signal::Kill);
        let mut index = 0;
        while index < self.members.len() {
            if self.members[index].0 == name {
                let (_, mut child) = self.members.swap_remove(index);
                wait(&mut child, DEATH_LIMIT);
            } else {
                index += 1;
            }
        }
    }

    /// Kills all members at once; the group can be used again.
    pub fn kill_members(&mut self) {
        for (_, child) in &mut self.members {
            let _ = child.kill();
        }
        for (_, mut child) in self.members.drain(..) {
            wait(&mut child, DEATH_LIMIT);
        }
    }

    /// Signals every member, not the keeper.
    pub fn signal_members(&self, signal: Signal) {
        for (_, child) in &self.members {
            send(signal, &child.id().to_string());
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        send(Signal::Kill, &format!("-{}", self.keeper.id()));
        for (_, child) in &mut self.members {
            wait(child, DEATH_LIMIT);
        }
        wait(&mut self.keeper, DEATH_LIMIT);
    }
}

pub(crate) fn send(signal: Signal, to: &str) {
    let _ = Command::new("kill")
        .args([signal.option(), "--", to])
        .stderr(Stdio::null())
        .status();
}

/// Waits at most `limit` for a child's end.
pub(crate) fn wait(child: &mut Child, limit: Duration) {
    let start = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && start.elapsed() < limit {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asks again until `condition` holds.
///
/// # Errors
/// It does not within `limit`.
pub fn until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(id: u32) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    }

    fn sleeping() -> (tempfile::TempDir, ProcessGroup) {
        let folder = tempfile::tempdir().unwrap();
        let mut group = ProcessGroup::new().unwrap();
        sleep(&mut group, folder.path());
        (folder, group)
    }

    fn sleep(group: &mut ProcessGroup, folder: &Path) {
        let mut command = Command::new("sleep");
        let started = group.start("sleeper", command.arg("1000"), &folder.join("log"));
        started.unwrap();
    }

    #[test]
    fn a_dropped_group_ends_its_members() {
        let (_folder, mut group) = sleeping();
        let id = group.id("sleeper").unwrap();
        assert!(group.running("sleeper") && alive(id));
        drop(group);
        assert!(!alive(id));
    }

    #[test]
    fn a_group_ends_when_the_pipe_of_its_maker_closes() {
        let (_folder, mut group) = sleeping();
        drop(group.keeper.stdin.take());
        until(Duration::from_secs(10), "the end", || {
            !group.running("sleeper")
        })
        .unwrap();
    }

    #[test]
    fn a_killed_member_can_be_started_again() {
        let (folder, mut group) = sleeping();
        group.kill("sleeper");
        assert!(!group.running("sleeper"));
        sleep(&mut group, folder.path());
        assert!(group.running("sleeper"));
    }
}

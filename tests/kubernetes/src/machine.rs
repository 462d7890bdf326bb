//! A machine: process, mount, network, host-name and cgroup namespaces of its own, on one kernel.
//!
//! Its first process is a shell that waits on a pipe from us, and reaps. When it ends, because we pulled the plug or because we
//! died, the kernel ends everything else in the machine and undoes its mounts. What lies in the machine's folder is its disk
//! and stays: `/var/lib` and `/var/log`. `/run` is memory.
//!
//! Not undone by the kernel: loop devices, which belong to no namespace, and cgroups. [`Machine::pull_the_plug`] removes both.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process_group::{Signal, send, until, wait};
use crate::{leftovers, network};

/// Enters fresh cgroups, then the namespaces. $1 cgroup, $2 host name, $3 disk.
const POWER_ON: &str = r#"
for place in /sys/fs/cgroup /sys/fs/cgroup/*; do
  [ -f "$place/cgroup.procs" ] || continue
  mkdir -p "$place/$1"
  if [ -f "$place/cpuset.mems" ]; then cat "$place/cpuset.cpus" >"$place/$1/cpuset.cpus"; cat "$place/cpuset.mems" >"$place/$1/cpuset.mems"; fi
  echo 0 >"$place/$1/cgroup.procs"
done
exec unshare --pid --mount --net --uts --ipc --cgroup --fork --kill-child=KILL --mount-proc bash -c "$0" first "$@"
"#;

/// The first process. Only bash reaps what it did not start.
const FIRST: &str = r#"
set -e
hostname "$2"
mount --bind "$3/lib" /var/lib
mount --bind "$3/log" /var/log
mount -t tmpfs -o mode=755 tmpfs /run
if [ -f /sys/fs/cgroup/cgroup.procs ]; then
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  umount -R /sys/fs/cgroup
  mount -t tmpfs tmpfs /sys/fs/cgroup
  while IFS=: read -r number controllers path; do
    case $number:$controllers in
      0:) mkdir /sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified;;
      *:name=*) mkdir "/sys/fs/cgroup/${controllers#name=}"; mount -t cgroup -o "none,$controllers" cgroup "/sys/fs/cgroup/${controllers#name=}";;
      *) mkdir "/sys/fs/cgroup/$controllers"; mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers";;
    esac
  done </proc/self/cgroup
fi
mount --make-rshared /
: >/run/powered-on
read -r _
"#;

/// Puts a process into the machine: first its cgroups, then its namespaces.
const ENTER: &str = r#"#!/bin/sh
for place in /sys/fs/cgroup/CGROUP /sys/fs/cgroup/*/CGROUP; do
  if [ -f "$place/cgroup.procs" ]; then echo 0 >"$place/cgroup.procs"; fi
done
exec nsenter -a -t FIRST "$@"
"#;

const START_LIMIT: Duration = Duration::from_secs(20);
const DEATH_LIMIT: Duration = Duration::from_secs(30);

/// A machine that runs.
#[derive(Debug)]
pub struct Machine {
    name: String,
    folder: PathBuf,
    cgroup: String,
    keeper: Child,
    first: u32,
    programs: Vec<Child>,
}

impl Machine {
    /// Turns the machine on whose disk lies in `folder`.
    ///
    /// # Errors
    /// A namespace cannot be had: it takes root.
    pub fn power_on(name: &str, folder: &Path) -> Result<Self> {
        for below in ["lib", "log"] {
            fs::create_dir_all(folder.join(below))?;
        }
        let cgroup = format!("{}{name}", leftovers::cgroup_prefix(folder));
        let said = fs::File::create(folder.join("power.log"))?;
        let mut keeper = Command::new("bash")
            .args(["-c", POWER_ON, FIRST, &cgroup, name])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(said.try_clone()?)
            .stderr(said)
            .process_group(0)
            .spawn()
            .context("cannot start a machine")?;
        let mut first = None;
        let started = until(START_LIMIT, "a machine", || {
            // The keeper has other children before: mkdir, cat.
            first = only_child(keeper.id());
            let on = first.is_some_and(|first| {
                Path::new(&format!("/proc/{first}/root"))
                    .join("run/powered-on")
                    .exists()
            });
            on || !matches!(keeper.try_wait(), Ok(None))
        });
        let (Ok(()), Some(first), Ok(None)) = (started, first, keeper.try_wait()) else {
            let _ = keeper.kill();
            let said = fs::read_to_string(folder.join("power.log")).unwrap_or_default();
            anyhow::bail!("the machine {name} did not start: {}", said.trim());
        };
        let machine = Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            cgroup,
            keeper,
            first,
            programs: Vec::new(),
        };
        machine.write_enter()?;
        network::forward_within(&machine.enter())?;
        Ok(machine)
    }

    fn write_enter(&self) -> io::Result<()> {
        let text = ENTER
            .replace("CGROUP", &self.cgroup)
            .replace("FIRST", &self.first.to_string());
        // Not from this process: whatever another thread starts meanwhile would hold the file open for writing until its own
        // exec, and a program that somebody may write cannot be run (ETXTBSY).
        let mut writer = Command::new("sh")
            .args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(self.enter())
            .stdin(Stdio::piped())
            .spawn()?;
        let sent = writer
            .stdin
            .take()
            .map(|mut stdin| stdin.write_all(text.as_bytes()));
        let status = writer.wait()?;
        sent.transpose()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "cannot write {}",
                self.enter().display()
            )))
        }
    }

    /// A program that runs its arguments inside the machine.
    #[must_use]
    pub fn enter(&self) -> PathBuf {
        self.folder.join("enter")
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id of the machine's first process.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.first
    }

    /// The folder that is its disk.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path of the machine as seen from here, mounts included.
    #[must_use]
    pub fn look_at(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first))
    }

    /// A command inside the machine.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(self.enter());
        command.arg(program);
        command
    }

    /// Starts a program that runs until the plug is pulled.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self, command: &mut Command, log: &Path) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        self.programs.push(child);
        Ok(())
    }

    /// Ids of the machine's processes of that name, as seen from here.
    #[must_use]
    pub fn processes(&self, name: &str) -> Vec<u32> {
        self.all_processes()
            .into_iter()
            .filter(|id| {
                fs::read_to_string(format!("/proc/{id}/comm"))
                    // The kernel keeps 15 letters.
                    .is_ok_and(|comm| comm.trim_end() == &name[..name.len().min(15)])
            })
            .collect()
    }

    /// What runs in the machine's namespace, and what descends from it: containers have namespaces of their own.
    fn all_processes(&self) -> Vec<u32> {
        let namespace = |id: u32| fs::read_link(format!("/proc/{id}/ns/pid")).ok();
        let Some(own) = namespace(self.first) else {
            return Vec::new();
        };
        let parents: HashMap<u32, u32> = processes()
            .filter_map(|id| Some((id, parent(id)?)))
            .collect();
        let inside: HashSet<u32> = parents
            .keys()
            .copied()
            .filter(|&id| namespace(id).as_ref() == Some(&own))
            .collect();
        let is_ours = |&id: &u32| {
            let mut above = Some(id);
            while let Some(one) = above.filter(|one| !inside.contains(one)) {
                above = parents.get(&one).copied();
            }
            above.is_some()
        };
        parents.keys().copied().filter(is_ours).collect()
    }

    /// Signals the processes of that name; how many there were.
    pub fn signal(&self, name: &str, signal: Signal) -> usize {
        let found = self.processes(name);
        for id in &found {
            send(signal, &id.to_string());
        }
        found.len()
    }

    /// Every process stands still, or goes on: a machine whose hypervisor stopped it.
    pub fn signal_all(&self, signal: Signal) {
        for id in self.all_processes() {
            if id != self.first {
                send(signal, &id.to_string());
            }
        }
    }

    /// Tells the machine to die, without waiting for it.
    pub fn kill(&self) {
        send(Signal::Kill, &self.first.to_string());
    }

    /// Everything in the machine ends at once, and what a dead machine would not have any more is cleared away.
    pub fn pull_the_plug(mut self) {
        self.end();
    }

    fn end(&mut self) {
        send(Signal::Kill, &self.first.to_string());
        wait(&mut self.keeper, DEATH_LIMIT);
        for program in &mut self.programs {
            wait(program, DEATH_LIMIT);
        }
        leftovers::remove_dead_loop_devices();
        leftovers::remove_cgroups(&self.cgroup);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if matches!(self.keeper.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(id: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

fn only_child(parent: u32) -> Option<u32> {
    fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .ok()?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

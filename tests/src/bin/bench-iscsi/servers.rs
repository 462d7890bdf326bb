//! The targets: ours and tgt, the same units behind both, and the least that a target can be; all running at once and idle but
//! for the one that is measured.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use twinsite_tests::process::{Group, Signal};

use crate::loads::{Client, Place, Server};
use crate::place;

const IQN: &str = "iqn.2026-01.io.twinsite:bench";
const UNIT_BYTES: usize = 256 << 20;
/// Of the units on the disk.
const STABLE_BYTES: usize = 128 << 20;
const TARGETS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(20);
/// What a careful administrator would set for large transfers.
const TUNING: [(&str, u32); 5] = [
    ("MaxRecvDataSegmentLength", 262_144),
    ("MaxXmitDataSegmentLength", 262_144),
    ("FirstBurstLength", 262_144),
    ("MaxBurstLength", 1_048_576),
    ("MaxOutstandingR2T", 8),
];

pub(crate) struct Folders<'a> {
    pub(crate) memory: &'a Path,
    pub(crate) disk: &'a Path,
    pub(crate) logs: &'a Path,
}

struct Running {
    server: Server,
    process: Group,
    portal: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.signal(Signal::Term);
        let _ = self.process.wait(Duration::from_secs(4));
    }
}

/// All servers, and a file like their units on the disk that none of them serves.
pub(crate) struct Bench {
    servers: Vec<Running>,
    disk: PathBuf,
}

/// What all threads of a server have spent.
pub(crate) struct Effort {
    pub(crate) cpu: Duration,
    /// How often one went to sleep by itself.
    pub(crate) sleeps: u64,
}

impl Bench {
    pub(crate) fn start(agent: &Path, floor: &Path, folders: &Folders<'_>) -> Result<Self> {
        let ours = |server, name| start_ours(agent, server, name, folders);
        let tgt = |server, name| start_tgt(server, name, folders);
        let floor = |server, name| start_floor(floor, server, name, folders);
        let servers = vec![
            ours(Server::Ours, "ours")?,
            ours(Server::OursTwo, "ours-two")?,
            ours(Server::OursStable, "ours-stable")?,
            tgt(Server::Tgt, "tgt")?,
            tgt(Server::Tuned, "tgt-tuned")?,
            tgt(Server::TgtStable, "tgt-stable")?,
            floor(Server::Floor, "floor")?,
            floor(Server::FloorStable, "floor-stable")?,
        ];
        let disk = unit(folders.disk, "alone", STABLE_BYTES)?;
        Ok(Self { servers, disk })
    }

    fn running(&self, server: Server) -> &Running {
        let found = self.servers.iter().find(|running| running.server == server);
        found.expect("every server of a run was started")
    }

    pub(crate) fn url(&self, server: Server, client: Client) -> String {
        let name = match (server, client) {
            (Server::OursTwo, Client::Four) => format!("{IQN}-N"),
            (Server::OursTwo, _) => format!("{IQN}-0"),
            _ => IQN.to_owned(),
        };
        format!("iscsi://{}/{name}/1", self.running(server).portal)
    }

    /// Puts all servers where a load has them.
    pub(crate) fn place(&self, place: Place) -> Result<()> {
        let mut servers = self.servers.iter();
        servers.try_for_each(|running| place::server(place, running.process.id()))
    }

    pub(crate) fn disk(&self) -> &Path {
        &self.disk
    }

    pub(crate) fn effort(&self, server: Server) -> Effort {
        let tasks = format!("/proc/{}/task", self.running(server).process.id());
        let mut effort = Effort {
            cpu: Duration::ZERO,
            sleeps: 0,
        };
        for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let nanos = read("schedstat").split(' ').next().map(str::parse);
            if let Some(Ok(nanos)) = nanos {
                effort.cpu += Duration::from_nanos(nanos);
            }
            let status = read("status");
            let sleeps = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            effort.sleeps += sleeps
                .and_then(|text| text.trim().parse::<u64>().ok())
                .unwrap_or(0);
        }
        effort
    }
}

/// A unit that is written all over: no holes, no first allocations.
fn unit(folder: &Path, name: &str, bytes: usize) -> Result<PathBuf> {
    let path = folder.join(name);
    let mut file = File::create(&path)?;
    let piece: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    for _ in 0..bytes >> 20 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    Ok(path)
}

fn start_ours(agent: &Path, server: Server, name: &str, folders: &Folders<'_>) -> Result<Running> {
    let mut command = Command::new(agent);
    command.args(["target", "--listen", "127.0.0.1:0"]);
    match server {
        Server::OursTwo => {
            command.args(["--threads", "2"]);
            for number in 0..TARGETS {
                let path = unit(folders.memory, &format!("{name}-{number}"), UNIT_BYTES / 4)?;
                command.arg("--iqn").arg(format!("{IQN}-{number}"));
                command
                    .arg("--lun")
                    .arg(format!("1={},target={IQN}-{number}", path.display()));
            }
        }
        Server::OursStable => {
            let path = unit(folders.disk, name, STABLE_BYTES)?;
            command
                .args(["--iqn", IQN, "--lun"])
                .arg(format!("1={},writethrough", path.display()));
        }
        _ => {
            let path = unit(folders.memory, name, UNIT_BYTES)?;
            command
                .args(["--iqn", IQN, "--lun"])
                .arg(format!("1={}", path.display()));
        }
    }
    start_and_listen(command, server, name, folders)
}

fn start_floor(
    program: &Path,
    server: Server,
    name: &str,
    folders: &Folders<'_>,
) -> Result<Running> {
    let mut command = Command::new(program);
    if server == Server::FloorStable {
        command.arg(unit(folders.disk, name, STABLE_BYTES)?);
    }
    start_and_listen(command, server, name, folders)
}

/// Starts a server that says where it listens.
fn start_and_listen(
    mut command: Command,
    server: Server,
    name: &str,
    folders: &Folders<'_>,
) -> Result<Running> {
    let log = folders.logs.join(format!("{name}.log"));
    let _ = std::fs::remove_file(&log);
    let mut process = Group::start(&mut command, &log).context(name.to_owned())?;
    let start = Instant::now();
    loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if let Some(portal) = listening(&text) {
            return Ok(Running {
                server,
                process,
                portal,
            });
        }
        if !process.running() || start.elapsed() > PATIENCE {
            bail!("{name} does not listen: see {}", log.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn listening(log: &str) -> Option<SocketAddr> {
    let line = log
        .lines()
        .find_map(|line| line.strip_prefix("listening on "))?;
    line.split(' ').next()?.parse().ok()
}

fn start_tgt(server: Server, name: &str, folders: &Folders<'_>) -> Result<Running> {
    let portal = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    // tgtd's control socket has a number below 32768; one made from a port that was free is as good as any.
    let control = (portal.port() / 2).to_string();
    let log = folders.logs.join(format!("{name}.log"));
    let _ = std::fs::remove_file(&log);
    let mut command = Command::new("tgtd");
    command.args(["-f", "-C", &control, "--iscsi", &format!("portal={portal}")]);
    let process = Group::start(&mut command, &log).context("tgtd (Debian package tgt)")?;
    let running = Running {
        server,
        process,
        portal,
    };
    let admin = |words: &str| -> Result<()> {
        let output = Command::new("tgtadm")
            .args(["-C", &control, "--lld", "iscsi"])
            .args(words.split(' '))
            .output()
            .context("tgtadm")?;
        ensure!(
            output.status.success(),
            "tgtadm {words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    let start = Instant::now();
    while admin("--mode sys --op show").is_err() {
        ensure!(start.elapsed() < PATIENCE, "tgtd does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    let stable = server == Server::TgtStable;
    let path = if stable {
        unit(folders.disk, name, STABLE_BYTES)?
    } else {
        unit(folders.memory, name, UNIT_BYTES)?
    };
    admin(&format!(
        "--mode target --op new --tid 1 --targetname {IQN}"
    ))?;
    let flags = if stable { " --bsoflags sync" } else { "" };
    admin(&format!(
        "--mode logicalunit --op new --tid 1 --lun 1 --backing-store {}{flags}",
        path.display()
    ))?;
    if server == Server::Tuned || stable {
        for (key, value) in TUNING {
            admin(&format!(
                "--mode target --op update --tid 1 --name {key} --value {value}"
            ))?;
        }
        admin("--mode target --op update --tid 1 --name InitialR2T --value No")?;
    }
    admin("--mode target --op bind --tid 1 --initiator-address ALL")?;
    Ok(running)
}

//! The targets under test: ours and tgt, each with the same units.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use twinsite_tests::process::{Group, Signal};

const IQN: &str = "iqn.2026-01.io.twinsite:conformance";
const UNIT_BYTES: u64 = 64 << 20;
/// Bytes in a second: an overwrite of a whole unit takes some 6 seconds, twice what the test waits before it looks.
const SLOW_RATE: u64 = 10 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Ordinary,
    Removable,
    WriteProtected,
    /// Logical blocks of 4096 bytes.
    Native,
}

impl Unit {
    const ALL: [Self; 4] = [
        Self::Ordinary,
        Self::Removable,
        Self::WriteProtected,
        Self::Native,
    ];

    fn lun(self) -> u16 {
        match self {
            Self::Ordinary => 1,
            Self::Removable => 2,
            Self::WriteProtected => 3,
            Self::Native => 4,
        }
    }
}

/// A running target.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    process: Group,
    portals: Vec<SocketAddr>,
}

impl Peer {
    pub(crate) fn start_ours(agent: &Path, folder: &Path, out: &Path) -> anyhow::Result<Self> {
        Self::start_agent(agent, folder, &out.join("agent.log"), "")
    }

    /// A target of its own with units so slow that a sanitize operation can be watched.
    pub(crate) fn start_slow(agent: &Path, folder: &Path, out: &Path) -> anyhow::Result<Self> {
        let option = format!(",rate={SLOW_RATE}");
        Self::start_agent(agent, folder, &out.join("agent-slow.log"), &option)
    }

    fn start_agent(agent: &Path, folder: &Path, log: &Path, options: &str) -> anyhow::Result<Self> {
        let _ = std::fs::remove_file(log);
        let mut command = Command::new(agent);
        command.args([
            "target",
            "--iqn",
            IQN,
            "--listen",
            "127.0.0.1:0",
            "--listen",
            "127.0.0.1:0",
        ]);
        for unit in Unit::ALL {
            let path = folder.join(format!("ours-{}", unit.lun()));
            make_file(&path)?;
            let option = match unit {
                Unit::Ordinary => "",
                Unit::Removable => ",removable",
                Unit::WriteProtected => ",readonly",
                Unit::Native => ",block=4096",
            };
            let lun = format!("{}={}{option}{options}", unit.lun(), path.display());
            command.arg("--lun").arg(lun);
        }
        let mut process = Group::start(&mut command, log).context("the agent")?;
        let start = Instant::now();
        loop {
            let portals = listening(&std::fs::read_to_string(log).unwrap_or_default());
            if portals.len() == 2 {
                return Ok(Self {
                    name: "ours",
                    process,
                    portals,
                });
            }
            if !process.running() || start.elapsed() > PATIENCE {
                bail!("the agent does not listen: see {}", log.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn start_tgt(folder: &Path, out: &Path) -> anyhow::Result<Self> {
        let portals = vec![free_port()?, free_port()?];
        // tgtd's control socket has a number below 32768; one made from a port that was free is as good as any.
        let control = (portals[0].port() / 2).to_string();
        let mut command = Command::new("tgtd");
        command.args(["-f", "-C", &control]);
        let listen: Vec<String> = portals
            .iter()
            .map(|portal| format!("portal={portal}"))
            .collect();
        command.args(["--iscsi", &listen.join(",")]);
        let log = out.join("tgtd.log");
        let _ = std::fs::remove_file(&log);
        let process = Group::start(&mut command, &log).context("tgtd (Debian package tgt)")?;
        let peer = Self {
            name: "tgt",
            process,
            portals,
        };
        let admin = |arguments: &str| -> anyhow::Result<()> {
            let status = Command::new("tgtadm")
                .args(["-C", &control, "--lld", "iscsi"])
                .args(arguments.split(' '))
                .output()
                .context("tgtadm")?;
            ensure!(status.status.success(), "tgtadm {arguments} failed");
            Ok(())
        };
        let start = Instant::now();
        while admin("--mode sys --op show").is_err() {
            ensure!(start.elapsed() < PATIENCE, "tgtd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        admin(&format!(
            "--mode target --op new --tid 1 --targetname {IQN}"
        ))?;
        for unit in Unit::ALL {
            let lun = unit.lun();
            let path = folder.join(format!("tgt-{lun}"));
            make_file(&path)?;
            let block = if unit == Unit::Native { 4096 } else { 512 };
            let backing = format!(
                "--tid 1 --lun {lun} --blocksize {block} --backing-store {}",
                path.display()
            );
            admin(&format!("--mode logicalunit --op new {backing}"))?;
            let parameters = match unit {
                Unit::Ordinary | Unit::Native => "thin_provisioning=1",
                Unit::Removable => "removable=1,thin_provisioning=1",
                Unit::WriteProtected => "readonly=1",
            };
            admin(&format!(
                "--mode logicalunit --op update --tid 1 --lun {lun} --params {parameters}"
            ))?;
        }
        admin("--mode target --op bind --tid 1 --initiator-address ALL")?;
        Ok(peer)
    }

    pub(crate) fn url(&self, unit: Unit, portal: usize) -> String {
        format!("iscsi://{}/{IQN}/{}", self.portals[portal], unit.lun())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.signal(Signal::Term);
        let _ = self.process.wait(Duration::from_secs(5));
    }
}

fn make_file(path: &Path) -> anyhow::Result<()> {
    std::fs::File::create(path)?.set_len(UNIT_BYTES)?;
    Ok(())
}

fn listening(log: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        line.strip_prefix("listening on ")?
            .split(' ')
            .next()?
            .parse()
            .ok()
    };
    log.lines().filter_map(address).collect()
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

//! The targets: ours with and without CHAP, and tgt with one of each.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use twinsite_tests::process::{Group, Signal};

use crate::program::{LOOK, interrupted};

pub(crate) const IQN: &str = "iqn.2026-01.test:twinsite";
pub(crate) const USER: &str = "host";
pub(crate) const SECRET: &str = "secret-of-the-host";
pub(crate) const WRONG_SECRET: &str = "wrong-secret-of-host";
pub(crate) const TARGET_USER: &str = "disk";
pub(crate) const TARGET_SECRET: &str = "secret-of-the-disk";
pub(crate) const UNIT_BYTES: u64 = 256 << 20;

const START: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Open,
    Chap,
}

/// Our target, by hand, with one unit of 256 MiB as LUN 1.
pub(crate) struct Ours {
    process: Group,
    pub(crate) portal: SocketAddr,
}

impl Ours {
    pub(crate) fn start(
        agent: &Path,
        images: &Path,
        out: &Path,
        access: Access,
    ) -> anyhow::Result<Self> {
        let name = match access {
            Access::Open => "agent-plain",
            Access::Chap => "agent-chap",
        };
        let image = images.join(name);
        std::fs::File::create(&image)?.set_len(UNIT_BYTES)?;
        let mut command = Command::new(agent);
        command
            .args(["target", "--listen", "127.0.0.1:0", "--iqn", IQN, "--lun"])
            .arg(format!("1={}", image.display()))
            .arg("--lun")
            .arg(format!(
                "2={},size=256M",
                images.join(format!("{name}-leg")).display()
            ));
        if access == Access::Chap {
            let accounts = images.join("accounts");
            std::fs::write(
                &accounts,
                format!("user {USER} {SECRET}\ntarget {TARGET_USER} {TARGET_SECRET}\n"),
            )?;
            command.arg("--chap").arg(accounts);
        }
        let log = out.join(format!("{name}.log"));
        let _ = std::fs::remove_file(&log);
        let mut process = Group::start(&mut command, &log).context("the agent")?;
        let start = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(portal) = listening(&text) {
                return Ok(Self { process, portal });
            }
            if !process.running() || start.elapsed() > START || interrupted() {
                bail!("the agent does not listen: see {}", log.display());
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.process.signal(Signal::Term);
        let _ = self.process.wait(Duration::from_secs(5));
    }
}

/// tgtd with the targets [`Tgt::PLAIN`] and [`Tgt::CHAP`].
pub(crate) struct Tgt {
    process: Group,
    control: String,
    pub(crate) portal: SocketAddr,
}

impl Tgt {
    pub(crate) const PLAIN: &str = "iqn.2026-01.test:tgt";
    pub(crate) const CHAP: &str = "iqn.2026-01.test:tgtchap";

    pub(crate) fn start(images: &Path, out: &Path) -> anyhow::Result<Self> {
        let portal = free_port()?;
        // tgtd's control socket has a number below 32768; one made from a port that was free is as good as any.
        let control = (portal.port() / 2).to_string();
        let log = out.join("tgtd.log");
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new("tgtd");
        command.args(["-f", "-C", &control, "--iscsi", &format!("portal={portal}")]);
        let process = Group::start(&mut command, &log).context("tgtd (Debian package tgt)")?;
        let tgt = Self {
            process,
            control,
            portal,
        };
        let start = Instant::now();
        while tgt.admin("--mode sys --op show").is_err() {
            ensure!(
                start.elapsed() < START && !interrupted(),
                "tgtd does not answer"
            );
            std::thread::sleep(LOOK);
        }
        for (tid, name) in [(1, Self::PLAIN), (2, Self::CHAP)] {
            let image = images.join(format!("tgt-{tid}"));
            std::fs::File::create(&image)?.set_len(UNIT_BYTES)?;
            let image = image.display();
            tgt.admin(&format!(
                "--mode target --op new --tid {tid} --targetname {name}"
            ))?;
            tgt.admin(&format!(
                "--mode logicalunit --op new --tid {tid} --lun 1 --backing-store {image}"
            ))?;
            if name == Self::PLAIN {
                let leg = images.join("tgt-leg");
                std::fs::File::create(&leg)?.set_len(UNIT_BYTES)?;
                tgt.admin(&format!(
                    "--mode logicalunit --op new --tid {tid} --lun 2 --backing-store {}",
                    leg.display()
                ))?;
                tgt.admin(&format!(
                    "--mode logicalunit --op update --tid {tid} --lun 2 --params thin_provisioning=1"
                ))?;
            }
            tgt.admin(&format!(
                "--mode target --op bind --tid {tid} --initiator-address ALL"
            ))?;
        }
        // It refuses digests until it is told that it may use them.
        for digest in ["HeaderDigest", "DataDigest"] {
            tgt.admin(&format!(
                "--mode target --op update --tid 1 --name {digest} --value CRC32C,None"
            ))?;
        }
        for (user, secret, direction) in [
            (USER, SECRET, ""),
            (TARGET_USER, TARGET_SECRET, " --outgoing"),
        ] {
            tgt.admin(&format!(
                "--mode account --op new --user {user} --password {secret}"
            ))?;
            tgt.admin(&format!(
                "--mode account --op bind --tid 2 --user {user}{direction}"
            ))?;
        }
        Ok(tgt)
    }

    fn admin(&self, arguments: &str) -> anyhow::Result<()> {
        let output = Command::new("tgtadm")
            .args(["-C", &self.control, "--lld", "iscsi"])
            .args(arguments.split(' '))
            .output()
            .context("tgtadm")?;
        ensure!(
            output.status.success(),
            "tgtadm: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        self.process.kill();
    }
}

fn listening(log: &str) -> Option<SocketAddr> {
    log.lines().find_map(|line| {
        line.strip_prefix("listening on ")?
            .split(' ')
            .next()?
            .parse()
            .ok()
    })
}

pub(crate) fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

//! The QEMU guest with Debian's stock kernel: Linux' initiator on our target, and our initiator on LIO, at the same time.
//!
//! The guest runs tests/interop/guest-init.sh by itself and tells its results on its console; the host cuts the line when
//! the guest asks for it. No KVM, no network set-up and no root is needed.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use twinsite_tests::link::Link;
use twinsite_tests::process::Group;

use crate::peers::{Ours, SECRET, TARGET_SECRET, USER, WRONG_SECRET, free_port};
use crate::program::{self, LOOK, PATIENCE, interrupted};
use crate::qualify::{self, Verdict};
use crate::report::Report;

const LINUX: &str = "open-iscsi > ours";
const LIO: &str = "ours > LIO";

/// What the guest calls a check, and what it is.
const LINUX_CHECKS: [(&str, &str); 9] = [
    ("discovery", "discovery"),
    ("plain", "mkfs, mount, write, remount, verify"),
    ("digests", "the same with header and data digests"),
    ("r2t", "the same with R2T only, 8 KiB PDUs"),
    ("chap-md5", "the same with CHAP MD5"),
    ("mutual-chap-md5", "the same with mutual CHAP MD5"),
    ("mutual-chap-sha3", "the same with mutual CHAP SHA3-256"),
    ("wrong-secret", "CHAP, wrong secret is refused"),
    ("path-cut", "path cut in mid-write: no error, verify"),
];
const LIO_CHECKS: [&str; 10] = [
    "discovery",
    "plain: write, read back, LUN RESET",
    "header and data digests",
    "R2T, no immediate data",
    "mutual CHAP MD5",
    "mutual CHAP SHA-1",
    "mutual CHAP SHA-256",
    "mutual CHAP SHA3-256",
    "CHAP, wrong secret is refused",
    "qualification as a leg",
];

/// An emulated machine on a busy host boots in some minutes.
const BOOT: Duration = Duration::from_secs(360);
const INITIATOR: Duration = Duration::from_secs(600);
/// Longer than the guest's NOP interval and timeout together: its kernel gives the connection up.
const CUT: Duration = Duration::from_secs(15);
/// So that the guest is writing when the line goes.
const BEFORE_THE_CUT: Duration = Duration::from_millis(300);

pub(crate) fn skip(report: &mut Report, why: &str) {
    report.skip(LINUX, &LINUX_CHECKS.map(|(_, check)| check), why);
    report.skip(LIO, &LIO_CHECKS, why);
}

pub(crate) fn run(
    report: &mut Report,
    plain: &Ours,
    chap: &Ours,
    agent: &Path,
    probe: &Path,
    scripts: &Path,
    out: &Path,
) {
    match Guest::start(plain, chap, scripts, out) {
        Ok(Start::Running(guest)) => guest.run(report, agent, probe, out),
        Ok(Start::Missing(why)) => skip(report, &why),
        Err(why) => report.check(LINUX, "the guest starts", || Err(why)),
    }
}

enum Start {
    Running(Guest),
    Missing(String),
}

struct Guest {
    machine: Group,
    console: std::path::PathBuf,
    line: Link,
    lio: SocketAddr,
    lio_chap: SocketAddr,
    lio_leg: SocketAddr,
}

impl Guest {
    fn start(plain: &Ours, chap: &Ours, scripts: &Path, out: &Path) -> anyhow::Result<Start> {
        let line = Link::to(plain.portal)?;
        let mut image = Command::new(scripts.join("guest-image.sh"));
        image.arg(out);
        for address in [plain.portal, chap.portal, line.address()] {
            image.arg(address.port().to_string());
        }
        let made = program::run(&mut image, &out.join("guest-image.log"), PATIENCE)?;
        let told = made.text.trim().lines().last().unwrap_or_default();
        if made.code == 77 {
            return Ok(Start::Missing(told.to_owned()));
        }
        made.expect(0, &[]).context("guest-image.sh")?;
        println!("the guest's kernel is {told}");

        let (lio, lio_chap, lio_leg) = (free_port()?, free_port()?, free_port()?);
        let console = out.join("guest.log");
        let _ = std::fs::remove_file(&console);
        let forward = |host: SocketAddr, port| format!(",hostfwd=tcp:{host}-:{port}");
        let ports = [(lio, 3260), (lio_chap, 3261), (lio_leg, 3262)];
        let ports = ports.map(|(host, port)| forward(host, port)).concat();
        let network = format!("user,id=n0{ports}");
        let mut command = Command::new("qemu-system-x86_64");
        // cx16=off and no_timer_check: without KVM on a busy host the guest else dies early, now and then.
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max,cx16=off"])
            .args(["-m", "512", "-smp", "1", "-nographic", "-no-reboot"])
            .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"])
            .args(["-netdev", &network])
            .args(["-device", "virtio-net-pci,netdev=n0,romfile="]);
        command.arg("-kernel").arg(out.join("vmlinuz"));
        command.arg("-initrd").arg(out.join("initrd.gz"));
        Ok(Start::Running(Self {
            machine: Group::start(&mut command, &console).context("qemu-system-x86_64")?,
            console,
            line,
            lio,
            lio_chap,
            lio_leg,
        }))
    }

    fn run(mut self, report: &mut Report, agent: &Path, probe: &Path, out: &Path) {
        if let Err(why) = self.wait_for("LIO READY", BOOT) {
            report.check(LINUX, "the guest boots", || Err(why));
            return;
        }
        self.use_lio(report, probe, out);
        let leg = format!("iscsi://{}/iqn.2026-01.test:leg/1", self.lio_leg);
        let check = LIO_CHECKS[LIO_CHECKS.len() - 1];
        qualify::check(report, LIO, check, agent, &leg, Verdict::NothingLate, out);
        let cut = self.cut_the_line();
        let end = cut.and_then(|()| self.wait_for("INITIATOR DONE", INITIATOR));
        let results = self.text();
        for (name, check) in LINUX_CHECKS {
            report.check(LINUX, check, || match result(&results, name) {
                Some("ok") => Ok(()),
                Some(other) => bail!("{other}: see {}", self.console.display()),
                None => match &end {
                    Ok(()) => bail!("no result: see {}", self.console.display()),
                    Err(why) => bail!("{why:#}"),
                },
            });
        }
    }

    fn use_lio(&self, report: &mut Report, probe: &Path, out: &Path) {
        const PLAIN: &str = "iqn.2026-01.test:lio";
        const CHAP: &str = "iqn.2026-01.test:liochap";
        let user = format!("user={USER}");
        let secret = format!("secret={SECRET}");
        let own = format!("target-secret={TARGET_SECRET}");
        let wrong = format!("secret={WRONG_SECRET}");
        let (lio, chap) = (self.lio, self.lio_chap);
        let mutual = |algorithm| [CHAP, &user, &secret, &own, algorithm];
        let (md5, sha1) = (mutual("algorithm=5"), mutual("algorithm=6"));
        let (sha256, sha3) = (mutual("algorithm=7"), mutual("algorithm=8"));
        let cases: [(SocketAddr, &[&str], i32); 9] = [
            (lio, &[], 0),
            (lio, &[PLAIN], 0),
            (lio, &[PLAIN, "digests"], 0),
            (lio, &[PLAIN, "r2t"], 0),
            (chap, &md5, 0),
            (chap, &sha1, 0),
            (chap, &sha256, 0),
            (chap, &sha3, 0),
            (chap, &[CHAP, &user, &wrong], 1),
        ];
        for (check, (portal, options, code)) in LIO_CHECKS.iter().zip(cases) {
            report.check(LIO, check, || {
                let mut command = Command::new(probe);
                command.arg(portal.to_string()).args(options);
                let words: &[&str] = if code == 1 { &["FAILED: "] } else { &[] };
                program::run(&mut command, &out.join("probe.log"), PATIENCE)?.expect(code, words)
            });
        }
    }

    fn cut_the_line(&mut self) -> anyhow::Result<()> {
        self.wait_for("CUT THE LINE", INITIATOR)?;
        std::thread::sleep(BEFORE_THE_CUT);
        self.line.cut();
        std::thread::sleep(CUT);
        self.line.mend();
        Ok(())
    }

    fn wait_for(&mut self, word: &str, limit: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        while !self.text().contains(word) {
            ensure!(self.machine.running(), "the guest ended before: {word}");
            ensure!(!interrupted(), "interrupted");
            ensure!(
                start.elapsed() < limit,
                "the guest does not come to: {word}, within {} s",
                limit.as_secs()
            );
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn text(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The word after `RESULT name` on a console whose lines end in two characters.
fn result<'a>(console: &'a str, name: &str) -> Option<&'a str> {
    console.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("RESULT ")?;
        Some(rest.strip_prefix(name)?.strip_prefix(' ')?.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_found_by_its_whole_name() {
        let console = "LIO READY\r\nRESULT mutual-chap-md5 failed\r\nRESULT chap-md5 ok\r\n";
        assert_eq!(result(console, "chap-md5"), Some("ok"));
        assert_eq!(result(console, "mutual-chap-md5"), Some("failed"));
        assert_eq!(result(console, "chap"), None);
    }
}

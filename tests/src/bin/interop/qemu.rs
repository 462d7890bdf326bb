//! QEMU's own iSCSI block driver on our target: a disk image goes there and back, patterns are written, cleared and read.

use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use crate::peers::{IQN, Ours, SECRET, UNIT_BYTES, USER};
use crate::program::{self, Ended, PATIENCE};
use crate::report::Report;

const PAIR: &str = "QEMU > ours";
const CHECKS: [&str; 6] = [
    "qemu-img info",
    "qemu-img convert, 256 MiB to the target",
    "qemu-img compare with the source",
    "qemu-io patterns, zeroes, discard, flush",
    "qemu-img bench, 4 KiB writes, 16 deep",
    "qemu-img info, CHAP",
];

pub(crate) fn run(report: &mut Report, plain: &Ours, chap: &Ours, images: &Path, out: &Path) {
    if let Err(why) = driver(out) {
        report.skip(PAIR, &CHECKS, &format!("{why:#}"));
        return;
    }
    let log = out.join("qemu.log");
    let img = |arguments: &[&str]| -> anyhow::Result<Ended> {
        program::run(Command::new("qemu-img").args(arguments), &log, PATIENCE)
    };
    let url = format!("iscsi://{}/{IQN}/1", plain.portal);
    let chap_url = format!("iscsi://{USER}%{SECRET}@{}/{IQN}/1", chap.portal);
    let source = images.join("source").display().to_string();
    let size = format!("({UNIT_BYTES} bytes)");

    report.check(PAIR, CHECKS[0], || {
        img(&["info", &url])?.expect(0, &[&size])
    });
    report.check(PAIR, CHECKS[1], || {
        make_source(Path::new(&source))?;
        img(&["convert", "-n", "-f", "raw", "-O", "raw", &source, &url])?.expect(0, &[])
    });
    report.check(PAIR, CHECKS[2], || {
        img(&["compare", "-f", "raw", "-F", "raw", &source, &url])?
            .expect(0, &["Images are identical."])
    });
    report.check(PAIR, CHECKS[3], || {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw"]);
        for step in [
            "write -P 0xa5 1M 3M",
            "write -P 0x5a 4097k 63k",
            "flush",
            "read -P 0xa5 1M 3M",
            "read -P 0x5a 4097k 63k",
            "write -z 2M 1M",
            "read -P 0 2M 1M",
            "discard 1M 1M",
            "read -P 0xa5 3M 1M",
        ] {
            command.args(["-c", step]);
        }
        let ended = program::run(command.arg(&url), &log, PATIENCE)?;
        ensure!(!ended.text.contains("failed"), "{}", ended.text.trim());
        ended.expect(0, &["wrote 3145728/3145728", "read 1048576/1048576"])
    });
    report.check(PAIR, CHECKS[4], || {
        img(&[
            "bench", "-f", "raw", "-w", "-c", "4000", "-d", "16", "-s", "4096", "-t", "none", &url,
        ])?
        .expect(0, &["Run completed"])
    });
    report.check(PAIR, CHECKS[5], || {
        img(&["info", &chap_url])?.expect(0, &[&size])
    });
}

/// An error says what is missing.
fn driver(out: &Path) -> anyhow::Result<()> {
    ensure!(
        program::installed("qemu-img") && program::installed("qemu-io"),
        "the Debian package qemu-utils is missing"
    );
    let mut command = Command::new("qemu-img");
    let help = program::run(command.arg("--help"), &out.join("qemu.log"), PATIENCE)?;
    let formats = help
        .text
        .lines()
        .filter(|line| line.starts_with("Supported formats"));
    let known = formats
        .flat_map(|line| line.split(' '))
        .any(|word| word == "iscsi");
    ensure!(known, "the Debian package qemu-block-extra is missing");
    Ok(())
}

/// As large as the unit: 64 MiB of random bytes, then a hole, since `convert` treats the two differently.
fn make_source(path: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut random = std::fs::File::open("/dev/urandom")?.take(64 << 20);
    std::io::copy(&mut random, &mut file)?;
    file.set_len(UNIT_BYTES)?;
    Ok(())
}

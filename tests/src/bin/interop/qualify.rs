//! What the qualification run (`twinsite-agent qualify`) says of a target, against what is known of it.

use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use crate::program::{self, PATIENCE};
use crate::report::Report;

/// Needed answers that do not hang on a cut amid writes.
const LEAST: usize = 12;

/// The verdict that is right for a target (docs/qualify.md says why).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Usable,
    Refused,
    /// No needed answer is a no, but that the target may leave a cut amid writes without an answer.
    NothingLate,
}

/// Qualifies the LUN at `url`, which is overwritten; the log is kept as `qualify-PEER.log`.
pub(crate) fn check(
    report: &mut Report,
    pair: &'static str,
    name: &str,
    agent: &Path,
    url: &str,
    right: Verdict,
    out: &Path,
) {
    let peer = pair.rsplit(' ').next().unwrap_or(pair);
    report.check(pair, name, || {
        let mut command = Command::new(agent);
        command.args(["qualify", url, "--write-test"]);
        let log = out.join(format!("qualify-{peer}.log"));
        let ended = program::run(&mut command, &log, 3 * PATIENCE)?;
        match right {
            Verdict::Usable => ended.expect(0, &["usable as a leg"]),
            Verdict::Refused => ended.expect(1, &["refused"]),
            Verdict::NothingLate => nothing_late(&ended.text),
        }
    });
}

fn nothing_late(text: &str) -> anyhow::Result<()> {
    let needed = text.lines().filter(|line| line.contains(" needed "));
    let (mut yes, mut against) = (0, Vec::new());
    for line in needed {
        let words: Vec<&str> = line.split("  ").filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [_, answer, ..] if answer.trim() == "yes" => yes += 1,
            [_, answer, ..] if answer.trim() == "no" && !line.contains("no answer within") => {
                against.push(line.trim());
            }
            _ => {}
        }
    }
    ensure!(against.is_empty(), "{}", against.join("; "));
    ensure!(yes >= LEAST, "only {yes} needed answers are yes");
    Ok(())
}

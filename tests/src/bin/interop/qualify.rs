//! What the qualification run (`twinsite-agent qualify`) says of a target, against what is known of it.

use std::path::Path;
use std::process::Command;

use crate::program::{self, PATIENCE};
use crate::report::Report;

/// The verdict that is right for a target (docs/qualify.md says why).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Usable,
    Refused,
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
        let ended = program::run(&mut command, &log, 2 * PATIENCE)?;
        match right {
            Verdict::Usable => ended.expect(0, &["usable as a leg"]),
            Verdict::Refused => ended.expect(1, &["refused"]),
        }
    });
}

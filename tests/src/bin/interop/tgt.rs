//! Our initiator on tgt.

use std::path::Path;
use std::process::Command;

use crate::peers::{SECRET, TARGET_SECRET, Tgt, USER, WRONG_SECRET};
use crate::program::{self, PATIENCE};
use crate::qualify::{self, Verdict};
use crate::report::Report;

const PAIR: &str = "ours > tgt";
const CHECKS: [&str; 8] = [
    "discovery",
    "plain: write, read back, LUN RESET",
    "header and data digests",
    "R2T, no immediate data",
    "CHAP MD5",
    "mutual CHAP MD5",
    "CHAP, wrong secret is refused",
    "qualification as a leg",
];

pub(crate) fn run(report: &mut Report, agent: &Path, probe: &Path, images: &Path, out: &Path) {
    if !program::installed("tgtd") {
        report.skip(PAIR, &CHECKS, "the Debian package tgt is missing");
        return;
    }
    let tgt = match Tgt::start(images, out) {
        Ok(tgt) => tgt,
        Err(why) => {
            report.check(PAIR, "tgtd starts", || Err(why));
            return;
        }
    };
    let portal = tgt.portal.to_string();
    let user = format!("user={USER}");
    let secret = format!("secret={SECRET}");
    let own = format!("target-secret={TARGET_SECRET}");
    let wrong = format!("secret={WRONG_SECRET}");
    let cases: [(&[&str], i32); 7] = [
        (&[], 0),
        (&[Tgt::PLAIN], 0),
        (&[Tgt::PLAIN, "digests"], 0),
        (&[Tgt::PLAIN, "r2t"], 0),
        (&[Tgt::CHAP, &user, &secret, "algorithm=5"], 0),
        (&[Tgt::CHAP, &user, &secret, &own, "algorithm=5"], 0),
        (&[Tgt::CHAP, &user, &wrong, "algorithm=5"], 1),
    ];
    for (check, (options, code)) in CHECKS.iter().zip(cases) {
        report.check(PAIR, check, || {
            let mut command = Command::new(probe);
            command.arg(&portal).args(options);
            let words: &[&str] = if code == 1 { &["FAILED: "] } else { &[] };
            program::run(&mut command, &out.join("probe.log"), PATIENCE)?.expect(code, words)
        });
    }
    let leg = format!("iscsi://{portal}/{}/2", Tgt::PLAIN);
    let name = CHECKS[CHECKS.len() - 1];
    qualify::check(report, PAIR, name, agent, &leg, Verdict::Refused, out);
}

//! libiscsi's tools on our target.

use std::path::Path;
use std::process::Command;

use crate::peers::{IQN, Ours, SECRET, TARGET_SECRET, TARGET_USER, UNIT_BYTES, USER, WRONG_SECRET};
use crate::program::{self, PATIENCE};
use crate::report::Report;

const PAIR: &str = "libiscsi > ours";
const CHECKS: [&str; 9] = [
    "iscsi-ls",
    "iscsi-inq",
    "iscsi-readcapacity16",
    "iscsi-ls, CHAP",
    "iscsi-inq, CHAP",
    "iscsi-readcapacity16, CHAP",
    "iscsi-inq, mutual CHAP",
    "iscsi-inq, CHAP, wrong secret is refused",
    "iscsi-inq, CHAP, nobody is refused",
];

/// Tool, options, URL; the exit code and words of the output that are right.
type Case<'a> = (&'a str, &'a [&'a str], String, i32, &'a [&'a str]);

pub(crate) fn run(report: &mut Report, plain: &Ours, chap: &Ours, out: &Path) {
    if !program::installed("iscsi-ls") {
        report.skip(PAIR, &CHECKS, "the Debian package libiscsi-bin is missing");
        return;
    }
    let (open, closed) = (plain.portal, chap.portal);
    let login = |secret: &str| format!("iscsi://{USER}%{secret}@{closed}");
    let unit = format!("iscsi://{open}/{IQN}/1");
    let chap_unit = format!("{}/{IQN}/1", login(SECRET));
    let mutual = format!("{chap_unit}?target_user={TARGET_USER}&target_password={TARGET_SECRET}");
    let wrong = format!("{}/{IQN}/1", login(WRONG_SECRET));
    let nobody = format!("iscsi://{closed}/{IQN}/1");
    let size = UNIT_BYTES.to_string();
    let inquiry = ["Peripheral Device Type:DIRECT_ACCESS"];
    // The tools end with 10 when the login fails.
    let cases: [Case<'_>; 9] = [
        (
            "iscsi-ls",
            &["-s"],
            format!("iscsi://{open}"),
            0,
            &[IQN, "Lun:1"],
        ),
        ("iscsi-inq", &[], unit.clone(), 0, &inquiry),
        ("iscsi-readcapacity16", &[], unit, 0, &[&size]),
        ("iscsi-ls", &["-s"], login(SECRET), 0, &[IQN, "Lun:1"]),
        ("iscsi-inq", &[], chap_unit.clone(), 0, &inquiry),
        ("iscsi-readcapacity16", &[], chap_unit, 0, &[&size]),
        ("iscsi-inq", &[], mutual, 0, &inquiry),
        ("iscsi-inq", &[], wrong, 10, &[]),
        ("iscsi-inq", &[], nobody, 10, &[]),
    ];
    for (check, (tool, options, url, code, words)) in CHECKS.iter().zip(cases) {
        report.check(PAIR, check, || {
            let mut command = Command::new(tool);
            command.args(options).arg(&url);
            program::run(&mut command, &out.join("libiscsi.log"), PATIENCE)?.expect(code, words)
        });
    }
}

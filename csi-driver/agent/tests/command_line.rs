//! The program as a person starts it, with what people get wrong: each answer says what, where, and what to do.

use std::process::Command;

/// What it says on standard error; it must end by itself and not well.
fn refused(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_twinsite-agent"))
        .args(arguments)
        .env("RUST_BACKTRACE", "1")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?}: {text}");
    for noise in ["panicked", "backtrace", "Os {", "Caused by"] {
        assert!(!text.contains(noise), "{arguments:?}: {text}");
    }
    assert!(text.lines().count() <= 7, "{arguments:?}: {text}");
    text
}

#[test]
fn what_is_wrong_on_the_command_line_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("short"), "x").expect("a file");
    let target = [
        "target",
        "--listen",
        "127.0.0.1:0",
        "--iqn",
        "iqn.2026-01.org.example:disk",
        "--lun",
    ];
    let lun = |text: String| [&target[..], &[text.leak()]].concat();
    let disk: &str = format!("0={},size=1M", path("disk")).leak();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec![], "give --objects, --node and --site"),
        (
            vec!["--objects", "x", "--site", "medical"],
            "give --node, or set NODE_NAME",
        ),
        (
            vec!["ctl", "--socket", "absent.sock", "status"],
            "give the --socket with which it runs",
        ),
        (vec!["ctl", "drop-leg", "records", "C"], "a leg is A or B"),
        (
            vec!["ctl", "wait", "records", "--timeout", "3"],
            "such as 5s",
        ),
        (
            vec!["pool", "init", "absent"],
            "absent is no directory: mount the disk",
        ),
        (
            vec![
                "target",
                "--listen",
                "127.0.0.1",
                "--iqn",
                "x",
                "--lun",
                "0=x",
            ],
            "write ADDRESS:PORT",
        ),
        (
            vec![
                "target",
                "--listen",
                "127.0.0.1:0",
                "--iqn",
                "x",
                "--lun",
                disk,
            ],
            "is no iSCSI name: write iqn.",
        ),
        (lun("/srv/disk".to_owned()), "write N=PATH"),
        (
            lun("first=/srv/disk".to_owned()),
            "write a number, such as 0",
        ),
        (lun("0=/srv/disk,siez=1M".to_owned()), "size=, readonly"),
        (
            lun("0=/srv/disk,size=much".to_owned()),
            "such as 64M or 10Gi",
        ),
        (
            lun(format!("0={}", path("absent"))),
            "let it be made by size=",
        ),
        (
            lun(format!("0={},size=10", path("new"))),
            "a multiple of its blocks of 512 bytes",
        ),
        (
            lun(format!("0={}", path("short"))),
            "shorter than one block",
        ),
        (vec!["qualify", "disk"], "write iscsi://"),
        (
            vec![
                "qualify",
                "iscsi://127.0.0.1:99999/iqn.2026-01.org.example:disk/0",
            ],
            "such as 3260",
        ),
        (
            vec![
                "qualify",
                "iscsi://127.0.0.1:1/iqn.2026-01.org.example:disk/0",
            ],
            "Connection refused",
        ),
    ];
    for (arguments, expected) in cases {
        let text = refused(&arguments);
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
    assert!(
        !folder.path().join("new").exists(),
        "nothing is made that is refused"
    );
}

#[test]
fn a_cause_is_told_once_and_a_secret_never() {
    let text = refused(&[
        "qualify",
        "iscsi://127.0.0.1:1/iqn.2026-01.org.example:disk/0",
    ]);
    assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
    let text = refused(&[
        "qualify",
        "iscsi://joe%hush@127.0.0.1:1/iqn.2026-01.org.example:disk/0",
    ]);
    assert!(!text.contains("hush"), "{text}");
}

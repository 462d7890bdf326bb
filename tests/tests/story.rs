//! The whole story of `make demo`, shorter: real agents, a real file system, a site killed in mid-write.

use std::process::Command;

use twinsite_tests::needs;

#[test]
fn a_site_dies_in_mid_write_and_nothing_acknowledged_is_lost() {
    if let Some(why) = needs::missing_for_devices() {
        eprintln!("skipped: {why}");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .envs([
            ("AT", "200"),
            ("SIZE", "512Mi"),
            ("ROUNDS", ""),
            ("KILLS", ""),
            ("KILL", ""),
            ("FS", ""),
        ])
        .output()
        .expect("the demo was built with this test");
    let text = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{words}");
    assert!(
        text.contains("demo: ok ") && text.contains(" lost=0 "),
        "{text}"
    );
    for act in ["Act one", "Act two", "Act three"] {
        assert!(text.contains(act), "{act} was not played:\n{text}");
    }
}

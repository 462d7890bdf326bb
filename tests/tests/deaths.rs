//! Deaths at random instants, a short run of `make kills`. A failure prints the seed that repeats the choices.

use std::process::Command;

use twinsite_tests::needs;

#[test]
fn agents_that_die_at_random_instants_lose_nothing_and_leave_a_volume_that_opens() {
    if let Some(why) = needs::missing_for_devices() {
        eprintln!("skipped: {why}");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .envs([
            ("KILLS", "15"),
            ("SIZE", "512Mi"),
            ("ROUNDS", ""),
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
}

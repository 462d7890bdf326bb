//! The program as a person starts it, without any cluster.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let home = std::env::temp_dir().join("twinsite-no-kubeconfig");
    Command::new(env!("CARGO_BIN_EXE_kubectl-twinsite"))
        .args(arguments)
        .env("HOME", &home)
        .env("KUBECONFIG", home.join("absent"))
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .expect("it runs")
}

fn error(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_help_is_in_the_words_of_kubectl() {
    let output = run(&["--help"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Usage: kubectl twinsite <COMMAND>"), "{text}");
    for command in [
        "status",
        "plan",
        "failover",
        "preflight",
        "peer",
        "pair",
        "support-bundle",
        "uninstall-check",
    ] {
        assert!(
            text.contains(&format!("\n  {command}")),
            "{command} is missing in\n{text}"
        );
    }
}

#[test]
fn without_a_kubeconfig_it_says_what_to_set() {
    for command in [
        &["status"][..],
        &["preflight"],
        &["plan", "rv/records", "--to", "research"],
        &["support-bundle"],
    ] {
        let text = error(&run(command));
        assert!(text.contains("set KUBECONFIG"), "{command:?}: {text}");
    }
}

#[test]
fn an_order_that_is_not_clear_is_refused_before_any_cluster_is_asked() {
    let text = error(&run(&["failover", "--to", "research", "--mode", "planned"]));
    assert!(text.contains("say which volumes"), "{text}");
    let text = error(&run(&[
        "failover", "a", "--to", "research", "--mode", "force",
    ]));
    assert!(text.contains("kubectl twinsite plan"), "{text}");
    let text = error(&run(&["failover", "--all", "--to", "research"]));
    assert!(text.contains("--mode"), "{text}");
}

//! The program as a person starts it, without any cluster.

use std::process::Command;

fn refused(arguments: &[&str]) -> String {
    let home = std::env::temp_dir().join("twinsite-no-kubeconfig");
    let output = Command::new(env!("CARGO_BIN_EXE_twinsite-operator"))
        .args(arguments)
        .args(["--http", "127.0.0.1:0"])
        .env("RUST_BACKTRACE", "1")
        .env("HOME", &home)
        .env("KUBECONFIG", home.join("absent"))
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env_remove("TWINSITE_SITE")
        .env_remove("POD_NAMESPACE")
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_missing_is_told_in_one_line_with_what_to_do() {
    let text = refused(&[]);
    assert!(text.contains("set TWINSITE_SITE"), "{text}");
    let text = refused(&["--site", "medical"]);
    assert!(text.contains("set POD_NAMESPACE"), "{text}");
    let text = refused(&["--site", "medical", "--namespace", "twinsite"]);
    assert!(
        text.contains("run in a pod, or give --kubeconfig"),
        "{text}"
    );
    assert_eq!(text.trim().lines().count(), 1, "{text}");
    assert_eq!(text.matches("os error 2").count(), 1, "{text}");
}

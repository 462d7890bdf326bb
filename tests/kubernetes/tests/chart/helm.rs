//! Helm on the chart of this tree.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use twinsite_kubernetes::programs::{Program, Programs};

/// What a site cannot do without.
pub(crate) const SITE: [&str; 2] = ["site=medical", "image.repository=registry.example/twinsite"];
/// The Kubernetes that templates are rendered for.
const FOR: &str = "1.37.1";

/// The root of the tree.
pub(crate) fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of the chart.
pub(crate) fn chart() -> PathBuf {
    tree().join("charts/twinsite")
}

/// Helm, or a line that says why not.
pub(crate) fn helm() -> Option<PathBuf> {
    if let Some(reason) = Programs::missing(&[Program::Helm]) {
        eprintln!("skipped: {reason}");
        return None;
    }
    let programs = Programs::obtain(&[Program::Helm]).expect("helm");
    Some(programs.path(Program::Helm))
}

/// What helm said, and whether it was content.
pub(crate) struct Said {
    pub(crate) good: bool,
    pub(crate) out: String,
    pub(crate) error: String,
}

/// Runs helm with nothing of this machine's settings.
pub(crate) fn run(helm: &Path, arguments: &[&str]) -> Said {
    let home = tempfile::tempdir().expect("a folder");
    let output = Command::new(helm)
        .args(arguments)
        .env_clear()
        .env("HOME", home.path())
        .output()
        .expect("helm runs");
    Said {
        good: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        error: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `helm template` with these values; text that begins with `@` names a file of values.
pub(crate) fn template(helm: &Path, values: &[&str]) -> Said {
    let chart = chart();
    let mut arguments = vec![
        "template",
        "twinsite",
        chart.to_str().expect("UTF-8"),
        "--namespace",
        "twinsite",
        "--kube-version",
        FOR,
    ];
    for value in values {
        match value.strip_prefix('@') {
            Some(file) => arguments.extend(["--values", file]),
            None => arguments.extend(["--set", *value]),
        }
    }
    run(helm, &arguments)
}

/// Compares with a file of the tree; GOLDEN=write writes it instead.
pub(crate) fn golden(path: &str, text: &str) {
    let file = tree().join(path);
    if std::env::var_os("GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(&file, text).expect("a golden file");
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    if wanted == text {
        return;
    }
    let line = wanted
        .lines()
        .zip(text.lines())
        .position(|(one, other)| one != other)
        .unwrap_or_else(|| wanted.lines().count().min(text.lines().count()));
    panic!(
        "{path} differs from line {} on:\n- {}\n+ {}\nGOLDEN=write cargo test writes it anew",
        line + 1,
        wanted.lines().nth(line).unwrap_or_default(),
        text.lines().nth(line).unwrap_or_default()
    );
}

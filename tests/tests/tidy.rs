//! House rules: what the documentation names exists, and nothing in the tree names the machine it was made on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn tracked() -> Vec<PathBuf> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root())
        .arg("ls-files")
        .output()
        .expect("git");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| root().join(line))
        .filter(|path| path.is_file())
        .collect()
}

fn ends_with(path: &Path, ending: &str) -> bool {
    path.extension()
        .is_some_and(|extension| extension == ending)
}

/// The words between single backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_rule_names_code_and_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/safety.md")).expect("docs/safety.md");
    let code: String = tracked()
        .iter()
        .filter(|path| ends_with(path, "rs"))
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .collect();
    let mut rules = 0;
    for row in page.lines().filter(|line| line.starts_with("| R")) {
        rules += 1;
        for word in quoted(row) {
            if word.ends_with(".rs") {
                assert!(
                    root().join(word).is_file(),
                    "{word} is named in docs/safety.md and is not there"
                );
            } else if word.contains('_') && word.len() > 20 {
                assert!(
                    code.contains(&format!("fn {word}(")),
                    "{word} is named in docs/safety.md and is no test"
                );
            }
        }
    }
    assert_eq!(rules, 45, "one row per rule");
}

#[test]
fn links_between_documents_lead_somewhere() {
    for page in tracked().iter().filter(|path| ends_with(path, "md")) {
        let text = fs::read_to_string(page).expect("text");
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let file = page.parent().expect("a folder").join(path);
            assert!(file.exists(), "{} links to {target}", page.display());
        }
    }
}

#[test]
fn nothing_in_the_tree_names_the_machine_it_was_made_on() {
    // Put together here, so that this file does not name them either.
    let words = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat()];
    for path in tracked() {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for word in &words {
            assert!(
                !text.contains(word.as_str()),
                "{} names {word}",
                path.display()
            );
        }
    }
}

#[test]
fn nothing_of_the_tree_is_kept_from_the_image() {
    let list = fs::read_to_string(root().join(".dockerignore")).expect(".dockerignore");
    let patterns: Vec<&str> = list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    for pattern in &patterns {
        // `**/target` would take csi-driver/iscsi/src/session/target with it.
        assert!(!pattern.contains('*'), "{pattern}: say it from the root");
    }
    for path in tracked() {
        let path = path.strip_prefix(root()).expect("a path below the root");
        let kept_out = patterns.iter().find(|pattern| path.starts_with(pattern));
        assert!(kept_out.is_none(), "{kept_out:?} keeps {}", path.display());
    }
}

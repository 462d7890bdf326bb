//! Building one program from a published Go module.
//!
//! `go install package@version` refuses modules with replacements, and `k8s.io/kubernetes` requires its own parts at a version
//! that nobody published. So each program is built in a module made here: it requires the one module, and repeats the
//! replacements that its go.mod names, or names the published versions of the parts.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

pub(super) fn present() -> bool {
    Command::new("go")
        .arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Builds `module``package` at `version` into the file `target`.
pub(super) fn build(
    cache: &Path,
    module: &str,
    version: &str,
    package: &str,
    target: &Path,
) -> Result<()> {
    let start = Instant::now();
    eprintln!("building {module}{package} {version} from its Go module: this takes minutes, once");
    let folder = cache
        .join("build")
        .join(format!("{}{package}-{version}", module.replace('/', "-")).replace('/', "-"));
    fs::create_dir_all(&folder)?;
    let published = published_go_mod(&folder, module, version)?;
    fs::write(
        folder.join("go.mod"),
        go_mod(module, version, &replacements(&published, version)),
    )?;
    fs::write(
        folder.join("tools.go"),
        format!("//go:build tools\n\npackage tools\n\nimport _ \"{module}{package}\"\n"),
    )?;
    let _ = fs::remove_file(folder.join("go.sum"));
    run(go(&folder).args(["mod", "tidy", "-e"]))?;
    let parent = target.parent().context("a program lies in a folder")?;
    fs::create_dir_all(parent)?;
    let draft = parent.join(".draft");
    run(go(&folder)
        .args([
            "build",
            "-trimpath",
            "-ldflags",
            &linker_flags(version),
            "-o",
        ])
        .arg(&draft)
        .arg(format!("{module}{package}")))?;
    fs::rename(&draft, target)?;
    let _ = fs::remove_dir_all(&folder);
    eprintln!(
        "built {} in {} s",
        target.display(),
        start.elapsed().as_secs()
    );
    Ok(())
}

/// Kubernetes learns its version at link time; others do not have the variable, which Go's linker allows.
fn linker_flags(version: &str) -> String {
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or("0"), parts.next().unwrap_or("0"));
    let at = "k8s.io/component-base/version";
    format!("-s -w -X {at}.gitVersion={version} -X {at}.gitMajor={major} -X {at}.gitMinor={minor}")
}

/// The text of the module's own go.mod.
fn published_go_mod(folder: &Path, module: &str, version: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Download {
        #[serde(rename = "GoMod")]
        go_mod: String,
    }
    // In a folder with a go.mod of before, that one would have a say.
    let _ = fs::remove_file(folder.join("go.mod"));
    let output = go(folder)
        .args(["mod", "download", "-json", &format!("{module}@{version}")])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "go mod download: {}",
        output.status
    );
    let download: Download = serde_json::from_slice(&output.stdout)?;
    fs::read_to_string(&download.go_mod).with_context(|| format!("cannot read {}", download.go_mod))
}

fn go_mod(module: &str, version: &str, replacements: &[String]) -> String {
    let mut text = format!("module programs\n\ngo 1.26.0\n\nrequire {module} {version}\n");
    for replacement in replacements {
        text += &format!("replace {replacement}\n");
    }
    text
}

/// What must be replaced: the lines of the published go.mod's own replacements, except by folders that were not published; and
/// every part that is required at v0.0.0, by the part's release of the same minor version.
fn replacements(published: &str, version: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in published.lines().map(str::trim) {
        let replacement = match (inside, line) {
            (false, "replace (") => {
                inside = true;
                None
            }
            (true, ")") => {
                inside = false;
                None
            }
            (true, line) => Some(line),
            (false, line) => line.strip_prefix("replace "),
        };
        if let Some(text) = replacement
            && text.contains("=>")
            && !text.contains("=> .")
        {
            found.push(text.to_owned());
        }
        let required = line.strip_prefix("require ").unwrap_or(line);
        if let Some(part) = required.strip_suffix(" v0.0.0") {
            let part = part.trim();
            let release = version.trim_start_matches("v1.");
            found.push(format!("{part} => {part} v0.{release}"));
        }
    }
    found
}

fn go(folder: &Path) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(folder)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=mod");
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .rev()
            .take(20)
            .collect::<Vec<_>>()
            .join("\n")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_without_a_release_are_named_by_the_release_of_the_whole() {
        let published = "module k8s.io/kubernetes\n\nrequire (\n\tk8s.io/api v0.0.0\n\tk8s.io/utils v0.0.0-2026\n)\n\n\
                         replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n";
        assert_eq!(
            replacements(published, "v1.37.1"),
            ["k8s.io/api => k8s.io/api v0.37.1"]
        );
    }

    #[test]
    fn published_replacements_are_repeated_and_folders_left_out() {
        let published =
            "replace (\n\tk8s.io/a => k8s.io/a v0.37.0\n\tb => ./b\n)\nreplace c => c v1.0.0\n";
        assert_eq!(
            replacements(published, "v6.3.0"),
            ["k8s.io/a => k8s.io/a v0.37.0", "c => c v1.0.0"]
        );
    }
}

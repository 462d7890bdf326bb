//! One program out of a Debian package that is not installed: the package would bring a daemon, and only one file of it is wanted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Fetches `package` and keeps its file `inside` as `target`.
pub(super) fn fetch(package: &str, inside: &str, target: &Path) -> Result<()> {
    let parent = target.parent().context("a program lies in a folder")?;
    let draft = parent.join(".draft");
    let _ = fs::remove_dir_all(&draft);
    fs::create_dir_all(&draft)?;
    let file = download(package, &draft)?;
    run(Command::new("dpkg-deb").arg("-x").arg(file).arg(&draft))?;
    fs::rename(draft.join(inside), target)
        .with_context(|| format!("the package {package} has no {inside}"))?;
    fs::remove_dir_all(&draft)?;
    Ok(())
}

fn download(package: &str, folder: &Path) -> Result<PathBuf> {
    let apt_get = |arguments: &[&str]| {
        run(Command::new("apt-get")
            .arg("-qq")
            .args(arguments)
            .current_dir(folder))
    };
    if apt_get(&["download", package]).is_err() {
        // A machine that was never asked knows no packages; only root may ask.
        apt_get(&["update"])?;
        apt_get(&["download", package])?;
    }
    let files = fs::read_dir(folder)?.filter_map(|file| Some(file.ok()?.path()));
    let mut files = files.filter(|file| file.extension().is_some_and(|end| end == "deb"));
    files.next().context("apt-get download left no package")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{:?} cannot be run", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(())
}

//! Other people's programs, each with a deadline.
//!
//! Invariant: nothing started here runs on after its function has returned.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use twinsite_tests::process::Group;

/// Enough for any program here on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const LOOK: Duration = Duration::from_millis(50);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Called by a signal: whatever waits gives up, and what it started is ended on the way out.
pub(crate) fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// How a program ended, and all it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) text: String,
}

impl Ended {
    /// The exit code must be `code` and the output must contain every one of `words`.
    pub(crate) fn expect(&self, code: i32, words: &[&str]) -> anyhow::Result<()> {
        let last = self.text.trim().lines().last().unwrap_or("no output");
        ensure!(
            self.code == code,
            "exit code {} for {code}: {last}",
            self.code
        );
        for word in words {
            ensure!(self.text.contains(word), "`{word}` is not in the output");
        }
        Ok(())
    }
}

/// Runs `command` to its end, its output going to `log`.
pub(crate) fn run(command: &mut Command, log: &Path, limit: Duration) -> anyhow::Result<Ended> {
    let _ = std::fs::remove_file(log);
    let name = command.get_program().to_string_lossy().into_owned();
    let mut group = Group::start(command, log).with_context(|| name.clone())?;
    let start = Instant::now();
    let code = loop {
        if let Some(code) = group.wait(LOOK) {
            break code;
        }
        ensure!(group.running(), "{name} was killed: see {}", log.display());
        ensure!(!interrupted(), "interrupted");
        if start.elapsed() > limit {
            bail!("{name} did not end within {} s", limit.as_secs());
        }
    };
    let bytes = std::fs::read(log).with_context(|| log.display().to_string())?;
    Ok(Ended {
        code,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

/// Whether a program is on the path.
pub(crate) fn installed(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .any(|folder| Path::new(folder).join(name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> anyhow::Result<Ended> {
        let folder = tempfile::tempdir().unwrap();
        run(
            Command::new("sh").args(["-c", script]),
            &folder.path().join("log"),
            limit,
        )
    }

    #[test]
    fn the_code_and_the_words_must_both_be_right() {
        let ended = shell("echo one two; exit 3", PATIENCE).unwrap();
        assert!(ended.expect(3, &["one", "two"]).is_ok());
        assert!(ended.expect(0, &["one"]).is_err());
        assert!(ended.expect(3, &["three"]).is_err());
    }

    #[test]
    fn a_program_that_hangs_is_ended_at_its_deadline() {
        let start = Instant::now();
        let error = shell("sleep 60", Duration::from_millis(200)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}

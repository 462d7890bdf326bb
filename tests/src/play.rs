//! The stage hand: runs a play as a child and sweeps up after it, also after Ctrl-C or a failure in the middle.
//!
//! The child leads a process group of its own, so that a Ctrl-C at the terminal reaches only the stage hand. Whatever the
//! child started carries the work folder in its command line; nothing else is ever touched.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process;

/// Runs this program's `play` and sweeps `folder` before and after.
///
/// # Errors
/// The child or the signal handler cannot be set up.
pub fn supervise(name: &str, folder: &Path) -> Result<ExitCode> {
    clear(folder);
    fs::create_dir_all(folder)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::SeqCst))?;
    let mut child = Command::new(env::current_exe()?)
        .arg("play")
        .process_group(0)
        .spawn()
        .context("cannot start the play")?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if interrupted.load(Ordering::SeqCst) {
            eprintln!("\n{name}: interrupted, sweeping up");
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let good = status.is_some_and(|status| status.success());
    end_processes(folder);
    process::sweep(folder);
    if good {
        clear(folder);
    } else {
        eprintln!(
            "{name}: the agents' logs are kept below {}",
            folder.display()
        );
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn clear(folder: &Path) {
    end_processes(folder);
    process::sweep(folder);
    let _ = fs::remove_dir_all(folder);
}

/// Kills what a play left running: processes whose command line names the work folder.
fn end_processes(folder: &Path) {
    let own = std::process::id();
    let Some(folder) = folder.to_str() else {
        return;
    };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if pid != own
            && line.contains(folder)
            && (line.contains("twinsite-agent") || line.contains(" room "))
        {
            let _ = Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .status();
        }
    }
}

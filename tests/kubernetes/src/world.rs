//! A process that has the machine to itself: namespaces of its own for processes, mounts and network.
//!
//! [`inside`] starts this program again in such a world and sweeps up when it ends: whatever was started, mounted or plugged in there is
//! taken away by the kernel with its first process. So an interrupted run, or one that was killed, leaves as little as a good one.

use std::env;
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::leftovers;

/// Set in the world, so that the program knows where it is.
const MARK: &str = "TWINSITE_WORLD";

/// What this process is.
#[derive(Debug, Clone, Copy)]
pub enum Here {
    /// In the world: play.
    Inside,
    /// Outside: the world has ended, exit with this.
    Ended(ExitCode),
}

/// Starts this program again with the same arguments in a world of its own, waits for its end, and sweeps `folder`; or says that this
/// already is the world. The folder is removed after a good end and kept after a bad one, for its logs.
///
/// # Errors
/// The world cannot be made: it takes root.
pub fn inside(name: &str, folder: &Path) -> Result<Here> {
    if env::var_os(MARK).is_some() {
        crate::network::become_router()?;
        return Ok(Here::Inside);
    }
    sweep(folder);
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    // A second handler in one process is refused: then the caller has its own.
    let _ = ctrlc::set_handler(move || flag.store(true, Ordering::SeqCst));
    let mut child = Command::new("unshare")
        .args([
            "--pid",
            "--mount",
            "--net",
            "--ipc",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
        ])
        .arg(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(MARK, folder)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot make a world: unshare is missing")?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if interrupted.load(Ordering::SeqCst) {
            eprintln!("\n{name}: interrupted, sweeping up");
            let _ = child.kill();
            break child.wait()?;
        }
        thread::sleep(Duration::from_millis(20));
    };
    sweep(folder);
    if status.success() {
        let _ = fs::remove_dir_all(folder);
        return Ok(Here::Ended(ExitCode::SUCCESS));
    }
    if let Some(signal) = status.signal() {
        eprintln!("{name}: ended by signal {signal}");
    }
    eprintln!("{name}: the logs are kept below {}", folder.display());
    Ok(Here::Ended(ExitCode::FAILURE))
}

fn sweep(folder: &Path) {
    leftovers::remove_dead_loop_devices();
    leftovers::remove_cgroups(&leftovers::cgroup_prefix(&folder.join("site/machine")));
}

//! Puts both ends of a load on the processors that it names.
//!
//! With one command under way the figures have two states, by whether the scheduler has both ends on one processor, where a
//! wake-up is a switch, or on two, where it is an interrupt to the other one (through the hypervisor of a virtual machine) and
//! all that is exchanged changes caches. A load that names one processor has one state.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::loads::Place;

/// No client runs longer, in seconds.
const LIMIT: &str = "60";

fn processors(place: Place) -> String {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    match place {
        Place::Free => format!("0-{}", all - 1),
        Place::One => "0".to_owned(),
    }
}

/// What a client's command begins with.
pub(crate) fn client(place: Place) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &processors(place), "timeout", LIMIT]);
    command
}

/// All threads of a server.
pub(crate) fn server(place: Place, id: u32) -> Result<()> {
    let output = Command::new("taskset")
        .args(["-a", "-c", "-p", &processors(place), &id.to_string()])
        .output()
        .context("taskset (Debian package util-linux)")?;
    ensure!(
        output.status.success(),
        "taskset: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

//! The load generators: ours, and the one on libiscsi, which is compiled here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::loads::{Client, Kind, Load};
use crate::place;

/// A header of a PDU, which goes with every message.
const HEADER: u32 = 48;
const SESSIONS: u32 = 4;

/// What one run gave. `cpu_us` is the client's for one operation.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) iops: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) cpu_us: f64,
    errors: u64,
    #[serde(default)]
    pub(crate) server_cpu_us: f64,
    /// How often threads of the server went to sleep for one operation.
    #[serde(default)]
    pub(crate) server_sleeps: f64,
}

pub(crate) struct Clients {
    ours: PathBuf,
    libiscsi: PathBuf,
}

impl Clients {
    pub(crate) fn new(ours: PathBuf, source: &Path, out: &Path) -> Result<Self> {
        let libiscsi = compile(source, out, &["-liscsi"])
            .context("it takes the Debian package libiscsi-dev")?;
        Ok(Self { ours, libiscsi })
    }

    pub(crate) fn run(
        &self,
        client: Client,
        url: &str,
        load: &Load,
        seconds: f64,
    ) -> Result<Sample> {
        let program = match client {
            Client::Libiscsi => &self.libiscsi,
            Client::Ours | Client::Four | Client::PingPong | Client::Disk => &self.ours,
        };
        let mut command = place::client(load.place);
        command.arg(program).arg(url).arg(load.verb());
        command.args([
            load.bytes.to_string(),
            load.depth.to_string(),
            seconds.to_string(),
        ]);
        if client == Client::Four {
            command.arg(format!("sessions={SESSIONS}"));
        }
        sample(&mut command)
    }

    /// The exchange that a command is at the least, without anything around it.
    pub(crate) fn pingpong(&self, load: &Load, seconds: f64) -> Result<Sample> {
        let (request, response) = match load.kind {
            Kind::Read => (HEADER, HEADER + load.bytes),
            Kind::Write => (HEADER + load.bytes, HEADER),
        };
        let mut command = place::client(load.place);
        command.arg(&self.ours).arg("pingpong");
        command.args([request, response, load.depth].map(|number| number.to_string()));
        command.arg(seconds.to_string());
        sample(&mut command)
    }

    /// The stable writes of a load without anything around them.
    pub(crate) fn disk(&self, load: &Load, file: &Path, seconds: f64) -> Result<Sample> {
        let mut command = place::client(load.place);
        command.arg(&self.ours).arg("disk").arg(file);
        command.args([load.bytes, load.depth].map(|number| number.to_string()));
        command.arg(seconds.to_string());
        sample(&mut command)
    }
}

/// Compiles a program of one file in C into the folder.
pub(crate) fn compile(source: &Path, out: &Path, libraries: &[&str]) -> Result<PathBuf> {
    let name = source.file_stem().context("a source has a name")?;
    let program = out.join(name);
    let output = Command::new("cc")
        .args(["-O2", "-o"])
        .args([&program, source])
        .args(libraries)
        .output()
        .context("no C compiler (Debian package gcc)")?;
    ensure!(
        output.status.success(),
        "{} does not compile: {}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(program)
}

fn sample(command: &mut Command) -> Result<Sample> {
    let output = command
        .output()
        .context("timeout (Debian package coreutils)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{command:?}: {}{}",
        text,
        String::from_utf8_lossy(&output.stderr)
    );
    let sample: Sample = serde_json::from_str(text.trim())
        .with_context(|| format!("{command:?} printed {text:?}"))?;
    ensure!(
        sample.errors == 0,
        "{command:?}: {} commands failed",
        sample.errors
    );
    Ok(sample)
}

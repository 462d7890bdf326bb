//! `twinsite-agent`: wires the library together.

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use twinsite_agent::target::cli::{TargetArgs, run_cli};

/// The data path of a node.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves files and block devices by iSCSI, without Kubernetes.
    Target(TargetArgs),
}

fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match Cli::parse().command {
        Command::Target(args) => run_cli(args),
    }
}

//! `twinsite-agent`: wires the library together.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use twinsite_agent::{
    cli::{
        ctl::{self, CtlArgs},
        pool::{self, PoolArgs},
        run::{self, RunArgs},
    },
    qualify::{self, QualifyArgs},
    target::cli::{TargetArgs, run_cli},
    volume::DataPath,
};

/// The data path of a node: serves legs, opens mirrors, shows block devices.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Option<RunArgs>,
}

#[derive(Subcommand)]
enum Command {
    /// Does what the objects in a folder say; also what happens without a subcommand.
    Run(Box<RunArgs>),
    /// Serves files and block devices by iSCSI, without objects.
    Target(Box<TargetArgs>),
    /// Asks a running agent.
    Ctl(CtlArgs),
    /// Makes pools.
    Pool(PoolArgs),
    /// Finds out whether a LUN may be a leg.
    Qualify(QualifyArgs),
}

fn main() -> ExitCode {
    match act(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twinsite-agent: {}", twinsite_api::told(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn act(cli: Cli) -> anyhow::Result<()> {
    let run = match (cli.command, cli.run) {
        (Some(Command::Run(args)), _) => *args,
        (None, Some(args)) => args,
        (Some(Command::Target(args)), _) => {
            log_warnings();
            return run_cli(*args);
        }
        (Some(Command::Ctl(args)), _) => return ctl::run(args),
        (Some(Command::Pool(args)), _) => return pool::run(args),
        (Some(Command::Qualify(args)), _) => return qualify::run(args),
        (None, None) => {
            anyhow::bail!(
                "nothing to do: give --objects, --node and --site, or a subcommand (see --help)"
            )
        }
    };
    run::run(run, |threads, run_dir| {
        let (volumes, cleared) = DataPath::start(threads.to_vec(), run_dir)?;
        if !cleared.mounts.is_empty() || !cleared.devices.is_empty() {
            tracing::info!(?cleared, "cleared what an earlier run left");
        }
        Ok(Box::new(volumes))
    })
}

fn log_warnings() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

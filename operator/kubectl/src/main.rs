//! The kubectl plugin: what people ask of twinsite, and the few things that they order.
//!
//! It never writes the spec of an object that a person or Git wrote. It writes Secrets when told to, one-shot `Failover`
//! objects, the Inspect order of a plan, which it takes away again, and the annotation that asks for a verify.
#![forbid(unsafe_code)]

mod bundle;
mod cli;
mod cluster;
mod commands;
mod failover;
#[cfg(test)]
mod fixture;
mod inspect;
mod peer;
mod plan;
mod preflight;
mod status;
mod table;
mod uninstall;
mod verify;
mod world;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    // Two libraries might each choose one, and then neither is.
    let _chosen = rustls::crypto::ring::default_provider().install_default();
    match commands::run(cli.command).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kubectl twinsite: {}", twinsite_api::told(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

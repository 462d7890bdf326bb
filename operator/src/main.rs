//! `twinsite-operator`: see the library.

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use twinsite_operator::shell::{
    options::{LogFormat, Options},
    run,
};

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    // What the client library says of a server that is away, we say ourselves, once.
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,kube_client=off,kube_runtime=off"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.with_ansi(false).init(),
    }
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", twinsite_api::told(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

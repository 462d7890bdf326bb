//! `twinsite-operator`: see the library.

use anyhow::Result;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use twinsite_operator::shell::{
    options::{LogFormat, Options},
    run,
};

#[tokio::main]
async fn main() -> Result<()> {
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
    run(options).await
}

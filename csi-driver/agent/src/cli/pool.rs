//! `twinsite-agent pool init`: makes a directory a pool, once and on purpose.

use std::path::PathBuf;

use crate::backend::Pool;

#[derive(Debug, clap::Args)]
pub struct PoolArgs {
    #[command(subcommand)]
    command: PoolCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PoolCommand {
    /// Makes a directory a pool: writes its marker file. A pool without the marker is never served, so
    /// that a disk that is not mounted is not taken for an empty pool.
    Init {
        /// The directory, on the disk that will hold the legs.
        directory: PathBuf,
    },
}

pub fn run(args: PoolArgs) -> anyhow::Result<()> {
    let PoolCommand::Init { directory } = args.command;
    anyhow::ensure!(
        directory.is_dir(),
        "{} is no directory: mount the disk that will hold the legs, and make the directory there",
        directory.display()
    );
    let pool = Pool::init(&directory)?;
    println!("{} is pool {}", directory.display(), pool.id());
    Ok(())
}

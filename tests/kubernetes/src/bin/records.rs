//! The workload in a container: the treatment room of `make demo`, and the reading back.
//!
//! `records write FOLDER` writes until told to end, telling each acknowledged number to `$LEDGER` (`host:port`).
//! `records journal JOURNAL DATA` writes each record to one volume, and then to another one that must never be ahead of it.
//! `records both JOURNAL DATA` prints how many whole records stand in each.
//! `records count FOLDER` prints, machine by machine, how many whole records are there.

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use twinsite_kubernetes::journal;
use twinsite_tests::history::event;
use twinsite_tests::workload::{MACHINES, record, room};

/// Between two patients of a room: about 200 records a second from all rooms, which leaves a small machine room for clusters.
const PAUSE: Duration = Duration::from_millis(40);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("records: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["write", folder] => {
            // The first process of a container is not ended by a signal that it does not handle.
            ctrlc::set_handler(|| std::process::exit(0))?;
            let ledger = env::var("LEDGER").context("LEDGER is not set: say host:port")?;
            // A name that no other run of the writer has.
            let host = env::var("HOSTNAME").unwrap_or_default();
            let name = format!("{host} {}", event::now());
            Ok(room::run_remote(&name, Path::new(folder), &ledger, PAUSE)?)
        }
        ["journal", journal, data] => {
            ctrlc::set_handler(|| std::process::exit(0))?;
            let ledger = env::var("LEDGER").context("LEDGER is not set: say host:port")?;
            let host = env::var("HOSTNAME").unwrap_or_default();
            let name = format!("{host} {}", event::now());
            let (journal, data) = (Path::new(journal), Path::new(data));
            Ok(journal::run(&name, journal, data, &ledger, PAUSE)?)
        }
        ["both", journal, data] => {
            // The data first: a writer that goes on puts nothing into it that the journal did not have before.
            let data = record::count(Path::new(data), 0)?;
            let journal = record::count(Path::new(journal), 0)?;
            println!("{journal} {data}");
            Ok(())
        }
        ["count", folder] => {
            for machine in 0..MACHINES {
                println!("{}", record::count(Path::new(folder), machine)?);
            }
            Ok(())
        }
        _ => bail!(
            "say: records write FOLDER, records count FOLDER, records journal JOURNAL DATA or records both JOURNAL DATA"
        ),
    }
}

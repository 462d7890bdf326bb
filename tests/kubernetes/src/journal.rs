//! A workload on two volumes: each record goes to the journal and is made durable there before it goes to the data.
//!
//! Invariant that it checks itself, wherever it starts: the data shows no record that the journal lacks. What the journal has more is
//! written to the data before anything new is.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use twinsite_tests::history::event;
use twinsite_tests::workload::ledger::{Message, What};
use twinsite_tests::workload::record;

/// The one whose records these are.
const MACHINE: u8 = 0;
/// Exit code of a start that found a record in the data which the journal lacks.
pub const EXIT_OUT_OF_ORDER: i32 = 6;
/// Exit code of a run whose file system returned an error.
const EXIT_IO_ERROR: i32 = 5;

/// How many whole records stand in the journal and in the data.
///
/// # Errors
/// One of them cannot be read.
pub fn count(journal: &Path, data: &Path) -> io::Result<(u64, u64)> {
    Ok((
        record::count(journal, MACHINE)?,
        record::count(data, MACHINE)?,
    ))
}

/// Writes until killed, telling each record that both volumes have to the ledger at `host:port`.
///
/// # Errors
/// The way to the ledger, or a volume that cannot be opened.
pub fn run(
    name: &str,
    journal: &Path,
    data: &Path,
    ledger: &str,
    pause: Duration,
) -> io::Result<()> {
    let (mut number, done) = count(journal, data)?;
    println!("the journal has {number} records, the data {done}");
    if done > number {
        eprintln!("the data has {done} records, the journal {number}: they are not of one moment");
        std::process::exit(EXIT_OUT_OF_ORDER);
    }
    let (journal, data) = (open(journal)?, open(data)?);
    for missing in done + 1..=number {
        put(&data, missing);
    }
    let mut ledger = TcpStream::connect(ledger)?;
    ledger.set_nodelay(true)?;
    ledger.write_all(format!("{name}\n").as_bytes())?;
    loop {
        number += 1;
        tell(&mut ledger, What::Issued, number)?;
        put(&journal, number);
        put(&data, number);
        tell(&mut ledger, What::Acked, number)?;
        thread::sleep(pause);
    }
}

fn open(folder: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(record::path(folder, MACHINE))
}

/// An application that was told "failed" stops; it does not guess.
fn put(file: &File, number: u64) {
    let outcome = file
        .write_all_at(
            &record::emit(MACHINE, number),
            (number - 1) * record::SIZE as u64,
        )
        .and_then(|()| file.sync_all());
    if let Err(error) = outcome {
        eprintln!("record {number}: {error}");
        std::process::exit(EXIT_IO_ERROR);
    }
}

fn tell(ledger: &mut TcpStream, what: What, number: u64) -> io::Result<()> {
    let message = Message {
        what,
        machine: MACHINE,
        number,
        at: event::now(),
    };
    ledger.write_all(&message.emit())
}

//! The treatment room: the application. It runs as a process of the active site and dies with it.
//!
//! Each machine has a thread: tell the ledger what comes, append the record, fsync, tell that it is done, wait for the next
//! patient. An error from the
//! file system ends the room with exit code 5: an application that was told "failed" stops; it does not guess.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::ledger::{Message, What};
use super::{MACHINES, record};
use crate::history::event;

/// Exit code of a room whose file system returned an error.
pub const EXIT_IO_ERROR: i32 = 5;

/// Writes until killed, under a name that no other room of this history has, or until the file system fails.
///
/// # Errors
/// The first error of a write, an fsync, or the way to the ledger.
pub fn run(name: &str, directory: &Path, ledger: &Path, pause: Duration) -> io::Result<()> {
    open(name, directory, &|| UnixStream::connect(ledger), pause)
}

/// As [`run`], from a container: the ledger is at `host:port`.
///
/// # Errors
/// As [`run`].
pub fn run_remote(name: &str, directory: &Path, ledger: &str, pause: Duration) -> io::Result<()> {
    let connect = || {
        let stream = TcpStream::connect(ledger)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    open(name, directory, &connect, pause)
}

fn open<W: Write>(
    name: &str,
    directory: &Path,
    connect: &(impl Fn() -> io::Result<W> + Sync),
    pause: Duration,
) -> io::Result<()> {
    thread::scope(|scope| {
        let machines: Vec<_> = (0..MACHINES)
            .map(|machine| scope.spawn(move || treat(name, directory, connect, machine, pause)))
            .collect();
        machines.into_iter().try_for_each(|machine| {
            machine
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a machine's thread ended")))
        })
    })
}

fn treat<W: Write>(
    name: &str,
    directory: &Path,
    connect: &impl Fn() -> io::Result<W>,
    machine: u8,
    pause: Duration,
) -> io::Result<()> {
    let mut ledger = connect()?;
    ledger.write_all(format!("{name}\n").as_bytes())?;
    let mut number = record::count(directory, machine)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(record::path(directory, machine))?;
    loop {
        let offset = number * record::SIZE as u64;
        number += 1;
        let mut tell = |what| {
            let at = event::now();
            let message = Message {
                what,
                machine,
                number,
                at,
            };
            ledger.write_all(&message.emit())
        };
        tell(What::Issued)?;
        let outcome = file
            .write_all_at(&record::emit(machine, number), offset)
            .and_then(|()| file.sync_all());
        if let Err(error) = outcome {
            eprintln!("machine {machine}: record {number}: {error}");
            tell(What::Failed)?;
            std::process::exit(EXIT_IO_ERROR);
        }
        tell(What::Acked)?;
        thread::sleep(pause);
    }
}

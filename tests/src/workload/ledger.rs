//! The ledger: the acknowledged numbers, kept in the harness's own process, outside both sites.
//!
//! A treatment room connects to a unix socket and tells 9 bytes per acknowledged record {machine u8, number u64 LE}. Numbers
//! of one machine come in order, so the last one is the whole story. The instant of the first record after a mark answers
//! "when was the other side writing again".
//!
//! Invariant: a number stands here only after the application saw its fsync return.

use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::MACHINES;

/// Bytes of one message: machine, number.
pub const MESSAGE: usize = 9;

#[derive(Debug, Default)]
struct Book {
    last: [u64; MACHINES as usize],
    marked_at: Option<Instant>,
    first_after_mark: Option<Instant>,
    latest: Option<Instant>,
    longest_gap: Duration,
}

/// The book and its listener thread.
#[derive(Debug, Clone)]
pub struct Ledger {
    book: Arc<Mutex<Book>>,
}

impl Ledger {
    /// Listens at `socket` for treatment rooms for as long as the process lives.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(socket: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let ledger = Self {
            book: Arc::default(),
        };
        let keeper = ledger.clone();
        thread::Builder::new()
            .name("ledger".into())
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    let keeper = keeper.clone();
                    let _ = thread::Builder::new()
                        .name("ledger-room".into())
                        .spawn(move || keeper.keep(stream));
                }
            })?;
        Ok(ledger)
    }

    fn keep(&self, mut stream: UnixStream) {
        let mut message = [0; MESSAGE];
        while stream.read_exact(&mut message).is_ok() {
            let mut number = [0; 8];
            number.copy_from_slice(&message[1..]);
            self.enter(message[0], u64::from_le_bytes(number));
        }
    }

    fn enter(&self, machine: u8, number: u64) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = book.last.get_mut(usize::from(machine)) {
            *last = number.max(*last);
        }
        let now = Instant::now();
        let Some(marked_at) = book.marked_at else {
            return;
        };
        book.first_after_mark.get_or_insert(now);
        let gap = now - book.latest.unwrap_or(marked_at);
        book.longest_gap = book.longest_gap.max(gap);
        book.latest = Some(now);
    }

    /// The last acknowledged number of each machine.
    #[must_use]
    pub fn acknowledged(&self) -> [u64; MACHINES as usize] {
        self.book
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last
    }

    /// All acknowledged records.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.acknowledged().iter().sum()
    }

    /// From now on the next acknowledged record is "the first one".
    pub fn mark(&self) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.marked_at = Some(Instant::now());
        book.first_after_mark = None;
        book.latest = None;
        book.longest_gap = Duration::ZERO;
    }

    /// When the first record after the mark was acknowledged.
    #[must_use]
    pub fn first_after_mark(&self) -> Option<Instant> {
        self.book
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .first_after_mark
    }

    /// The longest time without an acknowledged record since the mark, the one that still lasts included.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let lasting = book
            .latest
            .or(book.marked_at)
            .map_or(Duration::ZERO, |latest| latest.elapsed());
        book.longest_gap.max(lasting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_a_room_tells_stands_in_the_book() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("ledger");
        let ledger = Ledger::listen(&socket).unwrap();
        let mut room = UnixStream::connect(&socket).unwrap();
        ledger.mark();
        room.write_all(&[3, 7, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        while ledger.total() == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(ledger.acknowledged(), [0, 0, 0, 7, 0, 0, 0, 0]);
        assert!(ledger.first_after_mark().is_some());
    }
}

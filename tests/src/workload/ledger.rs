//! The ledger: the acknowledged numbers, kept in the harness's own process, outside both sites.
//!
//! A treatment room connects to a unix socket, or by TCP from a container, tells its name in a line, and then [`Message`]s: a record is about to be
//! written, its fsync returned, or failed. Numbers of one machine come in order, so the last acknowledged one is the whole
//! story. The instant of the first record after a mark answers "when was the other side writing again". Every message also
//! becomes an event of the history, for the checker.
//!
//! Invariant: a number stands here only after the application saw its fsync return.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::MACHINES;
use crate::history::{Event, History};

/// What a room tells: 18 bytes {what u8, machine u8, number u64 LE, instant u64 LE}.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub what: What,
    pub machine: u8,
    pub number: u64,
    /// As of [`crate::history::event::now`].
    pub at: u64,
}

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Issued,
    Acked,
    Failed,
}

impl Message {
    pub const SIZE: usize = 18;

    #[must_use]
    pub fn emit(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0] = self.what as u8;
        bytes[1] = self.machine;
        bytes[2..10].copy_from_slice(&self.number.to_le_bytes());
        bytes[10..].copy_from_slice(&self.at.to_le_bytes());
        bytes
    }

    /// `None` for bytes that are no message.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let what = match bytes[0] {
            0 => What::Issued,
            1 => What::Acked,
            2 => What::Failed,
            _ => return None,
        };
        let word = |from: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[from..from + 8]);
            u64::from_le_bytes(word)
        };
        Some(Self {
            what,
            machine: bytes[1],
            number: word(2),
            at: word(10),
        })
    }

    fn event(self, writer: &str) -> Event {
        let Self {
            what,
            machine,
            number: value,
            at,
        } = self;
        let (writer, item) = (writer.to_owned(), u64::from(machine));
        match what {
            What::Issued => Event::Issued {
                at,
                writer,
                item,
                value,
            },
            What::Acked => Event::Acked {
                at,
                writer,
                item,
                value,
            },
            What::Failed => Event::Failed {
                at,
                writer,
                item,
                value,
            },
        }
    }
}

#[derive(Debug, Default)]
struct Book {
    last: [u64; MACHINES as usize],
    marked_at: Option<Instant>,
    first_after_mark: Option<Instant>,
    latest: Option<Instant>,
    longest_gap: Duration,
    /// The records before and after it.
    gap: Option<(Instant, Instant)>,
}

/// The book and its listener thread.
#[derive(Debug, Clone)]
pub struct Ledger {
    book: Arc<Mutex<Book>>,
    history: History,
}

impl Ledger {
    /// Listens at `socket` for treatment rooms for as long as the process lives; what they tell goes into `history` too.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(socket: &Path, history: History) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let ledger = Self::new(history);
        ledger.serve(move || Ok(listener.accept()?.0))?;
        Ok(ledger)
    }

    /// As [`Ledger::listen`], for rooms in containers.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn listen_at(address: SocketAddr, history: History) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let ledger = Self::new(history);
        ledger.serve(move || Ok(listener.accept()?.0))?;
        Ok(ledger)
    }

    fn new(history: History) -> Self {
        Self {
            book: Arc::default(),
            history,
        }
    }

    fn serve<R: Read + Send + 'static>(
        &self,
        accept: impl Fn() -> io::Result<R> + Send + 'static,
    ) -> io::Result<()> {
        let keeper = self.clone();
        thread::Builder::new()
            .name("ledger".into())
            .spawn(move || {
                while let Ok(stream) = accept() {
                    let keeper = keeper.clone();
                    let _ = thread::Builder::new()
                        .name("ledger-room".into())
                        .spawn(move || keeper.keep(stream));
                }
            })?;
        Ok(())
    }

    fn keep(&self, stream: impl Read) {
        let mut stream = BufReader::new(stream);
        let mut name = String::new();
        if stream.read_line(&mut name).is_err() {
            return;
        }
        let name = name.trim();
        let mut bytes = [0; Message::SIZE];
        while stream.read_exact(&mut bytes).is_ok() {
            let Some(message) = Message::parse(&bytes) else {
                return;
            };
            // A history with a gap would be judged wrongly: better none.
            if let Err(error) = self.history.add(&message.event(name)) {
                eprintln!("the history cannot be written: {error}");
                std::process::exit(1);
            }
            if message.what == What::Acked {
                self.enter(message.machine, message.number);
            }
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
        let before = book.latest.unwrap_or(marked_at);
        if now - before > book.longest_gap {
            book.longest_gap = now - before;
            book.gap = Some((before, now));
        }
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
        book.gap = None;
    }

    /// When the first record after the mark was acknowledged.
    #[must_use]
    pub fn first_after_mark(&self) -> Option<Instant> {
        self.book
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .first_after_mark
    }

    /// The records at both ends of the longest gap since the mark; the mark stands for the record before the first.
    #[must_use]
    pub fn gap_ends(&self) -> Option<(Instant, Instant)> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).gap
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
    use std::os::unix::net::UnixStream;

    use super::*;
    use std::io::Write;

    #[test]
    fn what_a_room_tells_stands_in_the_book_and_in_the_history() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("ledger");
        let path = directory.path().join("history.jsonl");
        let history = History::create(&path).unwrap();
        let ledger = Ledger::listen(&socket, history.clone()).unwrap();
        let mut room = UnixStream::connect(&socket).unwrap();
        ledger.mark();
        room.write_all(b"medical 12\n").unwrap();
        for (what, at) in [(What::Issued, 100), (What::Acked, 101)] {
            let message = Message {
                what,
                machine: 3,
                number: 7,
                at,
            };
            room.write_all(&message.emit()).unwrap();
        }
        while ledger.total() == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(ledger.acknowledged(), [0, 0, 0, 7, 0, 0, 0, 0]);
        assert!(ledger.first_after_mark().is_some());
        history.flush().unwrap();
        let events = crate::history::event::read(&path).unwrap();
        let (writer, item, value) = ("medical 12".to_owned(), 3, 7);
        assert_eq!(
            events,
            [
                Event::Issued {
                    at: 100,
                    writer: writer.clone(),
                    item,
                    value
                },
                Event::Acked {
                    at: 101,
                    writer,
                    item,
                    value
                }
            ]
        );
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        assert_eq!(Message::parse(&[9; Message::SIZE]), None);
    }
}

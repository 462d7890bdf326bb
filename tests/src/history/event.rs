//! The events of a history and their file.
//!
//! Instants are nanoseconds since 1970 by one machine's clock: all processes of a run share it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Something that an application did or saw. An item holds a number that its writes only raise: a block with a counter,
/// a file with records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "event", deny_unknown_fields)]
pub enum Event {
    /// A write of `value` was begun.
    Issued {
        at: u64,
        writer: String,
        item: u64,
        value: u64,
    },
    /// The application heard that `value` is durable.
    Acked {
        at: u64,
        writer: String,
        item: u64,
        value: u64,
    },
    /// The application heard that the write failed: it may be there or not.
    Failed {
        at: u64,
        writer: String,
        item: u64,
        value: u64,
    },
    /// `value` was found by a reading that lasted from `began` to `at`.
    Read {
        began: u64,
        at: u64,
        reader: String,
        item: u64,
        value: u64,
    },
}

/// Now, as events tell it.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A history that is being written; its clones write to the same file.
#[derive(Debug, Clone)]
pub struct History {
    file: Arc<Mutex<BufWriter<File>>>,
}

impl History {
    /// A new, empty file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: Arc::new(Mutex::new(BufWriter::new(File::create(path)?))),
        })
    }

    /// Adds an event.
    ///
    /// # Errors
    /// It cannot be written: the history is not whole then and must not be judged.
    pub fn add(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&line)
    }

    /// Hands everything to the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn flush(&self) -> io::Result<()> {
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .flush()
    }
}

/// Reads a history back.
///
/// # Errors
/// The file cannot be read, or a line is not an event; the message names the line.
pub fn read(path: &Path) -> io::Result<Vec<Event>> {
    let in_file =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    BufReader::new(File::open(path).map_err(in_file)?)
        .lines()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(&line?).map_err(|error| {
                let line = index + 1;
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}, line {line}: {error}", path.display()),
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let history = History::create(&path).unwrap();
        let event = Event::Acked {
            at: 7,
            writer: "medical".into(),
            item: 1,
            value: 2,
        };
        history.add(&event).unwrap();
        history.flush().unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"event\":\"acked\",\"at\":7,\"writer\":\"medical\",\"item\":1,\"value\":2}\n"
        );
        assert_eq!(read(&path).unwrap(), [event]);
    }

    #[test]
    fn a_line_that_is_no_event_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        std::fs::write(&path, "{\"event\":\"acked\"}\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}

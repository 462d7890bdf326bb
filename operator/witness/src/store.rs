//! What a place for witness objects must be able to do.
//!
//! Objects are small (a register is some kilobytes). A read is linearizable: it sees every write
//! that was answered before it began. A conditional write happens as a whole or not at all, and at
//! most one of two writes on the same version happens.

use std::{fmt, future::Future, pin::Pin};

use bytes::Bytes;

/// A boxed future, so that stores can be trait objects.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Name of an object: segments of lower-case letters, digits, `-` and `.`, parted by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ObjectName(String);

impl ObjectName {
    /// `None` if a segment is empty, starts with `.` or has another character.
    pub fn new(segments: &[&str]) -> Option<Self> {
        segments
            .iter()
            .all(|segment| is_segment(segment))
            .then(|| Self(segments.join("/")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

pub(crate) fn is_segment(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !text.is_empty() && text.len() <= 253 && !text.starts_with('.') && text.bytes().all(fits)
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which state of an object a read saw, in the store's own words: an ETag, a file number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version(pub String);

/// An object as read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned {
    pub bytes: Bytes,
    pub version: Version,
}

/// On what condition a write may happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// There is no such object.
    Absent,
    /// The object is still as it was read.
    Unchanged(Version),
    /// None: the last writer counts.
    Any,
}

/// How much an object is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Care {
    /// It survives a power cut once it was written or read.
    Durable,
    /// A lost write is made good by the next one.
    Evidence,
}

/// What became of a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Written {
    Done,
    /// The condition did not hold, as far as the store says; not proof that this write never happened.
    Refused,
    /// It may have happened, and it may still happen.
    Unknown(String),
}

/// Why an object could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the witness does not answer: {0}")]
    Unreachable(String),
    #[error("the witness object {name} is damaged: {what}")]
    Corrupt { name: String, what: String },
}

/// A place for witness objects.
pub trait Store: Send + Sync + 'static {
    /// The object, or `None` if there is none. Linearizable.
    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        care: Care,
    ) -> Pending<'a, Result<Option<Versioned>, StoreError>>;

    /// Writes the whole object if the condition holds.
    fn write<'a>(
        &'a self,
        name: &'a ObjectName,
        bytes: Bytes,
        condition: Condition,
        care: Care,
    ) -> Pending<'a, Written>;

    /// Takes an object away, without a condition and with best effort: for what a probe left.
    fn remove<'a>(&'a self, name: &'a ObjectName) -> Pending<'a, ()>;

    /// Where this is, for messages: never with a credential in it.
    fn place(&self) -> String;
}

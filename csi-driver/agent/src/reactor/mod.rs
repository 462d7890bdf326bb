//! The data path's threads: each owns one io_uring, a table of actors and nothing that another thread may touch.
//!
//! An [`Actor`] owns everything that changes together (a target with its connections and LUNs, a volume with its engine and
//! its two sessions), so there are no locks: an operation is started through the [`Context`] that every callback gets, and its
//! result comes back to the same actor as `handle(token, event)`. The token is the actor's own business; the reactor only
//! carries it.
//!
//! Call order, in one turn of a thread:
//! 1. letters from other threads: actors to start, mailboxes to look into ([`Actor::mail`]);
//! 2. completions of operations and expired alarms ([`Actor::handle`]), in the order in which the kernel reported them;
//! 3. once for each actor that was called in 1 or 2: [`Actor::settle`], the place to poll engines and to flush streams, so that
//!    answers to a batch of requests leave in one send;
//! 4. one `io_uring_enter`, which submits all that was started and sleeps until something is done.
//!
//! Invariants: an operation owns its buffers and keeps its descriptor open until the kernel has finished with it, also when its
//! actor is gone (the completion is then dropped). Every operation that was started completes exactly once. `Context::now` is
//! read once a turn from `CLOCK_BOOTTIME` and never goes back. Nothing here blocks except the one wait.
//! Not here: what the bytes mean (`twinsite_iscsi`), what a file operation of a LUN is (`backend`).
//!
//! Typical start: `let thread = Thread::spawn(ThreadConfig::default())?; let id = thread.reserve();
//! let (mailbox, inlet) = thread.mailbox(id, BOUND); thread.start(id, move |cx| Box::new(MyActor::new(cx, inlet)))`.

mod address;
mod descriptor;
mod gather;
mod immediate;
mod inbox;
mod memory;
mod operation;
mod ring;
mod stream;
mod thread;
mod timers;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

pub use descriptor::{Descriptor, SocketOptions, boottime, connect_socket, listen};
pub use immediate::Wait;
pub use inbox::{Inlet, Mailbox, PostError};
pub use stream::{Stream, StreamEvent};
pub use thread::{Context, Spin, Thread, ThreadConfig};
pub use timers::Alarm;

/// One actor of one thread. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId(pub(crate) u32);

/// What an actor calls an operation or an alarm; comes back with its event, unread by the reactor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// An operation that was started, for [`Context::cancel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpId {
    index: u32,
    serial: u64,
}

/// How [`Context::open`] opens a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// A file for writing, made if it is not there; what it holds stays.
    Write,
    /// A directory, to be synced.
    Directory,
}

/// Whether a write must be on stable storage before it completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As the store caches it; [`Context::sync`] makes it stable.
    Cached,
    /// This write alone is stable when it completes (`RWF_DSYNC`).
    Stable,
}

/// What [`Context::clear`] leaves behind. Both read as zeroes afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clear {
    /// The space is given back.
    Punch,
    /// The space stays allocated.
    Zero,
}

/// The result of an operation.
#[derive(Debug)]
pub enum Event {
    /// [`Context::accept`]: one connection. Call it again for the next one.
    Accepted(io::Result<(Descriptor, SocketAddr)>),
    Connected(io::Result<()>),
    /// [`Context::receive`]: the buffer comes back, `Ok(n)` bytes longer; 0 = the peer closed.
    Received(BytesMut, io::Result<usize>),
    /// All pieces were taken by the socket.
    Sent(io::Result<()>),
    /// All bytes asked for; the end of the file before that is an error (`UnexpectedEof`).
    Read(io::Result<Bytes>),
    Written(io::Result<()>),
    Opened(io::Result<Descriptor>),
    /// [`Context::sync`], [`Context::sync_names`], [`Context::clear`], [`Context::rename`], [`Context::readable`].
    Done(io::Result<()>),
    /// An alarm of [`Context::alarm`] is due.
    Alarm,
}

/// Something that lives on one thread and is called by nothing else.
pub trait Actor {
    /// A result of an operation, or an alarm.
    fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event);
    /// A mailbox of this actor has something: take all of it.
    fn mail(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }
    /// Once after a batch of calls to the two above.
    fn settle(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }
    /// The thread is told to stop: begin to finish. The actor is dropped when [`Context::finish`] is called or when the time for stopping is over.
    fn stop(&mut self, cx: &mut Context<'_>) {
        cx.finish();
    }
}

/// A deadline in reactor time, or none.
pub type Deadline = Option<Duration>;

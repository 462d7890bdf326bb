//! How other threads reach a reactor thread: a list of letters and an eventfd that wakes it, and typed bounded mailboxes on top.
//!
//! The eventfd is written only when the thread may be asleep. The thread first says that it will sleep, then looks at the list
//! once more; a sender first adds to the list, then looks whether the thread sleeps: one of the two sees the other.
#![allow(unsafe_code, reason = "eventfd has no safe form in std")]

use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::{Actor, ActorId, Context, Descriptor};

pub(super) type MakeActor = Box<dyn FnOnce(&mut Context<'_>) -> Box<dyn Actor> + Send>;

/// What a thread is told from outside.
pub(super) enum Letter {
    Start(ActorId, MakeActor),
    Mail(ActorId),
    Stop,
}

/// The outside of a thread.
pub(super) struct Inbox {
    letters: Mutex<Vec<Letter>>,
    asleep: AtomicBool,
    pub(super) next_actor: AtomicU32,
    bell: std::fs::File,
    pub(super) bell_descriptor: Descriptor,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was opened just above and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let bell = std::fs::File::from(fd.try_clone()?);
        Ok(Self {
            letters: Mutex::new(Vec::new()),
            asleep: AtomicBool::new(false),
            next_actor: AtomicU32::new(0),
            bell,
            bell_descriptor: fd.into(),
        })
    }

    pub(super) fn push(&self, letter: Letter) {
        self.letters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(letter);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // Fails only when the counter is full, and then the thread is being woken already.
            let _ = (&self.bell).write(&1u64.to_ne_bytes());
        }
    }

    /// Takes all letters; `into` is empty and its space is used again.
    pub(super) fn take(&self, into: &mut Vec<Letter>) {
        std::mem::swap(
            &mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner),
            into,
        );
    }

    /// The thread wants to sleep. `false`: letters have come, it must not.
    pub(super) fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self
            .letters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
        {
            return true;
        }
        self.awake();
        false
    }

    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }
}

/// Why a message could not be posted; it comes back.
#[derive(Debug, thiserror::Error)]
pub enum PostError<T> {
    #[error("the mailbox is full")]
    Full(T),
    #[error("the actor is gone")]
    Gone(T),
}

/// The sending end of a mailbox of one actor, for any thread.
pub struct Mailbox<T> {
    sender: mpsc::SyncSender<T>,
    rung: Arc<AtomicBool>,
    inbox: Arc<Inbox>,
    actor: ActorId,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            rung: self.rung.clone(),
            inbox: self.inbox.clone(),
            actor: self.actor,
        }
    }
}

impl<T> Mailbox<T> {
    /// Posts a message and wakes the actor's thread; never blocks.
    pub fn post(&self, message: T) -> Result<(), PostError<T>> {
        self.sender.try_send(message).map_err(|error| match error {
            mpsc::TrySendError::Full(message) => PostError::Full(message),
            mpsc::TrySendError::Disconnected(message) => PostError::Gone(message),
        })?;
        if !self.rung.swap(true, Ordering::SeqCst) {
            self.inbox.push(Letter::Mail(self.actor));
        }
        Ok(())
    }
}

/// The receiving end: belongs to the actor, which empties it in [`Actor::mail`].
pub struct Inlet<T> {
    receiver: mpsc::Receiver<T>,
    rung: Arc<AtomicBool>,
}

impl<T> Inlet<T> {
    /// The next message. Call it until it gives `None`.
    pub fn take(&mut self) -> Option<T> {
        if let Ok(message) = self.receiver.try_recv() {
            return Some(message);
        }
        // From here on a sender rings again; what was posted before that is seen by the second look.
        self.rung.store(false, Ordering::SeqCst);
        self.receiver.try_recv().ok()
    }
}

pub(super) fn mailbox<T>(
    inbox: Arc<Inbox>,
    actor: ActorId,
    bound: usize,
) -> (Mailbox<T>, Inlet<T>) {
    let (sender, receiver) = mpsc::sync_channel(bound);
    let rung = Arc::new(AtomicBool::new(false));
    (
        Mailbox {
            sender,
            rung: rung.clone(),
            inbox,
            actor,
        },
        Inlet { receiver, rung },
    )
}

//! Which sync of the file a flush or a stable write waits for.
//!
//! A stable write goes to the page cache first. A few syncs are under way at a time; all that come in a turn of the thread, and all
//! that come meanwhile, share the next one, so that with many at once the disk is flushed once for a batch of them. Where others left data that nobody waits for, a batch of
//! stable writes syncs only the stretch that it lies in, and does not wait for the rest.
//!
//! Invariants: a sync serves only what was in the page cache when it began. Each that runs has an open file of its own: Linux
//! reports a failed write-back once to each, and of two syncs of one open file the second would be told that all is well.
//! Not here: what a failed sync means (`store`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;

use crate::reactor::{Context, Descriptor, Token};

#[derive(Debug)]
struct Waiting {
    token: Token,
    /// `None`: everything.
    bytes: Option<Range<u64>>,
}

/// Syncs under way at once: while one waits for the disk the next batch is written back. Each has a cost of its own (a worker
/// woken, the inode written, the disk's cache flushed): with four, a write at depth 32 costs half as much again.
const SLOTS: usize = 2;

/// One sync at a time.
#[derive(Debug)]
struct Slot {
    file: Descriptor,
    /// The operation under whose token it runs, and the others that it serves.
    running: Option<(Token, Vec<Token>)>,
}

/// The syncs of one store.
#[derive(Debug)]
pub(super) struct Syncs {
    slots: Vec<Slot>,
    /// Stable writes on their way to the page cache.
    writing: BTreeMap<Token, Range<u64>>,
    waiting: Vec<Waiting>,
    /// How the sync of an operation ended that ran under another token; its alarm tells it.
    served: BTreeMap<Token, Result<(), i32>>,
    /// Data were written that no sync since has covered and nobody waits for.
    unsynced: bool,
    /// The operation whose alarm begins the next sync, at the end of the turn.
    starter: Option<Token>,
}

impl Syncs {
    /// Of an open file; one slot works on it, the others open it anew.
    pub(super) fn new(file: &Descriptor) -> Self {
        let mut slots = vec![file.clone()];
        let path = format!("/proc/self/fd/{}", file.raw());
        // Without more there are fewer at once.
        let more = (1..SLOTS).filter_map(|_| File::options().write(true).open(&path).ok());
        slots.extend(more.map(Descriptor::from));
        let slot = |file| Slot {
            file,
            running: None,
        };
        Self {
            slots: slots.into_iter().map(slot).collect(),
            writing: BTreeMap::new(),
            waiting: Vec::new(),
            served: BTreeMap::new(),
            unsynced: false,
            starter: None,
        }
    }

    /// Something is written that nobody waits to see on stable storage.
    pub(super) fn leave(&mut self) {
        self.unsynced = true;
    }

    /// A stable write of these bytes is on its way to the page cache.
    pub(super) fn begin(&mut self, token: Token, bytes: Range<u64>) {
        self.writing.insert(token, bytes);
    }

    pub(super) fn is_writing(&self, token: Token) -> bool {
        !self.writing.is_empty() && self.writing.contains_key(&token)
    }

    /// The write has failed: there is nothing to sync.
    pub(super) fn give_up(&mut self, token: Token) {
        self.writing.remove(&token);
        self.leave();
    }

    /// The write is in the page cache.
    pub(super) fn written(&mut self, cx: &mut Context<'_>, token: Token) {
        if let Some(bytes) = self.writing.remove(&token) {
            let bytes = Some(bytes);
            self.wait(cx, Waiting { token, bytes });
        }
    }

    /// All that is in the page cache is to be on stable storage.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, token: Token) {
        self.wait(cx, Waiting { token, bytes: None });
    }

    /// Not at once: what comes with it in this turn shares its sync.
    fn wait(&mut self, cx: &mut Context<'_>, waiting: Waiting) {
        if self.starter.is_none() && self.slots.iter().any(|slot| slot.running.is_none()) {
            self.starter = Some(waiting.token);
            cx.alarm(cx.now(), waiting.token);
        }
        self.waiting.push(waiting);
    }

    /// Whether the alarm of this operation begins a sync; then it has.
    pub(super) fn starts(&mut self, cx: &mut Context<'_>, token: Token) -> bool {
        let starts = self.starter == Some(token);
        if starts {
            self.starter = None;
            self.next(cx);
        }
        starts
    }

    fn next(&mut self, cx: &mut Context<'_>) {
        if self.waiting.is_empty() {
            return;
        }
        let stretch = if self.unsynced { self.stretch() } else { None };
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.running.is_none()) else {
            return;
        };
        let mut tokens = self.waiting.drain(..).map(|waiting| waiting.token);
        let Some(leader) = tokens.next() else { return };
        slot.running = Some((leader, tokens.collect()));
        let part = stretch.and_then(|bytes| {
            let len = u32::try_from(bytes.end - bytes.start).ok()?;
            Some((bytes.start, len))
        });
        match part {
            Some((offset, len)) => {
                cx.sync_range(&slot.file, offset, len, leader);
            }
            None => {
                self.unsynced = false;
                cx.sync(&slot.file, leader);
            }
        }
    }

    /// What all that wait lie in; `None` if one of them waits for everything.
    fn stretch(&self) -> Option<Range<u64>> {
        let mut all = self.waiting.first()?.bytes.clone()?;
        for waiting in &self.waiting {
            let bytes = waiting.bytes.as_ref()?;
            all = all.start.min(bytes.start)..all.end.max(bytes.end);
        }
        Some(all)
    }

    pub(super) fn is_running(&self, token: Token) -> bool {
        self.slot_of(token).is_some()
    }

    fn slot_of(&self, token: Token) -> Option<usize> {
        let runs = |slot: &Slot| {
            let running = slot.running.as_ref();
            running.is_some_and(|(leader, _)| *leader == token)
        };
        self.slots.iter().position(runs)
    }

    /// The sync under this token has ended; those that it served are told by an alarm of theirs.
    pub(super) fn ended(&mut self, cx: &mut Context<'_>, token: Token, result: &io::Result<()>) {
        let Some(slot) = self.slot_of(token) else {
            return;
        };
        let Some((_, others)) = self.slots[slot].running.take() else {
            return;
        };
        let code = |error: &io::Error| error.raw_os_error().unwrap_or(libc::EIO);
        for other in others {
            self.served
                .insert(other, result.as_ref().copied().map_err(code));
            cx.alarm(cx.now(), other);
        }
        self.next(cx);
    }

    /// How the sync went that served this operation under another token.
    pub(super) fn served(&mut self, token: Token) -> Option<io::Result<()>> {
        let result = self.served.remove(&token)?;
        Some(result.map_err(io::Error::from_raw_os_error))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::reactor::{Actor, Event, Thread, ThreadConfig};

    /// Five stable writes in one turn; tells what becomes of each.
    struct Burst {
        syncs: Syncs,
        told: mpsc::Sender<(u64, &'static str)>,
    }

    impl Actor for Burst {
        fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
            let what = match event {
                Event::Done(result) => {
                    self.syncs.ended(cx, token, &result);
                    "synced"
                }
                _ if self.syncs.starts(cx, token) => return,
                _ => self.syncs.served(token).map_or("nothing", |_| "served"),
            };
            self.told.send((token.0, what)).expect("the test waits");
        }
    }

    #[test]
    fn writes_of_one_turn_share_one_sync() {
        let file = tempfile::tempfile().expect("a file");
        let (told, hear) = mpsc::channel();
        let thread = Thread::spawn(ThreadConfig::default()).expect("io_uring is there");
        thread.start(thread.reserve(), move |cx| {
            let mut syncs = Syncs::new(&file.into());
            for token in 1..=5 {
                syncs.begin(Token(token), 0..4096);
                syncs.written(cx, Token(token));
            }
            Box::new(Burst { syncs, told })
        });
        let next = || hear.recv_timeout(Duration::from_secs(10)).expect("told");
        let all: Vec<_> = (0..5).map(|_| next()).collect();
        thread.stop();
        thread.join();
        assert_eq!(
            all,
            [
                (1, "synced"),
                (2, "served"),
                (3, "served"),
                (4, "served"),
                (5, "served")
            ]
        );
    }

    #[test]
    fn a_batch_lies_in_the_stretch_of_its_writes_unless_one_is_a_flush() {
        let file = File::open("/dev/null").expect("opens");
        let mut syncs = Syncs::new(&file.into());
        assert_eq!(syncs.stretch(), None);
        for bytes in [8192..12288, 0..4096, 4096..8192] {
            let (token, bytes) = (Token(bytes.start), Some(bytes));
            syncs.waiting.push(Waiting { token, bytes });
        }
        assert_eq!(syncs.stretch(), Some(0..12288));
        let flush = Waiting {
            token: Token(1),
            bytes: None,
        };
        syncs.waiting.push(flush);
        assert_eq!(syncs.stretch(), None);
    }
}

//! Which sync of the file a flush or a stable write waits for.
//!
//! A stable write goes to the page cache first. A few syncs are under way at a time; all that come in a turn of the thread, and all
//! that come meanwhile, share the next one, so that with many at once the disk is flushed once for a batch of them. Where others left data that nobody waits for, a batch of
//! stable writes syncs only the stretch that it lies in, and does not wait for the rest.
//!
//! **One write alone** is synced by the data thread itself, where that is allowed (see [`Syncs::sync_at_once`]): a trip to a worker
//! of the ring wakes two threads, which is a tenth of what such a write takes. The thread serves nobody meanwhile, so it does so only
//! when it has just been idle, and not for a while after a sync that took long. A disk that hangs keeps the thread all the same, so
//! it is for a target by hand: the threads that serve legs are shared by pools, and the control plane waits for them.
//!
//! Invariants: a sync serves only what was in the page cache when it began. Each that runs has an open file of its own: Linux
//! reports a failed write-back once to each, and of two syncs of one open file the second would be told that all is well.
//! Not here: what a failed sync means (`store`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::reactor::{Context, Descriptor, Token, boottime};

#[derive(Debug)]
struct Waiting {
    token: Token,
    /// `None`: everything.
    bytes: Option<Range<u64>>,
}

/// Syncs under way at once: while one waits for the disk the next batch is written back. Each has a cost of its own (a worker
/// woken, the inode written, the disk's cache flushed): with four, a write at depth 32 costs half as much again.
const SLOTS: usize = 2;

/// A thread that waited less for its turn has others to serve: the next command of one initiator takes longer to come.
const IDLE: Duration = Duration::from_micros(10);
/// A sync that took longer is paid back: workers do it for as long that the thread waits a hundredth of its time at the most. A disk
/// that is always slow, or hangs, is theirs.
const SHORT: Duration = Duration::from_millis(1);
const PAID_BACK: u32 = 100;

/// Leave for the data thread to sync by itself.
#[derive(Debug)]
struct AtOnce {
    one_disk: Arc<AtomicBool>,
    after: Duration,
}

impl AtOnce {
    fn took(&mut self, time: Duration, now: Duration) {
        if time > SHORT {
            self.after = now + time * PAID_BACK;
        }
    }
}

/// What the alarm of an operation has done.
#[derive(Debug)]
pub(super) enum Started {
    /// A sync is under way.
    Runs,
    /// The operation is over.
    Ended(io::Result<()>),
}

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
    at_once: Option<AtOnce>,
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
            at_once: None,
        }
    }

    /// The data thread may sync by itself, as long as all that is served lies on one disk: one that hangs stops nobody else.
    pub(super) fn sync_at_once(&mut self, one_disk: Arc<AtomicBool>) {
        let after = Duration::ZERO;
        self.at_once = Some(AtOnce { one_disk, after });
    }

    #[cfg(test)]
    pub(super) fn may_sync_at_once(&self) -> bool {
        self.at_once.is_some()
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

    /// What the alarm of this operation has begun, if it is one that does.
    pub(super) fn starts(&mut self, cx: &mut Context<'_>, token: Token) -> Option<Started> {
        if self.starter != Some(token) {
            return None;
        }
        self.starter = None;
        if self.is_alone(token)
            && cx.rested() >= IDLE
            && let Some(result) = self.now()
        {
            self.waiting.clear();
            return Some(Started::Ended(result));
        }
        self.next(cx);
        Some(Started::Runs)
    }

    /// Whether this operation is all that is to be synced.
    fn is_alone(&self, token: Token) -> bool {
        let alone = matches!(&self.waiting[..], [one] if one.token == token);
        alone && !self.unsynced && self.writing.is_empty() && !self.is_any_running()
    }

    fn is_any_running(&self) -> bool {
        self.slots.iter().any(|slot| slot.running.is_some())
    }

    /// Syncs here, if that is allowed.
    fn now(&mut self) -> Option<io::Result<()>> {
        let at_once = self.at_once.as_mut()?;
        let slot = self.slots.first()?;
        let begun = boottime();
        if begun < at_once.after || !at_once.one_disk.load(Ordering::Relaxed) {
            return None;
        }
        let result = slot.file.sync_now();
        let ended = boottime();
        at_once.took(ended - begun, ended);
        Some(result)
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

    /// Stable writes in one turn, once the thread has rested; tells what becomes of each.
    struct Burst {
        syncs: Syncs,
        writes: u64,
        told: mpsc::Sender<(u64, &'static str)>,
    }

    impl Actor for Burst {
        fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
            if token == Token(0) {
                for token in 1..=self.writes {
                    self.syncs.begin(Token(token), 0..4096);
                    self.syncs.written(cx, Token(token));
                }
                return;
            }
            let what = match event {
                Event::Done(result) => {
                    self.syncs.ended(cx, token, &result);
                    "synced"
                }
                _ => match self.syncs.starts(cx, token) {
                    Some(Started::Runs) => return,
                    Some(Started::Ended(result)) => result.map_or("failed", |()| "at once"),
                    None => self.syncs.served(token).map_or("nothing", |_| "served"),
                },
            };
            self.told.send((token.0, what)).expect("the test waits");
        }
    }

    /// What becomes of so many writes.
    fn burst(writes: u64, one_disk: Option<bool>) -> Vec<(u64, &'static str)> {
        let file = tempfile::tempfile().expect("a file");
        let (told, hear) = mpsc::channel();
        let thread = Thread::spawn(ThreadConfig::default()).expect("io_uring is there");
        thread.start(thread.reserve(), move |cx| {
            let mut syncs = Syncs::new(&file.into());
            if let Some(one_disk) = one_disk {
                syncs.sync_at_once(Arc::new(AtomicBool::new(one_disk)));
            }
            cx.alarm(cx.now() + Duration::from_millis(20), Token(0));
            Box::new(Burst {
                syncs,
                writes,
                told,
            })
        });
        let next = |_| hear.recv_timeout(Duration::from_secs(10)).expect("told");
        let all = (0..writes).map(next).collect();
        thread.stop();
        thread.join();
        all
    }

    #[test]
    fn writes_of_one_turn_share_one_sync() {
        for one_disk in [None, Some(true)] {
            assert_eq!(
                burst(5, one_disk),
                [
                    (1, "synced"),
                    (2, "served"),
                    (3, "served"),
                    (4, "served"),
                    (5, "served")
                ]
            );
        }
    }

    #[test]
    fn a_write_alone_is_synced_at_once_where_no_other_disk_waits_for_the_thread() {
        assert_eq!(burst(1, Some(true)), [(1, "at once")]);
        assert_eq!(burst(1, Some(false)), [(1, "synced")]);
        assert_eq!(burst(1, None), [(1, "synced")]);
    }

    #[test]
    fn a_write_is_not_alone_beside_others_or_what_nobody_waits_for() {
        let file = File::open("/dev/null").expect("opens");
        let syncs = || {
            let mut syncs = Syncs::new(&file.try_clone().expect("a file").into());
            let (token, bytes) = (Token(1), Some(0..4096));
            syncs.waiting.push(Waiting { token, bytes });
            syncs
        };
        assert!(syncs().is_alone(Token(1)));
        assert!(!syncs().is_alone(Token(2)));
        let mut left = syncs();
        left.leave();
        let mut writing = syncs();
        writing.begin(Token(2), 0..4096);
        let mut running = syncs();
        running.slots[0].running = Some((Token(2), Vec::new()));
        for syncs in [left, writing, running] {
            assert!(!syncs.is_alone(Token(1)), "{syncs:?}");
        }
    }

    #[test]
    fn after_a_sync_that_took_long_workers_do_it() {
        let file = tempfile::tempfile().expect("a file");
        let mut syncs = Syncs::new(&file.into());
        assert!(syncs.now().is_none(), "nobody has allowed it");
        syncs.sync_at_once(Arc::new(AtomicBool::new(true)));
        assert!(syncs.now().is_some());
        let at_once = syncs.at_once.as_mut().expect("allowed");
        // The disk of the test may have been slow itself.
        at_once.after = Duration::ZERO;
        at_once.took(SHORT, boottime());
        assert_eq!(at_once.after, Duration::ZERO);
        at_once.took(SHORT * 2, boottime());
        assert!(syncs.now().is_none());
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

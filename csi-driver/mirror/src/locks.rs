//! Who may touch which bytes of the volume now.
//!
//! One table of intervals serves both locks of the protocol. A guest write holds its bytes until every leg it was sent to
//! is done with it, so that two writes to one block keep their order on each leg. A copy holds whole regions from before
//! the read of the source until the target's write is durable, so that it can never put old data over a newer write
//! (R36): that is the exclusive region lock, and the writes inside the region are its shared holders. A read waits for
//! writes under way on its bytes: what it returns is then on every member, or was never promised to anybody (I5).
//!
//! | held \ asked | read | write | copy |
//! |---|---|---|---|
//! | read | - | waits | - |
//! | write | waits | waits | waits |
//! | copy | - | waits | waits |
//!
//! Invariant: two granted intervals that overlap are compatible by this table. Waiting is fair: nobody passes an earlier
//! waiter that he conflicts with.

use std::collections::{BTreeMap, VecDeque};

/// What the interval is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    Copy,
}

impl Access {
    const fn conflicts(self, other: Self) -> bool {
        match (self, other) {
            (Self::Write, _) | (_, Self::Write) | (Self::Copy, Self::Copy) => true,
            (Self::Read, Self::Read | Self::Copy) | (Self::Copy, Self::Read) => false,
        }
    }
}

/// A lock that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lock<T> {
    pub(crate) owner: T,
    pub(crate) access: Access,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl<T> Lock<T> {
    const fn overlaps(&self, offset: u64, len: u64) -> bool {
        self.offset < offset + len && offset < self.offset + self.len
    }

    fn conflicts<U>(&self, other: &Lock<U>) -> bool {
        self.access.conflicts(other.access) && self.overlaps(other.offset, other.len)
    }
}

/// The table of held and waiting intervals. The number of both is bounded by the callers' permits.
#[derive(Debug)]
pub(crate) struct Locks<T> {
    held: BTreeMap<(u64, u64), Lock<T>>,
    waiting: VecDeque<Lock<T>>,
    /// Longest interval ever granted: bounds the look backwards.
    longest: u64,
    ticket: u64,
}

/// Names a held interval for its release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held(u64, u64);

impl<T: Copy + PartialEq> Locks<T> {
    pub(crate) const fn new() -> Self {
        Self {
            held: BTreeMap::new(),
            waiting: VecDeque::new(),
            longest: 0,
            ticket: 0,
        }
    }

    /// Grant at once, or queue: then [`Self::release`] hands the lock out later.
    pub(crate) fn acquire(&mut self, lock: Lock<T>) -> Option<Held> {
        if self.waiting.iter().any(|w| w.conflicts(&lock)) || self.is_blocked(&lock) {
            self.waiting.push_back(lock);
            return None;
        }
        Some(self.grant(lock))
    }

    /// Give an interval back; every waiter that can go now is put on `granted`.
    pub(crate) fn release(&mut self, held: Held, granted: &mut Vec<(T, Held)>) {
        self.held
            .remove(&(held.0, held.1))
            .expect("an interval is released once");
        if !self.waiting.is_empty() {
            self.wake(granted);
        }
    }

    /// Forget a waiter; others may go now.
    pub(crate) fn cancel(&mut self, owner: T, granted: &mut Vec<(T, Held)>) {
        self.waiting.retain(|w| w.owner != owner);
        self.wake(granted);
    }

    /// Is a write under way, or waiting, on any of these bytes?
    pub(crate) fn writing(&self, offset: u64, len: u64) -> bool {
        let probe = Lock {
            owner: (),
            access: Access::Read,
            offset,
            len,
        };
        self.near(&probe).any(|h| h.conflicts(&probe))
            || self.waiting.iter().any(|w| w.conflicts(&probe))
    }

    fn near<U>(&self, lock: &Lock<U>) -> impl Iterator<Item = &Lock<T>> {
        let from = lock.offset.saturating_sub(self.longest);
        self.held
            .range((from, 0)..(lock.offset + lock.len, 0))
            .map(|(_, held)| held)
    }

    fn is_blocked(&self, lock: &Lock<T>) -> bool {
        self.near(lock).any(|held| held.conflicts(lock))
    }

    fn grant(&mut self, lock: Lock<T>) -> Held {
        self.ticket += 1;
        self.longest = self.longest.max(lock.len);
        let held = Held(lock.offset, self.ticket);
        self.held.insert((held.0, held.1), lock);
        held
    }

    fn wake(&mut self, granted: &mut Vec<(T, Held)>) {
        let mut at = 0;
        while let Some(&lock) = self.waiting.get(at) {
            let behind = self.waiting.iter().take(at).any(|w| w.conflicts(&lock));
            if behind || self.is_blocked(&lock) {
                at += 1;
                continue;
            }
            self.waiting.remove(at);
            let held = self.grant(lock);
            granted.push((lock.owner, held));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(owner: u32, access: Access, offset: u64, len: u64) -> Lock<u32> {
        Lock {
            owner,
            access,
            offset,
            len,
        }
    }

    #[test]
    fn overlapping_writes_go_one_after_the_other_in_order() {
        let mut locks = Locks::new();
        let mut granted = Vec::new();
        let first = locks.acquire(lock(1, Access::Write, 0, 8)).unwrap();
        assert!(locks.acquire(lock(2, Access::Write, 4, 8)).is_none());
        assert!(
            locks.acquire(lock(3, Access::Write, 8, 8)).is_none(),
            "3 may not pass 2"
        );
        assert!(locks.acquire(lock(4, Access::Write, 16, 8)).is_some());
        locks.release(first, &mut granted);
        assert_eq!(granted.iter().map(|g| g.0).collect::<Vec<_>>(), [2]);
        let second = granted.pop().unwrap().1;
        locks.release(second, &mut granted);
        assert_eq!(granted.iter().map(|g| g.0).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_copy_waits_for_the_writes_of_its_region_and_keeps_new_ones_out() {
        let mut locks = Locks::new();
        let mut granted = Vec::new();
        let write = locks
            .acquire(lock(1, Access::Write, 65536 + 4096, 4096))
            .unwrap();
        assert!(locks.acquire(lock(2, Access::Copy, 65536, 65536)).is_none());
        assert!(locks.acquire(lock(3, Access::Write, 65536, 4096)).is_none());
        assert!(
            locks
                .acquire(lock(4, Access::Read, 65536 + 8192, 4096))
                .is_some()
        );
        locks.release(write, &mut granted);
        assert_eq!(granted.iter().map(|g| g.0).collect::<Vec<_>>(), [2]);
        assert!(
            locks.acquire(lock(5, Access::Read, 65536, 4096)).is_none(),
            "not past the waiting write"
        );
    }

    #[test]
    fn a_read_waits_for_a_write_under_way_on_its_bytes() {
        let mut locks = Locks::new();
        let mut granted = Vec::new();
        let write = locks.acquire(lock(1, Access::Write, 0, 4096)).unwrap();
        assert!(locks.acquire(lock(2, Access::Read, 0, 65536)).is_none());
        assert!(locks.writing(0, 65536) && !locks.writing(4096, 4096));
        locks.release(write, &mut granted);
        assert_eq!(granted.len(), 1);
        assert!(!locks.writing(0, 65536));
    }

    #[test]
    fn a_cancelled_waiter_lets_those_behind_it_go() {
        let mut locks = Locks::new();
        let mut granted = Vec::new();
        let _read = locks.acquire(lock(1, Access::Read, 0, 4096)).unwrap();
        assert!(locks.acquire(lock(2, Access::Write, 0, 4096)).is_none());
        assert!(locks.acquire(lock(3, Access::Read, 0, 4096)).is_none());
        locks.cancel(2, &mut granted);
        assert_eq!(granted.iter().map(|g| g.0).collect::<Vec<_>>(), [3]);
    }
}

//! Which object is reconciled next: a keyed queue with debounce, due times and back-off.
//!
//! Invariants: a key is worked on by one worker at a time; what happens to it meanwhile makes it due again, once;
//! many changes in a row are one piece of work. The queue is as long as there are keys, never longer.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    fmt,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// How long changes of one object are gathered before it is looked at.
pub const DEBOUNCE: Duration = Duration::from_millis(25);
/// First and longest wait after a failure.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What a worker says of a key it has worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Look again after this time even if nothing changes.
    Again(Duration),
    /// Look again when something changes.
    Settled,
    /// It did not work: look again after a growing wait, or when something changes.
    Failed,
}

/// See the module.
pub struct Queue<K> {
    inner: Mutex<Inner<K>>,
    changed: Notify,
}

struct Inner<K> {
    due: BTreeSet<(Instant, u64)>,
    keys: HashMap<u64, K>,
    slots: HashMap<K, Slot>,
    next: u64,
    closed: bool,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    number: u64,
    waiting: Option<Instant>,
    running: bool,
    again: Option<Instant>,
    failures: u32,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl<K> Default for Inner<K> {
    fn default() -> Self {
        Self {
            due: BTreeSet::new(),
            keys: HashMap::new(),
            slots: HashMap::new(),
            next: 0,
            closed: false,
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    fn inner(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something about this key changed.
    pub fn add(&self, key: K) {
        self.add_after(key, DEBOUNCE);
    }

    /// Look at this key after a time, or earlier if something changes.
    pub fn add_after(&self, key: K, wait: Duration) {
        if self.inner().schedule(key, Instant::now() + wait) {
            self.changed.notify_one();
        }
    }

    /// The next key that is due; `None` once the queue is closed.
    pub async fn take(&self) -> Option<K> {
        loop {
            let wait = {
                let mut inner = self.inner();
                if inner.closed {
                    return None;
                }
                match inner.pop(Instant::now()) {
                    Ok(key) => {
                        // Another one may be due for the next worker.
                        self.changed.notify_one();
                        return Some(key);
                    }
                    Err(wait) => wait,
                }
            };
            let changed = self.changed.notified();
            match wait {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = changed => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    /// A worker is through with a key that it took.
    pub fn done(&self, key: &K, outcome: Outcome) {
        self.inner().done(key, outcome, Instant::now());
        self.changed.notify_one();
    }

    /// No worker gets a key any more.
    pub fn close(&self) {
        self.inner().closed = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// Keys that wait for their time or are worked on.
    pub fn len(&self) -> usize {
        self.inner().slots.len()
    }

    /// Whether nothing waits and nothing is worked on.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys that are due and wait for a worker.
    pub fn backlog(&self) -> usize {
        let now = Instant::now();
        self.inner()
            .due
            .iter()
            .take_while(|(at, _)| at.cmp(&now) != Ordering::Greater)
            .count()
    }
}

impl<K: Clone + Eq + Hash> Inner<K> {
    /// Whether a sleeping worker must hear of it.
    fn schedule(&mut self, key: K, at: Instant) -> bool {
        let next = self.next;
        let slot = self.slots.entry(key.clone()).or_insert_with(|| Slot {
            number: next,
            ..Slot::default()
        });
        if slot.number == next {
            self.next += 1;
            self.keys.insert(next, key);
        }
        if slot.running {
            slot.again = Some(slot.again.map_or(at, |known| known.min(at)));
            return false;
        }
        match slot.waiting {
            Some(known) if known <= at => false,
            known => {
                if let Some(known) = known {
                    self.due.remove(&(known, slot.number));
                }
                slot.waiting = Some(at);
                self.due.insert((at, slot.number));
                true
            }
        }
    }

    fn done(&mut self, key: &K, outcome: Outcome, now: Instant) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        slot.running = false;
        let again = slot.again.take();
        let wanted = match outcome {
            Outcome::Settled => {
                slot.failures = 0;
                None
            }
            Outcome::Again(wait) => {
                slot.failures = 0;
                Some(now + wait)
            }
            Outcome::Failed => {
                let wait = BACKOFF.0.saturating_mul(1 << slot.failures.min(10));
                slot.failures = slot.failures.saturating_add(1);
                Some(now + wait.min(BACKOFF.1))
            }
        };
        let number = slot.number;
        let earliest = match (again, wanted) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        match earliest {
            Some(at) => {
                self.schedule(key.clone(), at);
            }
            None => {
                self.slots.remove(key);
                self.keys.remove(&number);
            }
        }
    }

    /// A due key, or how long to wait.
    fn pop(&mut self, now: Instant) -> Result<K, Option<Instant>> {
        let Some(&(at, number)) = self.due.first() else {
            return Err(None);
        };
        if at > now {
            return Err(Some(at));
        }
        self.due.remove(&(at, number));
        let key = self.keys.get(&number).cloned().ok_or(None)?;
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.waiting = None;
            slot.running = true;
        }
        Ok(key)
    }
}

impl<K> fmt::Debug for Queue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the next key when it is due, and says when that was.
    fn next(queue: &mut Inner<&'static str>, mut now: Instant) -> (&'static str, Instant) {
        loop {
            match queue.pop(now) {
                Ok(key) => return (key, now),
                Err(at) => now = at.expect("something waits"),
            }
        }
    }

    #[test]
    fn many_changes_in_a_row_are_one_piece_of_work() {
        let (mut queue, now) = (Inner::default(), Instant::now());
        for ms in 0..10 {
            queue.schedule("a", now + DEBOUNCE + Duration::from_millis(ms));
        }
        assert_eq!(next(&mut queue, now), ("a", now + DEBOUNCE));
        queue.done(&"a", Outcome::Settled, now);
        assert_eq!(queue.pop(now + BACKOFF.1), Err(None));
        assert!(queue.slots.is_empty() && queue.keys.is_empty() && queue.due.is_empty());
    }

    #[test]
    fn a_change_during_the_work_makes_it_due_again_and_never_runs_it_twice_at_once() {
        let (mut queue, now) = (Inner::default(), Instant::now());
        queue.schedule("a", now);
        assert_eq!(queue.pop(now), Ok("a"));
        queue.schedule("a", now);
        queue.schedule("a", now);
        assert_eq!(
            queue.pop(now + BACKOFF.1),
            Err(None),
            "it is still being worked on"
        );
        queue.done(&"a", Outcome::Settled, now);
        assert_eq!(queue.pop(now), Ok("a"));
        queue.done(&"a", Outcome::Settled, now);
        assert_eq!(queue.pop(now), Err(None));
    }

    #[test]
    fn failures_wait_longer_each_time_up_to_a_bound_and_a_change_cuts_the_wait_short() {
        let (mut queue, mut now) = (Inner::default(), Instant::now());
        queue.schedule("a", now);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let (_, at) = next(&mut queue, now);
            waits.push((at - now).as_millis());
            now = at;
            queue.done(&"a", Outcome::Failed, now);
        }
        assert_eq!(waits, [0, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        queue.schedule("a", now + DEBOUNCE);
        assert_eq!(next(&mut queue, now), ("a", now + DEBOUNCE));
        queue.done(&"a", Outcome::Settled, now);
        queue.schedule("a", now);
        queue.pop(now).unwrap();
        queue.done(&"a", Outcome::Failed, now);
        assert_eq!(next(&mut queue, now).1, now + BACKOFF.0);
    }

    #[test]
    fn the_earliest_is_taken_first() {
        let (mut queue, now) = (Inner::default(), Instant::now());
        queue.schedule("late", now + Duration::from_secs(5));
        queue.schedule("early", now + Duration::from_secs(1));
        assert_eq!(next(&mut queue, now).0, "early");
        assert_eq!(next(&mut queue, now).0, "late");
    }

    #[tokio::test]
    async fn a_worker_that_sleeps_hears_of_new_work_and_of_the_end() {
        let queue = std::sync::Arc::new(Queue::default());
        let worker = tokio::spawn({
            let queue = std::sync::Arc::clone(&queue);
            async move { (queue.take().await, queue.take().await) }
        });
        tokio::task::yield_now().await;
        queue.add("a");
        tokio::time::sleep(DEBOUNCE * 4).await;
        queue.close();
        let taken = tokio::time::timeout(Duration::from_secs(10), worker).await;
        assert_eq!(taken.unwrap().unwrap(), (Some("a"), None));
    }
}

//! When which register is read: each within its interval, spread out, sooner when something is under way.
//!
//! Pure: the time is an argument. Not here: the reading ([`super::access`]).

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;
use twinsite_register::GroupId;

/// How often a register is read while nothing happens (protocol 2.3 rule 6).
pub const IDLE: Duration = Duration::from_secs(10);
/// How often while something is under way.
pub const BUSY: Duration = Duration::from_secs(1);
/// First reads after a start are spread over this time per this many registers.
const SPREAD: (Duration, u32) = (Duration::from_millis(5), 1);

/// Whether something is under way with a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    #[default]
    Idle,
    Busy,
}

/// The registers of one pair, by the time of their next read.
#[derive(Debug, Default)]
pub struct Schedule {
    due: BTreeSet<(Instant, GroupId)>,
    groups: HashMap<GroupId, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    due: Option<Instant>,
    pace: Pace,
    /// It became interesting while it was being read.
    again: bool,
}

impl Schedule {
    /// Reads this register from now on.
    pub fn add(&mut self, now: Instant, group: GroupId) {
        if self.groups.contains_key(&group) {
            return;
        }
        let waiting = u32::try_from(self.groups.len()).unwrap_or(u32::MAX) / SPREAD.1;
        let at = now + SPREAD.0.saturating_mul(waiting).min(IDLE);
        self.groups.insert(
            group,
            Entry {
                due: Some(at),
                pace: Pace::Idle,
                again: false,
            },
        );
        self.due.insert((at, group));
    }

    /// Reads it no more.
    pub fn remove(&mut self, group: GroupId) {
        if let Some(entry) = self.groups.remove(&group)
            && let Some(due) = entry.due
        {
            self.due.remove(&(due, group));
        }
    }

    /// Reads it at this pace.
    pub fn pace(&mut self, now: Instant, group: GroupId, pace: Pace) {
        let Some(entry) = self.groups.get_mut(&group) else {
            return;
        };
        entry.pace = pace;
        if pace == Pace::Busy && entry.due.is_some_and(|due| due > now + BUSY) {
            self.move_to(group, now + BUSY);
        }
    }

    /// Reads it now.
    pub fn hurry(&mut self, now: Instant, group: GroupId) {
        match self.groups.get_mut(&group) {
            Some(entry) if entry.due.is_none() => entry.again = true,
            Some(_) => self.move_to(group, now),
            None => {}
        }
    }

    fn move_to(&mut self, group: GroupId, at: Instant) {
        if let Some(entry) = self.groups.get_mut(&group) {
            if let Some(due) = entry.due {
                self.due.remove(&(due, group));
            }
            entry.due = Some(at);
            self.due.insert((at, group));
        }
    }

    /// A register to read now; [`Self::read`] must follow.
    pub fn take(&mut self, now: Instant) -> Option<GroupId> {
        let &(at, group) = self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, group));
        if let Some(entry) = self.groups.get_mut(&group) {
            entry.due = None;
        }
        Some(group)
    }

    /// It was read, or could not be.
    pub fn read(&mut self, now: Instant, group: GroupId) {
        let Some(entry) = self.groups.get_mut(&group) else {
            return;
        };
        let wait = match (std::mem::take(&mut entry.again), entry.pace) {
            (true, _) => Duration::ZERO,
            (false, Pace::Busy) => BUSY,
            (false, Pace::Idle) => IDLE,
        };
        self.move_to(group, now + wait);
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether it is read at all.
    pub fn contains(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n: u8) -> GroupId {
        GroupId([n; 16])
    }

    fn taken(schedule: &mut Schedule, now: Instant) -> Vec<u8> {
        std::iter::from_fn(|| schedule.take(now))
            .map(|group| group.0[0])
            .collect()
    }

    #[test]
    fn first_reads_are_spread_and_later_ones_come_each_ten_seconds() {
        let (start, mut schedule) = (Instant::now(), Schedule::default());
        for n in 0..3 {
            schedule.add(start, group(n));
        }
        assert_eq!(taken(&mut schedule, start), [0]);
        let later = start + Duration::from_millis(10);
        assert_eq!(taken(&mut schedule, later), [1, 2]);
        for n in 0..3 {
            schedule.read(later, group(n));
        }
        assert!(taken(&mut schedule, later + Duration::from_secs(9)).is_empty());
        assert_eq!(taken(&mut schedule, later + IDLE), [0, 1, 2]);
    }

    #[test]
    fn one_with_something_under_way_is_read_each_second() {
        let (start, mut schedule) = (Instant::now(), Schedule::default());
        schedule.add(start, group(1));
        taken(&mut schedule, start);
        schedule.read(start, group(1));
        schedule.pace(start, group(1), Pace::Busy);
        assert_eq!(schedule.next(), Some(start + BUSY));
        taken(&mut schedule, start + BUSY);
        schedule.read(start + BUSY, group(1));
        assert_eq!(schedule.next(), Some(start + BUSY * 2));
    }

    #[test]
    fn one_that_changed_while_it_was_read_is_read_again_at_once() {
        let (start, mut schedule) = (Instant::now(), Schedule::default());
        schedule.add(start, group(1));
        taken(&mut schedule, start);
        schedule.hurry(start, group(1));
        assert_eq!(schedule.next(), None, "it is being read");
        schedule.read(start, group(1));
        assert_eq!(taken(&mut schedule, start), [1]);
        schedule.remove(group(1));
        schedule.read(start, group(1));
        assert_eq!(schedule.next(), None);
    }
}

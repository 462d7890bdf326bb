//! Logins that wait until nothing of the past can reach the medium any more.
//!
//! An initiator that lost its connection logs in again and repeats what was not answered. A write of the lost session may still
//! be on its way to the medium then; once the login is answered, it could land on top of a newer one. So a login waits for every
//! store operation that was under way when it came. Which session started them is not asked: they end soon, and one that does not
//! end is exactly the one to wait for.

use std::collections::BTreeSet;

/// Logins in order of arrival, each with the operations it waits for.
#[derive(Debug)]
pub(super) struct Admissions<T> {
    waiting: Vec<(T, BTreeSet<usize>)>,
}

impl<T> Default for Admissions<T> {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
        }
    }
}

impl<T> Admissions<T> {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A login waits for these operations (numbers that are not used again while they are under way).
    pub(super) fn wait(&mut self, login: T, operations: impl IntoIterator<Item = usize>) {
        self.waiting.push((login, operations.into_iter().collect()));
    }

    /// An operation has ended. Cheap when nobody waits.
    pub(super) fn ended(&mut self, operation: usize) {
        for (_, operations) in &mut self.waiting {
            operations.remove(&operation);
        }
    }

    /// The next login that waits for nothing any more.
    pub(super) fn next(&mut self) -> Option<T> {
        let free = self
            .waiting
            .iter()
            .position(|(_, operations)| operations.is_empty())?;
        Some(self.waiting.remove(free).0)
    }

    /// Takes out the logins that `stale` picks.
    pub(super) fn extract(&mut self, mut stale: impl FnMut(&T) -> bool) -> Vec<T> {
        let taken = self.waiting.extract_if(.., |(login, _)| stale(login));
        taken.map(|(login, _)| login).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_waits_for_what_was_under_way_and_for_nothing_later() {
        let mut admissions = Admissions::default();
        admissions.wait("a", [1, 2]);
        admissions.wait("b", []);
        assert_eq!(admissions.next(), Some("b"));
        assert_eq!(admissions.next(), None);
        admissions.ended(1);
        admissions.ended(7);
        assert_eq!(admissions.next(), None);
        admissions.ended(2);
        assert_eq!(admissions.next(), Some("a"));
        assert!(admissions.is_empty());
    }
}

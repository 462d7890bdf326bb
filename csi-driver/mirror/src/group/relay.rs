//! One request to the register for all volumes: who waits for which answer.
//!
//! Volumes that ask in the same turn ask once: an answer is as good for all of them, since each asked before the request was
//! handed out. What is asked again later goes out again, because the first one may be lost; but whoever waits for the same
//! compare-and-swap hears at once that it was won.

use std::collections::BTreeMap;

use twinsite_register::TxId;

use crate::io::{CasResult, RegisterId};

/// Answers that are waited for, each kind; of more the oldest is forgotten, and whoever waits for it asks again in time.
const MAX_OPEN: usize = 64;

type Waiters = Vec<(usize, RegisterId)>;

#[derive(Debug, Default)]
pub(super) struct Relay {
    turn: u64,
    /// With the turn in which it was handed out.
    reads: BTreeMap<RegisterId, (u64, Waiters)>,
    cas: BTreeMap<RegisterId, (u64, TxId, Waiters)>,
}

impl Relay {
    /// An input came: what was handed out before is too early for who asks now.
    pub(super) const fn turn(&mut self) {
        self.turn += 1;
    }

    /// Is a read under way that answers this one too? If not, this one is under way from now on.
    pub(super) fn joins_read(&mut self, volume: usize, id: RegisterId) -> bool {
        let turn = self.turn;
        let open = self.reads.values_mut().find(|(at, _)| *at == turn);
        if let Some((_, waiters)) = open {
            waiters.push((volume, id));
            return true;
        }
        self.reads.insert(id, (turn, vec![(volume, id)]));
        if self.reads.len() > MAX_OPEN {
            self.reads.pop_first();
        }
        false
    }

    /// The same for a compare-and-swap that proposes this transaction.
    pub(super) fn joins_cas(&mut self, volume: usize, id: RegisterId, txid: TxId) -> bool {
        let asked = (self.turn, txid);
        let open = self.cas.values_mut();
        let mut same = open.filter(|(turn, proposed, _)| (*turn, *proposed) == asked);
        if let Some((_, _, waiters)) = same.next() {
            waiters.push((volume, id));
            return true;
        }
        self.cas.insert(id, (self.turn, txid, vec![(volume, id)]));
        if self.cas.len() > MAX_OPEN {
            self.cas.pop_first();
        }
        false
    }

    /// Who waits for this read.
    pub(super) fn read_answered(&mut self, id: RegisterId) -> Waiters {
        let answered = self.reads.remove(&id);
        answered.map(|(_, waiters)| waiters).unwrap_or_default()
    }

    /// Who waits for this compare-and-swap, and if it was won for any that proposed the same.
    pub(super) fn cas_answered(&mut self, id: RegisterId, result: CasResult) -> Waiters {
        let Some((_, txid, mut waiters)) = self.cas.remove(&id) else {
            return Waiters::new();
        };
        if result == CasResult::Won {
            let same = self
                .cas
                .extract_if(.., |_, (_, proposed, _)| *proposed == txid);
            for (_, (_, _, others)) in same {
                waiters.extend(others);
            }
        }
        waiters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_answers_who_asked_before_it_was_handed_out_and_nobody_later() {
        let mut relay = Relay::default();
        relay.turn();
        assert!(!relay.joins_read(0, RegisterId(1)));
        assert!(relay.joins_read(1, RegisterId(2)));
        relay.turn();
        assert!(
            !relay.joins_read(1, RegisterId(3)),
            "asked after the first one was sent"
        );
        assert_eq!(
            relay.read_answered(RegisterId(1)),
            [(0, RegisterId(1)), (1, RegisterId(2))]
        );
        assert_eq!(relay.read_answered(RegisterId(1)), []);
        assert_eq!(relay.read_answered(RegisterId(3)), [(1, RegisterId(3))]);
    }

    #[test]
    fn the_same_request_is_sent_once_by_volumes_that_ask_together() {
        let mut relay = Relay::default();
        let (one, two) = (TxId([1; 16]), TxId([2; 16]));
        assert!(!relay.joins_cas(0, RegisterId(1), one));
        assert!(relay.joins_cas(1, RegisterId(2), one));
        assert!(!relay.joins_cas(1, RegisterId(3), two));
        let waiters = relay.cas_answered(RegisterId(1), CasResult::Unknown);
        assert_eq!(waiters.len(), 2);
        assert!(
            !relay.joins_cas(0, RegisterId(4), one),
            "repeated byte for byte"
        );
    }

    #[test]
    fn a_request_that_had_no_answer_goes_out_again_and_all_hear_that_it_was_won() {
        let mut relay = Relay::default();
        let txid = TxId([1; 16]);
        assert!(!relay.joins_cas(0, RegisterId(1), txid));
        assert!(relay.joins_cas(1, RegisterId(2), txid));
        relay.turn();
        assert!(!relay.joins_cas(0, RegisterId(3), txid));
        let mut waiters = relay.cas_answered(RegisterId(3), CasResult::Won);
        waiters.sort_unstable();
        let all = [(0, RegisterId(1)), (0, RegisterId(3)), (1, RegisterId(2))];
        assert_eq!(waiters, all);
        assert_eq!(relay.cas_answered(RegisterId(1), CasResult::Won), []);
    }

    #[test]
    fn what_is_never_answered_is_forgotten() {
        let mut relay = Relay::default();
        for n in 0..1000 {
            relay.turn();
            assert!(!relay.joins_read(0, RegisterId(n)));
            assert!(!relay.joins_cas(0, RegisterId(n), TxId((n as u128 + 1).to_le_bytes())));
        }
        assert_eq!((relay.reads.len(), relay.cas.len()), (MAX_OPEN, MAX_OPEN));
    }
}

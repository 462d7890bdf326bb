//! Invariants of protocol 2.16 that one block can show: I1, I3 (by effect), I4, I5, I8 (seq), I13, I14, I15, stale reads.

use super::Ordering;
use super::rules::Mistake;
use super::state::{Phase, State, has};
use crate::table::Role;

pub const VIOLATIONS: &[&str] = &[
    "",
    "",
    "a leg named in R lacks an acked write",
    "a leg that certifies itself (or an equal pair) lacks an acked write",
    "legs differ, R says both are members, no dirty bit anywhere",
    "stale read",
    "a value that was read has vanished",
    "flushed write missing on a member",
    "reconcile reverted a completed write",
    "an orphan request changed R under a running, stamped writer",
    "active.seq went backwards in R",
    "a request that was won or never executed was taken for lost: healthy writer killed",
];
pub const SEQ_WENT_BACK: u8 = 10;
pub const RECONCILE_REVERTED: u8 = 8;
pub const HEALTHY_WRITER_KILLED: u8 = 11;

impl Ordering {
    pub(super) fn verdict(&self, s: &State) -> u8 {
        if s.fault != 0 {
            return s.fault;
        }
        if self.config.power == 0 {
            let v = content(s);
            if v != 0 {
                return v;
            }
        }
        if (0..2).any(|x| has(s.register.members, x) && s.legs[x].data < s.flushed) {
            return 7;
        }
        let watched = |p: Phase| p.alive() && p != Phase::Attach && p != Phase::CasWait;
        let clean = s.legs[0].dirty + s.legs[1].dirty == 0;
        if s.register.members == 3
            && s.legs[0].data != s.legs[1].data
            && clean
            && !s.writers.iter().any(|w| watched(w.phase))
        {
            return 4;
        }
        for i in 0..self.config.sites.len() {
            if self.stale_read(s, i) {
                return 5;
            }
            if orphan(s, i) {
                return 9;
            }
        }
        0
    }

    fn stale_read(&self, s: &State, i: usize) -> bool {
        use Phase::*;
        let w = &s.writers[i];
        if !self.config.reads || !w.phase.serves() || w.write != 0 || w.phase == Frozen {
            return false;
        }
        let from = if w.members == 3 {
            usize::from(self.site(i))
        } else {
            usize::from(w.members - 1)
        };
        let both = w.members == 3
            || matches!(
                w.phase,
                RjNeed | Growing | Candidate | GrowWait | BumpWait | LateSwitch
            );
        let may = s.leg_links[i][from] == 2
            && (self.made(Mistake::WeType) || s.holds(i, from))
            && (!both || w.lease == 1 || self.made(Mistake::NoLease));
        may && s.legs[from].data < s.acked
    }
}

/// I1, I5 and I13: what members and self-certifying legs must hold.
fn content(s: &State) -> u8 {
    for x in 0..2 {
        let l = &s.legs[x];
        if has(s.register.members, x) && l.data < s.acked {
            return 2;
        }
        if has(s.register.members, x) && l.data < s.observed {
            return 6;
        }
        if l.role == Role::Member && l.members == 1 << x && l.data < s.acked {
            return 3;
        }
    }
    let [a, b] = &s.legs;
    let pair = |l: &super::state::LegState| l.role == Role::Member && l.members == 3;
    if pair(a) && pair(b) && a.epoch == b.epoch && a.data.min(b.data) < s.acked {
        return 3;
    }
    0
}

/// I14: R shrank under a stamped writer that still holds both legs, and no living writer did it.
fn orphan(s: &State, i: usize) -> bool {
    let w = &s.writers[i];
    w.phase == Phase::Run
        && w.stamped == 1
        && w.members == 3
        && s.holds(i, 0)
        && s.holds(i, 1)
        && s.register.epoch == w.epoch + 1
        && s.register.seq == w.seq
        && s.register.members != 3
        && !s
            .writers
            .iter()
            .any(|v| v.phase.alive() && v.key == s.register.holder)
}

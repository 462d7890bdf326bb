//! What must hold in every state of the regions model.

use super::Regions;
use super::state::{Leg, Phase, REGIONS, State};
use crate::table::Role;

pub(super) const FALSE_ALARM: u8 = 1;
pub(super) const STALE_READ: u8 = 2;
pub(super) const REFUSED_WITHOUT_CAUSE: u8 = 3;

impl Regions {
    pub(super) fn verdict(&self, s: &State) -> Option<&'static str> {
        match s.fault {
            0 => {}
            FALSE_ALARM => return Some("rollback alarm although no leg was put back (I7)"),
            STALE_READ => return Some("a read went back (I5)"),
            _ => return Some("a healthy leg was refused as Damaged"),
        }
        if s.rolled_back {
            return self.after_rollback(s);
        }
        for x in (0..2).filter(|x| s.register.members >> x & 1 == 1) {
            let l = &s.legs[x];
            for r in 0..REGIONS {
                if !self.volatile() && l.data[r] < s.acked[r] {
                    return Some("a leg named in R lacks an acked write (I1)");
                }
                if !self.volatile() && l.data[r] < s.observed[r] {
                    return Some("a value that was read has vanished (I5)");
                }
                if l.data[r] < s.flushed[r] {
                    return Some("flushed write missing on a member (I15)");
                }
            }
        }
        let [a, b] = &s.legs;
        if s.register.members == 3 && (0..REGIONS).any(|r| a.data[r] != b.data[r] && !marked(s, r))
        {
            return Some("legs differ, R says both are members, no dirty bit anywhere (I4)");
        }
        if !self.volatile() && s.legs.iter().any(|l| promotable(l) && !whole(l, s)) {
            return Some("a leg that could be promoted is half copied (I6)");
        }
        None
    }

    /// A rolled-back leg may sit in R until somebody opens it; whoever serves must not serve it. Equal legs are promised only
    /// where the beat object shows the rollback: without it a region of a write in flight at the crash, whose page had
    /// reached only the leg that was put back, differs with no trace (docs/evidence.md).
    fn after_rollback(&self, s: &State) -> Option<&'static str> {
        use Phase::*;
        let w = &s.writer;
        if matches!(
            w.phase,
            Down | AttachSb | Equalise | Frozen | ShrinkBase | ShrinkMap | ShrinkSb
        ) || self.volatile()
        {
            return None;
        }
        for r in (0..REGIONS).filter(|&r| w.pending >> r & 1 == 0) {
            if (0..2).any(|x| w.set >> x & 1 == 1 && s.legs[x].data[r] < s.acked[r]) {
                return Some("a leg that was put back is served older than acknowledged");
            }
            let differ = s.legs[0].data[r] != s.legs[1].data[r];
            if self.config.beat_object && w.set == 3 && differ && !marked(s, r) {
                return Some("after a rollback legs differ with no dirty bit anywhere (I4)");
            }
        }
        None
    }
}

fn marked(s: &State, r: usize) -> bool {
    let w = &s.writer;
    s.union_bits() >> r & 1 == 1 || w.pending >> r & 1 == 1
}

fn promotable(l: &Leg) -> bool {
    matches!(l.role, Role::Member | Role::Growing | Role::Candidate)
}

/// If the leg has a write, it has everything that was acknowledged before that write was issued.
fn whole(l: &Leg, s: &State) -> bool {
    (0..REGIONS).all(|r| {
        let (_, before) = s.issued[usize::from(l.data[r])];
        l.data[r] == 0 || (0..REGIONS).all(|q| l.data[q] >= before[q])
    })
}

//! Until when a copy had every write: what the copies of a group at one site must have in common to be of one moment.
//!
//! A member has every acknowledged write of every volume as long as the register names it, and from the shrink on none reaches
//! it before a superblock says Target. So the last membership of the run that began with the one in its superblock is the
//! moment of a copy: with volumes that have the same one, what was written after another write was acknowledged is on none of
//! them without that one.
//! A Candidate is complete, but until its grow was won each volume may lose the leg for itself and go on without it: it counts
//! from the membership that its grow made, and if there is none it is of no moment. Nor is a Target, or what never joined.
//! Not here: copies that were put back to an older state; within one epoch the beat object tells ([`OneShot::moment_of`]).

use twinsite_register::{Class, Epoch, Gen, Granted, Leg, Register, classify};

use super::{OneShot, Task};
use crate::activation::{BeatView, SbView};
use crate::layout::{Role, Superblock};

/// A membership.
pub(super) type Moment = (Epoch, Gen);

pub(super) fn moment(register: Option<&Register>, sb: &Superblock) -> Option<Moment> {
    let own = (sb.epoch, sb.generation);
    let known = register.filter(|register| register.register_id == sb.register_id);
    let granted = register.filter(|register| {
        SbView::of(sb, Some(register), BeatView::Fresh).granted || is_marked_again(register, sb)
    });
    if let Some(register) = granted.filter(|register| register.members.contains(sb.leg)) {
        // A person named it: it is what the leg has at this epoch.
        return Some((register.epoch, register.generation));
    }
    let memberships = known.map_or_else(Vec::new, |register| {
        let earlier = register.parents.iter().rev();
        let mut all: Vec<_> = earlier
            .map(|parent| (parent.epoch, parent.generation, parent.members))
            .collect();
        all.push((register.epoch, register.generation, register.members));
        all
    });
    let at = memberships
        .iter()
        .position(|(epoch, generation, _)| (*epoch, *generation) == own);
    let begin = match (sb.role, at) {
        (Role::New | Role::Target, _) | (Role::Candidate, None) => return None,
        // So long ago that the register has forgotten it.
        (Role::Member | Role::Growing, None) => {
            return sb.members.contains(sb.leg).then_some(own);
        }
        (Role::Member | Role::Growing, Some(at)) => at,
        (Role::Candidate, Some(at)) => at + 1,
    };
    let run = memberships.iter().skip(begin);
    let run = run.take_while(|(.., members)| members.contains(sb.leg));
    run.last()
        .map(|(epoch, generation, _)| (*epoch, *generation))
}

/// A later force has begun to mark what an earlier one granted: an attach would have taken the mark away.
fn is_marked_again(register: &Register, sb: &Superblock) -> bool {
    let of_grant = |granted: &Granted| {
        (granted.sb_epoch, granted.sb_gen) == (sb.epoch, sb.generation)
            && granted.sb_seq <= sb.sb_seq
    };
    let granted = register.granted_to(sb.leg, sb.volume);
    sb.awaits_register && granted.is_some_and(of_grant)
}

impl OneShot {
    /// Does a person name this leg as one that runs, and only as one that belongs to those of the other volumes?
    pub(super) fn names(&self, leg: Leg) -> bool {
        match &self.order.task {
            Task::Force(force) => force.leg == leg && !force.inconsistent,
            Task::Reseed(order) => order.chosen.contains(leg) && !order.inconsistent,
            Task::Birth { .. } | Task::Inspect | Task::Wipe => false,
        }
    }

    /// Of a register that is below what is known nothing is taken, and of one that is to be replaced neither: a superblock that has
    /// the new one's id already is compared with others that do not have it yet.
    fn believed(&self, sb: &Superblock) -> Option<&Register> {
        let replaced = matches!(self.order.task, Task::Reseed(_));
        let register = self.seen().filter(|_| !replaced)?;
        let class = classify(Some(register), &self.order.marks, &[sb.mark()]);
        (!matches!(class, Class::Below(_))).then_some(register)
    }

    /// As it was read last; none if the leg was put back to an earlier state within the epoch.
    pub(super) fn moment_of(&self, leg: Leg) -> Option<Moment> {
        let (head, _) = self.head(leg)?;
        let body = head.body.as_ref()?;
        let object = self.beat_object.as_ref();
        let beat = BeatView::of(&body.superblock, body.beat.as_ref(), object);
        if beat == BeatView::Behind {
            return None;
        }
        moment(self.believed(&body.superblock), &body.superblock)
    }
}

#[cfg(test)]
mod tests {
    use twinsite_register::{Members, Naa, Parent};

    use super::*;
    use crate::attach::tests::world::{generation, newborn, superblock};

    const A: Members = Members::only(Leg::A);

    /// The register at the last of these memberships; the first is of epoch 1.
    fn at(memberships: &[Members]) -> Register {
        let mut register = newborn();
        let epoch = |at: usize| Epoch(at as u64 + 1);
        register.parents.clear();
        for (n, members) in memberships.iter().enumerate() {
            register.epoch = epoch(n);
            register.generation = generation(n as u8 + 1);
            register.members = *members;
            register.parents.insert(
                0,
                Parent {
                    epoch: epoch(n),
                    generation: generation(n as u8 + 1),
                    members: *members,
                },
            );
        }
        register.parents.remove(0);
        register
    }

    fn of(register: &Register, role: Role, epoch: u8) -> Option<u64> {
        let mut sb = superblock(Leg::B, register, Naa([4; 16]));
        sb.role = role;
        sb.members = Members::BOTH;
        (sb.epoch, sb.generation) = (Epoch(epoch.into()), generation(epoch));
        moment(Some(register), &sb).map(|(epoch, _)| epoch.0)
    }

    #[test]
    fn a_member_has_every_write_until_the_register_names_it_no_more() {
        let both = Members::BOTH;
        let b = Members::only(Leg::B);
        // 1 both, 2 B alone, 3 A alone (by force).
        let forced = at(&[both, b, A]);
        assert_eq!(of(&forced, Role::Member, 1), Some(2), "before its shrink");
        assert_eq!(of(&forced, Role::Member, 2), Some(2), "and behind it");
        assert_eq!(of(&forced, Role::Member, 3), None, "it is no member there");
        // 1 both, 2 A alone, 3 both, 4 A alone.
        let left = at(&[both, A, both, A]);
        assert_eq!(of(&left, Role::Member, 3), Some(3));
        assert_eq!(of(&left, Role::Member, 1), Some(1), "it left earlier");
        assert_eq!(of(&left, Role::Candidate, 2), Some(3), "its grow was won");
    }

    #[test]
    fn what_was_not_completed_or_had_not_joined_is_of_no_moment() {
        let alone = at(&[Members::BOTH, A]);
        assert_eq!(of(&alone, Role::Target, 2), None);
        assert_eq!(of(&alone, Role::New, 2), None);
        assert_eq!(of(&alone, Role::Candidate, 2), None, "no grow yet");
        // The grow was given up.
        let bumped = at(&[Members::BOTH, A, A]);
        assert_eq!(of(&bumped, Role::Candidate, 2), None);
    }

    #[test]
    fn what_the_register_has_forgotten_is_of_the_moment_that_it_says_itself() {
        let mut forgotten = at(&[Members::BOTH, A, A]);
        forgotten.parents.truncate(1);
        assert_eq!(of(&forgotten, Role::Member, 1), Some(1));
        assert_eq!(of(&forgotten, Role::Candidate, 1), None);
    }

    #[test]
    fn a_copy_that_a_person_named_is_of_the_present() {
        let mut register = at(&[Members::BOTH, A, Members::only(Leg::B)]);
        let sb = superblock(Leg::B, &register, Naa([4; 16]));
        let old = Superblock {
            epoch: Epoch(1),
            generation: generation(1),
            ..sb
        };
        assert_eq!(moment(Some(&register), &old).unwrap().0, Epoch(1));
        register.granted = vec![Granted {
            leg: Leg::B,
            sb_epoch: old.epoch,
            sb_gen: old.generation,
            sb_seq: old.sb_seq,
            volume: None,
        }];
        assert_eq!(moment(Some(&register), &old).unwrap().0, Epoch(3));
        // A second force, cut short, had marked this volume already.
        let marked = Superblock {
            sb_seq: old.sb_seq + 2,
            awaits_register: true,
            ..old.clone()
        };
        assert_eq!(moment(Some(&register), &marked).unwrap().0, Epoch(3));
        let attached = Superblock {
            awaits_register: false,
            ..marked
        };
        assert_eq!(moment(Some(&register), &attached).unwrap().0, Epoch(1));
    }
}

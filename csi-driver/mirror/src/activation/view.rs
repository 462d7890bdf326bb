//! Register and legs as the activation table sees them, and the class of a leg.

use twinsite_register::{BeatObject, Class, MAX_PARENTS, Parent, Register};

use crate::ids::{Epoch, Gen, Leg, Members, RegisterId, Site};
use crate::layout::{Beat, Role, Superblock};

/// The register. Below is asked before anything else (R43).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one value per decision; a model wants it Copy and without allocation"
)]
pub enum RegView {
    /// It did not answer.
    Unreadable,
    /// The witness answers that there is none.
    Absent,
    /// Being created.
    Creating,
    /// Deleted.
    Tombstone,
    /// Older than what is known here (R17).
    Below,
    /// In use.
    Live(LiveView),
}

impl RegView {
    /// The view of an answer of the witness, with the class that marks and superblocks gave it.
    pub fn of(class: Class, register: Option<&Register>) -> Self {
        match (class, register) {
            (Class::Below(_), _) => Self::Below,
            (Class::Absent, _) | (_, None) => Self::Absent,
            (Class::Creating, Some(_)) => Self::Creating,
            (Class::Tombstone, Some(_)) => Self::Tombstone,
            (Class::Live, Some(register)) => Self::Live(LiveView::of(register)),
        }
    }
}

/// A live register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveView {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its generation.
    pub generation: Gen,
    /// Its members.
    pub members: Members,
    /// The active site.
    pub site: Site,
    /// The active sequence.
    pub seq: u64,
    /// Legs known to carry a superblock of this epoch.
    pub landed: Members,
    /// Earlier memberships, newest first.
    pub parents: [Option<Parent>; MAX_PARENTS],
}

impl LiveView {
    fn of(register: &Register) -> Self {
        let mut parents = [None; MAX_PARENTS];
        for (slot, parent) in parents.iter_mut().zip(&register.parents) {
            *slot = Some(*parent);
        }
        Self {
            epoch: register.epoch,
            generation: register.generation,
            members: register.members,
            site: register.active.site,
            seq: register.active.seq,
            landed: register.landed,
            parents,
        }
    }
}

/// Which register a superblock was written for, against the one that was read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RegisterIdView {
    /// The same one.
    Same,
    /// One that a reseed replaced: older, never ahead; it runs only if granted.
    Former,
    /// One that nothing connects to this register: the register is not to be believed.
    Other,
}

/// How the beat of a leg stands to the beat object at the witness.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BeatView {
    /// Nothing speaks against the leg.
    Fresh,
    /// Below it: the leg was rolled back.
    Behind,
}

impl BeatView {
    /// Compare the beat block of a leg with the beat object, while superblock, block and object are of the same epoch. The
    /// object is written when a beat is on every member, so a member that is below it at all was rolled back (model
    /// `regions-object2`, flag `beat_object_slack`). A Candidate may miss the one beat that was on its way to the source when
    /// it joined. Beats are counted on from epoch to epoch, so a block of an earlier one is compared, too: it may be the last
    /// beat before a shrink, or a copy of a member that had had none in its epoch yet. A torn or missing block proves nothing.
    pub fn of(superblock: &Superblock, block: Option<&Beat>, object: Option<&BeatObject>) -> Self {
        let slack = u64::from(superblock.role != Role::Member);
        match (block, object) {
            (Some(block), Some(object))
                if object.epoch == superblock.epoch
                    && block.epoch <= object.epoch
                    && block.beat.saturating_add(slack) < object.beat =>
            {
                Self::Behind
            }
            (Some(_) | None, Some(_) | None) => Self::Fresh,
        }
    }
}

/// What is known of a leg after the fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LegView {
    /// Not reached, or its fence did not complete.
    Away,
    /// No valid slot, or identity (volume, leg, NAA, size) wrong: never "new", never a member.
    Bad,
    /// It carries a superblock of this volume.
    Sb(SbView),
}

impl LegView {
    pub(super) const fn superblock(&self) -> Option<&SbView> {
        match self {
            Self::Sb(sb) => Some(sb),
            Self::Away | Self::Bad => None,
        }
    }
}

/// A superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SbView {
    /// Its role.
    pub role: Role,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its generation.
    pub generation: Gen,
    /// Its members.
    pub members: Members,
    /// Its active site.
    pub site: Site,
    /// Its active sequence.
    pub seq: u64,
    /// A human allowed exactly this superblock of this volume to run (R44): then it has no base, and every region is dirty if it
    /// is a Target.
    pub granted: bool,
    /// For which register.
    pub register: RegisterIdView,
    /// Against the beat object.
    pub beat: BeatView,
    /// Named by a person, and not written since by an attach under the register.
    pub awaits_register: bool,
}

impl SbView {
    /// The view of a superblock whose identity was tested. `register`: the readable register, if there is one.
    pub fn of(superblock: &Superblock, register: Option<&Register>, beat: BeatView) -> Self {
        Self {
            role: superblock.role,
            epoch: superblock.epoch,
            generation: superblock.generation,
            members: superblock.members,
            site: superblock.active_site,
            seq: superblock.active_seq,
            granted: register.is_some_and(|register| is_granted(register, superblock)),
            register: register.map_or(RegisterIdView::Same, |register| {
                register_id_view(register, superblock.register_id)
            }),
            beat,
            awaits_register: superblock.awaits_register,
        }
    }

    /// Without the register: one half of a pair.
    pub(super) fn is_pair(&self) -> bool {
        self.role == Role::Member && self.members == Members::BOTH
    }

    /// Without the register: a leg that certifies itself.
    pub(super) fn is_alone(&self, leg: Leg) -> bool {
        self.role == Role::Member && self.members == Members::only(leg)
    }

    /// Does this, the other leg's superblock, show that a leg which certifies itself at `epoch` is the newest? After a force
    /// elsewhere it would not.
    pub(super) fn shows_older_than(&self, epoch: Epoch) -> bool {
        let copied = matches!(self.role, Role::Target | Role::New);
        self.epoch < epoch || (self.epoch == epoch && copied)
    }
}

fn is_granted(register: &Register, sb: &Superblock) -> bool {
    let granted = register.granted_to(sb.leg, sb.volume);
    granted.is_some_and(|granted| {
        (granted.sb_epoch, granted.sb_gen, granted.sb_seq) == (sb.epoch, sb.generation, sb.sb_seq)
    })
}

fn register_id_view(register: &Register, id: RegisterId) -> RegisterIdView {
    if id == register.register_id {
        RegisterIdView::Same
    } else if register.former.contains(&id) {
        RegisterIdView::Former
    } else {
        RegisterIdView::Other
    }
}

/// Class of a leg against a live register.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fit {
    /// Not reached.
    Away,
    /// No superblock of this volume.
    Bad,
    /// May run.
    Usable,
    /// Named by the register, but it may not run.
    Damaged,
    /// Not named by the register.
    Stale,
    /// It knows more than the register: the register was rolled back.
    Ahead,
}

impl LiveView {
    /// The class of a leg.
    pub fn fit(&self, leg: Leg, view: &LegView) -> Fit {
        let sb = match view {
            LegView::Away => return Fit::Away,
            LegView::Bad => return Fit::Bad,
            LegView::Sb(sb) => sb,
        };
        if self.is_ahead(sb) {
            Fit::Ahead
        } else if !self.members.contains(leg) {
            Fit::Stale
        } else if sb.granted || self.is_usable(leg, sb) {
            Fit::Usable
        } else {
            Fit::Damaged
        }
    }

    fn is_ahead(&self, sb: &SbView) -> bool {
        match sb.register {
            RegisterIdView::Other => true,
            RegisterIdView::Former => false,
            RegisterIdView::Same => {
                let other_gen = sb.epoch == self.epoch && sb.generation != self.generation;
                sb.epoch > self.epoch || sb.seq > self.seq || other_gen
            }
        }
    }

    /// Part by part as the protocol says it: history, membership since, role, landed, beat.
    fn is_usable(&self, leg: Leg, sb: &SbView) -> bool {
        let Some(own_members) = self.members_of(sb.epoch, sb.generation) else {
            return false;
        };
        let since = self
            .listed()
            .all(|p| p.epoch <= sb.epoch || p.members.contains(leg));
        let role = match sb.role {
            Role::Member | Role::Growing => own_members.contains(leg),
            Role::Candidate => sb.epoch < self.epoch,
            Role::New | Role::Target => false,
        };
        let older = sb.epoch < self.epoch || sb.role == Role::Candidate;
        let landed_elsewhere = self.landed.contains(leg) && older;
        let registered = sb.register == RegisterIdView::Same;
        registered && since && role && !landed_elsewhere && sb.beat == BeatView::Fresh
    }

    fn listed(&self) -> impl Iterator<Item = &Parent> {
        self.parents.iter().flatten()
    }

    fn members_of(&self, epoch: Epoch, generation: Gen) -> Option<Members> {
        if (epoch, generation) == (self.epoch, self.generation) {
            return Some(self.members);
        }
        let own = self
            .listed()
            .find(|p| (p.epoch, p.generation) == (epoch, generation))?;
        Some(own.members)
    }

    pub(super) fn is_growing(&self, view: &LegView) -> bool {
        matches!(view, LegView::Sb(sb) if sb.role == Role::Growing && sb.epoch == self.epoch)
    }
}

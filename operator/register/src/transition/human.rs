//! What only a human may propose, after a plan that named what would be lost: confirm, retire, force, reseed.
//!
//! Force and reseed name exactly the superblock that runs (`granted`, R44): the leg they choose has, by definition, a history
//! that does not fit. The branch that is given up neither rejoins unconfirmed nor runs alone.

use super::Refusal;
use crate::ids::{
    Epoch, Gen, GroupId, Leg, Members, Naa, RegisterId, Site, StampId, TxId, VolumeId,
};
use crate::value::{
    Active, Granted, MAX_FORMER, MAX_RETIRED, MAX_VOLUMES, Order, Register, Retired, State, VERSION,
};

/// How far a reseed jumps above the highest epoch known anywhere, so that a leg nobody saw stays below.
pub const RESEED_JUMP: u64 = 1000;

/// A superblock that a plan saw on a leg.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LegSeed {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its generation.
    pub generation: Gen,
    /// Its sequence number; of a reseed: of the higher slot after the new register id was written.
    pub sb_seq: u64,
}

impl LegSeed {
    const fn granted(self, leg: Leg, volume: Option<VolumeId>) -> Granted {
        Granted {
            leg,
            sb_epoch: self.epoch,
            sb_gen: self.generation,
            sb_seq: self.sb_seq,
            volume,
        }
    }
}

/// Run this leg alone although the register does not name it, or although its member is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Force {
    /// The epoch that the plan printed.
    pub expect_epoch: Epoch,
    /// The transaction id that the plan's token carries.
    pub expect_txid: TxId,
    /// The leg to run.
    pub leg: Leg,
    /// What the plan saw on it, of the volume that the order is about.
    pub seen: LegSeed,
    /// Where it will be active.
    pub site: Site,
    /// New generation.
    pub generation: Gen,
    /// A mix of old and new, or copies of several moments, were accepted.
    pub inconsistent: bool,
    /// Who forces.
    pub who: String,
    /// Why.
    pub why: String,
}

/// The legs that a reseed makes members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeedMembers {
    /// Both carry an equal Pair.
    Pair {
        /// Seen on A.
        a: LegSeed,
        /// Seen on B.
        b: LegSeed,
    },
    /// One leg; the other is a lost branch.
    Alone {
        /// Which.
        leg: Leg,
        /// Seen on it.
        seen: LegSeed,
    },
}

/// A new register in place of one that is lost or below what legs and sites know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reseed {
    /// New and random.
    pub register_id: RegisterId,
    /// Every register id seen in marks, on legs and in the register that is replaced.
    pub former: Vec<RegisterId>,
    /// Which group.
    pub group: GroupId,
    /// Its volumes.
    pub volumes: Vec<VolumeId>,
    /// Highest epoch known anywhere: register, marks, legs.
    pub highest_epoch: Epoch,
    /// Highest active sequence known anywhere.
    pub highest_seq: u64,
    /// Highest order known anywhere.
    pub highest_order: u64,
    /// Legs that run.
    pub members: SeedMembers,
    /// Where it will be active.
    pub site: Site,
    /// New generation.
    pub generation: Gen,
    /// Id of this request.
    pub txid: TxId,
    /// Who reseeds.
    pub who: String,
    /// Why.
    pub why: String,
}

impl Register {
    /// A human accepts that what only this leg has is given up: it may rejoin, by a full copy.
    pub fn confirm(&self, leg: Leg, who: &str, txid: TxId) -> Result<Self, Refusal> {
        self.expect_state(State::Live)?;
        if !self.unconfirmed.contains(leg) {
            return Err(Refusal::Leg(leg));
        }
        let mut next = self.with_txid(txid)?;
        next.unconfirmed = next.unconfirmed.without(leg);
        next.push_note(who, &format!("lost branch on leg {leg} confirmed"), false);
        Ok(next)
    }

    /// A human gives up a LUN for ever. Under a tombstone it counts as wiped, so that the name becomes free again.
    pub fn retire(&self, leg: Leg, naa: Naa, who: &str, txid: TxId) -> Result<Self, Refusal> {
        if self.state == State::Creating {
            return Err(Refusal::State(self.state));
        }
        if self.members.contains(leg) {
            return Err(Refusal::Leg(leg));
        }
        let mut next = self.with_txid(txid)?;
        if !next.is_retired(leg, naa) {
            if next.retired.len() >= MAX_RETIRED {
                return Err(Refusal::Exhausted);
            }
            next.retired.push(Retired { leg, naa });
        }
        if next.state == State::Tombstone {
            next.landed = next.landed.with(leg);
        }
        next.push_note(who, &format!("leg {leg} {naa} retired"), false);
        Ok(next)
    }

    /// Run `force.leg` alone. The only way from Solo of one leg to Solo of the other. Only of a register of one volume.
    pub fn force(&self, force: &Force, txid: TxId) -> Result<Self, Refusal> {
        let [volume] = self.volumes.as_slice() else {
            return Err(Refusal::Argument("a force of one volume of several"));
        };
        self.force_all(force, &[(*volume, force.seen)], txid)
    }

    /// The same for all volumes of the register, by what was seen of that leg of each: `force.seen` is not asked.
    pub fn force_all(
        &self,
        force: &Force,
        seen: &[(VolumeId, LegSeed)],
        txid: TxId,
    ) -> Result<Self, Refusal> {
        self.expect_state(State::Live)?;
        if (force.expect_epoch, force.expect_txid) != (self.epoch, self.txid) {
            return Err(Refusal::PlanStale(self.epoch));
        }
        let mut next = self.with_txid(txid)?;
        next.next_epoch(Members::only(force.leg), force.generation)?;
        let seq = self.active.seq.checked_add(1).ok_or(Refusal::Exhausted)?;
        next.active = Active {
            site: force.site,
            seq,
            latched: true,
        };
        // The old holder learns from this, too, that it is superseded.
        next.holder = None;
        next.granted = self.grants(force.leg, seen)?;
        next.unconfirmed = Members::only(force.leg.other());
        next.no_rejoin = next.no_rejoin.without(force.leg);
        next.push_note(
            &force.who,
            &format!("forced leg {}: {}", force.leg, force.why),
            true,
        );
        Ok(next)
    }

    /// Each volume has its own, in the order of the register's list.
    fn grants(&self, leg: Leg, seen: &[(VolumeId, LegSeed)]) -> Result<Vec<Granted>, Refusal> {
        if seen.len() != self.volumes.len() {
            return Err(Refusal::Argument("other volumes than the register's"));
        }
        let several = self.volumes.len() > 1;
        let grant = |volume: &VolumeId| {
            let (_, seed) = seen.iter().find(|(of, _)| of == volume)?;
            Some(seed.granted(leg, several.then_some(*volume)))
        };
        let grants = self.volumes.iter().map(grant).collect::<Option<_>>();
        grants.ok_or(Refusal::Argument("other volumes than the register's"))
    }

    /// The value for create-if-absent, or for a compare-and-swap over a register that is Below (then given as `replaced`,
    /// whose notes and retired legs are kept). Only of one volume.
    pub fn reseed(reseed: &Reseed, replaced: Option<&Self>) -> Result<Self, Refusal> {
        let [volume] = reseed.volumes.as_slice() else {
            return Err(Refusal::Argument("a reseed of one volume of several"));
        };
        Self::reseed_all(reseed, &[(*volume, reseed.members)], replaced)
    }

    /// The same of all volumes of the register, by what was seen of each: `reseed.members` is not asked.
    pub fn reseed_all(
        reseed: &Reseed,
        seen: &[(VolumeId, SeedMembers)],
        replaced: Option<&Self>,
    ) -> Result<Self, Refusal> {
        let replaced_id = replaced.map(|old| old.register_id);
        if reseed.register_id.is_zero() || reseed.former.contains(&reseed.register_id) {
            return Err(Refusal::Argument("a used register id"));
        }
        if replaced_id.is_some_and(|id| !reseed.former.contains(&id))
            || reseed.former.len() > MAX_FORMER
        {
            return Err(Refusal::Argument(
                "former registers incomplete, or too many",
            ));
        }
        if replaced.is_some_and(|old| {
            old.epoch > reseed.highest_epoch
                || old.active.seq > reseed.highest_seq
                || old.order.n > reseed.highest_order
                || old.txid == reseed.txid
        }) {
            return Err(Refusal::Argument(
                "highest known values below the replaced register",
            ));
        }
        if reseed.volumes.is_empty() || reseed.volumes.len() > MAX_VOLUMES {
            return Err(Refusal::Argument("no volume, or too many"));
        }
        if reseed.generation.is_zero() || reseed.txid.is_zero() {
            return Err(Refusal::Argument("an id that is not set"));
        }
        let (members, granted) = reseed_grants(&reseed.volumes, seen)?;
        let unconfirmed = match members.sole() {
            Some(leg) => Members::only(leg.other()),
            None => Members::NONE,
        };
        if granted
            .iter()
            .any(|granted| granted.sb_epoch > reseed.highest_epoch)
        {
            return Err(Refusal::Argument("highest known epoch below a superblock"));
        }
        let epoch = reseed
            .highest_epoch
            .0
            .checked_add(RESEED_JUMP)
            .ok_or(Refusal::Exhausted)?;
        let seq = reseed
            .highest_seq
            .checked_add(1)
            .ok_or(Refusal::Exhausted)?;
        let n = reseed
            .highest_order
            .checked_add(1)
            .ok_or(Refusal::Exhausted)?;
        let mut next = Self {
            version: VERSION,
            register_id: reseed.register_id,
            group: reseed.group,
            volumes: reseed.volumes.clone(),
            state: State::Live,
            epoch: Epoch(epoch),
            generation: reseed.generation,
            members,
            active: Active {
                site: reseed.site,
                seq,
                latched: true,
            },
            holder: None,
            stamp_id: StampId::ZERO,
            // No Attachment has this place: every one that attached before is older.
            order: Order {
                n,
                uid: Default::default(),
            },
            txid: reseed.txid,
            granted,
            former: reseed.former.clone(),
            unconfirmed,
            no_rejoin: Members::NONE,
            retired: replaced.map_or_else(Vec::new, |old| old.retired.clone()),
            landed: Members::NONE,
            parents: Vec::new(),
            note: replaced.map_or_else(Vec::new, |old| old.note.clone()),
        };
        next.push_note(&reseed.who, &format!("forced reseed: {}", reseed.why), true);
        Ok(next)
    }
}

/// Which legs run, and the grants of each volume, in the order of the register's list.
fn reseed_grants(
    volumes: &[VolumeId],
    seen: &[(VolumeId, SeedMembers)],
) -> Result<(Members, Vec<Granted>), Refusal> {
    let others = Refusal::Argument("other volumes than the register's");
    if seen.len() != volumes.len() {
        return Err(others);
    }
    let mut members = None;
    let mut grants = Vec::new();
    for volume in volumes {
        let seeds = seen.iter().find(|(of, _)| of == volume);
        let (_, seeds) = seeds.ok_or(others)?;
        let named = (volumes.len() > 1).then_some(*volume);
        let legs = match *seeds {
            SeedMembers::Pair { a, b } => {
                if (a.epoch, a.generation) != (b.epoch, b.generation) {
                    return Err(Refusal::Argument("a pair of unequal superblocks"));
                }
                grants.extend([a.granted(Leg::A, named), b.granted(Leg::B, named)]);
                Members::BOTH
            }
            SeedMembers::Alone { leg, seen } => {
                grants.push(seen.granted(leg, named));
                Members::only(leg)
            }
        };
        if *members.get_or_insert(legs) != legs {
            return Err(Refusal::Argument(
                "other legs for one volume than for another",
            ));
        }
    }
    Ok((members.ok_or(others)?, grants))
}

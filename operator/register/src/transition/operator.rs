//! What the operators propose: creating and deleting a volume, and the fields that a writer does not own.

use super::Refusal;
use crate::ids::{Epoch, Gen, GroupId, Leg, Members, RegisterId, Site, StampId, TxId, VolumeId};
use crate::value::{Active, MAX_VOLUMES, Order, Register, State, VERSION};

/// What a new register starts with. It is written by create-if-absent only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Create {
    /// New and random.
    pub register_id: RegisterId,
    /// Which group.
    pub group: GroupId,
    /// Its volumes.
    pub volumes: Vec<VolumeId>,
    /// The generation that both legs will be born with.
    pub generation: Gen,
    /// Where the volume will be active.
    pub site: Site,
    /// Id of this request.
    pub txid: TxId,
}

impl Register {
    /// The value for create-if-absent.
    pub fn create(create: Create) -> Result<Self, Refusal> {
        if create.volumes.is_empty() || create.volumes.len() > MAX_VOLUMES {
            return Err(Refusal::Argument("no volume, or too many"));
        }
        if create.register_id.is_zero() || create.generation.is_zero() || create.txid.is_zero() {
            return Err(Refusal::Argument("an id that is not set"));
        }
        Ok(Self {
            version: VERSION,
            register_id: create.register_id,
            group: create.group,
            volumes: create.volumes,
            state: State::Creating,
            epoch: Epoch::ZERO,
            generation: create.generation,
            members: Members::NONE,
            active: Active {
                site: create.site,
                seq: 0,
                latched: false,
            },
            holder: None,
            stamp_id: StampId::ZERO,
            order: Order::default(),
            txid: create.txid,
            granted: Vec::new(),
            former: Vec::new(),
            unconfirmed: Members::NONE,
            no_rejoin: Members::NONE,
            retired: Vec::new(),
            landed: Members::NONE,
            parents: Vec::new(),
            note: Vec::new(),
        })
    }

    /// Both legs carry their first superblock: the volume lives. The generation stays, the superblocks were written with it.
    pub fn birth(&self, site: Site, txid: TxId) -> Result<Self, Refusal> {
        self.expect_state(State::Creating)?;
        let mut next = self.with_txid(txid)?;
        next.state = State::Live;
        next.epoch = Epoch(1);
        next.members = Members::BOTH;
        next.active = Active {
            site,
            seq: 1,
            latched: false,
        };
        Ok(next)
    }

    /// The spec names the actual site again: it binds.
    pub fn unlatch(&self, txid: TxId) -> Result<Self, Refusal> {
        self.expect_state(State::Live)?;
        let mut next = self.with_txid(txid)?;
        next.active.latched = false;
        Ok(next)
    }

    /// A person moved the volume by an order of its own: the spec does not bind until it names the site.
    pub fn latch(&self, txid: TxId) -> Result<Self, Refusal> {
        self.expect_state(State::Live)?;
        let mut next = self.with_txid(txid)?;
        next.active.latched = true;
        Ok(next)
    }

    /// The group gains or loses volumes; only while nobody holds it.
    pub fn list(&self, volumes: Vec<VolumeId>, txid: TxId) -> Result<Self, Refusal> {
        self.expect_state(State::Live)?;
        self.expect_released()?;
        if volumes.is_empty() || volumes.len() > MAX_VOLUMES {
            return Err(Refusal::Argument("no volume, or too many"));
        }
        if !self.granted.is_empty() {
            return Err(Refusal::Argument("other volumes than those of a grant"));
        }
        let mut next = self.with_txid(txid)?;
        next.volumes = volumes;
        Ok(next)
    }

    /// Which legs must not rejoin; never a member.
    pub fn rejoin(&self, no_rejoin: Members, txid: TxId) -> Result<Self, Refusal> {
        self.expect_state(State::Live)?;
        if let Some(member) = no_rejoin.and(self.members).iter().next() {
            return Err(Refusal::Leg(member));
        }
        let mut next = self.with_txid(txid)?;
        next.no_rejoin = no_rejoin;
        Ok(next)
    }

    /// The volume is deleted: its legs are wiped, those away when they return.
    pub fn tombstone(&self, generation: Gen, txid: TxId) -> Result<Self, Refusal> {
        if self.state == State::Tombstone {
            return Err(Refusal::State(self.state));
        }
        self.expect_released()?;
        let mut next = self.with_txid(txid)?;
        next.next_epoch(Members::NONE, generation)?;
        next.state = State::Tombstone;
        next.granted.clear();
        Ok(next)
    }

    /// This leg is wiped.
    pub fn wiped(&self, leg: Leg, txid: TxId) -> Result<Self, Refusal> {
        self.expect_state(State::Tombstone)?;
        let mut next = self.with_txid(txid)?;
        next.landed = next.landed.with(leg);
        Ok(next)
    }

    /// May the register of a deleted volume be removed? Only when both legs are wiped or given up.
    pub fn is_buried(&self) -> bool {
        self.state == State::Tombstone && self.landed == Members::BOTH
    }

    pub(super) fn expect_released(&self) -> Result<(), Refusal> {
        match self.holder {
            None => Ok(()),
            Some(key) => Err(Refusal::Held(key)),
        }
    }
}

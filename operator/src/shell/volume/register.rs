//! The register changes that a plan may order, each one compare-and-swap.
//!
//! An outcome that is not known is a failure of the round: the next one reads and plans anew. Each of these changes may be
//! sent again, since a plan orders it only while the register does not show it.

use twinsite_api::LegIndex;
use twinsite_register::{
    Gen, GroupId, Leg, Refusal, Register, Reseed, SeedMembers, TxId, VolumeId,
};
use twinsite_witness::Swap;

use crate::{
    shell::random::random,
    volume::RegisterChange,
    witness::{Access, Content},
};

#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    #[error("the register is not the one that was planned with any more")]
    Changed,
    #[error("the register does not allow it: {0}")]
    Refused(#[from] Refusal),
    #[error("whether the witness took it is not known: {0}")]
    Unknown(String),
}

/// Carries out a change on the register that has this txid.
pub(super) async fn change(
    access: &Access,
    group: GroupId,
    expect: TxId,
    change: &RegisterChange,
) -> Result<(), ChangeError> {
    let reading = access.reading(group).map(|reading| reading.content);
    let Some(Content::Register(register)) = reading else {
        return Err(ChangeError::Changed);
    };
    if register.txid != expect {
        return Err(ChangeError::Changed);
    }
    let swap = match change {
        RegisterChange::Bury => access.remove(&register).await,
        change => access.swap(&register, &next(&register, change)?).await,
    };
    outcome(swap)
}

/// Makes a register in place of one that is lost or below what was seen.
pub(super) async fn seed(
    access: &Access,
    replaced: Option<TxId>,
    seed: &Reseed,
    seen: &[(VolumeId, SeedMembers)],
) -> Result<(), ChangeError> {
    let seed = Reseed {
        generation: Gen(random()),
        txid: TxId(random()),
        ..seed.clone()
    };
    let reading = access.reading(seed.group).map(|reading| reading.content);
    let swap = match (reading, replaced) {
        (Some(Content::Register(old)), Some(txid)) if old.txid == txid => {
            let new = Register::reseed_all(&seed, seen, Some(&old))?;
            access.swap(&old, &new).await
        }
        (Some(Content::Absent), None) => {
            access
                .create(&Register::reseed_all(&seed, seen, None)?)
                .await
        }
        _ => return Err(ChangeError::Changed),
    };
    outcome(swap)
}

fn outcome(swap: Swap) -> Result<(), ChangeError> {
    match swap {
        Swap::Won => Ok(()),
        Swap::Conflict(_) => Err(ChangeError::Changed),
        Swap::Unknown(why) => Err(ChangeError::Unknown(why)),
    }
}

fn next(register: &Register, change: &RegisterChange) -> Result<Register, Refusal> {
    let txid = TxId(random());
    let generation = Gen(random());
    match change {
        RegisterChange::Unlatch => register.unlatch(txid),
        RegisterChange::Latch => register.latch(txid),
        RegisterChange::NoRejoin(legs) => register.rejoin(*legs, txid),
        RegisterChange::Tombstone => register.tombstone(generation, txid),
        RegisterChange::Wiped(leg) => register.wiped(leg_of(*leg), txid),
        // Taken away, not swapped.
        RegisterChange::Bury => Ok(register.clone()),
        RegisterChange::Confirm { leg, who } => register.confirm(leg_of(*leg), who, txid),
        RegisterChange::Retire { leg, naa, who } => register.retire(leg_of(*leg), *naa, who, txid),
    }
}

const fn leg_of(index: LegIndex) -> Leg {
    match index {
        LegIndex::A => Leg::A,
        LegIndex::B => Leg::B,
    }
}

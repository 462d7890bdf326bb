//! Force and reseed as data: what a human approved after a plan, made from what was inspected.
//!
//! A force needs the register and a valid superblock; a Target only if the human says so twice, a damaged leg never. The
//! token ties the approval to one value of the register, so that nothing can change between plan and apply.

use std::fmt;
use std::str::FromStr;

use twinsite_register::{Epoch, Force, Gen, Leg, LegSeed, Register, RegisterId, Site, TxId};

use super::LegInspection;
use super::look::is_live;
use crate::layout::{Role, Superblock};

/// Epoch and transaction id of the register that a plan was made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    /// The epoch.
    pub epoch: Epoch,
    /// The transaction id.
    pub txid: TxId,
}

impl Token {
    /// The token of a plan on this register.
    pub const fn of(register: &Register) -> Self {
        Self {
            epoch: register.epoch,
            txid: register.txid,
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.txid)
    }
}

impl FromStr for Token {
    type Err = ForceError;

    fn from_str(text: &str) -> Result<Self, ForceError> {
        let (epoch, txid) = text.split_once('-').ok_or(ForceError::BadToken)?;
        Ok(Self {
            epoch: Epoch(epoch.parse().map_err(|_| ForceError::BadToken)?),
            txid: txid.parse().map_err(|_| ForceError::BadToken)?,
        })
    }
}

/// Why a leg cannot be forced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ForceError {
    /// Not `epoch-txid`.
    #[error("not a token of a plan")]
    BadToken,
    /// The register changed since the plan.
    #[error("the register changed since the plan")]
    Stale,
    /// The register is not live.
    #[error("the register is not live")]
    NotLive,
    /// No valid superblock of this leg of this volume: an offline tool must write one first.
    #[error("the leg has no valid superblock")]
    NoSuperblock,
    /// A leg that never joined has no data.
    #[error("the leg never joined")]
    NeverJoined,
    /// The copy was not complete.
    #[error("the leg is an unfinished copy; its data is inconsistent")]
    Inconsistent,
}

/// What a human decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Approval {
    /// From the plan.
    pub token: Token,
    /// Which leg runs.
    pub leg: Leg,
    /// At which site.
    pub site: Site,
    /// An unfinished copy is accepted.
    pub inconsistent: bool,
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
}

/// The force that was approved, ready for [`Register::force`].
pub fn force(
    register: &Register,
    seen: &LegInspection,
    approval: Approval,
    generation: Gen,
) -> Result<Force, ForceError> {
    if !is_live(register) {
        return Err(ForceError::NotLive);
    }
    if approval.token != Token::of(register) {
        return Err(ForceError::Stale);
    }
    let (sb, seed) = seen
        .superblock()
        .zip(seen.seed())
        .ok_or(ForceError::NoSuperblock)?;
    match sb.role {
        Role::New => return Err(ForceError::NeverJoined),
        Role::Target if !approval.inconsistent => return Err(ForceError::Inconsistent),
        Role::Target | Role::Member | Role::Growing | Role::Candidate => {}
    }
    Ok(Force {
        expect_epoch: approval.token.epoch,
        expect_txid: approval.token.txid,
        leg: approval.leg,
        seen: seed,
        site: approval.site,
        generation,
        inconsistent: approval.inconsistent,
        who: approval.who,
        why: approval.why,
    })
}

/// What a reseed grants for a leg, before or after the new id was written to both slots.
pub fn reseed_seed(sb: &Superblock, register_id: RegisterId) -> Option<LegSeed> {
    if sb.role == Role::New {
        return None;
    }
    let written = sb.register_id == register_id;
    let sb_seq = if written {
        sb.sb_seq
    } else {
        sb.sb_seq.checked_add(2)?
    };
    Some(LegSeed {
        epoch: sb.epoch,
        generation: sb.generation,
        sb_seq,
    })
}

//! The two superblock slots of a leg, read as one answer.
//!
//! A write goes to slot `sb_seq mod 2`, so the older slot survives a torn one. When role, members, epoch or active change,
//! both slots are written (R32): if the newest then becomes unreadable, the other one says the same.

use super::{BlockError, SLOT_OFFSETS, Superblock};

/// Where the superblock with this sequence number is written.
pub const fn slot_offset(sb_seq: u64) -> u64 {
    SLOT_OFFSETS[(sb_seq % 2) as usize]
}

/// What the two slots say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Slots {
    /// The valid superblock with the highest sequence.
    Valid(Box<Superblock>),
    /// Both slots are zero: never a leg, or wiped.
    Blank,
    /// At least one slot was written by software that knows more. The other slot is older and is not believed.
    Newer(BlockError),
    /// No valid slot, and not blank: damage, or foreign data.
    Bad {
        /// What is wrong with each slot.
        slots: [BlockError; 2],
    },
}

impl Slots {
    /// Judge the bytes of both slots. A slot that could not be read is given as empty bytes.
    pub fn parse(slots: [&[u8]; 2]) -> Self {
        let parse = |n: usize| {
            let sb = Superblock::parse(slots[n])?;
            if sb.sb_seq % 2 == n as u64 {
                Ok(sb)
            } else {
                Err(BlockError::Misplaced(n as u32))
            }
        };
        match [parse(0), parse(1)] {
            [Err(error), _] | [_, Err(error)] if error.is_newer() => Self::Newer(error),
            [Ok(a), Ok(b)] => Self::Valid(Box::new(if a.sb_seq > b.sb_seq { a } else { b })),
            [Ok(sb), Err(_)] | [Err(_), Ok(sb)] => Self::Valid(Box::new(sb)),
            [Err(BlockError::Blank), Err(BlockError::Blank)] => Self::Blank,
            [Err(a), Err(b)] => Self::Bad { slots: [a, b] },
        }
    }

    /// The superblock, if there is one to be believed.
    pub fn superblock(&self) -> Option<&Superblock> {
        match self {
            Self::Valid(sb) => Some(sb),
            Self::Blank | Self::Newer(_) | Self::Bad { .. } => None,
        }
    }
}

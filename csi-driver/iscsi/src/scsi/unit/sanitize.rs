//! SANITIZE: overwrite, block erase, exit failure mode (SBC-3 4.11, 5.26).
//!
//! The operation goes on whatever is aborted, reset or logged out; until it ends the medium is not ready.
//! Cryptographic erase is not offered: data is not encrypted here.
//!
//! Not here: the state of the operation (the unit keeps it), the writing (`job`).

use std::collections::VecDeque;

use bytes::Bytes;

use super::block::repeated;
use super::config::UnitConfig;
use super::ended::{bad_cdb, bad_list, short_list};
use super::job::Job;
use super::store::StoreOp;
use crate::scsi::{Cdb, Sense};

const OVERWRITE: u8 = 0x01;
const BLOCK_ERASE: u8 = 0x02;
/// Bytes that one erase operation names, so that progress shows.
const ERASE_STEP: u64 = 1 << 30;

/// Whether a sanitize operation is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sanitize {
    Idle,
    Running,
    /// The last one failed: the medium stays unreadable until it is tried again or the failure mode is
    /// left. `leave`: EXIT FAILURE MODE is allowed (AUSE of the failed command).
    Failed {
        leave: bool,
    },
}

/// What a SANITIZE asks for.
#[derive(Debug)]
pub(super) enum Order {
    Run { job: Job, immediate: bool },
    ExitFailureMode,
}

/// Reads the command and its parameter list.
pub(super) fn parse(cdb: &Cdb, list: &Bytes, config: &UnitConfig) -> Result<Order, Sense> {
    let declared = cdb.field_at(7, 2);
    let action = cdb.byte(1) & 0x1F;
    let job = match action {
        OVERWRITE => overwrite(declared, list, config)?,
        BLOCK_ERASE if declared == 0 => block_erase(config),
        BLOCK_ERASE => return Err(bad_cdb(7)),
        _ if declared != 0 => return Err(bad_cdb(7)),
        _ => return Ok(Order::ExitFailureMode),
    };
    Ok(Order::Run {
        job,
        immediate: cdb.bit(1, 7),
    })
}

fn overwrite(declared: u64, list: &Bytes, config: &UnitConfig) -> Result<Job, Sense> {
    if !(5..=4 + config.block()).contains(&declared) {
        return Err(bad_cdb(7));
    }
    let list = list.get(..declared as usize).ok_or(short_list())?;
    let [flags, _, high, low, pattern @ ..] = list else {
        return Err(short_list());
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let passes = flags & 0x1F;
    if passes == 0 {
        return Err(bad_list(0));
    }
    if length == 0 || length != pattern.len() {
        return Err(bad_list(2));
    }
    let invert = flags & 0x80 != 0;
    let block: Vec<u8> = pattern
        .iter()
        .copied()
        .cycle()
        .take(config.block() as usize)
        .collect();
    let inverse: Vec<u8> = block.iter().map(|byte| !byte).collect();
    let (straight, inverse) = (repeated(&block), repeated(&inverse));
    // With INVERT the passes alternate; the last one writes the pattern as given.
    let passes: VecDeque<Bytes> = (0..passes)
        .rev()
        .map(|left| {
            if invert && left % 2 == 1 {
                inverse.clone()
            } else {
                straight.clone()
            }
        })
        .collect();
    Ok(Job::Overwrite {
        at: 0,
        size: config.blocks() * config.block(),
        passes,
    })
}

fn block_erase(config: &UnitConfig) -> Job {
    let size = config.blocks() * config.block();
    let discards = config.thin && config.discard_zeroes;
    let steps = (0..size.div_ceil(ERASE_STEP)).map(|step| {
        let offset = step * ERASE_STEP;
        let len = ERASE_STEP.min(size - offset);
        if discards {
            StoreOp::Discard { offset, len }
        } else {
            StoreOp::WriteZeros {
                offset,
                len,
                fua: false,
            }
        }
    });
    Job::Sequence(steps.chain([StoreOp::Flush]).collect())
}

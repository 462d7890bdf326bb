//! A limit on the bytes that a store may move in a second: a disk kept from taking all of a line, or made as slow as a real one.

use std::collections::BTreeMap;
use std::time::Duration;

use twinsite_iscsi::scsi::StoreOp;

use crate::reactor::{Context, Token};

/// Holds back operations until the ones before them have had their time.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    free_at: Duration,
    waiting: BTreeMap<Token, StoreOp>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            free_at: Duration::ZERO,
            waiting: BTreeMap::new(),
        }
    }

    /// Gives the operation back if it may begin now; otherwise [`Self::release`] gives it at the alarm of its token.
    pub(super) fn admit(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        op: StoreOp,
    ) -> Option<StoreOp> {
        let start = self.free_at.max(cx.now());
        let nanos = u128::from(bytes_of(&op)) * 1_000_000_000 / u128::from(self.bytes_per_second);
        self.free_at = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        if start <= cx.now() {
            return Some(op);
        }
        self.waiting.insert(token, op);
        cx.alarm(start, token);
        None
    }

    pub(super) fn release(&mut self, token: Token) -> Option<StoreOp> {
        self.waiting.remove(&token)
    }
}

pub(super) fn bytes_of(op: &StoreOp) -> u64 {
    match op {
        StoreOp::Read { len, .. } => *len,
        StoreOp::Write { data, .. } | StoreOp::WriteAtomic { data, .. } => {
            data.iter().map(|piece| piece.len() as u64).sum()
        }
        _ => 0,
    }
}

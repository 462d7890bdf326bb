//! Discards and zeroes: cut into pieces, whole units unmapped, the parts beside them zeroed (2.12).

use super::Serve;
use super::guest::{Kind, LegIo};
use crate::regions::span;
use crate::slab::Handle;

/// Longest piece of a discard that is under way at once.
const DISCARD_PIECE: u64 = 16 << 20;

impl Serve {
    /// Cut a discard: at the granularity, so that only whole units are unmapped and the parts beside them are zeroed.
    pub(super) fn piece(&self, kind: Kind, offset: u64, len: u64) -> (Kind, u64) {
        match kind {
            Kind::Read | Kind::Write { .. } => (kind, len),
            Kind::Zero => (kind, len.min(DISCARD_PIECE)),
            Kind::Discard => {
                let unit = u64::from(self.discard_granularity);
                if unit == 0 {
                    return (Kind::Zero, len.min(DISCARD_PIECE));
                }
                let to_unit = offset.next_multiple_of(unit) - offset;
                if to_unit > 0 {
                    return (Kind::Zero, len.min(to_unit));
                }
                let whole = len.min(DISCARD_PIECE.next_multiple_of(unit)) / unit * unit;
                if whole == 0 {
                    (Kind::Zero, len)
                } else {
                    (Kind::Discard, whole)
                }
            }
        }
    }

    pub(super) fn next_piece(&mut self, at: Handle) {
        let Some(req) = self.reqs.get_mut(at) else {
            return;
        };
        let (old, kind) = ((req.offset, req.len), req.kind);
        let (offset, rest) = (req.offset + req.len, req.rest);
        let held = req.held.take();
        // A zeroed edge of a discard goes on as a discard.
        let kind = if self.discard_granularity > 0 && kind == Kind::Zero && old.1 < DISCARD_PIECE {
            Kind::Discard
        } else {
            kind
        };
        let (kind, len) = self.piece(kind, offset, rest);
        for region in span(self.geometry, old.0, old.1) {
            self.map.touch(region, self.tick);
        }
        if let Some(req) = self.reqs.get_mut(at) {
            (req.kind, req.offset, req.len, req.rest) = (kind, offset, len, rest - len);
            (req.io, req.issued, req.deadline) = ([LegIo::No; 2], false, None);
        }
        if let Some(held) = held {
            self.unlock(held);
        }
        self.begin(at);
    }
}

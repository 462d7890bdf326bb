//! Inspect: what a plan needs to know of a leg. Our registration is taken away again, nothing is written.

use std::time::Duration;

use twinsite_register::{Class, Epoch, Gen, Leg, LegSeed, Register, classify};

use super::{At, Done, OneShot, Phase};
use crate::activation::{BeatView, Fit, LegView, RegView, SbView};
use crate::attach::head::Head;
use crate::attach::sequence::Sequence;
use crate::io::{LegInfo, LegOp, Session};
use crate::layout::{Beat, Slots, Superblock};

/// What stands on a leg.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LegInspection {
    /// The LUN.
    pub info: LegInfo,
    /// The superblock slots.
    pub slots: Slots,
    /// Is the superblock one of this leg of this volume?
    pub is_ours: bool,
    /// Class against the register, if that is live.
    pub fit: Option<Fit>,
    /// The last beat.
    pub beat: Option<Beat>,
    /// Bytes of the regions that may differ from the other leg.
    pub dirty_bytes: u64,
    /// Until which membership it had every write; none: it was not completed, or was put back.
    pub moment: Option<(Epoch, Gen)>,
}

impl LegInspection {
    /// The superblock, if it is one of this leg of this volume.
    pub fn superblock(&self) -> Option<&Superblock> {
        if self.is_ours {
            self.slots.superblock()
        } else {
            None
        }
    }

    /// What a force would grant.
    pub fn seed(&self) -> Option<LegSeed> {
        let sb = self.superblock()?;
        Some(LegSeed {
            epoch: sb.epoch,
            generation: sb.generation,
            sb_seq: sb.sb_seq,
        })
    }
}

fn inspection(
    leg: Leg,
    head: &Head,
    info: LegInfo,
    register: Option<&Register>,
    moment: Option<(Epoch, Gen)>,
) -> LegInspection {
    let body = head.body.as_ref();
    let dirty = body.map_or(0, |body| {
        let geometry = body.superblock.geometry;
        let regions = body.pages.iter().flat_map(|page| {
            let count = geometry.regions_in_page(page.page);
            page.dirty(count)
                .map(|index| geometry.region_at(page.page, index))
        });
        regions.map(|region| geometry.extent(region).1).sum()
    });
    let view = match body {
        Some(body) => LegView::Sb(SbView::of(&body.superblock, register, BeatView::Fresh)),
        None => LegView::Bad,
    };
    let fit = match RegView::of(classify(register, &[], &[]), register) {
        RegView::Live(live) => Some(live.fit(leg, &view)),
        RegView::Unreadable
        | RegView::Absent
        | RegView::Creating
        | RegView::Tombstone
        | RegView::Below => None,
    };
    LegInspection {
        info,
        slots: head.slots.clone(),
        is_ours: body.is_some(),
        fit,
        beat: body.and_then(|body| body.beat),
        dirty_bytes: dirty,
        moment,
    }
}

impl OneShot {
    pub(super) fn unregister(&mut self, now: Duration) {
        self.phase = Phase::Unregister;
        for leg in self.order.legs.iter() {
            if self.at[leg.index()] != At::Looked {
                continue;
            }
            let mut sequence = Sequence::default();
            sequence.push(LegOp::PrUnregister {
                key: self.look_key,
                session: Session::Data,
            });
            let track = &mut self.tracks[leg.index()];
            track.write(now, sequence, &self.order.config, &mut self.port);
        }
    }

    pub(super) fn inspected(&mut self) {
        if let Some(failure) = self.failure {
            return self.fail(failure);
        }
        if self.is_forced() {
            return self.finish(Done::Forced);
        }
        let register = self.seen().cloned();
        let legs = Leg::BOTH.map(|leg| {
            let (head, info) = self.head(leg)?;
            let moment = self.moment_of(leg);
            Some(Box::new(inspection(
                leg,
                head,
                info,
                register.as_ref(),
                moment,
            )))
        });
        self.finish(Done::Inspected {
            register: register.map(Box::new),
            legs,
        });
    }
}

/// Is this register in use?
pub(super) fn is_live(register: &Register) -> bool {
    classify(Some(register), &[], &[]) == Class::Live
}

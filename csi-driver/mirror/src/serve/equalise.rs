//! Reconcile, part one (2.7 step 8): a pair's pages are made equal before the first new transaction, its beats after the last
//! pending region (R42), and the source of the regions that may differ is chosen (2.9).
//!
//! Pure: what two legs show goes in; what must be written, which regions are pending and which leg is right comes out.

use twinsite_register::Leg;

use crate::dirty::REGIONS_PER_PAGE;
use crate::engine::ServedLeg;
use crate::layout::{Beat, Geometry, MapPage};
use crate::regions::RegionSet;

/// The result for a pair.
#[derive(Debug)]
pub(super) struct Equal {
    /// Pages as both legs will have them.
    pub(super) pages: Vec<MapPage>,
    /// Pages that must be written, to both.
    pub(super) writes: Vec<u32>,
    pub(super) beat: Option<Beat>,
    /// Legs that do not have that beat.
    pub(super) beat_to: Vec<Leg>,
    pub(super) pending: RegionSet,
    /// Source for all pages, and the pages whose source is the other leg.
    pub(super) source: Leg,
    pub(super) other_pages: Vec<u32>,
    /// A target restarted since its boot id was recorded, with regions that may differ.
    pub(super) boot_changed: bool,
    /// A gap of 2 or more: this leg was rolled back (2.9).
    pub(super) rolled_back: Option<Leg>,
}

/// Compare the two legs of a pair; `local` breaks ties. A page that only one of them has is all dirty on the other one.
pub(super) fn equalise(geometry: Geometry, local: Leg, legs: [&ServedLeg; 2]) -> Equal {
    let mut pages = Vec::new();
    let mut writes = Vec::new();
    let mut pending = RegionSet::new();
    let mut higher = Vec::new();
    let mut gap = None;
    let mut missing = MapPage::parse_or_dirty(0, &[]);
    for number in 0..geometry.pages() {
        missing.page = number;
        let [a, b] = legs.map(|leg| leg.pages.get(number as usize).unwrap_or(&missing));
        let mut page = if a.number >= b.number {
            a.clone()
        } else {
            b.clone()
        };
        page.unite(if a.number >= b.number { b } else { a });
        if a.number != b.number || !a.same_regions(b) || a.epoch != b.epoch {
            writes.push(page.page);
        }
        // A page that cannot be believed has number 0: damaged, not rolled back.
        if a.number.abs_diff(b.number) >= 2 && a.number != 0 && b.number != 0 {
            gap = Some(if a.number < b.number { Leg::A } else { Leg::B });
        }
        if a.number != b.number {
            higher.push((page.page, if a.number > b.number { Leg::A } else { Leg::B }));
        }
        let first = page.page * REGIONS_PER_PAGE;
        for slot in page.dirty(geometry.regions_in_page(page.page)) {
            pending.insert(first + slot as u32);
        }
        pages.push(page);
    }
    let beat_of = |leg: Leg| legs[leg.index()].beat.map_or(0, |beat| beat.beat);
    let (a, b) = (beat_of(Leg::A), beat_of(Leg::B));
    if a.abs_diff(b) >= 2 && legs[0].beat.is_some() && legs[1].beat.is_some() {
        gap = Some(if a < b { Leg::A } else { Leg::B });
    }
    let newest = if a >= b { legs[0].beat } else { legs[1].beat };
    let beat_to = Leg::BOTH
        .into_iter()
        .filter(|leg| legs[leg.index()].beat != newest)
        .collect();
    let changed = Leg::BOTH.map(|leg| boot_changed(legs[leg.index()]));
    let source = match changed {
        // R29: a leg that restarted is no source if the other one did not.
        [true, false] => Leg::B,
        [false, true] => Leg::A,
        _ if a > b => Leg::A,
        _ if b > a => Leg::B,
        _ => local,
    };
    let boot_changed = !pending.is_empty() && (changed[0] || changed[1]);
    let by_volume = boot_changed || a != b;
    let other_pages = higher
        .into_iter()
        .filter(|&(_, leg)| !by_volume && leg != source)
        .map(|(page, _)| page)
        .collect();
    Equal {
        pages,
        writes,
        beat: newest,
        beat_to,
        pending,
        source,
        other_pages,
        boot_changed,
        rolled_back: gap,
    }
}

/// Did the target restart since its boot id was recorded, so that writes of its cache may be gone?
pub(super) fn boot_changed(leg: &ServedLeg) -> bool {
    leg.info.volatile_cache
        && leg
            .info
            .boot_id
            .is_none_or(|now| now != leg.superblock.boot_id)
}

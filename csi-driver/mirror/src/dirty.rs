//! The dirty map in memory: which regions the legs may differ in, and which page transactions make that durable.
//!
//! Each map page has at most one transaction in flight; what comes meanwhile joins the next one (group commit). A write to
//! a region that is not durably dirty waits at two gates of the transaction that carries its region:
//! * gate 1, page durable on one leg: the data may leave (R1);
//! * gate 2, page durable on every leg that keeps the map: the write may be acknowledged.
//!
//! ```text
//! unwritten, clean --claim--> setting --on every leg--> dirty --clear (own transaction)--> clean
//! ```
//!
//! Invariants: a region is `dirty` in memory only if a page that says so is durable on every leg of its page; page numbers
//! grow by one per transaction; a clear forgets a region before its page is written, so a write that comes later is cold.
//! Not here: who may be cleared and when (`serve/clear.rs`), the block format (`layout`).

use std::collections::VecDeque;

use twinsite_register::{Epoch, Leg, Members};

use crate::layout::{Block, Geometry, MapPage, PAGE_REGIONS, RegionState};
use crate::regions::RegionSet;

pub(crate) const REGIONS_PER_PAGE: u32 = PAGE_REGIONS as u32;

/// A write that waits at the gates, named by its owner.
pub(crate) type Waiter = crate::slab::Handle;

/// What a claim found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// Durably dirty: nothing to wait for.
    Hot,
    /// Wait for gate 2 only: the transaction is durable on one leg already.
    Gate2,
    /// Wait for both gates.
    Both,
}

/// Gates that opened. Filled by the map, drained by its owner.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    pub(crate) gate1: Vec<Waiter>,
    pub(crate) gate2: Vec<Waiter>,
}

/// What a transaction is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A new number.
    Update,
    /// The page as it is, under its present number, to a leg that joins (2.6 step 6b).
    Join(Leg),
}

/// A page transaction in flight.
#[derive(Debug)]
struct Transaction {
    kind: Kind,
    /// As it is being written: what comes later joins the next transaction.
    block: Block,
    sets: Vec<u32>,
    done: Members,
    /// Gate 1 opened; it opens once, also when the leg that opened it is dropped.
    gate1: bool,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Page {
    /// What every leg of `legs` has, and the number of the last transaction begun.
    map: MapPage,
    legs: Members,
    in_flight: Option<Transaction>,
    /// Regions and waiters of the next transaction.
    sets: Vec<u32>,
    waiters: Vec<Waiter>,
    /// Write the page even if nothing changed.
    forced: bool,
    joins: Option<Leg>,
    queued: bool,
    /// Tick of the last write of each region; allocated with the first dirty one.
    touched: Option<Box<[u32]>>,
    /// Regions dirty or being set.
    dirty: u32,
    /// No dirty region of the page was touched before this tick: skips pages that have nothing to clear.
    oldest: u32,
}

impl Page {
    fn is_durable(&self, slot: u32) -> bool {
        self.map.region(slot as usize) == RegionState::Dirty
    }

    fn is_setting(&self, slot: u32) -> bool {
        self.sets.contains(&slot)
            || self
                .in_flight
                .as_ref()
                .is_some_and(|t| t.sets.contains(&slot))
    }

    fn touch(&mut self, slot: u32, tick: u32) {
        let touched = self
            .touched
            .get_or_insert_with(|| vec![0; PAGE_REGIONS].into_boxed_slice());
        touched[slot as usize] = tick;
    }
}

/// A page write to carry out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Start {
    pub(crate) page: u32,
    pub(crate) legs: Members,
}

/// The map.
#[derive(Debug)]
pub(crate) struct DirtyMap {
    geometry: Geometry,
    epoch: Epoch,
    pages: Vec<Page>,
    /// Pages that may have a transaction to start.
    ready: VecDeque<u32>,
    in_flight: u32,
    dirty: u32,
}

impl DirtyMap {
    /// From the pages as they stand on every leg of `legs`.
    pub(crate) fn new(
        geometry: Geometry,
        epoch: Epoch,
        legs: Members,
        pages: Vec<MapPage>,
    ) -> Self {
        let mut map = Self {
            geometry,
            epoch,
            pages: Vec::new(),
            ready: VecDeque::new(),
            in_flight: 0,
            dirty: 0,
        };
        for page in pages {
            map.push_page(legs, page);
        }
        map
    }

    fn push_page(&mut self, legs: Members, map: MapPage) {
        let count = self.geometry.regions_in_page(map.page);
        let dirty = map.dirty(count).count() as u32;
        self.dirty += dirty;
        self.pages.push(Page {
            map,
            legs,
            in_flight: None,
            sets: Vec::new(),
            waiters: Vec::new(),
            forced: false,
            joins: None,
            queued: false,
            touched: None,
            dirty,
            oldest: 0,
        });
    }

    /// Grow to another geometry. New pages are all in one state; the caller has made their pages durable.
    pub(crate) fn grow(&mut self, geometry: Geometry, legs: Members, state: RegionState) {
        self.geometry = geometry;
        for page in self.page_count()..geometry.pages() {
            self.push_page(legs, MapPage::filled(page, 1, self.epoch, state));
        }
    }

    /// Transactions from now on belong to this epoch.
    pub(crate) fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    pub(crate) fn page_count(&self) -> u32 {
        self.pages.len() as u32
    }

    /// Regions that are dirty or being set.
    pub(crate) fn dirty_regions(&self) -> u32 {
        self.dirty
    }

    /// Number of the last transaction begun, of each page.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.pages.iter().map(|page| page.map.number).collect()
    }

    pub(crate) fn is_unwritten(&self, region: u32) -> bool {
        let page = &self.pages[(region / REGIONS_PER_PAGE) as usize];
        let slot = region % REGIONS_PER_PAGE;
        page.map.region(slot as usize) == RegionState::Unwritten && !page.is_setting(slot)
    }

    /// A write to `region` is about to be issued. Not [`Claim::Hot`]: `waiter` is told at the gates.
    pub(crate) fn claim(&mut self, region: u32, waiter: Waiter, tick: u32) -> Claim {
        let index = region / REGIONS_PER_PAGE;
        let slot = region % REGIONS_PER_PAGE;
        let page = &mut self.pages[index as usize];
        page.touch(slot, tick);
        if page.is_durable(slot) {
            return Claim::Hot;
        }
        if page.dirty == 0 {
            page.oldest = tick;
        }
        if let Some(transaction) = page.in_flight.as_mut().filter(|t| t.sets.contains(&slot)) {
            transaction.waiters.push(waiter);
            return if transaction.gate1 {
                Claim::Gate2
            } else {
                Claim::Both
            };
        }
        page.waiters.push(waiter);
        if !page.sets.contains(&slot) {
            self.set(region);
        }
        Claim::Both
    }

    /// Mark regions without a write that waits for them (pre-dirty, union of maps).
    pub(crate) fn mark_dirty(&mut self, regions: impl IntoIterator<Item = u32>) {
        // A set of what is being set: a whole page may be marked at once.
        let mut setting = RegionSet::new();
        let mut page_of_set = u32::MAX;
        for region in regions {
            let index = region / REGIONS_PER_PAGE;
            let page = &self.pages[index as usize];
            if page.is_durable(region % REGIONS_PER_PAGE) {
                continue;
            }
            if index != page_of_set {
                setting.clear();
                page.in_flight
                    .iter()
                    .flat_map(|t| &t.sets)
                    .chain(&page.sets)
                    .for_each(|&slot| {
                        setting.insert(slot);
                    });
                page_of_set = index;
            }
            if setting.insert(region % REGIONS_PER_PAGE) {
                self.set(region);
            }
        }
    }

    /// Does every leg that keeps the map have the region as dirty?
    pub(crate) fn is_durable(&self, region: u32) -> bool {
        self.pages[(region / REGIONS_PER_PAGE) as usize].is_durable(region % REGIONS_PER_PAGE)
    }

    fn set(&mut self, region: u32) {
        let index = region / REGIONS_PER_PAGE;
        let page = &mut self.pages[index as usize];
        page.sets.push(region % REGIONS_PER_PAGE);
        page.dirty += 1;
        self.dirty += 1;
        self.queue(index);
    }

    /// A write to the region ended at `tick`.
    pub(crate) fn touch(&mut self, region: u32, tick: u32) {
        self.pages[(region / REGIONS_PER_PAGE) as usize].touch(region % REGIONS_PER_PAGE, tick);
    }

    /// Write the page although nothing changed (shrink: 2.5 step 4).
    pub(crate) fn force(&mut self, page: u32) {
        self.pages[page as usize].forced = true;
        self.queue(page);
    }

    /// Pages with a dirty region, or with a transaction in flight.
    pub(crate) fn dirty_pages(&self) -> Vec<u32> {
        self.pages_where(|page| page.dirty > 0 || page.in_flight.is_some())
    }

    /// Pages that have a transaction in flight.
    pub(crate) fn pages_in_flight(&self) -> Vec<u32> {
        self.pages_where(|page| page.in_flight.is_some())
    }

    fn pages_where(&self, test: impl Fn(&Page) -> bool) -> Vec<u32> {
        self.pages
            .iter()
            .filter(|page| test(page))
            .map(|page| page.map.page)
            .collect()
    }

    /// Write the page under its present number to `leg`, which from then on keeps it (2.6 step 6b).
    pub(crate) fn join(&mut self, page: u32, leg: Leg) {
        self.pages[page as usize].joins = Some(leg);
        self.queue(page);
    }

    /// Does the page go to `leg`?
    pub(crate) fn keeps(&self, page: u32, leg: Leg) -> bool {
        self.pages[page as usize].legs.contains(leg)
    }

    /// Does every page go to `leg`?
    pub(crate) fn joined(&self, leg: Leg) -> bool {
        self.pages.iter().all(|page| page.legs.contains(leg))
    }

    /// Nothing is in flight or waiting.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight == 0 && self.ready.is_empty()
    }

    fn queue(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        if !entry.queued && entry.in_flight.is_none() {
            entry.queued = true;
            self.ready.push_back(page);
        }
    }

    /// The next page write to carry out on every leg of `legs`: the block is [`Self::block`].
    pub(crate) fn start(&mut self) -> Option<Start> {
        while let Some(index) = self.ready.pop_front() {
            let page = &mut self.pages[index as usize];
            page.queued = false;
            debug_assert!(page.in_flight.is_none(), "a page in flight is not queued");
            let (kind, legs, sets, waiters) = if let Some(leg) = page.joins.take() {
                (Kind::Join(leg), Members::only(leg), Vec::new(), Vec::new())
            } else if !page.sets.is_empty() || page.forced {
                page.forced = false;
                page.map.number += 1;
                page.map.epoch = self.epoch;
                (
                    Kind::Update,
                    page.legs,
                    std::mem::take(&mut page.sets),
                    std::mem::take(&mut page.waiters),
                )
            } else {
                continue;
            };
            let block = if sets.is_empty() {
                page.map.emit()
            } else {
                let mut map = page.map.clone();
                sets.iter()
                    .for_each(|&slot| map.set_region(slot as usize, RegionState::Dirty));
                map.emit()
            };
            page.in_flight = Some(Transaction {
                kind,
                block,
                sets,
                done: Members::NONE,
                gate1: false,
                waiters,
            });
            self.in_flight += 1;
            return Some(Start { page: index, legs });
        }
        None
    }

    /// The block of the transaction in flight, for the first send and for a resend.
    pub(crate) fn block(&self, page: u32) -> Option<&Block> {
        self.pages[page as usize]
            .in_flight
            .as_ref()
            .map(|t| &t.block)
    }

    /// Legs that the transaction in flight still waits for.
    pub(crate) fn waits_for(&self, page: u32) -> Members {
        let page = &self.pages[page as usize];
        match &page.in_flight {
            Some(Transaction {
                kind: Kind::Join(leg),
                done,
                ..
            }) => Members::only(*leg).without_all(*done),
            Some(transaction) => page.legs.without_all(transaction.done),
            None => Members::NONE,
        }
    }

    /// `leg` has the page of the transaction in flight.
    pub(crate) fn durable(&mut self, page: u32, leg: Leg, opened: &mut Opened) {
        let Some(transaction) = &mut self.pages[page as usize].in_flight else {
            return;
        };
        if !transaction.gate1 && transaction.kind == Kind::Update {
            transaction.gate1 = true;
            opened.gate1.extend_from_slice(&transaction.waiters);
        }
        transaction.done = transaction.done.with(leg);
        self.finish(page, opened);
    }

    fn finish(&mut self, index: u32, opened: &mut Opened) {
        let waits = !self.waits_for(index).is_empty();
        let page = &mut self.pages[index as usize];
        let Some(transaction) = page.in_flight.take_if(|t| !waits && !t.done.is_empty()) else {
            // Also when its only leg was dropped before it had the page: nobody keeps the map, nothing may pass.
            return;
        };
        self.in_flight -= 1;
        match transaction.kind {
            Kind::Join(leg) => page.legs = page.legs.with(leg),
            Kind::Update => {
                for &slot in &transaction.sets {
                    page.map.set_region(slot as usize, RegionState::Dirty);
                }
                opened.gate2.extend_from_slice(&transaction.waiters);
            }
        }
        self.queue(index);
    }

    /// `leg` no longer keeps the map: transactions wait for the other one only.
    pub(crate) fn drop_leg(&mut self, leg: Leg, opened: &mut Opened) {
        for index in 0..self.page_count() {
            let page = &mut self.pages[index as usize];
            page.joins = page.joins.filter(|&joins| joins != leg);
            page.legs = page.legs.without(leg);
            match &mut page.in_flight {
                Some(Transaction {
                    kind: Kind::Join(joining),
                    ..
                }) if *joining == leg => {
                    page.in_flight = None;
                    self.in_flight -= 1;
                    self.queue(index);
                }
                Some(transaction) => {
                    transaction.done = transaction.done.without(leg);
                    self.finish(index, opened);
                }
                None => {}
            }
        }
    }

    /// No dirty region of the page was written before this tick; `None` if the page has none at all.
    pub(crate) fn oldest(&self, page: u32) -> Option<u32> {
        let page = &self.pages[page as usize];
        (page.dirty > 0).then_some(page.oldest)
    }

    /// Last-write ticks of all dirty regions of a page, for the choice of what to clear early.
    pub(crate) fn ticks(&self, page: u32, into: &mut Vec<u32>) {
        let entry = &self.pages[page as usize];
        let count = self.geometry.regions_in_page(page);
        into.extend(
            entry
                .map
                .dirty(count)
                .map(|slot| entry.touched.as_ref().map_or(0, |touched| touched[slot])),
        );
    }

    /// Forget the dirty regions of the page last written before `limit` that are not `busy`, and queue the transaction
    /// that says so. Returns how many; 0 if the page has a transaction in flight or nothing to clear.
    pub(crate) fn clear(
        &mut self,
        page: u32,
        limit: u32,
        mut busy: impl FnMut(u32) -> bool,
    ) -> u32 {
        let count = self.geometry.regions_in_page(page);
        let entry = &mut self.pages[page as usize];
        if entry.in_flight.is_some() || !entry.sets.is_empty() || entry.dirty == 0 {
            return 0;
        }
        let dirty: Vec<usize> = entry.map.dirty(count).collect();
        let mut cleared = 0;
        let mut oldest = limit;
        for slot in dirty {
            let tick = entry.touched.as_ref().map_or(0, |touched| touched[slot]);
            if tick < limit && !busy(page * REGIONS_PER_PAGE + slot as u32) {
                entry.map.set_region(slot, RegionState::Clean);
                cleared += 1;
            } else {
                oldest = oldest.min(tick);
            }
        }
        entry.oldest = oldest;
        entry.dirty -= cleared;
        if entry.dirty == 0 {
            entry.touched = None;
        }
        self.dirty -= cleared;
        if cleared > 0 {
            self.force(page);
        }
        cleared
    }

    /// All regions that are dirty or being set.
    pub(crate) fn dirty_set(&self) -> RegionSet {
        let mut set = RegionSet::new();
        for page in self.pages.iter().filter(|page| page.dirty > 0) {
            let first = page.map.page * REGIONS_PER_PAGE;
            let count = self.geometry.regions_in_page(page.map.page);
            let setting = page
                .in_flight
                .iter()
                .flat_map(|t| &t.sets)
                .chain(&page.sets)
                .map(|&slot| slot as usize);
            page.map.dirty(count).chain(setting).for_each(|slot| {
                set.insert(first + slot as u32);
            });
        }
        set
    }
}

/// Set difference of two member sets.
trait Without {
    fn without_all(self, other: Self) -> Self;
}

impl Without for Members {
    fn without_all(self, other: Self) -> Self {
        other.iter().fold(self, Self::without)
    }
}

#[cfg(test)]
mod tests;

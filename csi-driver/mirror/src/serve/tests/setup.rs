//! What the engine takes over in a scripted run.

use twinsite_register::{Epoch, Leg, Members};

use crate::config::Config;
use crate::io::Mode;
use crate::layout::{Base, MapPage, RegionState};

/// How the engine's set looks when it takes over.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Setup {
    pub(in crate::serve) members: Members,
    pub(in crate::serve) pages: [MapPage; 2],
    pub(in crate::serve) beats: [u64; 2],
    pub(in crate::serve) boots: [u64; 2],
    pub(in crate::serve) volatile: bool,
    pub(in crate::serve) base: Option<(Leg, Base, Vec<u64>)>,
    /// Without the register.
    pub(in crate::serve) unstamped: bool,
    pub(in crate::serve) config: Config,
    pub(in crate::serve) size: u64,
    /// By how much the superblock of A says more.
    pub(in crate::serve) a_grew: u64,
    pub(in crate::serve) mode: Mode,
    pub(in crate::serve) discard: u32,
    /// The device goes on, and its record says so.
    pub(in crate::serve) owed: bool,
}

pub(super) fn page(number: u64, dirty: &[usize]) -> MapPage {
    let mut page = MapPage::filled(0, number, Epoch(3), RegionState::Clean);
    dirty
        .iter()
        .for_each(|&slot| page.set_region(slot, RegionState::Dirty));
    page
}

impl Setup {
    pub(in crate::serve) fn pair() -> Self {
        Self {
            members: Members::BOTH,
            pages: [page(5, &[]), page(5, &[])],
            beats: [9, 9],
            boots: [100, 200],
            volatile: false,
            base: None,
            unstamped: false,
            config: Config {
                predirty: 0,
                rest_small: 0,
                ..Config::default()
            },
            size: 64 << 16,
            a_grew: 0,
            mode: Mode::Writer,
            discard: 0,
            owed: false,
        }
    }

    pub(in crate::serve) fn solo(leg: Leg) -> Self {
        Self {
            members: Members::only(leg),
            ..Self::pair()
        }
    }
}

//! A volume that was just born.

use std::time::Duration;

use twinsite_register::{Gen, GroupId, Naa, Register, RegisterId, Site, TxId};

use super::rng::Rng;
use super::world::{Unit, volume_id};
use crate::config::Config;
use crate::layout::{Geometry, PAGE_REGIONS, Superblock};

pub(super) fn config() -> Config {
    Config {
        clear_idle: Duration::from_secs(3),
        resync_bytes_per_second: Some(64 << 20),
        copy_max: 256 << 10,
        copies: 4,
        rest_small: 1 << 20,
        max_requests: 16,
        rejoin_backoff: (Duration::from_secs(1), Duration::from_secs(8)),
        ..Config::default()
    }
}

/// Volumes of two map pages and a bit, born and never used; superblocks by unit.
pub(super) fn born(rng: &mut Rng, volumes: usize) -> (Register, Vec<Superblock>, Geometry) {
    let geometry = Geometry::new((2 * PAGE_REGIONS as u64 + 40) << 16, 16).unwrap();
    let create = twinsite_register::Create {
        register_id: RegisterId(rng.bytes()),
        group: GroupId([7; 16]),
        volumes: (0..volumes).map(volume_id).collect(),
        generation: Gen(rng.bytes()),
        site: Site::A,
        txid: TxId(rng.bytes()),
    };
    let register = Register::create(create)
        .unwrap()
        .birth(Site::A, TxId(rng.bytes()))
        .unwrap();
    let superblock = |unit: Unit| {
        let naa = Naa([unit.index() as u8 + 1; 16]);
        Superblock::born(&register, volume_id(unit.volume), unit.leg, geometry, naa)
    };
    let superblocks = Unit::all(volumes).map(superblock).collect();
    (register.clone(), superblocks, geometry)
}

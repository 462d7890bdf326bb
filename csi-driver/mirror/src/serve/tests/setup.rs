//! What the engine takes over in a scripted run.

use twinsite_register::{
    AttachmentUid, Create, Epoch, Gen, GroupId, Key, KeyTag, Leg, Members, Naa, Order, Register,
    RegisterId, Running, Site, StampId, TxId, VolumeId,
};

use crate::config::Config;
use crate::engine::{IdSource, Served, ServedLeg};
use crate::io::{AttachOrder, AttachRecord, DATA_START, Format, LegInfo, Mode};
use crate::layout::{Base, Beat, Geometry, MapPage, RegionState, Role, Superblock};

/// The generation of the set that is taken over.
pub(super) const OLD: Gen = Gen([1; 16]);

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
    /// Clean pages behind the first one.
    pub(in crate::serve) more_pages: u32,
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
            more_pages: 0,
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

/// A register in which the attach with `key` holds `members`.
pub(super) fn register(key: Key, members: Members) -> Register {
    let create = Create {
        register_id: RegisterId([9; 16]),
        group: GroupId([8; 16]),
        volumes: vec![VolumeId([7; 16])],
        generation: OLD,
        site: Site::A,
        txid: TxId([1; 16]),
    };
    let born = Register::create(create)
        .unwrap()
        .birth(Site::A, TxId([2; 16]))
        .unwrap();
    Register {
        epoch: Epoch(3),
        members,
        landed: members,
        holder: Some(key),
        stamp_id: StampId([3; 16]),
        order: Order {
            n: 1,
            uid: AttachmentUid([5; 16]),
        },
        ..born
    }
}

/// The key of the writer.
pub(super) fn key() -> Key {
    Key::new(KeyTag::Writer(Site::A), 0xabcdef)
}

pub(super) fn leg_infos(setup: &Setup) -> [LegInfo; 2] {
    Leg::BOTH.map(|leg| LegInfo {
        naa: Naa([leg.index() as u8 + 1; 16]),
        capacity: DATA_START + (1 << 40),
        block_size: 512,
        volatile_cache: setup.volatile,
        boot_id: Some([100, 200][leg.index()]),
        own_target: true,
        discard_zeroes: setup.discard > 0,
        discard_granularity: setup.discard,
    })
}

/// What an attach hands over.
pub(in crate::serve) fn served(setup: &Setup) -> Served {
    let key = key();
    let register = register(key, setup.members);
    let infos = leg_infos(setup);
    let geometry = |leg: Leg| {
        let more = if leg == Leg::A { setup.a_grew } else { 0 };
        Geometry::new(setup.size + more, 16).unwrap()
    };
    let clean = |page: u32| MapPage::filled(page, 5, register.epoch, RegionState::Clean);
    let superblock = |leg: Leg| Superblock {
        compat: 0,
        ro_compat: 0,
        sb_seq: 10,
        volume: VolumeId([7; 16]),
        group: GroupId([8; 16]),
        register_id: register.register_id,
        leg,
        role: Role::Member,
        members: setup.members,
        active_site: Site::A,
        active_seq: 1,
        geometry: geometry(leg),
        size_new: 0,
        epoch: register.epoch,
        generation: register.generation,
        base: setup.base.as_ref().map(|base| base.1),
        clean: false,
        attach_key: Some(key),
        boot_id: setup.boots[leg.index()],
        lease_ms: 3000,
        awaits_register: false,
        node: "n".to_owned(),
        format: Format::None,
        fs_type: [0; 15],
        naa: Naa([leg.index() as u8 + 1; 16]),
        parents: Vec::new(),
        order: Order {
            n: 1,
            uid: AttachmentUid([5; 16]),
        },
    };
    let legs = Leg::BOTH.map(|leg| {
        setup.members.contains(leg).then(|| ServedLeg {
            info: infos[leg.index()],
            superblock: superblock(leg),
            pages: std::iter::once(setup.pages[leg.index()].clone())
                .chain((1..=setup.more_pages).map(clean))
                .collect(),
            beat: Some(Beat {
                volume: VolumeId([7; 16]),
                epoch: register.epoch,
                attach_key: Some(key),
                beat: setup.beats[leg.index()],
                flushed: 0,
            }),
            base_numbers: setup
                .base
                .as_ref()
                .filter(|base| base.0 == leg)
                .map(|base| base.2.clone()),
            restarted: false,
        })
    });
    let uid = AttachmentUid([5; 16]);
    let order = AttachOrder {
        volume: VolumeId([7; 16]),
        uid,
        key,
        seed: [42; 32],
        site: Site::A,
        node: "n".to_owned(),
        mode: setup.mode,
        mv: None,
        record: AttachRecord {
            uid,
            keys: vec![key],
            n: Some(1),
            stale: false,
            flush_owed: setup.owed,
        },
        shown: false,
        marks: Vec::new(),
        initialize: [None, None],
        config: setup.config,
    };
    let connected = Leg::BOTH.map(|leg| setup.members.contains(leg).then_some(infos[leg.index()]));
    Served {
        order,
        running: Running::of(&register, key),
        place: Order { n: 1, uid },
        ids: IdSource::new([42; 32]),
        register: (!setup.unstamped).then(|| register.clone()),
        legs,
        connected,
        beat_object: None,
        continued: setup.owed,
    }
}

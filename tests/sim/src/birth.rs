//! A volume as a finished birth leaves it: a live register and two formatted legs.

use twinsite_mirror::io::Format;
use twinsite_mirror::layout::{
    BEAT_OFFSET, Beat, Geometry, MapPage, RegionState, Superblock, guard_block, map_offset,
    slot_offset,
};
use twinsite_register::{
    Create, Epoch, Gen, GroupId, Leg, Naa, Register, RegisterId, Site, TxId, VolumeId,
};

use crate::disk::Disk;
use crate::oracle::{GROWN, SIZE};
use crate::target;

pub const VOLUME: VolumeId = VolumeId([7; 16]);
const GROUP: GroupId = GroupId([8; 16]);

pub fn register() -> Register {
    let create = Create {
        register_id: RegisterId([9; 16]),
        group: GROUP,
        volumes: vec![VOLUME],
        generation: Gen([1; 16]),
        site: Site::A,
        txid: TxId([1; 16]),
    };
    let creating = Register::create(create).expect("a good first value");
    creating
        .birth(Site::A, TxId([2; 16]))
        .expect("a birth of a created register")
}

/// Bytes of a LUN that carries the volume, with room to grow.
pub fn lun_size() -> u64 {
    twinsite_mirror::io::DATA_START + GROWN[1]
}

pub fn bear(leg: Leg, register: &Register, disk: &mut Disk) {
    let geometry = Geometry::for_new(SIZE).expect("a size in bounds");
    let guard = guard_block();
    disk.put_block(0, &guard[..]);
    for page in 0..geometry.pages() {
        let map = MapPage::filled(page, 1, Epoch(1), RegionState::Unwritten);
        disk.put_block(map_offset(page), &map.emit()[..]);
    }
    let mut fs_type = [0; 15];
    fs_type[..3].copy_from_slice(b"raw");
    let naa = Naa(target::naa(leg.index()));
    let sb = Superblock {
        format: Format::Done,
        fs_type,
        ..Superblock::born(register, VOLUME, leg, geometry, naa)
    };
    for sb_seq in 1..=2 {
        let slot = Superblock {
            sb_seq,
            ..sb.clone()
        };
        disk.put_block(slot_offset(sb_seq), &slot.emit()[..]);
    }
    let beat = Beat {
        volume: VOLUME,
        epoch: Epoch(0),
        attach_key: None,
        beat: 0,
        flushed: 0,
    };
    disk.put_block(BEAT_OFFSET, &beat.emit()[..]);
}

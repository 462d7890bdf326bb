//! Offsets, checksums and bounds of every block on a leg, and what damaged ones read as.

mod random;

use twinsite_register::*;

use super::*;
use crate::io::Format;

pub(crate) fn superblock(sb_seq: u64) -> Superblock {
    let mut fs_type = [0; 15];
    fs_type[..3].copy_from_slice(b"xfs");
    Superblock {
        compat: 0x11,
        ro_compat: 0,
        sb_seq,
        volume: VolumeId([0x21; 16]),
        group: GroupId([0x22; 16]),
        register_id: RegisterId([0x23; 16]),
        leg: Leg::B,
        role: Role::Member,
        members: Members::BOTH,
        active_site: Site::A,
        active_seq: 0x0102,
        geometry: Geometry::new(1 << 30, 16).unwrap(),
        size_new: 2 << 30,
        epoch: Epoch(0x0304),
        generation: Gen([0x24; 16]),
        base: Some(Base {
            epoch: Epoch(0x0303),
            generation: Gen([0x25; 16]),
            crc: 0xdead_beef,
        }),
        clean: true,
        attach_key: Some(Key::from_u64(0xa1aa_bbcc_ddee_ff00)),
        boot_id: 0x0506_0708,
        lease_ms: 3000,
        awaits_register: false,
        node: "m1".into(),
        format: Format::Done,
        fs_type,
        naa: Naa([0x60; 16]),
        parents: vec![
            Parent {
                epoch: Epoch(0x0303),
                generation: Gen([0x25; 16]),
                members: Members::BOTH,
            },
            Parent {
                epoch: Epoch(0x0302),
                generation: Gen([0x26; 16]),
                members: Members::only(Leg::B),
            },
        ],
        order: Order {
            n: 9,
            uid: AttachmentUid([0x27; 16]),
        },
    }
}

/// `(offset, bytes)` that must stand in the block; everything else must be zero.
fn check_bytes(block: &Block, crc_at: usize, fields: &[(usize, &[u8])]) {
    let mut expected = [0u8; BLOCK];
    for (at, field) in fields {
        expected[*at..*at + field.len()].copy_from_slice(field);
    }
    let crc = crc32c::crc32c(&expected);
    expected[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    for at in 0..BLOCK {
        assert_eq!(block[at], expected[at], "byte {at}");
    }
}

#[test]
fn the_superblock_stands_at_its_documented_offsets() {
    let block = superblock(7).emit();
    check_bytes(
        &block,
        8,
        &[
            (0, b"TWINSB01"),
            (12, &[1, 0]),
            (14, &[0x48, 0x02]),
            (32, &[0x11]),
            (40, &[7]),
            (48, &[0x21; 16]),
            (64, &[0x22; 16]),
            (80, &[0x23; 16]),
            (96, &[1, 1, 3, 0]),
            (100, &[16]),
            (104, &[2, 1]),
            (112, &[4, 3]),
            (120, &[0x24; 16]),
            (136, &[0, 0, 0, 0x40]),
            (144, &[0, 0, 0, 0x80]),
            (152, &[3, 3]),
            (160, &[0x25; 16]),
            (176, &[0xef, 0xbe, 0xad, 0xde]),
            (180, &[1]),
            (184, &[0x00, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0xa1]),
            (192, &[8, 7, 6, 5]),
            (200, &[0xb8, 0x0b]),
            (208, b"m1"),
            (272, &[2]),
            (273, b"xfs"),
            (288, &[0x60; 16]),
            (304, &[3, 3]),
            (312, &[0x25; 16]),
            (328, &[3]),
            (336, &[2, 3]),
            (344, &[0x26; 16]),
            (360, &[2]),
            (560, &[9]),
            (568, &[0x27; 16]),
        ],
    );
    assert_eq!(Superblock::parse(&block[..]).unwrap(), superblock(7));
    // The checksum itself is pinned, so that the polynomial cannot change unseen.
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(block[8..12], GOLDEN_SB_CRC);
}

#[test]
fn the_other_blocks_stand_at_their_documented_offsets() {
    let beat = Beat {
        volume: VolumeId([0x21; 16]),
        epoch: Epoch(5),
        attach_key: Some(Key::from_u64(0xb100_0000_0000_0100)),
        beat: 6,
        flushed: 7,
    };
    let block = beat.emit();
    check_bytes(
        &block,
        8,
        &[
            (0, b"TWINBT01"),
            (12, &[1]),
            (16, &[0x21; 16]),
            (32, &[5]),
            (40, &[0, 1, 0, 0, 0, 0, 0, 0xb1]),
            (48, &[6]),
            (56, &[7]),
        ],
    );
    assert_eq!(Beat::parse(&block[..]), Ok(beat));

    let mut page = MapPage::filled(3, 258, Epoch(5), RegionState::Unwritten);
    page.set_region(0, RegionState::Dirty);
    page.set_region(1, RegionState::Clean);
    page.set_region(7, RegionState::Dirty);
    page.set_region(PAGE_REGIONS - 1, RegionState::Dirty);
    let block = page.emit();
    check_bytes(
        &block,
        24,
        &[
            (0, b"TWMP"),
            (4, &[3]),
            (8, &[2, 1]),
            (16, &[5]),
            (32, &[0b0110, 0b1000_0000]),
            (4095, &[0b1000_0000]),
        ],
    );
    assert_eq!(MapPage::parse(3, &block[..]), Ok(page));

    let numbers = BaseNumbers {
        index: 2,
        epoch: Epoch(5),
        numbers: vec![0x0a0b, 0, 1],
    };
    let block = numbers.emit();
    check_bytes(
        &block,
        16,
        &[
            (0, b"TWBN"),
            (4, &[2]),
            (8, &[5]),
            (32, &[0x0b, 0x0a]),
            (48, &[1]),
        ],
    );
    let parsed = BaseNumbers::parse(2, &block[..]).unwrap();
    assert_eq!(parsed.numbers.len(), 508);
    assert_eq!(parsed.numbers[..3], [0x0a0b, 0, 1]);

    let history = History {
        superblock: superblock(65),
        reason: "shrink to B".into(),
    };
    let block = history.emit();
    assert_eq!(block[..8], *b"TWINSH01");
    assert_eq!(block[3072..3083], *b"shrink to B");
    assert_eq!(block[40], 65);
    assert_eq!(History::parse(&block[..]), Ok(history));

    assert!(guard_block().starts_with(b"This LUN is one leg of a twinsite mirrored volume.\n"));
}

#[test]
fn places_on_the_leg_are_those_of_the_document() {
    assert_eq!(slot_offset(6), 64 << 10);
    assert_eq!(slot_offset(7), 128 << 10);
    assert_eq!(BEAT_OFFSET, 192 << 10);
    assert_eq!(history_offset(0), 256 << 10);
    assert_eq!(history_offset(65), (256 << 10) + 4096);
    assert_eq!(map_offset(0), 1 << 20);
    assert_eq!(map_offset(MAX_PAGES - 1) + 4096, 65 << 20);
    assert_eq!(base_offset(1), (80 << 20) + 4096);
    assert!(base_offset(MAX_PAGES.div_ceil(508)) < DATA_OFFSET);
    assert_eq!(DATA_OFFSET, 128 << 20);
    assert_eq!(PAGE_REGIONS, 16_256);
    assert_eq!(SB_USED, 584);
}

#[test]
fn blank_foreign_torn_and_newer_slots_are_told_apart() {
    let good = superblock(6).emit();
    let newer = {
        let mut b = good.clone();
        b[12] = 2;
        bytes::seal(&mut b, 8);
        b
    };
    let incompatible = {
        let mut b = good.clone();
        b[16] = 4;
        bytes::seal(&mut b, 8);
        b
    };
    let mut torn = good.clone();
    torn[4000] = 1;
    let mut foreign = good.clone();
    foreign[..8].copy_from_slice(b"LABELONE");
    assert_eq!(Superblock::parse(&[0; BLOCK]), Err(BlockError::Blank));
    assert_eq!(
        Superblock::parse(&good[..100]),
        Err(BlockError::Length(100))
    );
    assert_eq!(Superblock::parse(&foreign[..]), Err(BlockError::Magic));
    assert_eq!(Superblock::parse(&torn[..]), Err(BlockError::Crc));
    assert_eq!(Superblock::parse(&newer[..]), Err(BlockError::Version(2)));
    assert_eq!(
        Superblock::parse(&incompatible[..]),
        Err(BlockError::Incompatible(4))
    );
    // A torn block never counts as newer software: its version cannot be believed.
    let mut torn_newer = newer.clone();
    torn_newer[4000] = 1;
    assert_eq!(Superblock::parse(&torn_newer[..]), Err(BlockError::Crc));

    let odd = superblock(7).emit();
    let zero = [0; BLOCK];
    let pick = |a: &[u8], b: &[u8]| Slots::parse([a, b]);
    assert_eq!(pick(&good[..], &odd[..]).superblock().unwrap().sb_seq, 7);
    assert_eq!(
        pick(&superblock(8).emit()[..], &odd[..])
            .superblock()
            .unwrap()
            .sb_seq,
        8
    );
    assert_eq!(pick(&good[..], &torn[..]).superblock().unwrap().sb_seq, 6);
    assert_eq!(pick(&good[..], &[]).superblock().unwrap().sb_seq, 6);
    assert_eq!(pick(&zero, &odd[..]).superblock().unwrap().sb_seq, 7);
    assert_eq!(pick(&zero, &zero), Slots::Blank);
    assert_eq!(
        pick(&newer[..], &odd[..]),
        Slots::Newer(BlockError::Version(2))
    );
    assert_eq!(
        pick(&zero, &torn[..]),
        Slots::Bad {
            slots: [BlockError::Blank, BlockError::Crc]
        }
    );
    assert_eq!(
        pick(&foreign[..], &zero),
        Slots::Bad {
            slots: [BlockError::Magic, BlockError::Blank]
        }
    );
    // A superblock in the slot of the other parity was misdirected.
    assert_eq!(
        pick(&odd[..], &zero),
        Slots::Bad {
            slots: [BlockError::Misplaced(0), BlockError::Blank]
        }
    );
}

#[test]
fn fields_out_of_bounds_are_refused_though_the_checksum_fits() {
    for (at, value, name) in [
        (96, 2, "leg"),
        (97, 5, "role"),
        (98, 4, "members"),
        (99, 2, "active site"),
        (100, 17, "size or region shift"),
        (272, 3, "format mark"),
        (328, 9, "parents"),
    ] {
        let mut block = superblock(6).emit();
        block[at] = value;
        bytes::seal(&mut block, 8);
        assert_eq!(
            Superblock::parse(&block[..]),
            Err(BlockError::Field(name)),
            "offset {at}"
        );
    }
}

#[test]
fn features_that_forbid_writing_are_read_and_refused_at_attach() {
    let sb = Superblock {
        ro_compat: 1,
        ..superblock(6)
    };
    let read = Superblock::parse(&sb.emit()[..]).unwrap();
    assert!(!read.may_attach());
    assert!(superblock(6).may_attach());
    assert_eq!(read.compat, 0x11);
}

#[test]
fn long_names_are_cut_at_a_character_and_a_ninth_parent_is_left_out() {
    let many = vec![superblock(6).parents[0]; 9];
    let sb = Superblock {
        node: "é".repeat(40),
        parents: many,
        ..superblock(6)
    };
    let read = Superblock::parse(&sb.emit()[..]).unwrap();
    assert_eq!(read.node, "é".repeat(32));
    assert_eq!(read.parents.len(), 8);
    assert_eq!(read.order, sb.order);
}

#[test]
fn a_damaged_or_misplaced_map_page_is_all_dirty() {
    let page = MapPage::filled(3, 9, Epoch(2), RegionState::Clean);
    let block = page.emit();
    assert_eq!(MapPage::parse(4, &block[..]), Err(BlockError::Misplaced(3)));
    let dirty = MapPage::parse_or_dirty(4, &block[..]);
    assert_eq!((dirty.page, dirty.number), (4, 0));
    assert_eq!(dirty.dirty(PAGE_REGIONS).count(), PAGE_REGIONS);
    let mut torn = block.clone();
    torn[100] ^= 1;
    assert_eq!(
        MapPage::parse_or_dirty(3, &torn[..]).region(5),
        RegionState::Dirty
    );
    assert_eq!(
        MapPage::parse_or_dirty(3, &[]).region(5),
        RegionState::Dirty
    );
    assert_eq!(MapPage::parse_or_dirty(3, &block[..]), page);
    assert_eq!(page.region(PAGE_REGIONS), RegionState::Dirty);
}

#[test]
fn the_union_of_two_pages_is_dirty_where_either_is() {
    use RegionState::{Clean, Dirty, Unwritten};
    let cases = [
        (Unwritten, Unwritten, Unwritten),
        (Unwritten, Clean, Clean),
        (Unwritten, Dirty, Dirty),
        (Clean, Clean, Clean),
        (Clean, Dirty, Dirty),
        (Dirty, Dirty, Dirty),
    ];
    for (a, b, union) in cases {
        for (x, y) in [(a, b), (b, a)] {
            let mut page = MapPage::filled(0, 1, Epoch(1), x);
            page.unite(&MapPage::filled(0, 2, Epoch(1), y));
            assert_eq!(
                page,
                MapPage::filled(0, 1, Epoch(1), union),
                "{x:?} with {y:?}"
            );
        }
    }
    // The reserved value counts as dirty and never survives a union.
    let mut block = MapPage::filled(0, 1, Epoch(1), Unwritten).emit();
    block[32] = 0b1100;
    bytes::seal(&mut block, 24);
    let mut reserved = MapPage::parse(0, &block[..]).unwrap();
    assert_eq!(reserved.dirty(PAGE_REGIONS).collect::<Vec<_>>(), [1]);
    reserved.unite(&MapPage::filled(0, 1, Epoch(1), Unwritten));
    assert_eq!(reserved.emit()[32], 0b1000);
}

#[test]
fn a_key_with_nothing_but_a_session_number_names_no_attach() {
    let mut block = superblock(6).emit();
    block[184..192].copy_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0]);
    bytes::seal(&mut block, 8);
    assert_eq!(Superblock::parse(&block[..]).unwrap().attach_key, None);

    let mut block = bytes::blank();
    block[..8].copy_from_slice(b"TWINBT01");
    block[12] = 1;
    block[40] = 7;
    bytes::seal(&mut block, 8);
    assert_eq!(Beat::parse(&block[..]).unwrap().attach_key, None);
}

#[test]
fn regions_behind_the_end_of_the_device_are_not_listed() {
    let page = MapPage::filled(0, 1, Epoch(1), RegionState::Dirty);
    assert_eq!(page.dirty(5).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(page.dirty(0).count(), 0);
    assert_eq!(page.dirty(usize::MAX).count(), PAGE_REGIONS);
    let clean = MapPage::filled(0, 1, Epoch(1), RegionState::Clean);
    assert!(!clean.any_dirty(PAGE_REGIONS));
}

#[test]
fn base_numbers_are_cut_into_blocks_under_one_checksum() {
    let numbers: Vec<u64> = (0..600).collect();
    let blocks = base_blocks(Epoch(4), &numbers);
    assert_eq!(blocks.len(), 2);
    let second = BaseNumbers::parse(1, &blocks[1][..]).unwrap();
    assert_eq!(second.numbers[0], 508);
    assert_eq!(second.numbers[91], 599);
    assert_eq!(second.numbers[92], 0);
    assert_eq!(
        BaseNumbers::parse(0, &blocks[1][..]),
        Err(BlockError::Misplaced(1))
    );
    let crc = base_crc(blocks.iter().map(|b| &b[..]));
    let swapped = base_crc(blocks.iter().rev().map(|b| &b[..]));
    assert_ne!(crc, swapped);
    let joined: Vec<u8> = blocks.iter().flat_map(|b| b.iter().copied()).collect();
    assert_eq!(crc, crc32c::crc32c(&joined));
}

const GOLDEN_SB_CRC: [u8; 4] = [107, 65, 210, 110];

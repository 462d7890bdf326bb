//! Random blocks: what was written is read again, and nothing else is.

use proptest::prelude::*;

use super::*;

#[test]
fn no_single_bit_of_a_block_may_flip() {
    let blocks: [Block; 4] = [
        superblock(6).emit(),
        Beat {
            volume: VolumeId::ZERO,
            epoch: Epoch(1),
            attach_key: None,
            beat: 1,
            flushed: 0,
        }
        .emit(),
        MapPage::filled(0, 1, Epoch(1), RegionState::Clean).emit(),
        BaseNumbers {
            index: 0,
            epoch: Epoch(1),
            numbers: vec![1],
        }
        .emit(),
    ];
    for bit in (0..BLOCK * 8).step_by(7) {
        for (kind, block) in blocks.iter().enumerate() {
            let mut b = block.clone();
            b[bit / 8] ^= 1 << (bit % 8);
            let accepted = match kind {
                0 => Superblock::parse(&b[..]).is_ok(),
                1 => Beat::parse(&b[..]).is_ok(),
                2 => MapPage::parse(0, &b[..]).is_ok(),
                _ => BaseNumbers::parse(0, &b[..]).is_ok(),
            };
            assert!(!accepted, "kind {kind} bit {bit}");
        }
    }
}

fn id() -> impl Strategy<Value = [u8; 16]> {
    any::<[u8; 16]>()
}

prop_compose! {
    fn any_superblock()(
        numbers in any::<[u64; 6]>(),
        ids in (id(), id(), id(), id(), id(), id()),
        sectors in 1u64..1 << 30,
        small in any::<bool>(),
        flags in any::<[u8; 4]>(),
        base in proptest::option::of((1u64.., id(), any::<u32>())),
        key in 1u64..,
        node in "[a-z0-9é]{0,32}",
        parents in proptest::collection::vec((1u64.., id(), 0u8..4), 0..9),
    ) -> Superblock {
        let [sb_seq, active_seq, epoch, size_new, boot_id, n] = numbers;
        let roles = [Role::New, Role::Member, Role::Growing, Role::Candidate, Role::Target];
        Superblock {
            compat: n,
            ro_compat: boot_id,
            sb_seq,
            volume: VolumeId(ids.0),
            group: GroupId(ids.1),
            register_id: RegisterId(ids.2),
            leg: Leg::BOTH[usize::from(flags[0] & 1)],
            role: roles[usize::from(flags[1] % 5)],
            members: Members::from_bits(flags[2] & 3).unwrap(),
            active_site: Leg::BOTH[usize::from(flags[0] >> 7)].site(),
            active_seq,
            geometry: Geometry::new(sectors * 512, if small { 16 } else { 18 }).unwrap(),
            size_new,
            epoch: Epoch(epoch),
            generation: Gen(ids.3),
            base: base.map(|(e, g, crc)| Base { epoch: Epoch(e), generation: Gen(g), crc }),
            clean: flags[3] & 1 == 1,
            attach_key: Some(Key::from_u64(key << 8).attach()).filter(|k| k.to_u64() != 0),
            boot_id,
            lease_ms: n as u32,
            awaits_register: flags[2] >> 7 == 1,
            node,
            format: [Format::None, Format::Started, Format::Done][usize::from(flags[3] % 3)],
            fs_type: [flags[0]; 15],
            naa: Naa(ids.4),
            parents: parents
                .into_iter()
                .map(|(e, g, m)| Parent {
                    epoch: Epoch(e),
                    generation: Gen(g),
                    members: Members::from_bits(m).unwrap(),
                })
                .collect(),
            order: Order { n, uid: AttachmentUid(ids.5) },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_superblock_survives_its_block(sb in any_superblock()) {
        prop_assert_eq!(Superblock::parse(&sb.emit()[..]).unwrap(), sb.clone());
        let history = History { superblock: sb, reason: "why".into() };
        prop_assert_eq!(History::parse(&history.emit()[..]).unwrap(), history);
    }

    #[test]
    fn any_map_page_survives_its_block(
        page in 0u32..MAX_PAGES,
        number: u64,
        epoch: u64,
        marks in proptest::collection::vec((0..PAGE_REGIONS, 0u8..3), 0..200),
    ) {
        let mut map = MapPage::filled(page, number, Epoch(epoch), RegionState::Unwritten);
        let states = [RegionState::Unwritten, RegionState::Clean, RegionState::Dirty];
        let mut expected = std::collections::BTreeMap::new();
        for (index, state) in marks {
            map.set_region(index, states[usize::from(state)]);
            expected.insert(index, states[usize::from(state)]);
        }
        let read = MapPage::parse(page, &map.emit()[..]).unwrap();
        prop_assert_eq!(&read, &map);
        for (index, state) in &expected {
            prop_assert_eq!(read.region(*index), *state);
        }
        let dirty: Vec<usize> =
            expected.iter().filter(|(_, s)| **s == RegionState::Dirty).map(|(i, _)| *i).collect();
        prop_assert_eq!(read.dirty(PAGE_REGIONS).collect::<Vec<_>>(), dirty);
    }

    /// Whatever stands on a leg, with a right checksum or not, nothing panics and nothing wrong is accepted twice.
    #[test]
    fn any_4096_bytes_are_parsed_without_a_panic(
        seed in proptest::collection::vec((0usize..BLOCK, any::<u8>()), 0..64),
        fill: u8,
        magic in 0usize..6,
        sealed: bool,
    ) {
        let mut b = bytes::blank();
        b.fill(fill);
        for (at, value) in seed {
            b[at] = value;
        }
        let magics: [(&[u8], usize); 5] =
            [(b"TWINSB01", 8), (b"TWINBT01", 8), (b"TWMP", 24), (b"TWBN", 16), (b"TWINSH01", 8)];
        if let Some((magic, crc_at)) = magics.get(magic) {
            b[..magic.len()].copy_from_slice(magic);
            b[12] = 1;
            b[13] = 0;
            if sealed {
                bytes::seal(&mut b, *crc_at);
            }
        }
        if let Ok(sb) = Superblock::parse(&b[..]) {
            let again = Superblock::parse(&sb.emit()[..]).unwrap();
            prop_assert_eq!((again.epoch, again.members, again.order), (sb.epoch, sb.members, sb.order));
        }
        let _ = Slots::parse([&b[..], &b[..]]);
        let _ = Beat::parse(&b[..]);
        let _ = History::parse(&b[..]);
        let _ = BaseNumbers::parse(0, &b[..]);
        let page = MapPage::parse_or_dirty(0, &b[..]);
        let mut union = page.clone();
        union.unite(&page);
        prop_assert_eq!(
            union.dirty(PAGE_REGIONS).count(),
            page.dirty(PAGE_REGIONS).count()
        );
    }
}

//! Blocks as they may stand on a leg: damaged, torn, foreign, or with a right checksum over wrong fields.

use twinsite_mirror::layout::{
    BLOCK, BaseNumbers, Beat, History, MapPage, PAGE_REGIONS, Slots, Superblock,
};

use crate::choices::Choices;

/// Magic and place of the checksum of each kind of block.
const KINDS: [(&[u8], usize); 5] = [
    (b"TWINSB01", 8),
    (b"TWINBT01", 8),
    (b"TWMP", 24),
    (b"TWBN", 16),
    (b"TWINSH01", 8),
];

/// A flag byte, then the block: a short one is filled with zeros, and the checksum is made right if the flag says so.
pub fn layout(data: &[u8]) {
    let mut choices = Choices(data);
    let flags = choices.byte();
    if flags & 0x80 != 0 {
        return judge(choices.0);
    }
    let mut block = choices.array::<BLOCK>();
    if let Some((magic, crc_at)) = KINDS.get(usize::from(flags & 7)) {
        block[..magic.len()].copy_from_slice(magic);
        block[*crc_at..crc_at + 4].fill(0);
        let crc = crc32c::crc32c(&block);
        block[*crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    }
    judge(&block);
}

fn judge(block: &[u8]) {
    if let Ok(superblock) = Superblock::parse(block) {
        survives(superblock);
    }
    if let Ok(history) = History::parse(block) {
        survives(history.superblock);
    }
    let other: &[u8] = &[0; BLOCK];
    for slots in [Slots::parse([block, other]), Slots::parse([other, block])] {
        let _ = slots.superblock().map(Superblock::may_attach);
    }
    if let Ok(beat) = Beat::parse(block) {
        assert_eq!(Beat::parse(&beat.emit()[..]), Ok(beat));
    }
    if let Ok(base) = BaseNumbers::parse(0, block) {
        assert_eq!(BaseNumbers::parse(0, &base.emit()[..]), Ok(base));
    }
    let page = MapPage::parse_or_dirty(0, block);
    assert_eq!(MapPage::parse(0, &page.emit()[..]), Ok(page.clone()));
    let mut union = page.clone();
    union.unite(&page);
    assert!(union.dirty(PAGE_REGIONS).eq(page.dirty(PAGE_REGIONS)));
}

/// All but the node's name, which is shown with marks in the place of bytes that are no text.
fn survives(superblock: Superblock) {
    let mut again = Superblock::parse(&superblock.emit()[..]).expect("own superblock is read");
    again.node.clone_from(&superblock.node);
    assert_eq!(again, superblock);
    let geometry = superblock.geometry;
    let last = geometry.regions().saturating_sub(1);
    let (page, index) = geometry.place_of(last);
    assert_eq!(geometry.region_at(page, index), last);
    let (from, len) = geometry.extent(last);
    assert!(from.checked_add(len).is_some());
}

//! Outputs as short lines.

use twinsite_register::Register;

use crate::io::{DATA_START, GuestError, LegOp};
use crate::layout::{
    BASE_OFFSET, BEAT_OFFSET, BaseNumbers, Beat, HISTORY_OFFSET, MAP_OFFSET, MapPage, PAGE_REGIONS,
    SLOT_OFFSETS, Superblock,
};

pub(super) fn op_line(op: &LegOp) -> String {
    match op {
        LegOp::ReadData { offset, len, .. } => format!("read {}+{len}", offset - DATA_START),
        LegOp::WriteData {
            offset, len, fua, ..
        } => {
            format!(
                "write {}+{len}{}",
                offset - DATA_START,
                if *fua { " fua" } else { "" }
            )
        }
        LegOp::Sync => "sync".to_owned(),
        LegOp::Discard { offset, len } => format!("discard {}+{len}", offset - DATA_START),
        LegOp::Zero { offset, len } => format!("zero {}+{len}", offset - DATA_START),
        LegOp::CopyRead { offset, len, .. } => format!("copy from {}+{len}", offset - DATA_START),
        LegOp::CopyWrite { offset, len, .. } => format!("copy to {}+{len}", offset - DATA_START),
        LegOp::Digest { offset, len, block } => {
            format!("digest {}+{len} by {block}", offset - DATA_START)
        }
        LegOp::ReadMeta { offset, .. } if *offset == BEAT_OFFSET => "probe".to_owned(),
        LegOp::ReadMeta { offset, len } => format!("read meta {offset}+{len}"),
        LegOp::WriteMeta { offset, block } => meta_line(*offset, &**block),
        LegOp::PrReadFullStatus => "full status".to_owned(),
        LegOp::PrRegister { session, .. } => format!("register {session:?}"),
        LegOp::PrReadKeys => "read keys".to_owned(),
        LegOp::PrReadReservation => "read reservation".to_owned(),
        LegOp::Identify => "identify".to_owned(),
        other => format!("{other:?}"),
    }
}

fn meta_line(offset: u64, block: &[u8]) -> String {
    if SLOT_OFFSETS.contains(&offset) {
        let sb = Superblock::parse(block).unwrap();
        let base = sb
            .base
            .map_or(String::new(), |base| format!(" base e{}", base.epoch.0));
        let clean = if sb.clean { " clean" } else { "" };
        let new = if sb.size_new > 0 {
            format!(" new {}", sb.size_new)
        } else {
            String::new()
        };
        return format!(
            "sb {:?}{} e{}{base}{clean}{new}",
            sb.role, sb.members, sb.epoch.0
        );
    }
    if offset == BEAT_OFFSET {
        return format!("beat {}", Beat::parse(block).unwrap().beat);
    }
    if offset >= BASE_OFFSET {
        let index = ((offset - BASE_OFFSET) / 4096) as u32;
        let base = BaseNumbers::parse(index, block).unwrap();
        return format!("base e{} {}", base.epoch.0, base.numbers[0]);
    }
    if (HISTORY_OFFSET..MAP_OFFSET).contains(&offset) {
        return "history".to_owned();
    }
    let index = ((offset - MAP_OFFSET) / 4096) as u32;
    let page = MapPage::parse(index, block).unwrap();
    let dirty: Vec<usize> = page.dirty(PAGE_REGIONS).take(9).collect();
    format!("page {index} n{} {dirty:?}", page.number)
}

pub(super) fn cas_line(expected: &Register, new: &Register) -> String {
    let what = if new.epoch != expected.epoch {
        format!("e{} {}", new.epoch.0, new.members)
    } else if new.stamp_id != expected.stamp_id {
        "stamp".to_owned()
    } else if new.holder != expected.holder {
        "release".to_owned()
    } else {
        "land".to_owned()
    };
    let drop = if new.no_rejoin != expected.no_rejoin {
        format!(" no rejoin {}", new.no_rejoin)
    } else {
        String::new()
    };
    format!("cas {what}{drop}")
}

pub(super) fn error_name(error: GuestError) -> String {
    match error {
        GuestError::Io => "EIO".to_owned(),
        other => format!("{other:?}"),
    }
}

//! The commands a unit knows: one table that says for each how it is dispatched, what it needs, what a
//! reservation does to it, and which CDB bits it evaluates (the answer of REPORT SUPPORTED OPERATION CODES).
//!
//! Not here: what the commands do.

use bytes::{BufMut, BytesMut};

use crate::scsi::{Cdb, Code, Sense, Specific};

/// What a command does, whatever the length of its CDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    TestUnitReady,
    RequestSense,
    Inquiry,
    ReportLuns,
    ModeSense,
    ModeSelect,
    ReadCapacity10,
    ReadCapacity16,
    Read,
    Write,
    WriteVerify,
    Verify,
    CompareAndWrite,
    OrWrite,
    WriteAtomic,
    SyncCache,
    Prefetch,
    WriteSame,
    Unmap,
    LbaStatus,
    StartStop,
    PreventAllow,
    SendDiagnostic,
    Reserve6,
    Release6,
    PrIn,
    PrOut,
    ReportOpcodes,
    ReportFunctions,
    ReportPortGroups,
    LogSense,
    ReadDefects,
    Sanitize,
    ExtendedCopy,
    CopyResults,
}

/// What a command is to reservations (SPC-4 table 66, SBC-3 table 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Allowed under every persistent reservation.
    Free,
    Read,
    Write,
    /// START STOP UNIT and PREVENT ALLOW: free or a write, by their parameters.
    ByParameter,
    /// PERSISTENT RESERVE OUT decides by itself.
    PrOut,
    /// RESERVE(6) and RELEASE(6).
    Reserve6,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) opcode: u8,
    action: Option<u8>,
    pub(super) kind: Kind,
    pub(super) access: Access,
    /// CDB usage data: the bits evaluated, the first byte the operation code itself.
    usage: &'static [u8],
}

impl Command {
    /// Needs the medium: refused when it is ejected or being sanitized.
    pub(super) fn needs_medium(&self) -> bool {
        !matches!(
            self.kind,
            Kind::RequestSense
                | Kind::Inquiry
                | Kind::ReportLuns
                | Kind::ModeSense
                | Kind::ModeSelect
                | Kind::StartStop
                | Kind::PreventAllow
                | Kind::SendDiagnostic
                | Kind::Reserve6
                | Kind::Release6
                | Kind::PrIn
                | Kind::PrOut
                | Kind::ReportOpcodes
                | Kind::ReportFunctions
                | Kind::ReportPortGroups
                | Kind::LogSense
                | Kind::CopyResults
        )
    }

    /// Refused while a sanitize operation is under way (SBC-3 4.11.2).
    pub(super) fn waits_for_sanitize(&self) -> bool {
        let changes = matches!(
            self.kind,
            Kind::ModeSelect
                | Kind::StartStop
                | Kind::PreventAllow
                | Kind::SendDiagnostic
                | Kind::Reserve6
                | Kind::Release6
                | Kind::PrOut
        );
        changes
            || (self.needs_medium()
                && !matches!(self.kind, Kind::ReadCapacity10 | Kind::ReadCapacity16))
    }

    /// Tasks that fit beyond the limit: a victim that fills the task set must not keep a fence out.
    pub(super) fn extra_room(&self) -> usize {
        const ROOM: usize = 32;
        match self.access {
            Access::Free | Access::PrOut => ROOM,
            Access::Read | Access::Write | Access::ByParameter | Access::Reserve6 => 0,
        }
    }

    /// Runs although a unit attention is pending, and leaves it pending. PERSISTENT RESERVE IN is one of
    /// them so that a writer that was preempted learns it from the reservation state.
    pub(super) fn passes_attention(&self) -> bool {
        matches!(
            self.kind,
            Kind::Inquiry | Kind::ReportLuns | Kind::RequestSense | Kind::PrIn
        )
    }

    /// Runs although another nexus holds the unit by RESERVE(6).
    pub(super) fn passes_reserve6(&self) -> bool {
        matches!(
            self.kind,
            Kind::Inquiry | Kind::ReportLuns | Kind::RequestSense | Kind::Release6
        )
    }

    /// Whether the CDB sets bits that this command does not evaluate.
    pub(super) fn has_stray_bits(&self, cdb: &Cdb) -> bool {
        self.usage
            .iter()
            .zip(cdb.field())
            .skip(1)
            .any(|(mask, byte)| byte & !mask != 0)
    }
}

/// The command of a CDB.
pub(super) fn find(cdb: &Cdb) -> Result<&'static Command, Sense> {
    let rows = rows_of(cdb.opcode());
    let action = cdb.byte(1) & 0x1F;
    match rows {
        [] => Err(Sense::illegal(Code::INVALID_OPERATION_CODE)),
        [row] if row.action.is_none() => Ok(row),
        rows => rows
            .iter()
            .find(|row| row.action == Some(action))
            .ok_or(invalid_cdb(1, Some(4))),
    }
}

fn rows_of(opcode: u8) -> &'static [Command] {
    let place = usize::from(opcode);
    &COMMANDS[usize::from(STARTS[place])..usize::from(STARTS[place + 1])]
}

fn invalid_cdb(byte: u16, bit: Option<u8>) -> Sense {
    Sense::illegal(Code::INVALID_FIELD_IN_CDB).with_specific(Specific::CdbField { byte, bit })
}

/// REPORT SUPPORTED OPERATION CODES.
pub(super) fn report(cdb: &Cdb) -> Result<BytesMut, Sense> {
    let timeouts = cdb.bit(2, 7);
    let opcode = cdb.byte(3);
    let action = cdb.field_at(4, 2);
    let rows = rows_of(opcode);
    let has_actions = rows.iter().any(|row| row.action.is_some());
    let row = || {
        rows.iter()
            .find(|row| row.action.map_or(0, u64::from) == action)
    };
    match cdb.byte(2) & 0x07 {
        0 => Ok(report_all(timeouts)),
        1 if has_actions => Err(invalid_cdb(2, Some(2))),
        1 => Ok(report_one(rows.first(), timeouts)),
        2 if !has_actions && !rows.is_empty() => Err(invalid_cdb(2, Some(2))),
        2 | 3 => Ok(report_one(row(), timeouts)),
        _ => Err(invalid_cdb(2, Some(2))),
    }
}

fn report_all(timeouts: bool) -> BytesMut {
    let mut list = BytesMut::new();
    for row in COMMANDS {
        list.put_slice(&[row.opcode, 0, 0, row.action.unwrap_or(0), 0]);
        list.put_u8(u8::from(timeouts) << 1 | u8::from(row.action.is_some()));
        list.put_u16(row.usage.len() as u16);
        if timeouts {
            put_timeouts(&mut list);
        }
    }
    let mut out = BytesMut::with_capacity(4 + list.len());
    out.put_u32(list.len() as u32);
    out.put_slice(&list);
    out
}

fn report_one(row: Option<&Command>, timeouts: bool) -> BytesMut {
    const SUPPORTED: u8 = 3;
    const NOT_SUPPORTED: u8 = 1;
    let mut out = BytesMut::new();
    let Some(row) = row else {
        out.put_slice(&[0, NOT_SUPPORTED, 0, 0]);
        return out;
    };
    out.put_slice(&[0, u8::from(timeouts) << 7 | SUPPORTED]);
    out.put_u16(row.usage.len() as u16);
    out.put_slice(row.usage);
    if timeouts {
        put_timeouts(&mut out);
    }
    out
}

/// A command timeouts descriptor that recommends nothing.
fn put_timeouts(out: &mut BytesMut) {
    out.put_u16(0x0A);
    out.put_bytes(0, 10);
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: all but CLEAR ACA and WAKEUP.
pub(super) fn report_functions(cdb: &Cdb) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_slice(&[0xDE, 0x03, 0, 0]);
    if cdb.bit(2, 7) {
        out[3] = 0x0C;
        out.put_bytes(0, 12);
    }
    out
}

const fn row(opcode: u8, kind: Kind, access: Access, usage: &'static [u8]) -> Command {
    Command {
        opcode,
        action: None,
        kind,
        access,
        usage,
    }
}

const fn sub(opcode: u8, action: u8, kind: Kind, access: Access, usage: &'static [u8]) -> Command {
    Command {
        opcode,
        action: Some(action),
        kind,
        access,
        usage,
    }
}

macro_rules! lba10 {
    ($opcode:expr, $flags:expr) => {
        &[
            $opcode, $flags, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F, 0xFF, 0xFF, 0x07,
        ]
    };
}

macro_rules! lba12 {
    ($opcode:expr, $flags:expr) => {
        &[
            $opcode, $flags, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F, 0x07,
        ]
    };
}

macro_rules! lba16 {
    ($opcode:expr, $flags:expr) => {
        &[
            $opcode, $flags, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
            0xFF, 0x1F, 0x07,
        ]
    };
}

macro_rules! pr_in {
    ($action:expr) => {
        sub(
            0x5E,
            $action,
            Kind::PrIn,
            Access::Free,
            &[0x5E, $action, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0x07],
        )
    };
}

macro_rules! pr_out {
    ($action:expr) => {
        sub(
            0x5F,
            $action,
            Kind::PrOut,
            Access::PrOut,
            &[0x5F, $action, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x07],
        )
    };
}

macro_rules! sanitize {
    ($action:expr) => {
        sub(
            0x48,
            $action,
            Kind::Sanitize,
            Access::Write,
            &[0x48, 0xA0 | $action, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0x07],
        )
    };
}

/// Sorted by operation code, then service action.
#[rustfmt::skip]
static COMMANDS: &[Command] = &[
    row(0x00, Kind::TestUnitReady, Access::Free, &[0x00, 0, 0, 0, 0, 0x07]),
    row(0x03, Kind::RequestSense, Access::Free, &[0x03, 0x01, 0, 0, 0xFF, 0x07]),
    row(0x08, Kind::Read, Access::Read, &[0x08, 0x1F, 0xFF, 0xFF, 0xFF, 0x07]),
    row(0x0A, Kind::Write, Access::Write, &[0x0A, 0x1F, 0xFF, 0xFF, 0xFF, 0x07]),
    row(0x12, Kind::Inquiry, Access::Free, &[0x12, 0x01, 0xFF, 0xFF, 0xFF, 0x07]),
    row(0x15, Kind::ModeSelect, Access::Write, &[0x15, 0x11, 0, 0, 0xFF, 0x07]),
    row(0x16, Kind::Reserve6, Access::Reserve6, &[0x16, 0, 0, 0, 0, 0x07]),
    row(0x17, Kind::Release6, Access::Reserve6, &[0x17, 0, 0, 0, 0, 0x07]),
    row(0x1A, Kind::ModeSense, Access::Read, &[0x1A, 0x08, 0xFF, 0xFF, 0xFF, 0x07]),
    row(0x1B, Kind::StartStop, Access::ByParameter, &[0x1B, 0x01, 0, 0x0F, 0xF7, 0x07]),
    row(0x1D, Kind::SendDiagnostic, Access::Write, &[0x1D, 0xF7, 0, 0xFF, 0xFF, 0x07]),
    row(0x1E, Kind::PreventAllow, Access::ByParameter, &[0x1E, 0, 0, 0, 0x03, 0x07]),
    row(0x25, Kind::ReadCapacity10, Access::Free, &[0x25, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0x01, 0x07]),
    row(0x28, Kind::Read, Access::Read, lba10!(0x28, 0x18)),
    row(0x2A, Kind::Write, Access::Write, lba10!(0x2A, 0x18)),
    row(0x2E, Kind::WriteVerify, Access::Write, lba10!(0x2E, 0x16)),
    row(0x2F, Kind::Verify, Access::Read, lba10!(0x2F, 0x16)),
    row(0x34, Kind::Prefetch, Access::Read, lba10!(0x34, 0x02)),
    row(0x35, Kind::SyncCache, Access::Write, lba10!(0x35, 0x02)),
    row(0x37, Kind::ReadDefects, Access::Read, &[0x37, 0, 0x1F, 0, 0, 0, 0, 0xFF, 0xFF, 0x07]),
    row(0x41, Kind::WriteSame, Access::Write, lba10!(0x41, 0x08)),
    row(0x42, Kind::Unmap, Access::Write, &[0x42, 0, 0, 0, 0, 0, 0x1F, 0xFF, 0xFF, 0x07]),
    sanitize!(0x01),
    sanitize!(0x02),
    sanitize!(0x1F),
    row(0x4D, Kind::LogSense, Access::Free, &[0x4D, 0, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x07]),
    row(0x55, Kind::ModeSelect, Access::Write, &[0x55, 0x11, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0x07]),
    row(0x5A, Kind::ModeSense, Access::Read, &[0x5A, 0x18, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0x07]),
    pr_in!(0x00),
    pr_in!(0x01),
    pr_in!(0x02),
    pr_in!(0x03),
    pr_out!(0x00),
    pr_out!(0x01),
    pr_out!(0x02),
    pr_out!(0x03),
    pr_out!(0x04),
    pr_out!(0x05),
    pr_out!(0x06),
    pr_out!(0x07),
    sub(0x83, 0x00, Kind::ExtendedCopy, Access::Write, &[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0x07]),
    sub(0x84, 0x00, Kind::CopyResults, Access::Read, &[0x84, 0, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0x07]),
    sub(0x84, 0x03, Kind::CopyResults, Access::Read, &[0x84, 0x03, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0x07]),
    row(0x88, Kind::Read, Access::Read, lba16!(0x88, 0x18)),
    row(0x89, Kind::CompareAndWrite, Access::Write, &[0x89, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0x1F, 0x07]),
    row(0x8A, Kind::Write, Access::Write, lba16!(0x8A, 0x18)),
    row(0x8B, Kind::OrWrite, Access::Write, lba16!(0x8B, 0x18)),
    row(0x8E, Kind::WriteVerify, Access::Write, lba16!(0x8E, 0x16)),
    row(0x8F, Kind::Verify, Access::Read, lba16!(0x8F, 0x16)),
    row(0x90, Kind::Prefetch, Access::Read, lba16!(0x90, 0x02)),
    row(0x91, Kind::SyncCache, Access::Write, lba16!(0x91, 0x02)),
    row(0x93, Kind::WriteSame, Access::Write, lba16!(0x93, 0x09)),
    row(0x9C, Kind::WriteAtomic, Access::Write, &[0x9C, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF, 0x1F, 0x07]),
    sub(0x9E, 0x10, Kind::ReadCapacity16, Access::Free, &[0x9E, 0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 0x07]),
    sub(0x9E, 0x12, Kind::LbaStatus, Access::Read, &[0x9E, 0x12, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0x07]),
    row(0xA0, Kind::ReportLuns, Access::Free, &[0xA0, 0, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0x07]),
    sub(0xA3, 0x0A, Kind::ReportPortGroups, Access::Free, &[0xA3, 0xEA, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0x07]),
    sub(0xA3, 0x0C, Kind::ReportOpcodes, Access::Read, &[0xA3, 0x0C, 0x87, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0x07]),
    sub(0xA3, 0x0D, Kind::ReportFunctions, Access::Read, &[0xA3, 0x0D, 0x80, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0x07]),
    row(0xA8, Kind::Read, Access::Read, lba12!(0xA8, 0x18)),
    row(0xAA, Kind::Write, Access::Write, lba12!(0xAA, 0x18)),
    row(0xAE, Kind::WriteVerify, Access::Write, lba12!(0xAE, 0x16)),
    row(0xAF, Kind::Verify, Access::Read, lba12!(0xAF, 0x16)),
    row(0xB7, Kind::ReadDefects, Access::Read, &[0xB7, 0x1F, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0x07]),
];

/// Where the rows of each operation code begin.
static STARTS: [u8; 257] = starts();

const fn starts() -> [u8; 257] {
    let mut starts = [0; 257];
    let (mut opcode, mut row) = (0, 0);
    while opcode < 257 {
        while row < COMMANDS.len() && (COMMANDS[row].opcode as usize) < opcode {
            row += 1;
        }
        starts[opcode] = row as u8;
        opcode += 1;
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_usage_data_begins_with_the_operation_code() {
        for pair in COMMANDS.windows(2) {
            assert!(
                (pair[0].opcode, pair[0].action) < (pair[1].opcode, pair[1].action),
                "{:x?}",
                pair[1].opcode
            );
        }
        for row in COMMANDS {
            assert_eq!(row.usage[0], row.opcode);
            assert_eq!(
                row.usage.len(),
                Cdb::from_field([row.opcode; 16]).as_bytes().len(),
                "{:#x}",
                row.opcode
            );
            if let Some(action) = row.action {
                assert_eq!(row.usage[1] & 0x1F, action, "{:#x}", row.opcode);
            }
        }
    }

    #[test]
    fn an_unknown_code_and_an_unknown_service_action_are_told_apart() {
        assert_eq!(
            find(&Cdb::new(&[0xFF])).expect_err("unknown").code,
            Code::INVALID_OPERATION_CODE
        );
        assert_eq!(
            find(&Cdb::new(&[0x5E, 0x04])).expect_err("unknown").code,
            Code::INVALID_FIELD_IN_CDB
        );
        assert_eq!(
            find(&Cdb::new(&[0x9E, 0x10])).expect("known").kind,
            Kind::ReadCapacity16
        );
        assert_eq!(
            find(&Cdb::new(&[0x83, 0x01])).expect_err("unknown").code,
            Code::INVALID_FIELD_IN_CDB
        );
    }

    #[test]
    fn one_command_is_reported_with_its_usage_data() {
        let ask = |option: u8, opcode: u8, action: u8| {
            report(&Cdb::new(&[
                0xA3, 0x0C, option, opcode, 0, action, 0, 0, 0xFF, 0xFF, 0, 0,
            ]))
        };
        let same = ask(1, 0x93, 0).expect("supported");
        assert_eq!(same[..4], [0, 3, 0, 16]);
        assert_eq!(same[4..6], [0x93, 0x09]);
        assert_eq!(ask(1, 0xF1, 0).expect("reported")[..], [0, 1, 0, 0]);
        assert!(ask(1, 0x5E, 0).is_err());
        assert!(ask(2, 0x28, 0).is_err());
        assert_eq!(ask(2, 0x5E, 3).expect("supported")[1], 3);
        assert_eq!(ask(3, 0x28, 0).expect("supported")[1], 3);
        assert_eq!(ask(0x81, 0x28, 0).expect("supported").len(), 4 + 10 + 12);
    }

    #[test]
    fn all_commands_are_listed() {
        let all =
            report(&Cdb::new(&[0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0])).expect("reported");
        assert_eq!(all.len(), 4 + 8 * COMMANDS.len());
        let length = u32::from_be_bytes([all[0], all[1], all[2], all[3]]) as usize;
        assert_eq!(length, all.len() - 4);
    }
}

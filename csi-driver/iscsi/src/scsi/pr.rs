//! The wire form of persistent reservations, both ways: reservation types, transport ids, and the
//! parameter list of PERSISTENT RESERVE OUT (SPC-4 6.16, 6.17, 7.6.4.6).
//!
//! The initiator emits what the unit parses; both use this file, so that a round trip tests both.
//!
//! Not here: what a command does to a unit's state (`unit::reservation`).

use bytes::{BufMut, Bytes, BytesMut};

use super::{Cdb, Code, Sense, Specific, TransportId};

/// A reservation type (SPC-4 table 212), scope always the logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PrType {
    WriteExclusive,
    ExclusiveAccess,
    WriteExclusiveRegistrants,
    ExclusiveAccessRegistrants,
    WriteExclusiveAll,
    ExclusiveAccessAll,
}

impl PrType {
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrants,
        Self::ExclusiveAccessRegistrants,
        Self::WriteExclusiveAll,
        Self::ExclusiveAccessAll,
    ];

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Its bit in the type mask of REPORT CAPABILITIES.
    pub fn mask(self) -> u16 {
        match self {
            Self::WriteExclusive => 0x0200,
            Self::ExclusiveAccess => 0x0800,
            Self::WriteExclusiveRegistrants => 0x2000,
            Self::ExclusiveAccessRegistrants => 0x4000,
            Self::WriteExclusiveAll => 0x8000,
            Self::ExclusiveAccessAll => 0x0001,
        }
    }

    pub fn code(self) -> u8 {
        match self {
            Self::WriteExclusive => 1,
            Self::ExclusiveAccess => 3,
            Self::WriteExclusiveRegistrants => 5,
            Self::ExclusiveAccessRegistrants => 6,
            Self::WriteExclusiveAll => 7,
            Self::ExclusiveAccessAll => 8,
        }
    }

    /// Every registrant is a holder.
    pub(super) fn all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Registrants other than the holder have its access.
    pub(super) fn admits_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Those without access may still read.
    pub(super) fn admits_reads(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrants | Self::WriteExclusiveAll
        )
    }
}

/// One PERSISTENT RESERVE OUT: what the initiator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrOut {
    /// `new` 0 unregisters.
    Register {
        key: u64,
        new: u64,
        aptpl: bool,
    },
    RegisterIgnore {
        new: u64,
        aptpl: bool,
    },
    Reserve {
        key: u64,
        kind: PrType,
    },
    Release {
        key: u64,
        kind: PrType,
    },
    Clear {
        key: u64,
    },
    /// `kind` is used only when the victim holds the reservation.
    Preempt {
        key: u64,
        victim: u64,
        kind: Option<PrType>,
    },
    PreemptAbort {
        key: u64,
        victim: u64,
        kind: Option<PrType>,
    },
    /// REGISTER AND MOVE: the reservation goes to `to`, registered with `new`.
    Move {
        key: u64,
        new: u64,
        unregister: bool,
        aptpl: bool,
        to: TransportId,
    },
}

const OPCODE: u8 = 0x5F;
const LIST_LEN: usize = 24;

impl PrOut {
    fn service_action(&self) -> u8 {
        match self {
            Self::Register { .. } => 0,
            Self::Reserve { .. } => 1,
            Self::Release { .. } => 2,
            Self::Clear { .. } => 3,
            Self::Preempt { .. } => 4,
            Self::PreemptAbort { .. } => 5,
            Self::RegisterIgnore { .. } => 6,
            Self::Move { .. } => 7,
        }
    }

    fn kind(&self) -> Option<PrType> {
        match self {
            Self::Reserve { kind, .. } | Self::Release { kind, .. } => Some(*kind),
            Self::Preempt { kind, .. } | Self::PreemptAbort { kind, .. } => *kind,
            Self::Register { .. }
            | Self::RegisterIgnore { .. }
            | Self::Clear { .. }
            | Self::Move { .. } => None,
        }
    }

    /// The command block and parameter list.
    pub fn emit(&self) -> (Cdb, Bytes) {
        let list = match self {
            Self::Register { key, new, aptpl } => list(*key, *new, *aptpl),
            Self::RegisterIgnore { new, aptpl } => list(0, *new, *aptpl),
            Self::Reserve { key, .. } | Self::Release { key, .. } | Self::Clear { key } => {
                list(*key, 0, false)
            }
            Self::Preempt { key, victim, .. } | Self::PreemptAbort { key, victim, .. } => {
                list(*key, *victim, false)
            }
            Self::Move {
                key,
                new,
                unregister,
                aptpl,
                to,
            } => move_list(*key, *new, *unregister, *aptpl, to),
        };
        let mut cdb = [0; 10];
        cdb[0] = OPCODE;
        cdb[1] = self.service_action();
        cdb[2] = self.kind().map_or(0, PrType::code);
        cdb[5..9].copy_from_slice(&(list.len() as u32).to_be_bytes());
        (Cdb::new(&cdb), list)
    }

    /// Reads a command with its parameter list as a unit gets it.
    pub(super) fn parse(cdb: &Cdb, list: &[u8]) -> Result<Self, Sense> {
        let service_action = cdb.byte(1) & 0x1F;
        let declared = cdb.field_at(5, 4) as usize;
        let length_error = Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR);
        if list.len() < declared {
            return Err(length_error);
        }
        let list = &list[..declared];
        if service_action == 7 {
            return parse_move(list);
        }
        if service_action > 7 {
            return Err(cdb_error(1));
        }
        let [Some(key), Some(other)] = [be64(list, 0), be64(list, 8)] else {
            return Err(length_error);
        };
        let flags = *list.get(20).ok_or(length_error)?;
        // SPEC_I_PT: registering for other initiator ports is not offered (SIP_C = 0).
        if flags & 0x08 != 0 {
            return Err(list_error(20));
        }
        if declared != LIST_LEN {
            return Err(length_error);
        }
        let aptpl = flags & 0x01 != 0;
        let scope = cdb.byte(2) >> 4;
        let kind = PrType::from_code(cdb.byte(2) & 0x0F).filter(|_| scope == 0);
        Ok(match service_action {
            0 => Self::Register {
                key,
                new: other,
                aptpl,
            },
            1 => Self::Reserve {
                key,
                kind: kind.ok_or(cdb_error(2))?,
            },
            2 => Self::Release {
                key,
                kind: kind.ok_or(cdb_error(2))?,
            },
            3 => Self::Clear { key },
            4 => Self::Preempt {
                key,
                victim: other,
                kind,
            },
            5 => Self::PreemptAbort {
                key,
                victim: other,
                kind,
            },
            _ => Self::RegisterIgnore { new: other, aptpl },
        })
    }
}

fn cdb_error(byte: u16) -> Sense {
    Sense::illegal(Code::INVALID_FIELD_IN_CDB).with_specific(Specific::CdbField { byte, bit: None })
}

fn list_error(byte: u16) -> Sense {
    Sense::illegal(Code::INVALID_FIELD_IN_PARAMETER_LIST)
        .with_specific(Specific::ListField { byte, bit: None })
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..at + 8)?
        .try_into()
        .ok()
        .map(u64::from_be_bytes)
}

fn list(key: u64, other: u64, aptpl: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(LIST_LEN);
    out.put_u64(key);
    out.put_u64(other);
    out.put_u32(0);
    out.put_u32(u32::from(aptpl) << 24);
    out.freeze()
}

fn move_list(key: u64, new: u64, unregister: bool, aptpl: bool, to: &TransportId) -> Bytes {
    let id = to.emit();
    let mut out = BytesMut::with_capacity(LIST_LEN + id.len());
    out.put_u64(key);
    out.put_u64(new);
    out.put_u8(0);
    out.put_u8(u8::from(unregister) << 1 | u8::from(aptpl));
    out.put_u16(1);
    out.put_u32(id.len() as u32);
    out.put_slice(&id);
    out.freeze()
}

fn parse_move(list: &[u8]) -> Result<PrOut, Sense> {
    let length_error = Sense::illegal(Code::PARAMETER_LIST_LENGTH_ERROR);
    let [Some(key), Some(new)] = [be64(list, 0), be64(list, 8)] else {
        return Err(length_error);
    };
    let Some((head, id)) = list.split_at_checked(LIST_LEN) else {
        return Err(length_error);
    };
    let declared = u32::from_be_bytes([head[20], head[21], head[22], head[23]]) as usize;
    if declared != id.len() {
        return Err(length_error);
    }
    let (to, _) = TransportId::parse(id).ok_or(list_error(24))?;
    if to.isid.is_none() || new == 0 {
        return Err(list_error(if new == 0 { 8 } else { 24 }));
    }
    Ok(PrOut::Move {
        key,
        new,
        unregister: head[17] & 0x02 != 0,
        aptpl: head[17] & 0x01 != 0,
        to,
    })
}

const PROTOCOL_ISCSI: u8 = 0x05;
const ISID_SEPARATOR: &str = ",i,0x";
/// Longest iSCSI name (RFC 7143 4.2.7.1).
pub(super) const MAX_NAME: usize = 223;

impl TransportId {
    /// The TransportID of SPC-4 7.6.4.6, with or without ISID.
    pub fn emit(&self) -> Bytes {
        let mut name = self.name.clone().into_bytes();
        if let Some(isid) = self.isid {
            name.extend_from_slice(ISID_SEPARATOR.as_bytes());
            for byte in isid {
                name.extend_from_slice(format!("{byte:02x}").as_bytes());
            }
        }
        name.push(0);
        name.resize(name.len().next_multiple_of(4).max(20), 0);
        let mut out = BytesMut::with_capacity(4 + name.len());
        out.put_u8(PROTOCOL_ISCSI | if self.isid.is_some() { 0x40 } else { 0 });
        out.put_u8(0);
        out.put_u16(name.len() as u16);
        out.put_slice(&name);
        out.freeze()
    }

    /// Reads one TransportID and how many bytes it took; `None` if it is not an iSCSI one or broken.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let [first, _, high, low, rest @ ..] = bytes else {
            return None;
        };
        if first & 0x0F != PROTOCOL_ISCSI {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let field = rest.get(..length)?;
        let text = std::str::from_utf8(field.split(|byte| *byte == 0).next()?).ok()?;
        let id = match first >> 6 {
            0 => Self {
                name: text.to_owned(),
                isid: None,
            },
            1 => {
                let (name, digits) = text.rsplit_once(ISID_SEPARATOR)?;
                Self {
                    name: name.to_owned(),
                    isid: Some(parse_isid(digits)?),
                }
            }
            _ => return None,
        };
        let valid = !id.name.is_empty() && id.name.len() <= MAX_NAME;
        valid.then_some((id, 4 + length))
    }
}

fn parse_isid(digits: &str) -> Option<[u8; 6]> {
    if digits.len() != 12 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let value = u64::from_str_radix(digits, 16).ok()?;
    value.to_be_bytes()[2..].try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, isid: [u8; 6]) -> TransportId {
        TransportId {
            name: name.to_owned(),
            isid: Some(isid),
        }
    }

    #[test]
    fn register_is_the_bytes_of_the_standard() {
        let (cdb, list) = PrOut::Register {
            key: 0x0102,
            new: 0x0304,
            aptpl: true,
        }
        .emit();
        assert_eq!(cdb.as_bytes(), [0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0]);
        assert_eq!(
            &list[..],
            [
                0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0, 0, 1, 0, 0, 0
            ]
        );
    }

    #[test]
    fn every_action_survives_the_wire() {
        let kind = PrType::ExclusiveAccessRegistrants;
        let to = port("iqn.2026-01.test:b", [0x40, 0, 0, 1, 2, 3]);
        for action in [
            PrOut::Register {
                key: 1,
                new: 2,
                aptpl: false,
            },
            PrOut::RegisterIgnore {
                new: 3,
                aptpl: true,
            },
            PrOut::Reserve { key: 4, kind },
            PrOut::Release {
                key: 5,
                kind: PrType::WriteExclusiveAll,
            },
            PrOut::Clear { key: 6 },
            PrOut::Preempt {
                key: 7,
                victim: 8,
                kind: None,
            },
            PrOut::PreemptAbort {
                key: 9,
                victim: 10,
                kind: Some(kind),
            },
            PrOut::Move {
                key: 11,
                new: 12,
                unregister: true,
                aptpl: true,
                to,
            },
        ] {
            let (cdb, list) = action.emit();
            assert_eq!(PrOut::parse(&cdb, &list), Ok(action.clone()));
            for cut in 0..list.len() {
                let refused = PrOut::parse(&cdb, &list[..cut]).expect_err("a cut list is refused");
                assert_eq!(refused.code, Code::PARAMETER_LIST_LENGTH_ERROR);
            }
        }
    }

    #[test]
    fn bad_scope_type_and_action_are_refused() {
        let refuse = |first: [u8; 3]| {
            let mut cdb = [0; 10];
            cdb[..3].copy_from_slice(&first);
            cdb[8] = 24;
            PrOut::parse(&Cdb::new(&cdb), &[0; 24])
                .expect_err("refused")
                .code
        };
        assert_eq!(refuse([0x5F, 1, 0x16]), Code::INVALID_FIELD_IN_CDB);
        assert_eq!(refuse([0x5F, 1, 0x02]), Code::INVALID_FIELD_IN_CDB);
        assert_eq!(refuse([0x5F, 8, 0x06]), Code::INVALID_FIELD_IN_CDB);
    }

    #[test]
    fn a_transport_id_is_padded_text() {
        let id = port("iqn.a:b", [0x40, 1, 2, 3, 4, 0xFE]);
        let wire = id.emit();
        assert_eq!(&wire[..4], [0x45, 0, 0, 28]);
        assert_eq!(&wire[4..28], b"iqn.a:b,i,0x4001020304fe");
        assert_eq!(&wire[28..], [0; 4]);
        assert_eq!(TransportId::parse(&wire), Some((id, 32)));
        for cut in 0..wire.len() {
            assert_eq!(TransportId::parse(&wire[..cut]), None);
        }
    }

    #[test]
    fn a_transport_id_without_isid_is_the_name_alone() {
        let id = TransportId {
            name: "iqn.a:b".to_owned(),
            isid: None,
        };
        let wire = id.emit();
        assert_eq!(&wire[..4], [0x05, 0, 0, 20]);
        assert_eq!(TransportId::parse(&wire), Some((id, 24)));
    }
}

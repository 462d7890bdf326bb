//! Sense data: what a unit says beside CHECK CONDITION, in fixed and descriptor format (SPC-4 4.5).
//!
//! Invariants: `parse` never panics on wire bytes and gives back what `emit` wrote.

use bytes::{BufMut, Bytes, BytesMut};

/// The sense key (SPC-4 table 48).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SenseKey {
    NoSense,
    RecoveredError,
    NotReady,
    MediumError,
    HardwareError,
    IllegalRequest,
    UnitAttention,
    DataProtect,
    BlankCheck,
    VendorSpecific,
    CopyAborted,
    AbortedCommand,
    Reserved,
    VolumeOverflow,
    Miscompare,
    Completed,
}

impl SenseKey {
    fn from_nibble(nibble: u8) -> Self {
        match nibble & 0x0F {
            0x0 => Self::NoSense,
            0x1 => Self::RecoveredError,
            0x2 => Self::NotReady,
            0x3 => Self::MediumError,
            0x4 => Self::HardwareError,
            0x5 => Self::IllegalRequest,
            0x6 => Self::UnitAttention,
            0x7 => Self::DataProtect,
            0x8 => Self::BlankCheck,
            0x9 => Self::VendorSpecific,
            0xA => Self::CopyAborted,
            0xB => Self::AbortedCommand,
            0xC => Self::Reserved,
            0xD => Self::VolumeOverflow,
            0xE => Self::Miscompare,
            _ => Self::Completed,
        }
    }

    fn nibble(self) -> u8 {
        self as u8
    }
}

/// Additional sense code and qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code {
    pub asc: u8,
    pub ascq: u8,
}

impl Code {
    pub const NONE: Self = Self::new(0x00, 0x00);
    pub const NOT_READY_INTERVENTION: Self = Self::new(0x04, 0x03);
    pub const NOT_READY_SANITIZE_IN_PROGRESS: Self = Self::new(0x04, 0x1B);
    pub const WRITE_ERROR: Self = Self::new(0x0C, 0x00);
    pub const COPY_SEGMENT_UNREACHABLE_TARGET: Self = Self::new(0x08, 0x04);
    pub const UNEXPECTED_UNSOLICITED_DATA: Self = Self::new(0x0C, 0x0C);
    pub const NOT_ENOUGH_DATA: Self = Self::new(0x0C, 0x0D);
    pub const COPY_TARGET_NOT_REACHABLE: Self = Self::new(0x0D, 0x02);
    pub const INCORRECT_COPY_TARGET_TYPE: Self = Self::new(0x0D, 0x03);
    pub const INVALID_FIELD_IN_INFORMATION_UNIT: Self = Self::new(0x0E, 0x03);
    pub const UNRECOVERED_READ_ERROR: Self = Self::new(0x11, 0x00);
    pub const PARAMETER_LIST_LENGTH_ERROR: Self = Self::new(0x1A, 0x00);
    pub const MISCOMPARE_DURING_VERIFY: Self = Self::new(0x1D, 0x00);
    pub const INVALID_OPERATION_CODE: Self = Self::new(0x20, 0x00);
    pub const LBA_OUT_OF_RANGE: Self = Self::new(0x21, 0x00);
    pub const INVALID_FIELD_IN_CDB: Self = Self::new(0x24, 0x00);
    pub const LOGICAL_UNIT_NOT_SUPPORTED: Self = Self::new(0x25, 0x00);
    pub const INVALID_FIELD_IN_PARAMETER_LIST: Self = Self::new(0x26, 0x00);
    pub const INVALID_RELEASE_OF_RESERVATION: Self = Self::new(0x26, 0x04);
    pub const TOO_MANY_TARGET_DESCRIPTORS: Self = Self::new(0x26, 0x06);
    pub const UNSUPPORTED_TARGET_DESCRIPTOR: Self = Self::new(0x26, 0x07);
    pub const TOO_MANY_SEGMENT_DESCRIPTORS: Self = Self::new(0x26, 0x08);
    pub const UNSUPPORTED_SEGMENT_DESCRIPTOR: Self = Self::new(0x26, 0x09);
    pub const WRITE_PROTECTED: Self = Self::new(0x27, 0x00);
    pub const SPACE_ALLOCATION_FAILED: Self = Self::new(0x27, 0x07);
    pub const POWER_ON_OR_RESET: Self = Self::new(0x29, 0x00);
    pub const BUS_DEVICE_RESET: Self = Self::new(0x29, 0x03);
    pub const NEXUS_LOSS: Self = Self::new(0x29, 0x07);
    pub const MODE_PARAMETERS_CHANGED: Self = Self::new(0x2A, 0x01);
    pub const RESERVATIONS_PREEMPTED: Self = Self::new(0x2A, 0x03);
    pub const RESERVATIONS_RELEASED: Self = Self::new(0x2A, 0x04);
    pub const REGISTRATIONS_PREEMPTED: Self = Self::new(0x2A, 0x05);
    pub const CAPACITY_CHANGED: Self = Self::new(0x2A, 0x09);
    pub const COMMANDS_CLEARED: Self = Self::new(0x2F, 0x00);
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: Self = Self::new(0x55, 0x04);
    pub const SANITIZE_FAILED: Self = Self::new(0x31, 0x03);
    pub const SAVING_NOT_SUPPORTED: Self = Self::new(0x39, 0x00);
    pub const MEDIUM_NOT_PRESENT: Self = Self::new(0x3A, 0x00);
    pub const REPORTED_LUNS_CHANGED: Self = Self::new(0x3F, 0x0E);
    pub const MEDIUM_MAY_HAVE_CHANGED: Self = Self::new(0x28, 0x00);
    pub const INTERNAL_TARGET_FAILURE: Self = Self::new(0x44, 0x00);
    pub const MEDIUM_REMOVAL_PREVENTED: Self = Self::new(0x53, 0x02);
    pub const PROTOCOL_CRC_ERROR: Self = Self::new(0x47, 0x05);

    pub const fn new(asc: u8, ascq: u8) -> Self {
        Self { asc, ascq }
    }
}

/// The two layouts; the unit's D_SENSE mode bit chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SenseFormat {
    #[default]
    Fixed,
    Descriptor,
}

/// The sense-key specific bytes that units here send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specific {
    /// Which byte (and bit) of the CDB is in error.
    CdbField { byte: u16, bit: Option<u8> },
    /// Which byte (and bit) of the parameter list is in error.
    ListField { byte: u16, bit: Option<u8> },
    /// Progress of a long operation, in 65536ths.
    Progress(u16),
    /// Which segment descriptor of an extended copy failed: byte in the segment.
    Segment { byte: u16 },
}

/// One piece of sense data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    pub format: SenseFormat,
    pub key: SenseKey,
    pub code: Code,
    /// Mostly the LBA concerned, or the offset of a miscompare.
    pub information: Option<u64>,
    pub specific: Option<Specific>,
}

const FIXED_LEN: usize = 18;

impl Sense {
    pub fn new(key: SenseKey, code: Code) -> Self {
        Self {
            format: SenseFormat::Fixed,
            key,
            code,
            information: None,
            specific: None,
        }
    }

    pub fn illegal(code: Code) -> Self {
        Self::new(SenseKey::IllegalRequest, code)
    }

    pub fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    pub fn with_specific(mut self, specific: Specific) -> Self {
        self.specific = Some(specific);
        self
    }

    /// The wire form in this sense's own format.
    pub fn emit(&self) -> Bytes {
        match self.format {
            SenseFormat::Fixed => self.emit_fixed(),
            SenseFormat::Descriptor => self.emit_descriptors(),
        }
    }

    fn emit_fixed(&self) -> Bytes {
        let mut out = [0; FIXED_LEN];
        out[0] = 0x70;
        out[2] = self.key.nibble();
        // The field holds 32 bits; a larger value is left out rather than cut.
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            out[0] |= 0x80;
            out[3..7].copy_from_slice(&information.to_be_bytes());
        }
        out[7] = (FIXED_LEN - 8) as u8;
        out[12] = self.code.asc;
        out[13] = self.code.ascq;
        if let Some(specific) = self.specific {
            out[15..18].copy_from_slice(&specific.emit());
        }
        Bytes::copy_from_slice(&out)
    }

    fn emit_descriptors(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(28);
        out.put_slice(&[
            0x72,
            self.key.nibble(),
            self.code.asc,
            self.code.ascq,
            0,
            0,
            0,
            0,
        ]);
        if let Some(information) = self.information {
            out.put_slice(&[0x00, 0x0A, 0x80, 0x00]);
            out.put_u64(information);
        }
        if let Some(specific) = self.specific {
            out.put_slice(&[0x02, 0x06, 0x00, 0x00]);
            out.put_slice(&specific.emit());
            out.put_u8(0);
        }
        out[7] = (out.len() - 8) as u8;
        out.freeze()
    }

    /// Reads sense data of either format; `None` if it is too short or of no known response code.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? & 0x7F {
            0x70 | 0x71 => Self::parse_fixed(bytes),
            0x72 | 0x73 => Self::parse_descriptors(bytes),
            _ => None,
        }
    }

    fn parse_fixed(bytes: &[u8]) -> Option<Self> {
        let key = SenseKey::from_nibble(*bytes.get(2)?);
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let mut sense = Self::new(key, Code::new(byte(12), byte(13)));
        if byte(0) & 0x80 != 0 && bytes.len() >= 7 {
            sense.information = Some(u64::from(u32::from_be_bytes([
                byte(3),
                byte(4),
                byte(5),
                byte(6),
            ])));
        }
        sense.specific = Specific::parse(key, [byte(15), byte(16), byte(17)]);
        Some(sense)
    }

    fn parse_descriptors(bytes: &[u8]) -> Option<Self> {
        let key = SenseKey::from_nibble(*bytes.get(1)?);
        let mut sense = Self::new(key, Code::new(*bytes.get(2)?, *bytes.get(3)?));
        sense.format = SenseFormat::Descriptor;
        let end = 8 + usize::from(bytes.get(7).copied().unwrap_or(0));
        let mut rest = bytes.get(8..end.min(bytes.len())).unwrap_or(&[]);
        while let [kind, length, body @ ..] = rest {
            let Some((body, next)) = body.split_at_checked(usize::from(*length)) else {
                break;
            };
            match (kind, body) {
                (0x00, [valid, _, information @ ..]) if valid & 0x80 != 0 => {
                    sense.information = information.try_into().ok().map(u64::from_be_bytes);
                }
                (0x02, [_, _, a, b, c, ..]) => sense.specific = Specific::parse(key, [*a, *b, *c]),
                _ => {}
            }
            rest = next;
        }
        Some(sense)
    }
}

impl Specific {
    fn emit(self) -> [u8; 3] {
        let pointer = |flag: u8, byte: u16, bit: Option<u8>| {
            let [high, low] = byte.to_be_bytes();
            [
                0x80 | flag | bit.map_or(0, |bit| 0x08 | bit & 0x07),
                high,
                low,
            ]
        };
        match self {
            Self::CdbField { byte, bit } => pointer(0x40, byte, bit),
            Self::ListField { byte, bit } => pointer(0, byte, bit),
            Self::Progress(value) => pointer(0, value, None),
            Self::Segment { byte } => pointer(0x20, byte, None),
        }
    }

    fn parse(key: SenseKey, [first, high, low]: [u8; 3]) -> Option<Self> {
        if first & 0x80 == 0 {
            return None;
        }
        let value = u16::from_be_bytes([high, low]);
        let bit = (first & 0x08 != 0).then_some(first & 0x07);
        match key {
            SenseKey::IllegalRequest if first & 0x40 != 0 => {
                Some(Self::CdbField { byte: value, bit })
            }
            SenseKey::IllegalRequest => Some(Self::ListField { byte: value, bit }),
            SenseKey::NotReady | SenseKey::NoSense => Some(Self::Progress(value)),
            SenseKey::CopyAborted => Some(Self::Segment { byte: value }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sense: Sense, wire: &[u8]) {
        assert_eq!(&sense.emit()[..], wire);
        assert_eq!(Sense::parse(wire), Some(sense));
        for cut in 0..wire.len() {
            Sense::parse(&wire[..cut]);
        }
    }

    #[test]
    fn fixed_format_carries_information_and_field_pointer() {
        check(
            Sense::illegal(Code::INVALID_FIELD_IN_CDB).with_specific(Specific::CdbField {
                byte: 2,
                bit: Some(3),
            }),
            &[
                0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xCB, 0, 2,
            ],
        );
        check(
            Sense::new(SenseKey::Miscompare, Code::MISCOMPARE_DURING_VERIFY)
                .with_information(0x0102_0304),
            &[0xF0, 0, 14, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x1D, 0, 0, 0, 0, 0],
        );
    }

    #[test]
    fn fixed_format_leaves_out_information_beyond_32_bits() {
        let sense = Sense::new(SenseKey::MediumError, Code::UNRECOVERED_READ_ERROR)
            .with_information(1 << 32);
        assert_eq!(sense.emit()[0], 0x70);
        assert_eq!(sense.emit()[3..7], [0, 0, 0, 0]);
    }

    #[test]
    fn descriptor_format_carries_both_descriptors() {
        let mut sense = Sense::illegal(Code::LBA_OUT_OF_RANGE)
            .with_information(0x0102_0304_0506_0708)
            .with_specific(Specific::CdbField { byte: 2, bit: None });
        sense.format = SenseFormat::Descriptor;
        check(
            sense,
            &[
                0x72, 5, 0x21, 0, 0, 0, 0, 20, 0, 10, 0x80, 0, 1, 2, 3, 4, 5, 6, 7, 8, 2, 6, 0, 0,
                0xC0, 0, 2, 0,
            ],
        );
    }

    #[test]
    fn progress_survives_both_formats() {
        let mut sense = Sense::new(SenseKey::NotReady, Code::NOT_READY_SANITIZE_IN_PROGRESS)
            .with_specific(Specific::Progress(0x8000));
        assert_eq!(Sense::parse(&sense.emit()), Some(sense));
        sense.format = SenseFormat::Descriptor;
        assert_eq!(Sense::parse(&sense.emit()), Some(sense));
    }

    #[test]
    fn other_response_codes_are_refused() {
        assert_eq!(Sense::parse(&[]), None);
        assert_eq!(Sense::parse(&[0x00; 18]), None);
        assert_eq!(Sense::parse(&[0x7F; 18]), None);
    }
}

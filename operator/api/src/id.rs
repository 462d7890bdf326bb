//! Names that follow from names: the id of a volume is the same wherever it is computed.
//!
//! `ts-` + the first 128 bits of a SHA-256 over pair, namespace and name, so that both clusters,
//! Git and a recovered backup agree on it without asking each other. The 16 bytes are the
//! `volume_id` in superblocks and the register; the text is volumeHandle and PV name. A volume
//! that is in no group is a group of its own: its group id is its volume id. A real group's id
//! starts with `tg-`.
//!
//! Invariants: the text form and the bytes are one-to-one.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

/// Identity of a mirrored volume: `ts-` and 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId([u8; 16]);

/// Identity of what shares one register: a group (`tg-...`) or a volume on its own (`ts-...`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupId {
    Volume(VolumeId),
    Group([u8; 16]),
}

/// Which of the two legs, and which of the two sites: the index that a site got with its first claim.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum LegIndex {
    A,
    B,
}

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no id: it must be {expected} and 32 lower-case hex digits")]
pub struct IdError {
    text: String,
    expected: &'static str,
}

fn digest(kind: &str, pair: &str, namespace: &str, name: &str) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in ["twinsite.io/v1", kind, pair, namespace, name] {
        // Lengths first: no two lists of names run together to the same input.
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    id
}

/// 32 hex digits that stand for exactly these texts.
pub(crate) fn fingerprint(parts: &[String]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let text: &[u8; 32] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl VolumeId {
    /// The id of the volume `namespace/name` of a pair of sites.
    pub fn of(pair: &str, namespace: &str, name: &str) -> Self {
        Self(digest("volume", pair, namespace, name))
    }

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// `volume_id` in superblocks and the register.
    pub const fn bytes(&self) -> [u8; 16] {
        self.0
    }

    /// The NAA name (type 6) that our own target gives the LUN of a leg.
    pub fn leg_naa(&self, leg: LegIndex) -> [u8; 16] {
        let hash = Sha256::new()
            .chain_update(b"twinsite.io/naa")
            .chain_update(self.0)
            .chain_update([u8::from(leg == LegIndex::B)])
            .finalize();
        let mut naa = [0; 16];
        naa.copy_from_slice(&hash[..16]);
        naa[0] = 0x60 | (naa[0] & 0x0f);
        naa
    }

    /// The name of a LUN that takes the place of one that was given up for good; another number, another name.
    pub fn leg_naa_after(&self, leg: LegIndex, number: u32) -> [u8; 16] {
        let mut naa = [0; 16];
        let hash = Sha256::new()
            .chain_update(b"twinsite.io/naa-after")
            .chain_update(self.leg_naa(leg))
            .chain_update(number.to_be_bytes())
            .finalize();
        naa.copy_from_slice(&hash[..16]);
        naa[0] = 0x60 | (naa[0] & 0x0f);
        naa
    }

    /// [`Self::leg_naa`] as manifests write it: `naa.6...`.
    pub fn leg_naa_text(&self, leg: LegIndex) -> String {
        naa_text(&self.leg_naa(leg))
    }

    /// The iSCSI name that our own target gives the LUN of a leg.
    pub fn leg_iqn(&self, leg: LegIndex) -> String {
        format!("iqn.2026-11.io.twinsite:{self}.{}", leg.letter())
    }
}

impl GroupId {
    /// The id of the group `namespace/name` of a pair of sites.
    pub fn of_group(pair: &str, namespace: &str, name: &str) -> Self {
        Self::Group(digest("group", pair, namespace, name))
    }

    /// `group_id` in superblocks and the register.
    pub const fn bytes(&self) -> [u8; 16] {
        match self {
            Self::Volume(volume) => volume.0,
            Self::Group(bytes) => *bytes,
        }
    }
}

/// The 16 bytes by which the register knows an Attachment's uid: a UUID as it is, any other text by
/// its hash.
pub fn attachment_uid(uid: &str) -> [u8; 16] {
    let plain = uid.replace('-', "");
    if let Some(bytes) = unhex(&plain) {
        return bytes;
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(uid.as_bytes())[..16]);
    bytes
}

/// The uid by which the register knows an order that several Attachments make together, by their own in any order.
pub fn group_uid(uids: &[[u8; 16]]) -> [u8; 16] {
    let mut uids: Vec<String> = uids.iter().map(|uid| hex(uid)).collect();
    uids.sort_unstable();
    attachment_uid(&format!("group of {}", uids.join(" and ")))
}

/// An NAA name as manifests write it.
pub fn naa_text(naa: &[u8; 16]) -> String {
    format!("naa.{}", hex(naa))
}

/// An NAA name as manifests write it, `naa.` and 16 or 32 hex digits, as 16 bytes, zero padded.
pub fn parse_naa(text: &str) -> Option<[u8; 16]> {
    let digits = text.strip_prefix("naa.")?;
    match digits.len() {
        32 => unhex(digits),
        16 => unhex(&format!("{digits}0000000000000000")),
        _ => None,
    }
}

impl LegIndex {
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// 0 or 1, as in superblocks.
    pub const fn number(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// `a` or `b`, as in object names.
    pub const fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }
}

impl fmt::Display for LegIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

impl FromStr for VolumeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.strip_prefix("ts-")
            .and_then(unhex)
            .map(Self)
            .ok_or_else(|| IdError {
                text: text.to_owned(),
                expected: "ts-",
            })
    }
}

impl FromStr for GroupId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if let Some(group) = text.strip_prefix("tg-").and_then(unhex) {
            return Ok(Self::Group(group));
        }
        text.parse().map(Self::Volume).map_err(|_| IdError {
            text: text.to_owned(),
            expected: "ts- or tg-",
        })
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ts-{}", hex(&self.0))
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(volume) => fmt::Display::fmt(volume, f),
            Self::Group(bytes) => write!(f, "tg-{}", hex(bytes)),
        }
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<VolumeId> for GroupId {
    fn from(volume: VolumeId) -> Self {
        Self::Volume(volume)
    }
}

macro_rules! as_text {
    ($id:ty, $pattern:literal) => {
        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <Cow<'_, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $id {
            fn schema_name() -> Cow<'static, str> {
                stringify!($id).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "maxLength": 35, "pattern": $pattern})
            }
        }
    };
}

as_text!(VolumeId, "^ts-[0-9a-f]{32}$");
as_text!(GroupId, "^t[sg]-[0-9a-f]{32}$");

#[cfg(test)]
mod tests {
    use super::*;

    // Pinned: a changed hash would orphan every volume in the field.
    #[test]
    fn the_id_of_a_volume_never_changes() {
        let id = VolumeId::of("ctrc", "rv", "records");
        assert_eq!(id.to_string(), "ts-abab1402d96601b5a97768ff3951d0e5");
        assert_eq!(
            id.leg_naa_text(LegIndex::A),
            "naa.656fd52aafa50775524c8e491c5f08e7"
        );
        assert_eq!(
            id.leg_naa_text(LegIndex::B),
            "naa.6a64241c004ac5d8c6b295246082216c"
        );
        assert_eq!(
            GroupId::of_group("ctrc", "rv", "records").to_string(),
            "tg-a9c49f5f45a0f2ca3b5339bc49f524ed"
        );
    }

    #[test]
    fn a_uuid_is_taken_as_it_is_and_other_uids_by_their_hash() {
        let uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f";
        assert_eq!(
            attachment_uid(uuid),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
        );
        assert_ne!(attachment_uid("first"), attachment_uid("second"));
    }

    #[test]
    fn an_naa_name_has_8_or_16_bytes() {
        assert_eq!(
            parse_naa("naa.6006000000000001"),
            Some([0x60, 6, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
        );
        let id = VolumeId::of("ctrc", "rv", "records");
        assert_eq!(
            parse_naa(&id.leg_naa_text(LegIndex::A)),
            Some(id.leg_naa(LegIndex::A))
        );
        for bad in [
            "",
            "naa.",
            "naa.600",
            "6006000000000001",
            "naa.600600000000000G",
        ] {
            assert_eq!(parse_naa(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_that_run_together_alike_have_other_ids() {
        assert_ne!(VolumeId::of("a", "bc", "d"), VolumeId::of("ab", "c", "d"));
        assert_ne!(VolumeId::of("a", "b", "cd"), VolumeId::of("a", "bc", "d"));
    }

    #[test]
    fn text_and_bytes_are_one_to_one() {
        let id: VolumeId = "ts-000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert_eq!(
            id.bytes(),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
        );
        assert_eq!(id.to_string(), "ts-000102030405060708090a0b0c0d0e0f");
        let group: GroupId = "tg-000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert_eq!(group.to_string(), "tg-000102030405060708090a0b0c0d0e0f");
        assert_eq!(
            "ts-000102030405060708090a0b0c0d0e0f".parse(),
            Ok(GroupId::Volume(id))
        );
        for bad in [
            "",
            "ts-",
            "ts-00",
            "tx-000102030405060708090a0b0c0d0e0f",
            "ts-000102030405060708090A0B0C0D0E0F",
        ] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad}");
            assert!(bad.parse::<GroupId>().is_err(), "{bad}");
        }
    }
}

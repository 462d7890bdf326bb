//! The words of the register as types: sites, legs, member sets, epochs, keys and the random ids.
//!
//! All ids are printed and stored as lower-case hexadecimal text, because JSON tools round large numbers and people paste
//! ids from one tool into another. Nothing here makes a random value: every id comes in from outside.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One of the two sites. The first claim of a site name at the witness gives it its index for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Site {
    /// Index 0.
    A,
    /// Index 1.
    B,
}

impl Site {
    /// The leg that stands at this site.
    pub const fn leg(self) -> Leg {
        match self {
            Self::A => Leg::A,
            Self::B => Leg::B,
        }
    }

    /// The other site.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// 0 or 1, as stored on a leg.
    pub const fn index(self) -> u8 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The site with this stored index.
    pub const fn from_index(index: u8) -> Option<Self> {
        match index {
            0 => Some(Self::A),
            1 => Some(Self::B),
            _ => None,
        }
    }
}

/// One copy of a volume: the LUN at one site.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Leg {
    /// The leg at site A.
    A,
    /// The leg at site B.
    B,
}

impl Leg {
    /// Both legs, A first.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The site at which this leg stands.
    pub const fn site(self) -> Site {
        match self {
            Self::A => Site::A,
            Self::B => Site::B,
        }
    }

    /// The other leg.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// 0 or 1, as stored on a leg and as an array index.
    pub const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The leg with this stored index.
    pub const fn from_index(index: u8) -> Option<Self> {
        match index {
            0 => Some(Self::A),
            1 => Some(Self::B),
            _ => None,
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A set of legs. Members are the legs that must have a write before it is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Members(u8);

impl Members {
    /// No leg.
    pub const NONE: Self = Self(0);
    /// Both legs.
    pub const BOTH: Self = Self(3);

    /// The set of exactly this leg.
    pub const fn only(leg: Leg) -> Self {
        Self(1 << leg.index())
    }

    /// Bit 0 = A, bit 1 = B, as stored in a superblock; `None` for any other bit.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits <= 3 { Some(Self(bits)) } else { None }
    }

    /// Bit 0 = A, bit 1 = B.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Is this leg in the set?
    pub const fn contains(self, leg: Leg) -> bool {
        self.0 & Self::only(leg).0 != 0
    }

    /// Is the set empty?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Is every leg of `other` in this set?
    pub const fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set with this leg added.
    #[must_use]
    pub const fn with(self, leg: Leg) -> Self {
        Self(self.0 | Self::only(leg).0)
    }

    /// The set with this leg taken out.
    #[must_use]
    pub const fn without(self, leg: Leg) -> Self {
        Self(self.0 & !Self::only(leg).0)
    }

    /// Legs in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Legs in either set.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The leg of a set of one.
    pub const fn sole(self) -> Option<Leg> {
        match self.0 {
            1 => Some(Leg::A),
            2 => Some(Leg::B),
            _ => None,
        }
    }

    /// The legs, A first.
    pub fn iter(self) -> impl Iterator<Item = Leg> {
        Leg::BOTH.into_iter().filter(move |&leg| self.contains(leg))
    }

    const fn text(self) -> &'static str {
        match self.0 {
            0 => "",
            1 => "A",
            2 => "B",
            _ => "AB",
        }
    }
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.text())
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromIterator<Leg> for Members {
    fn from_iter<I: IntoIterator<Item = Leg>>(legs: I) -> Self {
        legs.into_iter().fold(Self::NONE, Self::with)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "" => Ok(Self::NONE),
            "A" => Ok(Self::only(Leg::A)),
            "B" => Ok(Self::only(Leg::B)),
            "AB" => Ok(Self::BOTH),
            other => Err(serde::de::Error::custom(format!(
                "{other:?} is not a set of legs"
            ))),
        }
    }
}

/// The ordered number of a membership. It grows by one at every change of members and at every bump.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a register that is still being created and of a leg that never joined.
    pub const ZERO: Self = Self(0);

    /// The next epoch; `None` at the end of the number range.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Text that is not the hexadecimal form of the id it should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not {digits} hexadecimal digits")]
pub struct BadHex {
    /// What was given.
    pub text: String,
    /// How many digits the id has.
    pub digits: usize,
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], BadHex> {
    let bad = || BadHex {
        text: text.chars().take(80).collect(),
        digits: 2 * N,
    };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(bad());
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |d: u8| match d {
            b'0'..=b'9' => Some(d - b'0'),
            b'a'..=b'f' => Some(d - b'a' + 10),
            _ => None,
        };
        match (nibble(pair[0]), nibble(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return Err(bad()),
        }
    }
    Ok(out)
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

macro_rules! hex_text {
    ($name:ident, $bytes:expr, $from:expr) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&$bytes(self), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadHex;

            fn from_str(text: &str) -> Result<Self, BadHex> {
                parse_hex(text).map($from)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// All zero bytes: not set.
            pub const ZERO: Self = Self([0; 16]);

            /// Is it not set?
            pub fn is_zero(&self) -> bool {
                *self == Self::ZERO
            }
        }

        hex_text!($name, |id: &$name| id.0, $name);
    };
}

id128!(
    /// The random id that goes with an epoch: counters alone are not identity.
    Gen
);
id128!(
    /// New in every compare-and-swap, so that an old request can never fit a later value (R25).
    TxId
);
id128!(
    /// New in every stamp: by it an attach knows its own stamp again (R41).
    StampId
);
id128!(
    /// Which register this is; it changes only by reseed.
    RegisterId
);
id128!(
    /// Which volume.
    VolumeId
);
id128!(
    /// Which group of volumes moves together; a volume without a group is a group of its own.
    GroupId
);
id128!(
    /// The uid of one Attachment object: each gets its place in the order once (R38).
    AttachmentUid
);
id128!(
    /// The NAA designator of a LUN, zero padded.
    Naa
);

/// Who made a key, in its highest byte: the other side can tell before a fence, without reading the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyTag {
    /// 0xA1 and 0xB1: a writer (or birth, wipe, reseed) at that site.
    Writer(Site),
    /// 0xC1: `plan`, which reads only; the checks for "only own keys" ignore it, a fence removes it.
    Inspect,
    /// Not a key of ours.
    Foreign(u8),
}

/// A reservation key: site tag, 48 random bits per attach, session number. Session 0 names the attach.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

impl Key {
    /// The key of an attach: tag from `tag`, the low 48 bits of `random`, session 0.
    pub const fn new(tag: KeyTag, random: u64) -> Self {
        let tag = match tag {
            KeyTag::Writer(Site::A) => 0xA1,
            KeyTag::Writer(Site::B) => 0xB1,
            KeyTag::Inspect => 0xC1,
            KeyTag::Foreign(byte) => byte as u64,
        };
        Self(tag << 56 | (random & 0xffff_ffff_ffff) << 8)
    }

    /// A key as read from a leg or a register.
    pub const fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    /// A key as it stands in a parameter list.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    /// The raw number.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// As in a parameter list.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The key of this attach on its session `n`: each I_T nexus has its own.
    #[must_use]
    pub const fn session(self, n: u8) -> Self {
        Self(self.0 & !0xff | n as u64)
    }

    /// The session number.
    pub const fn session_number(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// The attach this key belongs to: session byte 0, as in `attach_key` and `holder`.
    #[must_use]
    pub const fn attach(self) -> Self {
        self.session(0)
    }

    /// Is `other` a key of the same attach?
    pub const fn same_attach(self, other: Self) -> bool {
        self.attach().0 == other.attach().0
    }

    /// Who made it.
    pub const fn tag(self) -> KeyTag {
        match self.0.to_be_bytes()[0] {
            0xA1 => KeyTag::Writer(Site::A),
            0xB1 => KeyTag::Writer(Site::B),
            0xC1 => KeyTag::Inspect,
            other => KeyTag::Foreign(other),
        }
    }
}

hex_text!(Key, |key: &Key| key.to_bytes(), Key::from_bytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_carries_its_site_48_random_bits_and_its_session() {
        let key = Key::new(KeyTag::Writer(Site::B), 0xffff_1122_3344_5566);
        assert_eq!(key.to_u64(), 0xB111_2233_4455_6600);
        assert_eq!(key.session(3).to_u64(), 0xB111_2233_4455_6603);
        assert_eq!(key.session(3).attach(), key);
        assert!(key.session(3).same_attach(key.session(250)));
        assert!(!key.same_attach(Key::new(KeyTag::Writer(Site::A), 0x1122_3344_5566)));
        assert_eq!(key.session(7).session_number(), 7);
        assert_eq!(key.tag(), KeyTag::Writer(Site::B));
        assert_eq!(Key::from_u64(0xC1 << 56).tag(), KeyTag::Inspect);
        assert_eq!(Key::from_u64(7).tag(), KeyTag::Foreign(0));
        assert_eq!(key.to_string(), "b111223344556600");
        assert_eq!("b111223344556600".parse::<Key>(), Ok(key));
    }

    #[test]
    fn hexadecimal_text_of_the_wrong_length_case_or_alphabet_is_refused() {
        assert!("".parse::<Gen>().is_err());
        assert!("00112233445566778899AABBCCDDEEFF".parse::<Gen>().is_err());
        assert!("00112233445566778899aabbccddeeg0".parse::<Gen>().is_err());
        assert!("00112233445566778899aabbccddeeff00".parse::<Gen>().is_err());
        assert!("é0112233445566778899aabbccddeef".parse::<Gen>().is_err());
        let id: Gen = "00112233445566778899aabbccddeeff".parse().unwrap();
        assert_eq!(id.0[15], 0xff);
    }

    #[test]
    fn member_sets_behave_as_sets() {
        let both = Members::BOTH;
        assert_eq!(both.without(Leg::A).sole(), Some(Leg::B));
        assert_eq!(both.sole(), None);
        assert_eq!(Members::NONE.sole(), None);
        assert!(both.includes(Members::only(Leg::A)));
        assert!(!Members::only(Leg::A).includes(both));
        assert_eq!(Members::from_bits(4), None);
        assert_eq!(both.iter().collect::<Vec<_>>(), [Leg::A, Leg::B]);
        assert_eq!(both.to_string(), "{AB}");
        assert_eq!([Leg::B].into_iter().collect::<Members>().bits(), 2);
    }
}

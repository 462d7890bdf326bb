//! Byte counts as people write them: `100Gi`, `1500M`, `1.5Ti`, `4096`.
//!
//! The text is kept as written, so that a round trip through an agent or Git changes nothing;
//! two quantities are equal when they mean the same number of bytes.
//! Invariants: a parsed value is a whole number of bytes and fits `u64`.

use std::{borrow::Cow, cmp::Ordering, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes with a binary or decimal suffix, such as `100Gi`.
#[derive(Clone)]
pub struct Quantity {
    text: Box<str>,
    bytes: u64,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error(
        "{0:?} is no size: write a number with an optional suffix, such as 100Gi, 500M or 4096"
    )]
    Malformed(String),
    #[error("{0:?} is no whole number of bytes")]
    Fraction(String),
    #[error("{0:?} is larger than can be addressed")]
    TooLarge(String),
}

const SUFFIXES: [(&str, u64); 13] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
    ("", 1),
];

/// More digits than this after the point cannot name a whole byte in any unit we know.
const MAX_FRACTION_DIGITS: u32 = 18;

impl Quantity {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The shortest exact binary form of a byte count.
    pub fn from_bytes(bytes: u64) -> Self {
        let text = SUFFIXES[..6]
            .iter()
            .rev()
            .find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit))
            .map_or_else(
                || bytes.to_string(),
                |(suffix, unit)| format!("{}{suffix}", bytes / unit),
            );
        Self {
            text: text.into(),
            bytes,
        }
    }
}

/// A byte count for people, rounded down to three figures at most: `731`, `1.5Gi`, `120Gi`.
pub fn rounded(bytes: u64) -> String {
    let Some((suffix, unit)) = SUFFIXES[..6].iter().rev().find(|(_, unit)| bytes >= *unit) else {
        return bytes.to_string();
    };
    let (whole, tenths) = (
        bytes / unit,
        u128::from(bytes % unit) * 10 / u128::from(*unit),
    );
    if whole < 100 && tenths > 0 {
        format!("{whole}.{tenths}{suffix}")
    } else {
        format!("{whole}{suffix}")
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let malformed = || QuantityError::Malformed(text.to_owned());
        let too_large = || QuantityError::TooLarge(text.to_owned());
        let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let suffix = &text[number.len()..];
        let (_, unit) = SUFFIXES
            .iter()
            .find(|(known, _)| *known == suffix)
            .ok_or_else(malformed)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
            return Err(malformed());
        }
        let fraction = fraction.trim_end_matches('0');
        let places = u32::try_from(fraction.len()).map_err(|_| malformed())?;
        if places > MAX_FRACTION_DIGITS {
            return Err(QuantityError::Fraction(text.to_owned()));
        }
        let scale = 10u128.pow(places);
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let fraction: u128 = if fraction.is_empty() {
            0
        } else {
            fraction.parse().map_err(|_| malformed())?
        };
        let scaled = (u128::from(whole) * scale + fraction) * u128::from(*unit);
        if !scaled.is_multiple_of(scale) {
            return Err(QuantityError::Fraction(text.to_owned()));
        }
        let bytes = u64::try_from(scaled / scale).map_err(|_| too_large())?;
        Ok(Self {
            text: text.into(),
            bytes,
        })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Quantity;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 100Gi")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }
            // YAML reads an unquoted 4096 as a number.
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Quantity, E> {
                Ok(Quantity {
                    text: bytes.to_string().into(),
                    bytes,
                })
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("100Gi", 107_374_182_400),
            ("1.5Ti", 1_649_267_441_664),
            ("500M", 500_000_000),
            ("1k", 1_000),
            ("15Ei", 15 << 60),
            ("0.5Ki", 512),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn people_get_three_figures_with_their_unit() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1536, "1.5Ki"),
            (13_207_024_435, "12.2Gi"),
            ((120 << 30) + (900 << 20), "120Gi"),
            (u64::MAX, "15.9Ei"),
        ] {
            assert_eq!(rounded(bytes), text);
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        for text in [
            "", "Gi", "10 Gi", "-1", "1e3", "10GiB", "1.", ".5", "10g", "ten", "١Gi",
        ] {
            assert_eq!(
                text.parse::<Quantity>().unwrap_err(),
                QuantityError::Malformed(text.into())
            );
        }
        assert_eq!(
            "0.3Ki".parse::<Quantity>().unwrap_err(),
            QuantityError::Fraction("0.3Ki".into())
        );
        assert_eq!(
            "16Ei".parse::<Quantity>().unwrap_err(),
            QuantityError::TooLarge("16Ei".into())
        );
    }

    #[test]
    fn the_text_survives_and_equality_is_of_bytes() {
        let written: Quantity = serde_json::from_str("\"1024Mi\"").unwrap();
        assert_eq!(serde_json::to_string(&written).unwrap(), "\"1024Mi\"");
        assert_eq!(written, "1Gi".parse().unwrap());
        assert_eq!(Quantity::from_bytes(3 << 30).to_string(), "3Gi");
        assert_eq!(Quantity::from_bytes(4097).to_string(), "4097");
        assert_eq!(Quantity::from_bytes(0).to_string(), "0");
        assert_eq!(
            serde_json::from_str::<Quantity>("4096").unwrap().bytes(),
            4096
        );
    }
}

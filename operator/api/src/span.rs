//! Lengths of time as people write them: `5s`, `500ms`, `2m`, `1h30m`.
//!
//! Invariants: never negative, whole milliseconds; the text is kept as written.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time with units, such as `5s`.
#[derive(Clone)]
pub struct Span {
    text: Box<str>,
    length: Duration,
}

/// Why a text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    #[error("{0:?} is no length of time: write numbers with units, such as 5s, 500ms, 2m or 1h30m")]
    Malformed(String),
    #[error("{0:?} is longer than a year")]
    TooLong(String),
}

const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const LONGEST_MS: u64 = 366 * 24 * 3_600_000;

impl Span {
    pub fn length(&self) -> Duration {
        self.length
    }

    /// Whole seconds as a span; for defaults.
    pub fn seconds(seconds: u64) -> Self {
        Self {
            text: format!("{seconds}s").into(),
            length: Duration::from_secs(seconds),
        }
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let malformed = || SpanError::Malformed(text.to_owned());
        let too_long = || SpanError::TooLong(text.to_owned());
        if text.is_empty() {
            return Err(malformed());
        }
        let mut rest = text;
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, tail) = tail.split_at(letters);
            let (_, unit) = UNITS
                .iter()
                .find(|(known, _)| *known == unit)
                .ok_or_else(malformed)?;
            if number.is_empty() {
                return Err(malformed());
            }
            let number: u64 = number.parse().map_err(|_| too_long())?;
            let part = number.checked_mul(*unit).ok_or_else(too_long)?;
            total = total
                .checked_add(part)
                .filter(|ms| *ms <= LONGEST_MS)
                .ok_or_else(too_long)?;
            rest = tail;
        }
        Ok(Self {
            text: text.into(),
            length: Duration::from_millis(total),
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Span {
    fn eq(&self, other: &Self) -> bool {
        self.length == other.length
    }
}

impl Eq for Span {}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 32, "pattern": "^([0-9]+(ms|s|m|h))+$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_in_milliseconds() {
        for (text, ms) in [
            ("5s", 5_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(
                text.parse::<Span>().unwrap().length(),
                Duration::from_millis(ms),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_span_is_refused_with_the_reason() {
        for text in ["", "5", "s", "5 s", "-5s", "1.5s", "5d", "5s3", "５s"] {
            assert_eq!(
                text.parse::<Span>().unwrap_err(),
                SpanError::Malformed(text.into())
            );
        }
        for text in ["99999999999999999999s", "9000h", "18446744073709551615h"] {
            assert_eq!(
                text.parse::<Span>().unwrap_err(),
                SpanError::TooLong(text.into())
            );
        }
    }

    #[test]
    fn the_text_survives_a_round_trip() {
        let span: Span = serde_json::from_str("\"60s\"").unwrap();
        assert_eq!(serde_json::to_string(&span).unwrap(), "\"60s\"");
        assert_eq!(span, "1m".parse().unwrap());
    }
}

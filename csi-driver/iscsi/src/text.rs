//! Text of login and text PDUs: `key=value` pairs, each ended by a zero byte (RFC 7143 section 6.1).
//!
//! Invariants: what `Pairs::parse` accepts obeys the length and character rules; `TextOut` emits nothing that
//! `Pairs::parse` would refuse. Not here: what the keys mean (`crate::login`).

use thiserror::Error;

/// Bytes of text that one exchange may build up over continued PDUs.
pub const MAX_TEXT: usize = 32 * 1024;
/// Pairs in one exchange.
pub const MAX_PAIRS: usize = 64;
const MAX_KEY: usize = 63;
const MAX_VALUE: usize = 255;
/// A binary value of 1024 bytes in hexadecimal, with its prefix.
const MAX_BINARY_VALUE: usize = 2 * 1024 + 2;

pub const NOT_UNDERSTOOD: &str = "NotUnderstood";
pub const IRRELEVANT: &str = "Irrelevant";
pub const REJECT: &str = "Reject";

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TextError {
    #[error("text does not end with a zero byte")]
    Unterminated,
    #[error("text of more than {MAX_TEXT} bytes")]
    TooLong,
    #[error("more than {MAX_PAIRS} keys")]
    TooManyPairs,
    #[error("key without value")]
    NoValue,
    #[error(
        "key that is empty, longer than {MAX_KEY} bytes or has characters that are not allowed"
    )]
    BadKey,
    #[error("value that is too long or not UTF-8")]
    BadValue,
}

/// Collects text over PDUs whose C bit says that more follows.
#[derive(Debug, Default)]
pub struct TextIn(Vec<u8>);

impl TextIn {
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TextError> {
        if self.0.len() + bytes.len() > MAX_TEXT {
            return Err(TextError::TooLong);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was collected; begins anew.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// The pairs of one text, in order.
pub fn parse(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
    let mut pairs = Vec::new();
    if !text.is_empty() && text.last() != Some(&0) {
        return Err(TextError::Unterminated);
    }
    // Some initiators pad with zero bytes inside the segment, so empty entries are passed over.
    for entry in text
        .split(|byte| *byte == 0)
        .filter(|entry| !entry.is_empty())
    {
        if pairs.len() == MAX_PAIRS {
            return Err(TextError::TooManyPairs);
        }
        pairs.push(parse_pair(entry)?);
    }
    Ok(pairs)
}

fn parse_pair(entry: &[u8]) -> Result<(&str, &str), TextError> {
    let split = entry
        .iter()
        .position(|byte| *byte == b'=')
        .ok_or(TextError::NoValue)?;
    let (key, value) = (&entry[..split], &entry[split + 1..]);
    if key.is_empty() || key.len() > MAX_KEY || !key.iter().all(|byte| is_key_byte(*byte)) {
        return Err(TextError::BadKey);
    }
    let key = std::str::from_utf8(key).map_err(|_| TextError::BadKey)?;
    let limit = match key {
        "CHAP_C" | "CHAP_R" => MAX_BINARY_VALUE,
        _ => MAX_VALUE,
    };
    if value.len() > limit {
        return Err(TextError::BadValue);
    }
    let value = std::str::from_utf8(value).map_err(|_| TextError::BadValue)?;
    Ok((key, value))
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+' | b'@' | b'_')
}

/// Builds the text of a PDU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextOut(Vec<u8>);

impl TextOut {
    pub fn pair(&mut self, key: &str, value: &str) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'=');
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
    }

    pub fn number(&mut self, key: &str, value: u32) {
        self.pair(key, &value.to_string());
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A number in decimal or, with 0x, hexadecimal.
pub fn parse_number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or(value.strip_prefix("0X")) {
        Some(digits) if digits.starts_with('+') => None,
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if value.starts_with('+') => None,
        None => value.parse().ok(),
    }
}

/// Binary in hexadecimal (0x) or base64 (0b), at most `limit` bytes.
pub fn parse_binary(value: &str, limit: usize) -> Option<Vec<u8>> {
    let (prefix, digits) = value.split_at_checked(2)?;
    let bytes = match prefix {
        "0x" | "0X" => parse_hex(digits.as_bytes())?,
        "0b" | "0B" => parse_base64(digits.as_bytes())?,
        _ => return None,
    };
    (bytes.len() <= limit).then_some(bytes)
}

pub fn emit_hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 + bytes.len() * 2);
    out.push_str("0x");
    for byte in bytes {
        for nibble in [byte >> 4, byte & 0x0F] {
            out.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    out
}

fn parse_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    // An odd number of digits has a leading zero left out.
    let (odd, pairs) = digits.split_at(digits.len() % 2);
    let mut out = Vec::with_capacity(digits.len().div_ceil(2));
    for digit in odd {
        out.push(nibble(*digit)?);
    }
    for pair in pairs.chunks_exact(2) {
        out.push(nibble(pair[0])? << 4 | nibble(pair[1])?);
    }
    Some(out)
}

fn parse_base64(digits: &[u8]) -> Option<Vec<u8>> {
    let padding = digits
        .iter()
        .rev()
        .take_while(|digit| **digit == b'=')
        .count();
    let body = &digits[..digits.len() - padding];
    if !digits.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(body.len() * 3 / 4);
    for group in body.chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            bits = bits << 6 | u32::from(base64_value(*digit)?);
        }
        let whole = group.len() * 6 / 8;
        bits <<= 6 * (4 - group.len());
        out.extend_from_slice(&bits.to_be_bytes()[1..=whole]);
    }
    Some(out)
}

fn base64_value(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_come_in_order_and_padding_is_passed_over() {
        assert_eq!(
            parse(b"InitiatorName=iqn.a\0X-empty=\0a=b=c\0\0\0"),
            Ok(vec![
                ("InitiatorName", "iqn.a"),
                ("X-empty", ""),
                ("a", "b=c")
            ])
        );
        assert_eq!(parse(b""), Ok(vec![]));
    }

    #[test]
    fn broken_text_is_refused() {
        assert_eq!(parse(b"a=b"), Err(TextError::Unterminated));
        assert_eq!(parse(b"ab\0"), Err(TextError::NoValue));
        assert_eq!(parse(b"=b\0"), Err(TextError::BadKey));
        assert_eq!(parse(b"a b=c\0"), Err(TextError::BadKey));
        assert_eq!(parse(b"a=\xFF\0"), Err(TextError::BadValue));
        let key = |len: usize| [&vec![b'k'; len][..], b"=v\0"].concat();
        assert!(parse(&key(63)).is_ok());
        assert_eq!(parse(&key(64)), Err(TextError::BadKey));
        let value =
            |key: &str, len: usize| [key.as_bytes(), b"=", &vec![b'v'; len], b"\0"].concat();
        assert!(parse(&value("a", 255)).is_ok());
        assert_eq!(parse(&value("a", 256)), Err(TextError::BadValue));
        assert!(parse(&value("CHAP_C", 2050)).is_ok());
        assert_eq!(parse(&value("CHAP_C", 2051)), Err(TextError::BadValue));
        assert!(parse(&b"a=b\0".repeat(64)).is_ok());
        assert_eq!(parse(&b"a=b\0".repeat(65)), Err(TextError::TooManyPairs));
        let mut text = TextIn::default();
        assert_eq!(text.push(&vec![0; MAX_TEXT]), Ok(()));
        assert_eq!(text.push(&[0]), Err(TextError::TooLong));
    }

    #[test]
    fn text_out_is_as_on_the_wire() {
        let mut out = TextOut::default();
        out.pair("HeaderDigest", "None");
        out.number("MaxBurstLength", 262_144);
        assert_eq!(
            out.into_bytes(),
            b"HeaderDigest=None\0MaxBurstLength=262144\0"
        );
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(parse_number("8192"), Some(8192));
        assert_eq!(parse_number("0x2000"), Some(8192));
        for bad in ["", "-1", "+1", "0x", "0x+1", "4294967296", "12k", " 1"] {
            assert_eq!(parse_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn binary_is_hexadecimal_or_base64() {
        assert_eq!(parse_binary("0x0aFf", 8), Some(vec![0x0A, 0xFF]));
        assert_eq!(parse_binary("0Xabc", 8), Some(vec![0x0A, 0xBC]));
        assert_eq!(parse_binary("0bTWFu", 8), Some(b"Man".to_vec()));
        assert_eq!(parse_binary("0BTWE=", 8), Some(b"Ma".to_vec()));
        assert_eq!(parse_binary("0bTQ==", 8), Some(b"M".to_vec()));
        assert_eq!(parse_binary("0bTWFuTWE=", 4), None);
        for bad in [
            "",
            "0",
            "12",
            "0xzz",
            "0bTQ=",
            "0bT===",
            "0b!!!!",
            "0x00112233445566778",
        ] {
            assert_eq!(parse_binary(bad, 8), None, "{bad}");
        }
        assert_eq!(emit_hex(&[0x0A, 0xFF]), "0x0aff");
    }

    proptest! {
        #[test]
        fn random_text_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), value in "\\PC*") {
            let _ = parse(&bytes);
            let _ = parse_binary(&value, 64);
            let _ = parse_number(&value);
        }

        #[test]
        fn emitted_hex_parses(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(parse_binary(&emit_hex(&bytes), 64), Some(bytes));
        }
    }
}

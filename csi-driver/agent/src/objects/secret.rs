//! Secrets in a folder: the Kubernetes form, so that the same names work with and without Kubernetes.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};

/// A v1 Secret: keys and their bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret {
    pub name: String,
    pub values: BTreeMap<String, Vec<u8>>,
}

impl Secret {
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key).map(Vec::as_slice)
    }

    /// A value that is text; a newline at the end, as editors leave it, does not count.
    pub fn text(&self, key: &str) -> Option<String> {
        let text = std::str::from_utf8(self.value(key)?).ok()?;
        Some(text.trim_end_matches(['\n', '\r']).to_owned())
    }
}

// Values stay out of logs.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.values.keys().map(String::as_str).collect();
        write!(f, "Secret({}, {keys:?})", self.name)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Wire {
            #[serde(rename = "apiVersion")]
            _api_version: String,
            #[serde(rename = "kind")]
            _kind: String,
            metadata: Metadata,
            #[serde(default, rename = "type")]
            _type: Option<String>,
            #[serde(default, rename = "immutable")]
            _immutable: Option<bool>,
            #[serde(default)]
            string_data: BTreeMap<String, String>,
            #[serde(default)]
            data: BTreeMap<String, String>,
        }
        #[derive(Deserialize)]
        struct Metadata {
            name: String,
        }
        let wire = Wire::deserialize(deserializer)?;
        let mut values = BTreeMap::new();
        for (key, text) in wire.data {
            let bytes = decode_base64(&text)
                .ok_or_else(|| de::Error::custom(format!("data.{key} is not base64")))?;
            values.insert(key, bytes);
        }
        values.extend(
            wire.string_data
                .into_iter()
                .map(|(key, text)| (key, text.into_bytes())),
        );
        Ok(Self {
            name: wire.metadata.name,
            values,
        })
    }
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    if !digits.len().is_multiple_of(4) {
        return None;
    }
    let body = digits.iter().take_while(|b| **b != b'=').count();
    if digits.len() - body > 2 || digits[body..].iter().any(|b| *b != b'=') {
        return None;
    }
    let mut bytes = Vec::with_capacity(body * 3 / 4);
    let (mut held, mut bits) = (0u32, 0);
    for digit in &digits[..body] {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = (held << 6 | u32::from(value)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_values_are_read() {
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {key: aGVsbG8=}\nstringData: {word: \"a\\n\"}\n";
        let secret: Secret = serde_yaml::from_str(text).unwrap();
        assert_eq!(secret.value("key"), Some(b"hello".as_slice()));
        assert_eq!(secret.text("word"), Some("a".to_owned()));
        assert!(!format!("{secret:?}").contains("hello"));
    }

    #[test]
    fn base64_is_decoded_or_refused() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("AA==", b"\0"),
            ("/+8=", b"\xff\xef"),
            ("AAEC", b"\0\x01\x02"),
            ("YW Jj\n", b"abc"),
        ] {
            assert_eq!(decode_base64(text).as_deref(), Some(bytes), "{text}");
        }
        for text in ["A", "A===", "AA=A", "====", "a_b-"] {
            assert_eq!(decode_base64(text), None, "{text}");
        }
    }
}

//! Secrets that orders name become credentials.

use std::collections::BTreeMap;

use twinsite_api::{ChapCredentials, ChapRef, derive_chap};

use crate::objects::Secret;

/// Shorter keys could be guessed.
const MIN_PAIR_KEY: usize = 16;

/// Why a secret cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    #[error("Secret {0} is not there: add it")]
    Missing(String),
    #[error("Secret {name} has no key {key}: add it")]
    NoKey { name: String, key: &'static str },
    #[error("key `key` of Secret {0} is shorter than 16 bytes: make a new one at both sites")]
    ShortKey(String),
}

/// The credentials of the leg with this iSCSI name; `None`: it has none.
pub fn chap(
    secrets: &BTreeMap<String, Secret>,
    chap: Option<&ChapRef>,
    iqn: &str,
) -> Result<Option<ChapCredentials>, SecretFault> {
    let Some(chap) = chap else { return Ok(None) };
    if let Some(name) = &chap.pair_secret {
        let secret = find(secrets, name)?;
        let no_key = || SecretFault::NoKey {
            name: name.clone(),
            key: "key",
        };
        // The text form takes a newline off, which differs between editors.
        let key = secret
            .text("key")
            .map(String::into_bytes)
            .or_else(|| secret.value("key").map(<[u8]>::to_vec));
        let key = key.ok_or_else(no_key)?;
        if key.len() < MIN_PAIR_KEY {
            return Err(SecretFault::ShortKey(name.clone()));
        }
        return Ok(Some(derive_chap(&key, iqn)));
    }
    let Some(name) = &chap.auth_secret else {
        return Ok(None);
    };
    let secret = find(secrets, name)?;
    let text = |key: &'static str| {
        secret.text(key).ok_or_else(|| SecretFault::NoKey {
            name: name.clone(),
            key,
        })
    };
    let mutual = match secret.text("mutualUsername") {
        Some(user) => Some((user, text("mutualPassword")?)),
        None => None,
    };
    Ok(Some(ChapCredentials {
        username: text("username")?,
        password: text("password")?,
        mutual,
    }))
}

/// A secret by name.
pub fn find<'a>(
    secrets: &'a BTreeMap<String, Secret>,
    name: &str,
) -> Result<&'a Secret, SecretFault> {
    secrets
        .get(name)
        .ok_or_else(|| SecretFault::Missing(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[(&str, &str)]) -> BTreeMap<String, Secret> {
        let values = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
            .collect();
        BTreeMap::from([(
            "s".to_owned(),
            Secret {
                name: "s".to_owned(),
                values,
            },
        )])
    }

    #[test]
    fn a_pair_secret_gives_both_ends_the_same_credentials() {
        let pair = ChapRef {
            pair_secret: Some("s".to_owned()),
            auth_secret: None,
        };
        let of = |key: &str| {
            chap(
                &secrets(&[("key", key)]),
                Some(&pair),
                "iqn.2026-11.io.twinsite:x",
            )
        };
        let one = of("0123456789abcdef").unwrap().unwrap();
        assert_eq!(of("0123456789abcdef\n").unwrap().unwrap(), one);
        assert_ne!(of("0123456789abcdeg").unwrap().unwrap(), one);
        assert_eq!(of("short"), Err(SecretFault::ShortKey("s".to_owned())));
        assert_eq!(
            chap(&BTreeMap::new(), Some(&pair), "i"),
            Err(SecretFault::Missing("s".to_owned()))
        );
        assert_eq!(chap(&BTreeMap::new(), None, "i"), Ok(None));
    }

    #[test]
    fn an_array_has_the_credentials_its_administrator_gave() {
        let auth = ChapRef {
            pair_secret: None,
            auth_secret: Some("s".to_owned()),
        };
        let found = chap(
            &secrets(&[("username", "u"), ("password", "p")]),
            Some(&auth),
            "i",
        )
        .unwrap()
        .unwrap();
        assert_eq!(
            (
                found.username.as_str(),
                found.password.as_str(),
                found.mutual
            ),
            ("u", "p", None)
        );
        let half = secrets(&[
            ("username", "u"),
            ("password", "p"),
            ("mutualUsername", "m"),
        ]);
        assert_eq!(
            chap(&half, Some(&auth), "i"),
            Err(SecretFault::NoKey {
                name: "s".to_owned(),
                key: "mutualPassword"
            })
        );
    }
}

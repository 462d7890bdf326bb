//! CHAP credentials of pool legs, derived from the one secret that the two sites share.
//!
//! Both sites compute the same user and passwords for a leg, so that nothing but the pair secret
//! is ever handed over, and a leaked password of one leg opens no other. HMAC-SHA-256 over the
//! leg's iSCSI name, written as hex: CHAP passwords are text.
//!
//! Not here: where the pair secret is read (agent, operator), CHAP itself (`twinsite-iscsi`).

use std::fmt;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Where the credentials of a leg come from; without it the leg has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.pairSecret) != has(self.authSecret)").message("exactly one of pairSecret and authSecret"))]
pub struct ChapRef {
    /// Name of the Secret with key `key` from which the credentials of a pool leg are derived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pair_secret: Option<String>,
    /// Name of a Secret with keys `username`, `password` and, for mutual CHAP, `mutualUsername`,
    /// `mutualPassword`: the credentials that an array was given by its administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub auth_secret: Option<String>,
}

/// What both ends of a session need: each side proves itself to the other.
#[derive(Clone, PartialEq, Eq)]
pub struct ChapCredentials {
    /// The initiator's name and password.
    pub username: String,
    pub password: String,
    /// The target's name and password, for mutual CHAP.
    pub mutual: Option<(String, String)>,
}

// Passwords stay out of logs.
impl fmt::Debug for ChapCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChapCredentials")
            .field("username", &self.username)
            .field("mutual", &self.mutual.as_ref().map(|(name, _)| name))
            .finish_non_exhaustive()
    }
}

const BLOCK: usize = 64;

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new()
        .chain_update(block.map(|b| b ^ 0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(block.map(|b| b ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

fn password(key: &[u8], iqn: &str, direction: &str) -> String {
    let message = format!("twinsite.io/chap/{direction}/{iqn}");
    hmac(key, message.as_bytes())[..16]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// The credentials of the leg with this iSCSI name.
pub fn derive_chap(pair_key: &[u8], iqn: &str) -> ChapCredentials {
    ChapCredentials {
        username: "twinsite".to_owned(),
        password: password(pair_key, iqn, "initiator"),
        mutual: Some((iqn.to_owned(), password(pair_key, iqn, "target"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 4231, test cases 2 and 6 (a key longer than one block).
    #[test]
    fn hmac_gives_the_published_digests() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(hmac(
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First"
            )),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn each_leg_and_each_direction_has_its_own_password() {
        let one = derive_chap(b"pair", "iqn.2026-11.io.twinsite:a");
        let two = derive_chap(b"pair", "iqn.2026-11.io.twinsite:b");
        let (_, back) = one.mutual.clone().unwrap();
        assert_eq!(one.password.len(), 32);
        assert_ne!(one.password, two.password);
        assert_ne!(one.password, back);
        assert_ne!(
            one.password,
            derive_chap(b"other", "iqn.2026-11.io.twinsite:a").password
        );
    }

    #[test]
    fn passwords_are_not_printed() {
        let chap = derive_chap(b"pair", "iqn.2026-11.io.twinsite:a");
        assert!(!format!("{chap:?}").contains(&chap.password));
    }
}

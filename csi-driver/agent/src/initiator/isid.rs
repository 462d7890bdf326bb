//! Names by which our sessions are known: the same at every login, so that a new one ends the old one (R15).

use twinsite_mirror::io::{Leg, VolumeId};

/// Who logs in: a one-shot order beside an attached writer must not end the writer's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Writer or caretaker.
    Attach = 0,
    Inspect = 1,
    /// Birth, wipe, reseed.
    Change = 2,
}

/// The initiator name of a node.
pub fn initiator_name(node: &str) -> String {
    let plain = |c: char| {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') {
            c
        } else {
            '-'
        }
    };
    let node: String = node.chars().take(MAX_NODE).map(plain).collect();
    format!("iqn.2026-01.io.twinsite:{node}")
}

/// With the stem this stays below the 223 bytes of a name.
const MAX_NODE: usize = 190;

/// The ISID of the data session: random format (RFC 7143 11.12.5), its number taken from the volume, since an array may
/// serve several volumes by one target.
pub fn isid(volume: VolumeId, leg: Leg, purpose: Purpose) -> [u8; 6] {
    // FNV-1a: spreads the id, protects nothing.
    let hash = volume
        .0
        .iter()
        .fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
        });
    let [a, b, c, d, ..] = (hash ^ hash >> 32).to_be_bytes()[4..] else {
        unreachable!("eight bytes")
    };
    let last = (purpose as u8) << 4 | (leg.index() as u8) << 2;
    [0x80, a, b, c, d, last]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_differ_where_they_must() {
        let volume = VolumeId([7; 16]);
        let all = [
            isid(volume, Leg::A, Purpose::Attach),
            isid(volume, Leg::B, Purpose::Attach),
            isid(volume, Leg::A, Purpose::Inspect),
            isid(volume, Leg::A, Purpose::Change),
            isid(VolumeId([8; 16]), Leg::A, Purpose::Attach),
        ];
        for (n, one) in all.iter().enumerate() {
            assert_eq!(one[0], 0x80);
            assert!(all[n + 1..].iter().all(|other| one != other));
        }
        assert_eq!(
            initiator_name("M1 ward_3"),
            "iqn.2026-01.io.twinsite:m1-ward-3"
        );
    }
}

//! The order of Attachments, and when a shown device may go on (R38).
//!
//! Every Attachment uid gets a place in the order at its first attach. Once a later one attached, the old one never does
//! again: it would fence a healthy writer, and its page cache would go over newer data. A block device that the kernel still
//! shows is continued only if nobody else's key can have served since.
//!
//! The volumes of a group have one place, under a uid of the group that follows from all their Attachments; each Attachment
//! keeps the number in its own record, so that none of them ever attaches again once a later one did, in whatever company.

use twinsite_register::{AttachmentUid, Key, Order, Register};

use crate::io::AttachRecord;
use crate::layout::Superblock;

/// Keys of tries that are remembered beside the key that served last. A forgotten one only means that a shown device is
/// not continued.
pub(super) const MAX_KEYS: usize = 64;

/// The highest order that the register and these superblocks name. At equal numbers another uid counts as the higher one.
pub(super) fn highest<'a>(
    uid: AttachmentUid,
    register: Option<&Register>,
    superblocks: impl IntoIterator<Item = &'a Superblock>,
) -> Order {
    let of_legs = superblocks.into_iter().map(|sb| sb.order);
    let all = register
        .map(|register| register.order)
        .into_iter()
        .chain(of_legs);
    all.max_by_key(|order| (order.n, order.uid != uid))
        .unwrap_or_default()
}

/// May the Attachment of this record attach at all, in the place of `uid`?
pub(super) fn may_attach(record: &AttachRecord, uid: AttachmentUid, highest: Order) -> bool {
    highest.uid == uid || record.n.is_none_or(|n| highest.n < n)
}

/// The place of these Attachments, fixed at their first attach; `n`: the highest that their records name.
pub(super) fn place(n: Option<u64>, uid: AttachmentUid, highest: Order) -> u64 {
    match n {
        Some(n) => n,
        None if highest.uid == uid => highest.n,
        None => highest.n.saturating_add(1),
    }
}

/// Before the fence: is the register (when it is readable) held by a key of the record, and every reachable leg too? A leg
/// without any reservation lost it, so nobody else holds it.
pub(super) fn held_by_record(
    record: &AttachRecord,
    register: Option<&Register>,
    leg_holders: impl IntoIterator<Item = Option<Key>>,
) -> bool {
    let known = |key: Key| record.keys.iter().any(|own| own.same_attach(key));
    let register_known = register.is_none_or(|register| register.holder.is_some_and(known));
    register_known && leg_holders.into_iter().flatten().all(known)
}

/// After the fence: was every member written last by a key of the record? A key that served is in the superblock of every
/// leg it served with.
pub(super) fn written_by_record<'a>(
    record: &AttachRecord,
    members: impl IntoIterator<Item = &'a Superblock>,
) -> bool {
    let known = |key: Key| record.keys.iter().any(|own| own.same_attach(key));
    members
        .into_iter()
        .all(|sb| sb.attach_key.is_some_and(known))
}

/// The record with this key among its tries: written before the first fence.
pub(super) fn with_try(record: &AttachRecord, key: Key) -> AttachRecord {
    let mut next = record.clone();
    if !next.keys.contains(&key) {
        next.keys.push(key);
    }
    if next.keys.len() > MAX_KEYS {
        // The first one is the key that served.
        next.keys.remove(1);
    }
    next
}

/// The record once this key serves.
pub(super) fn served(record: &AttachRecord, key: Key) -> AttachRecord {
    AttachRecord {
        keys: vec![key],
        ..record.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::tests::superblock;

    fn record(uid: u8, n: Option<u64>, keys: &[u64]) -> AttachRecord {
        AttachRecord {
            uid: AttachmentUid([uid; 16]),
            keys: keys.iter().map(|k| Key::from_u64(k << 8)).collect(),
            n,
            stale: false,
            flush_owed: false,
        }
    }
    fn order(uid: u8, n: u64) -> Order {
        Order {
            n,
            uid: AttachmentUid([uid; 16]),
        }
    }

    #[test]
    fn r38_an_attachment_attaches_unless_a_later_one_did() {
        for (n, highest, expected) in [
            (None, order(9, 7), true),
            (Some(8), order(9, 7), true),
            (Some(7), order(9, 7), false),
            (Some(5), order(9, 7), false),
            (Some(5), order(1, 7), true),
            (Some(5), order(1, 5), true),
        ] {
            assert_eq!(
                may_attach(&record(1, n, &[]), AttachmentUid([1; 16]), highest),
                expected,
                "{n:?} {highest:?}"
            );
        }
    }

    #[test]
    fn the_place_is_one_above_the_highest_and_fixed_from_then_on() {
        let uid = AttachmentUid([1; 16]);
        assert_eq!(place(None, uid, order(9, 7)), 8);
        assert_eq!(place(None, uid, order(1, 7)), 7);
        assert_eq!(place(Some(3), uid, order(9, 7)), 3);
        assert_eq!(place(None, uid, Order::default()), 1);
    }

    #[test]
    fn the_highest_order_is_taken_over_legs_too_and_a_tie_counts_against_us() {
        let mut low = superblock(6);
        low.order = order(1, 4);
        let mut high = superblock(6);
        high.order = order(2, 6);
        let own = AttachmentUid([1; 16]);
        assert_eq!(highest(own, None, [&low, &high]), order(2, 6));
        low.order = order(1, 6);
        assert_eq!(highest(own, None, [&high, &low]), order(2, 6));
        assert_eq!(highest(own, None, [&low, &high]), order(2, 6));
        assert_eq!(highest(own, None, []), Order::default());
    }

    #[test]
    fn r38_a_device_goes_on_only_behind_keys_of_its_own_record() {
        let own = record(1, Some(1), &[5, 6]);
        let key = |n: u64| Some(Key::from_u64(n << 8 | 1));
        assert!(held_by_record(&own, None, [key(5), key(6), None]));
        assert!(!held_by_record(&own, None, [key(5), key(7)]));
        let mut sb = superblock(6);
        sb.attach_key = Some(Key::from_u64(6 << 8));
        assert!(written_by_record(&own, [&sb]));
        sb.attach_key = Some(Key::from_u64(7 << 8));
        assert!(!written_by_record(&own, [&sb]));
        sb.attach_key = None;
        assert!(!written_by_record(&own, [&sb]));
    }

    #[test]
    fn tries_are_bounded_and_the_key_that_served_stays_first() {
        let mut own = record(1, Some(1), &[5]);
        for n in 100..300 {
            own = with_try(&own, Key::from_u64(n << 8));
        }
        assert_eq!(own.keys.len(), MAX_KEYS);
        assert_eq!(own.keys[0], Key::from_u64(5 << 8));
        assert_eq!(own.keys[MAX_KEYS - 1], Key::from_u64(299 << 8));
        assert_eq!(with_try(&own, own.keys[3]).keys, own.keys);
        assert_eq!(
            served(&own, Key::from_u64(7 << 8)).keys,
            [Key::from_u64(7 << 8)]
        );
    }
}

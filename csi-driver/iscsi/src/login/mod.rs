//! The login phase of both ends: security (CHAP) and operational negotiation (RFC 7143 section 6).
//!
//! `target` and `initiator` are fed with parsed login PDUs and give the next one; the sessions own framing, sequence
//! numbers and time. `operational` is the negotiation of keys, one machine for both ends.
//!
//! Bounds: text and pairs per exchange (`crate::text`), PDUs per login (`MAX_EXCHANGES`), time (the sessions).

pub(crate) mod initiator;
pub(crate) mod operational;
pub(crate) mod target;

/// Login PDUs of one peer; an honest login takes at most six.
pub(crate) const MAX_EXCHANGES: u32 = 32;
/// Longest data segment of a PDU before the full feature phase, whatever is declared.
pub(crate) const MAX_LOGIN_SEGMENT: u32 = 8192;
/// Longest iSCSI name (RFC 7143 section 4.2.7.2).
pub(crate) const MAX_NAME: usize = 223;

/// Whether this is an iSCSI name that we look up: `iqn.`, `eui.` or `naa.` and printable ASCII.
pub(crate) fn is_iscsi_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && ["iqn.", "eui.", "naa."].iter().any(|kind| {
            name.get(..4)
                .is_some_and(|head| head.eq_ignore_ascii_case(kind))
        })
        && name.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::is_iscsi_name;

    #[test]
    fn names_have_a_kind_and_no_blanks() {
        assert!(is_iscsi_name("iqn.2026-01.example:a"));
        assert!(is_iscsi_name("eui.0123456789abcdef"));
        assert!(is_iscsi_name("naa.6001405"));
        for bad in ["", "iqn", "disk1", "iqn.a b", "iqn.\u{e9}", "\u{e9}iqn."] {
            assert!(!is_iscsi_name(bad), "{bad}");
        }
        assert!(is_iscsi_name(&format!("iqn.{}", "a".repeat(219))));
        assert!(!is_iscsi_name(&format!("iqn.{}", "a".repeat(220))));
    }
}

//! Serial number arithmetic (RFC 1982, 32 bits), by which CmdSN, StatSN and DataSN are compared.

/// Whether `a` comes before `b`.
pub(crate) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether `a` comes before `b` or is `b`.
pub(crate) fn not_after(a: u32, b: u32) -> bool {
    !before(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        assert!(before(1, 2));
        assert!(!before(2, 2));
        assert!(before(0xFFFF_FFFF, 0));
        assert!(before(0xFFFF_FF00, 0x10));
        assert!(!before(0, 0xFFFF_FFFF));
        assert!(not_after(7, 7));
        assert!(not_after(0xFFFF_FFFF, 3));
    }
}

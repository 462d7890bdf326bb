//! Vendor VPD page C0h: how long a target is up and when somebody else last sent it a command.
//!
//! A writer that fenced a leg of its own target reads here that no command of another attach came
//! within the lease, and need not wait it out. "Another attach" is a key that differs outside its
//! session byte (byte 0); keys with the tag C1h (plans) do not count. The age is frozen for the sender of
//! PREEMPT AND ABORT when that completed.
//!
//! Layout after the four header bytes: version u8 = 1, flags u8 (bit 0 age valid, bit 1 frozen), two
//! reserved, boot id u64, uptime in ms u64, age in ms u64, all big-endian.

use std::time::Duration;

use bytes::{BufMut, BytesMut};

pub(super) const PAGE: u8 = 0xC0;
const VERSION: u8 = 1;
const AGE_VALID: u8 = 0x01;
const FROZEN: u8 = 0x02;
const BODY: usize = 28;

/// What the page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetAge {
    pub boot_id: u64,
    pub uptime: Duration,
    /// `None`: no command of another attach since the start.
    pub foreign_command: Option<Duration>,
    /// The age is that of the moment when PREEMPT AND ABORT completed.
    pub frozen: bool,
}

impl TargetAge {
    pub(super) fn emit(&self) -> BytesMut {
        let age_valid = if self.foreign_command.is_some() {
            AGE_VALID
        } else {
            0
        };
        let frozen = if self.frozen { FROZEN } else { 0 };
        let mut out = BytesMut::with_capacity(4 + BODY);
        out.put_slice(&[0, PAGE, 0, BODY as u8, VERSION, age_valid | frozen, 0, 0]);
        out.put_u64(self.boot_id);
        out.put_u64(millis(self.uptime));
        out.put_u64(self.foreign_command.map_or(0, millis));
        out
    }

    /// Reads the page; `None` if it is not this page of this version, or cut.
    pub fn parse(page: &[u8]) -> Option<Self> {
        let (head, body) = page.split_at_checked(4)?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let body = body.get(..BODY)?;
        if head[1] != PAGE || length < BODY || body[0] != VERSION {
            return None;
        }
        let word = |at: usize| {
            body[at..at + 8]
                .iter()
                .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        Some(Self {
            boot_id: word(4),
            uptime: Duration::from_millis(word(12)),
            foreign_command: (body[1] & AGE_VALID != 0).then(|| Duration::from_millis(word(20))),
            frozen: body[1] & FROZEN != 0,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_pinned_and_reads_back() {
        let age = TargetAge {
            boot_id: 0x0102_0304_0506_0708,
            uptime: Duration::from_millis(0x1234),
            foreign_command: Some(Duration::from_millis(0x0506)),
            frozen: true,
        };
        let page = age.emit();
        assert_eq!(
            page[..],
            [
                0, 0xC0, 0, 28, 1, 3, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x12, 0x34,
                0, 0, 0, 0, 0, 0, 5, 6,
            ]
        );
        assert_eq!(TargetAge::parse(&page), Some(age));
        for cut in 0..page.len() {
            assert_eq!(TargetAge::parse(&page[..cut]), None);
        }
    }

    #[test]
    fn never_is_not_an_age() {
        let age = TargetAge {
            boot_id: 1,
            uptime: Duration::ZERO,
            foreign_command: None,
            frozen: false,
        };
        assert_eq!(TargetAge::parse(&age.emit()), Some(age));
    }
}

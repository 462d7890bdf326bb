//! The command window: which CmdSN is next, which are allowed (RFC 7143 section 4.2.2.1).
//!
//! Invariants: ExpCmdSN and MaxCmdSN never go back; a closed window has MaxCmdSN = ExpCmdSN - 1.

use crate::serial::{before, not_after};

/// What happens to a PDU with a CmdSN of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is the next one.
    Now,
    /// It is allowed, and one before it is missing.
    Later,
    /// It is outside the window, or came before: nothing is done and nothing said.
    Ignore,
}

#[derive(Debug)]
pub(super) struct Window {
    expected: u32,
    max: u32,
}

impl Window {
    /// The first command will carry `expected`.
    pub(super) fn new(expected: u32, depth: u16) -> Self {
        let mut window = Self {
            expected,
            max: expected.wrapping_sub(1),
        };
        window.open(depth);
        window
    }

    pub(super) fn expected(&self) -> u32 {
        self.expected
    }

    pub(super) fn max(&self) -> u32 {
        self.max
    }

    pub(super) fn is_closed(&self) -> bool {
        before(self.max, self.expected)
    }

    pub(super) fn admit(&self, cmd_sn: u32) -> Admission {
        if cmd_sn == self.expected && !self.is_closed() {
            Admission::Now
        } else if before(self.expected, cmd_sn) && not_after(cmd_sn, self.max) {
            Admission::Later
        } else {
            Admission::Ignore
        }
    }

    pub(super) fn advance(&mut self) {
        self.expected = self.expected.wrapping_add(1);
    }

    /// Lets `free` more commands come, if that is more than was promised already.
    pub(super) fn open(&mut self, free: u16) {
        let max = self.expected.wrapping_add(u32::from(free)).wrapping_sub(1);
        if before(self.max, max) {
            self.max = max;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_window_is_let_in() {
        let mut window = Window::new(0xFFFF_FFFE, 4);
        assert_eq!((window.expected(), window.max()), (0xFFFF_FFFE, 1));
        assert_eq!(window.admit(0xFFFF_FFFE), Admission::Now);
        assert_eq!(window.admit(0xFFFF_FFFF), Admission::Later);
        assert_eq!(window.admit(1), Admission::Later);
        assert_eq!(window.admit(2), Admission::Ignore);
        assert_eq!(window.admit(0xFFFF_FFFD), Admission::Ignore);
        window.advance();
        window.advance();
        assert_eq!(window.admit(0), Admission::Now);
        assert_eq!(window.admit(0xFFFF_FFFF), Admission::Ignore);
    }

    #[test]
    fn a_closed_window_lets_nothing_in_and_a_promise_is_kept() {
        let mut window = Window::new(10, 2);
        window.advance();
        window.open(0);
        assert_eq!(window.admit(11), Admission::Now);
        window.advance();
        assert!(window.is_closed());
        assert_eq!(window.admit(12), Admission::Ignore);
        window.open(1);
        assert_eq!(window.admit(12), Admission::Now);
        assert_eq!(window.admit(13), Admission::Ignore);
    }
}

//! When the target pings an idle initiator, and when silence ends the session.
//!
//! Some initiators (iPXE) never answer a NOP-In. So a peer is dropped for silence only if it answered one before, and is not
//! pinged again while an answer is missing; TCP keepalive is the shell's.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct Ping {
    last_heard: Duration,
    /// Transfer tag and time of the NOP-In without an answer.
    open: Option<(u32, Duration)>,
    answers: bool,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Send,
    Dead,
}

impl Ping {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            last_heard: now,
            open: None,
            answers: false,
        }
    }

    pub(super) fn heard(&mut self, now: Duration) {
        self.last_heard = now;
    }

    pub(super) fn sent(&mut self, ttt: u32, now: Duration) {
        self.open = Some((ttt, now));
    }

    pub(super) fn answered(&mut self, ttt: u32) {
        if self.open.is_some_and(|(open, _)| open == ttt) {
            self.open = None;
            self.answers = true;
        }
    }

    pub(super) fn deadline(
        &self,
        interval: Option<Duration>,
        timeout: Duration,
    ) -> Option<Duration> {
        match self.open {
            Some((_, sent)) if self.answers => Some(sent.max(self.last_heard) + timeout),
            Some(_) => None,
            None => Some(self.last_heard + interval?),
        }
    }

    pub(super) fn due(&self, now: Duration, interval: Option<Duration>, timeout: Duration) -> Due {
        match self.deadline(interval, timeout) {
            Some(deadline) if now >= deadline => {
                if self.open.is_some() {
                    Due::Dead
                } else {
                    Due::Send
                }
            }
            Some(_) | None => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Option<Duration> = Some(Duration::from_secs(10));
    const TIMEOUT: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_peer_that_never_answered_is_pinged_once_and_kept() {
        let mut ping = Ping::new(at(0));
        assert_eq!(ping.due(at(9), INTERVAL, TIMEOUT), Due::Nothing);
        assert_eq!(ping.due(at(10), INTERVAL, TIMEOUT), Due::Send);
        ping.sent(1, at(10));
        assert_eq!(ping.deadline(INTERVAL, TIMEOUT), None);
        assert_eq!(ping.due(at(1000), INTERVAL, TIMEOUT), Due::Nothing);
    }

    #[test]
    fn a_peer_that_answered_once_is_dropped_when_silent() {
        let mut ping = Ping::new(at(0));
        ping.sent(1, at(10));
        ping.heard(at(11));
        ping.answered(1);
        assert_eq!(ping.due(at(21), INTERVAL, TIMEOUT), Due::Send);
        ping.sent(2, at(21));
        ping.answered(1);
        ping.heard(at(24));
        assert_eq!(ping.due(at(28), INTERVAL, TIMEOUT), Due::Nothing);
        assert_eq!(ping.due(at(29), INTERVAL, TIMEOUT), Due::Dead);
    }

    #[test]
    fn without_an_interval_nobody_is_pinged() {
        assert_eq!(Ping::new(at(0)).deadline(None, TIMEOUT), None);
    }
}

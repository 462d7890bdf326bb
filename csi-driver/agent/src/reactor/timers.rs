//! One heap of deadlines a thread, and the alarm clock that keeps it small.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::{ActorId, Context, Deadline, Token};

/// All alarms of one thread.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Duration, ActorId, Token)>>,
}

impl Timers {
    pub(super) fn add(&mut self, at: Duration, actor: ActorId, token: Token) {
        self.heap.push(Reverse((at, actor, token)));
    }

    pub(super) fn next(&self) -> Deadline {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }

    pub(super) fn due(&mut self, now: Duration) -> Option<(ActorId, Token)> {
        if self.next()? > now {
            return None;
        }
        self.heap
            .pop()
            .map(|Reverse((_, actor, token))| (actor, token))
    }
}

/// Keeps at most a few heap entries for a deadline that moves with every message: it is set only when it comes nearer, and an
/// alarm that fires early is set again. Use: after each batch `alarm.set(cx, token, session.deadline())`; on [`super::Event::Alarm`]
/// `alarm.fired()`, then `session.handle_timeout(now)` (which does nothing before its time) and `set` again.
#[derive(Debug, Default)]
pub struct Alarm {
    armed: Deadline,
}

impl Alarm {
    pub fn set(&mut self, cx: &mut Context<'_>, token: Token, deadline: Deadline) {
        let Some(deadline) = deadline else { return };
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.armed = Some(deadline);
            cx.alarm(deadline, token);
        }
    }

    pub fn fired(&mut self) {
        self.armed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_due_in_order_of_time_and_not_before() {
        let mut timers = Timers::default();
        timers.add(Duration::from_millis(20), ActorId(1), Token(2));
        timers.add(Duration::from_millis(10), ActorId(1), Token(1));
        assert_eq!(timers.next(), Some(Duration::from_millis(10)));
        assert_eq!(timers.due(Duration::from_millis(9)), None);
        assert_eq!(
            timers.due(Duration::from_millis(15)),
            Some((ActorId(1), Token(1)))
        );
        assert_eq!(timers.due(Duration::from_millis(15)), None);
        assert_eq!(
            timers.due(Duration::from_millis(20)),
            Some((ActorId(1), Token(2)))
        );
        assert_eq!(timers.next(), None);
    }
}

//! Two sessions of one writer to one leg, and another writer that takes over (R15, R16, R31, R6).
//!
//! A command is on the wire of a session, then accepted by the target, then applied. PREEMPT AND ABORT ends what the target
//! accepted of the victim and takes its registration; what is still on the wire meets a conflict, unless that session
//! registers again. A login ends the session before it, with its wire.

use super::{Mistakes, to};
use crate::made::Made;
use crate::search::{Model, Step};

pub const MISTAKES: Mistakes = &[
    ("resend_without_abort", "R31"),
    ("registers_unasked", "R31 R16"),
    ("preempt_without_abort", "R6"),
    ("old_session_lives", "R15"),
];
const NO_ABORT_FIRST: usize = 0;
const UNASKED: usize = 1;
const PREEMPT_ONLY: usize = 2;
const OLD_LIVES: usize = 3;

/// Sessions 0 and 1 are the first writer's, 2 the other's.
const OTHER: usize = 2;
const WRITES: u8 = 3;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    registered: u8,
    /// On the wire, and accepted, by session.
    wire: [[u8; 2]; 3],
    accepted: [u8; 3],
    data: u8,
    acked: u8,
    /// The write of the first writer that is not answered, and the sessions it was sent on.
    open: u8,
    sent: u8,
    /// Sessions of the first writer that it gave up.
    dead: u8,
    /// Sessions whose commands were ended from the other one.
    ended: u8,
    issued: u8,
    superseded: bool,
    taken: bool,
    stalls: u8,
    logins: u8,
}

pub struct Paths(pub(super) Made);

impl Paths {
    fn first_writer(&self, s: &State, out: &mut Vec<(Step, State)>) {
        if s.superseded {
            return;
        }
        for p in 0..2usize {
            let alive = s.dead >> p & 1 == 0;
            if alive && s.open == 0 && s.issued < WRITES && s.wire[p][0] == 0 {
                to(out, s, "write sent", (p, (s.issued + 1).into()), |t| {
                    t.issued += 1;
                    (t.open, t.sent) = (t.issued, 1 << p);
                    t.wire[p][0] = t.issued;
                });
            }
            if alive && s.stalls > 0 {
                to(out, s, "session is given up", (p, 0), |t| {
                    t.dead |= 1 << p;
                    t.stalls -= 1;
                });
            }
            let q = 1 - p;
            let live_other = s.dead >> q & 1 == 0 && s.registered >> q & 1 == 1;
            if !alive && live_other && s.ended >> p & 1 == 0 {
                to(
                    out,
                    s,
                    "PREEMPT AND ABORT of the dead session",
                    (p, q),
                    |t| {
                        t.registered &= !(1 << p);
                        if !self.0.is(PREEMPT_ONLY) {
                            t.accepted[p] = 0;
                        }
                        t.ended |= 1 << p;
                    },
                );
            }
            let free = s.ended >> p & 1 == 1 || self.0.is(NO_ABORT_FIRST);
            if !alive
                && live_other
                && s.open != 0
                && s.sent >> p & 1 == 1
                && s.sent >> q & 1 == 0
                && free
                && s.wire[q][0] == 0
            {
                to(out, s, "write sent again", (q, s.open.into()), |t| {
                    t.sent |= 1 << q;
                    t.wire[q][0] = s.open;
                });
            }
            if !alive && s.logins > 0 {
                to(out, s, "login", (p, 0), |t| {
                    t.logins -= 1;
                    t.dead &= !(1 << p);
                    if self.0.is(OLD_LIVES) {
                        t.wire[p][1] = t.wire[p][0].max(t.wire[p][1]);
                    } else {
                        t.wire[p][1] = 0;
                        t.accepted[p] = 0;
                    }
                    t.wire[p][0] = 0;
                });
            }
            if alive && s.registered >> p & 1 == 0 {
                // By READ FULL STATUS of a live own session: own keys only, an own holder.
                let own_only = s.registered >> OTHER & 1 == 0 && s.registered >> q & 1 == 1;
                if own_only || self.0.is(UNASKED) {
                    to(out, s, "registers again", (p, 0), |t| {
                        t.registered |= 1 << p;
                        t.ended &= !(1 << p);
                    });
                } else {
                    to(out, s, "superseded", (p, 0), |t| t.superseded = true);
                }
            }
        }
    }

    fn target(&self, s: &State, out: &mut Vec<(Step, State)>) {
        for p in 0..3usize {
            for k in 0..2 {
                let value = s.wire[p][k];
                if value == 0 {
                    continue;
                }
                if s.registered >> p & 1 == 0 {
                    to(out, s, "conflict", (p, value.into()), |t| {
                        t.wire[p][k] = 0;
                        // A dead session hears no answer; a live one is told that somebody took over, or that it was its own.
                        t.superseded |= p != OTHER && s.dead >> p & 1 == 0 && s.taken;
                    });
                } else if s.accepted[p] == 0 {
                    to(out, s, "accepted", (p, value.into()), |t| {
                        t.wire[p][k] = 0;
                        t.accepted[p] = value;
                    });
                }
            }
            let value = s.accepted[p];
            if value != 0 {
                to(out, s, "applied", (p, value.into()), |t| {
                    t.accepted[p] = 0;
                    t.data = value;
                    let heard = p == OTHER || (s.dead >> p & 1 == 0 && !s.superseded);
                    if heard && (p == OTHER || value == s.open) {
                        t.acked = t.acked.max(value);
                        if p != OTHER {
                            (t.open, t.sent) = (0, 0);
                        }
                    }
                });
            }
        }
    }

    fn other_writer(&self, s: &State, out: &mut Vec<(Step, State)>) {
        if !s.taken {
            to(out, s, "the other writer fences", (0, 0), |t| {
                t.registered = 1 << OTHER;
                t.taken = true;
                if !self.0.is(PREEMPT_ONLY) {
                    t.accepted = [0; 3];
                }
            });
        } else if s.issued < 9 {
            to(out, s, "the other writer's write", (0, 0), |t| {
                t.issued = 9;
                t.wire[OTHER][0] = 9;
            });
        }
    }
}

impl Model for Paths {
    type State = State;

    fn initial(&self) -> State {
        State {
            registered: 0b011,
            wire: [[0; 2]; 3],
            accepted: [0; 3],
            data: 0,
            acked: 0,
            open: 0,
            sent: 0,
            dead: 0,
            ended: 0,
            issued: 0,
            superseded: false,
            taken: false,
            stalls: 3,
            logins: 3,
        }
    }

    fn steps(&self, s: &State, out: &mut Vec<(Step, State)>) {
        self.first_writer(s, out);
        self.target(s, out);
        self.other_writer(s, out);
    }

    fn violation(&self, s: &State) -> Option<&'static str> {
        (s.data < s.acked).then_some("an older write was applied over an acknowledged one")
    }
}

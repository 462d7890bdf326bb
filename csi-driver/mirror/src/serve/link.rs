//! The link to a leg: logged in, verified, lost, back.
//!
//! ```text
//! Down --LegUp--> Checking --own keys on it, own holder--> Ready      (a member, or the target of a rejoin)
//!   ^             Down --LegUp--> Reachable                           (any other leg)
//!   +---LegDown---/
//! ```
//!
//! A member is lost (2.5) when it is not Ready again within `T_cmd`, by a command that ran out of time or failed for good,
//! or because its target restarted and lost writes (R14). Only a lost session or a time-out is cured by a relogin. A missing
//! registration is never repaired by registering (R16): the leg is lost, or we are superseded.

use std::time::Duration;

use twinsite_register::{Leg, Members};

use super::Serve;
use super::commands::Purpose;
use super::state::{Fact, State};
use crate::fence::{self, Standing as Registration};
use crate::io::{LegDown, LegInfo, LegReply, Output, Session};
use crate::status::{Condition, Event, LostWhy, RejoinBlock};

/// State of the sessions of a leg.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Down,
    /// Logged in; READ FULL STATUS is on its way.
    Checking,
    /// Commands may be sent.
    Ready,
    /// Logged in, not fenced by us.
    Reachable,
}

/// A leg as seen by this writer.
#[derive(Clone, Debug)]
pub(super) struct LegLink {
    pub(super) link: Link,
    /// As of the last login.
    pub(super) info: Option<LegInfo>,
    pub(super) lost: Option<LostWhy>,
    /// Boot id of the last login whose losses were looked at.
    known_boot: Option<u64>,
    why: LegDown,
    /// A member that is not Ready by then is lost.
    deadline: Option<Duration>,
    pub(super) read_errors: u64,
}

impl LegLink {
    pub(super) const fn new(info: Option<LegInfo>, link: Link) -> Self {
        Self {
            link,
            info,
            lost: None,
            known_boot: match info {
                Some(info) => info.boot_id,
                None => None,
            },
            why: LegDown::Unreachable,
            deadline: None,
            read_errors: 0,
        }
    }

    pub(super) fn ready(&self) -> bool {
        self.link == Link::Ready
    }

    /// Its fence is over: what it was before counts no more.
    pub(super) fn fenced(&mut self) {
        self.link = Link::Ready;
        self.lost = None;
        self.deadline = None;
        self.known_boot = self.info.and_then(|info| info.boot_id);
    }

    /// A command died with the session: its time runs on.
    pub(super) fn note_deadline(&mut self, deadline: Duration) {
        self.deadline = Some(self.deadline.map_or(deadline, |known| known.min(deadline)));
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        if self.link == Link::Ready || self.lost.is_some() {
            None
        } else {
            self.deadline
        }
    }
}

/// A relogin cures this; anything else needs a rejoin.
pub(super) const fn curable(why: LostWhy) -> bool {
    matches!(why, LostWhy::Session(_) | LostWhy::Timeout)
}

impl Serve {
    pub(super) fn ready(&self, leg: Leg) -> bool {
        self.links[leg.index()].ready()
    }

    /// One of two members that may lack what was acknowledged, or must go for another reason that no relogin cures: neither
    /// read nor copied from.
    pub(super) fn behind(&self, leg: Leg) -> bool {
        let lost = self.links[leg.index()].lost;
        self.running.members == Members::BOTH && lost.is_some_and(|why| !curable(why))
    }

    /// Does this writer need the leg: a member, or the target of a rejoin?
    pub(super) fn in_use(&self, leg: Leg) -> bool {
        self.running.members.contains(leg) || self.rejoin.target == Some(leg)
    }

    pub(super) fn leg_up(&mut self, leg: Leg, info: LegInfo) {
        let before = self.links[leg.index()].info.replace(info);
        if !self.in_use(leg) {
            self.links[leg.index()].link = Link::Reachable;
            self.fact(Fact::Reachable(leg));
            return;
        }
        if before.is_some_and(|before| before.naa != info.naa) {
            // Another LUN answers at this address; nothing on it is ours.
            self.lose(leg, LostWhy::NotRegistered);
            return;
        }
        self.links[leg.index()].link = Link::Checking;
        self.send(leg, Purpose::Verify);
    }

    /// A command died with its session: nothing more is sent before the next login.
    pub(super) fn session_gone(&mut self, leg: Leg, deadline: Duration) {
        let limit = self.now + self.config.t_cmd;
        let link = &mut self.links[leg.index()];
        link.note_deadline(deadline);
        if matches!(link.link, Link::Ready | Link::Checking) {
            link.note_deadline(limit);
        }
        link.link = Link::Down;
    }

    pub(super) fn leg_down(&mut self, leg: Leg, why: LegDown) {
        self.forget_commands(leg);
        let limit = self.now + self.config.t_cmd;
        let link = &mut self.links[leg.index()];
        let was = link.link;
        link.link = Link::Down;
        link.why = why;
        if matches!(was, Link::Ready | Link::Checking) {
            link.note_deadline(limit);
        }
        if self.preparing(leg) {
            self.rejoin_failed(RejoinBlock::LegLost);
        }
        if self.rejoin.target == Some(leg) {
            // The target of a rejoin is dropped at once: it is filled again, nothing waits for it that X has.
            self.lose(leg, LostWhy::Session(why));
        }
    }

    /// READ FULL STATUS after a login (R16, R31), or before a late stamp.
    pub(super) fn verified(&mut self, leg: Leg, reply: LegReply) {
        let LegReply::FullStatus(registrants) = reply else {
            self.lose(leg, LostWhy::NotRegistered);
            return;
        };
        let sessions = [Session::Data, Session::Resync];
        let standing = fence::standing(self.running.key, &sessions, &registrants);
        if self.links[leg.index()].link == Link::Ready {
            self.late_stamp_checked(leg, standing == Registration::Own);
            return;
        }
        match standing {
            Registration::Own => self.back(leg),
            Registration::Superseded => self.fact(Fact::Conflict(leg)),
            Registration::Empty | Registration::Missing => {
                let sole = self.running.members.sole() == Some(leg);
                self.keys_gone |= sole && standing == Registration::Empty;
                self.lose(leg, LostWhy::NotRegistered);
            }
        }
    }

    /// The leg is logged in again and verified: what it may have lost decides what follows.
    fn back(&mut self, leg: Leg) {
        let index = leg.index();
        let info = self.links[index].info;
        let restarted = info.is_some_and(|info| {
            info.volatile_cache
                && (info.boot_id.is_none() || info.boot_id != self.links[index].known_boot)
        });
        self.links[index].known_boot = info.and_then(|info| info.boot_id);
        let lacking = restarted && self.syncs[index].has_unflushed();
        let sole = self.running.members.sole() == Some(leg);
        if lacking {
            self.leg_forgot(leg);
        }
        if lacking && sole {
            self.last_member_restarted(leg);
        } else if lacking {
            // R14, R19: a member that lacks acknowledged data leaves by a shrink before any further answer.
            self.links[index].link = Link::Ready;
            self.lose(leg, LostWhy::Restarted);
            return;
        } else if restarted {
            self.record_boot(leg);
        }
        let link = &mut self.links[index];
        link.link = Link::Ready;
        if link.lost.is_some_and(|why| !curable(why)) && !sole {
            return;
        }
        link.link = Link::Ready;
        link.lost = None;
        link.deadline = None;
        self.keys_gone = false;
        self.last_member_seen();
        self.out.event(Event::LegBack { leg });
        self.resume_leg(leg);
        self.fact(Fact::Back(leg));
    }

    /// A command to the leg had no answer within its time: the session is of no use.
    pub(super) fn timed_out(&mut self, leg: Leg) {
        self.reset_link(leg);
        if self.preparing(leg) {
            self.rejoin_failed(RejoinBlock::LegLost);
        }
        self.lose(leg, LostWhy::Timeout);
    }

    /// End the sessions, so that their commands are answered, and log in anew (R15).
    pub(super) fn reset_link(&mut self, leg: Leg) {
        self.cmds_forget_deadlines(leg);
        self.links[leg.index()].link = Link::Down;
        let limit = self.now + self.config.t_cmd;
        self.links[leg.index()].note_deadline(limit);
        self.out.push(Output::Disconnect { leg });
        self.out.push(Output::Connect { leg });
    }

    /// A member, or the target of a rejoin, is lost.
    pub(super) fn lose(&mut self, leg: Leg, why: LostWhy) {
        if !self.in_use(leg) {
            return;
        }
        let link = &mut self.links[leg.index()];
        // The graver reason stays: a time-out after a write error does not make the error curable.
        let known = link.lost;
        if known.is_none_or(curable) {
            link.lost = Some(why);
        }
        link.deadline = None;
        if known.is_none() {
            self.out.event(Event::LegLost { leg, why });
            self.last_member_seen();
        }
        self.fact(Fact::Lost(leg, why));
    }

    /// Whether the last member is gone, after a link or the membership changed.
    pub(super) fn last_member_seen(&mut self) {
        let sole = self.running.members.sole();
        if sole.is_some_and(|leg| self.links[leg.index()].lost.is_some()) {
            self.raise(Condition::LegLost);
        } else {
            self.lower(Condition::LegLost);
        }
    }

    pub(super) fn link_timers(&mut self) {
        for leg in Leg::BOTH {
            let due = self.links[leg.index()]
                .deadline()
                .is_some_and(|at| at <= self.now);
            if due && self.in_use(leg) && self.state != State::Ended {
                let why = LostWhy::Session(self.links[leg.index()].why);
                self.lose(leg, why);
            }
        }
    }
}

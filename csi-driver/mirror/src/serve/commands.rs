//! Commands to legs: names, time limits, retries.
//!
//! A command is named by a slab handle, so a late answer for a reused slot is told apart. Its operation is rebuilt from its
//! purpose whenever it is sent, so a retry or a resend after a relogin carries what is true then. Every command has a
//! deadline of `T_cmd` from its first send; BUSY and foreign UNIT ATTENTIONs are retried within it.

use std::collections::VecDeque;
use std::time::Duration;

use twinsite_register::Leg;

use super::Serve;
use super::state::Fact;
use crate::dirty::DirtyMap;
use crate::io::{CmdId, Lane, LegError, LegOp, LegReply, Output};
use crate::layout::{BEAT_OFFSET, map_offset};
use crate::slab::{Handle, Slab};
use crate::status::{LostWhy, RejoinBlock};

/// What a command is for; with the leg it says everything about its operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Data of a guest request.
    Guest(Handle),
    /// The transaction in flight of a map page.
    Page(u32),
    /// A metadata block of a script.
    Job(Handle),
    Beat,
    Sync,
    /// A read that renews the lease.
    Probe,
    /// The copy in this slot, read or write by its stage.
    Copy(u32),
    /// A chunk of a verify.
    Digest(Handle),
    /// READ FULL STATUS after a login, or before a late stamp.
    Verify,
    /// A step of the rejoin preparation.
    Rejoin,
    /// Capacity before an expansion.
    Identify,
    /// Can the source read by now what it could not?
    Look,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Cmd {
    pub(super) leg: Leg,
    pub(super) purpose: Purpose,
    /// When it was last sent: a lease runs from here.
    pub(super) sent: Duration,
    pub(super) deadline: Duration,
}

/// The table of commands.
#[derive(Debug)]
pub(super) struct Commands {
    table: Slab<Cmd>,
    /// Deadlines in order of the first send, per leg.
    deadlines: [VecDeque<(Duration, Handle)>; 2],
    /// Commands that met BUSY, and when they are sent again.
    retries: VecDeque<(Duration, Handle)>,
    pub(super) in_flight: [u32; 2],
}

impl Commands {
    pub(super) fn new(first_generation: u32) -> Self {
        Self {
            table: Slab::new(first_generation),
            deadlines: [VecDeque::new(), VecDeque::new()],
            retries: VecDeque::new(),
            in_flight: [0; 2],
        }
    }

    fn remove(&mut self, at: Handle) -> Option<Cmd> {
        let cmd = self.table.remove(at)?;
        self.in_flight[cmd.leg.index()] -= 1;
        let queue = &mut self.deadlines[cmd.leg.index()];
        while queue
            .front()
            .is_some_and(|&(_, first)| self.table.get(first).is_none())
        {
            queue.pop_front();
        }
        Some(cmd)
    }

    /// The earliest deadline of a command in flight on the leg.
    pub(super) fn deadline(&self, leg: Leg) -> Option<Duration> {
        self.deadlines[leg.index()]
            .front()
            .map(|&(deadline, _)| deadline)
    }

    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.retries.front().map(|&(at, _)| at)
    }

    /// Is a command for this purpose under way on the leg?
    pub(super) fn has(&self, leg: Leg, purpose: Purpose) -> bool {
        self.table
            .iter()
            .any(|(_, cmd)| cmd.leg == leg && cmd.purpose == purpose)
    }

    /// Time does not matter any more: the session is being ended.
    pub(super) fn forget_deadlines(&mut self, leg: Leg) {
        self.deadlines[leg.index()].clear();
    }

    fn of_leg(&self, leg: Leg) -> Vec<Handle> {
        self.table
            .iter()
            .filter(|(_, cmd)| cmd.leg == leg)
            .map(|(at, _)| at)
            .collect()
    }
}

/// Where the lanes of the purposes are told: metadata before guest data, copies on their own session.
const fn lane(purpose: Purpose) -> Lane {
    match purpose {
        Purpose::Guest(_) => Lane::Guest,
        Purpose::Copy(_) | Purpose::Digest(_) => Lane::Resync,
        Purpose::Page(_)
        | Purpose::Job(_)
        | Purpose::Beat
        | Purpose::Sync
        | Purpose::Probe
        | Purpose::Verify
        | Purpose::Rejoin
        | Purpose::Identify
        | Purpose::Look => Lane::Meta,
    }
}

/// Would the leg have refused the command after a fence? INQUIRY, READ CAPACITY and PERSISTENT RESERVE IN are answered to
/// everybody, so their answer proves nothing about who holds the leg (R27).
const fn needs_registration(purpose: Purpose) -> bool {
    !matches!(
        purpose,
        Purpose::Verify | Purpose::Identify | Purpose::Rejoin
    )
}

pub(super) fn page_write(map: &DirtyMap, page: u32) -> Option<LegOp> {
    map.block(page).map(|block| LegOp::WriteMeta {
        offset: map_offset(page),
        block: block.clone(),
    })
}

impl Serve {
    /// Send a command now, with a deadline of `T_cmd`.
    pub(super) fn send(&mut self, leg: Leg, purpose: Purpose) {
        self.send_until(leg, purpose, self.now + self.config.t_cmd);
    }

    /// Send a command now that was first sent earlier: its time runs on.
    pub(super) fn send_until(&mut self, leg: Leg, purpose: Purpose, deadline: Duration) {
        let Some(op) = self.op(leg, purpose) else {
            return;
        };
        // A resend gets a little time of its own, else a relogin near the limit could never help.
        let queue = &mut self.cmds.deadlines[leg.index()];
        let last = queue.back().map_or(Duration::ZERO, |&(last, _)| last);
        let deadline = deadline
            .max(self.now + self.config.t_cmd / 4)
            .max(last.min(self.now + self.config.t_cmd));
        let at = self.cmds.table.insert(Cmd {
            leg,
            purpose,
            sent: self.now,
            deadline,
        });
        queue.push_back((deadline, at));
        self.cmds.in_flight[leg.index()] += 1;
        self.out.push(Output::Leg {
            leg,
            cmd: CmdId(at.to_u64()),
            op,
            lane: lane(purpose),
        });
    }

    fn op(&self, leg: Leg, purpose: Purpose) -> Option<LegOp> {
        match purpose {
            Purpose::Guest(at) => self.reqs.get(at).map(|req| req.op(leg)),
            Purpose::Page(page) => page_write(&self.map, page),
            Purpose::Job(at) => self.scripts.job(at),
            Purpose::Beat => Some(LegOp::WriteMeta {
                offset: BEAT_OFFSET,
                block: self.beat_block(),
            }),
            Purpose::Sync => Some(LegOp::Sync),
            Purpose::Probe => Some(LegOp::ReadMeta {
                offset: BEAT_OFFSET,
                len: 4096,
            }),
            Purpose::Copy(slot) => self.copy_op(slot),
            Purpose::Digest(at) => self.digest_op(at),
            Purpose::Verify => Some(LegOp::PrReadFullStatus),
            Purpose::Rejoin => self.rejoin_op(),
            Purpose::Identify => Some(LegOp::Identify),
            Purpose::Look => self.look_op(),
        }
    }

    /// The answer to a command.
    pub(super) fn leg_done(&mut self, leg: Leg, cmd: CmdId, result: Result<LegReply, LegError>) {
        let at = Handle::from_u64(cmd.0);
        let Some(&Cmd {
            purpose,
            sent,
            deadline,
            ..
        }) = self.cmds.table.get(at)
        else {
            return;
        };
        if result == Err(LegError::Retry) && self.state.is_over() {
            self.cmds.remove(at);
            self.gone(leg, purpose);
            return;
        }
        if result == Err(LegError::Retry) {
            self.counters.retries += 1;
            if let Purpose::Guest(req) = purpose
                && self.guest_busy(req, leg)
            {
                self.cmds.remove(at);
                return;
            }
            self.cmds
                .retries
                .push_back((self.now + self.config.busy_retry, at));
            return;
        }
        self.cmds.remove(at);
        match result {
            Ok(reply) => {
                if needs_registration(purpose) {
                    self.lease.proved(leg, sent);
                }
                if matches!(purpose, Purpose::Guest(_)) {
                    self.slowness.took(leg, self.now.saturating_sub(sent));
                }
                self.good(leg, purpose, reply);
                if !self.held_reads.is_empty() {
                    self.release_reads();
                }
            }
            Err(LegError::SessionGone) => {
                self.session_gone(leg, deadline);
                self.gone(leg, purpose);
            }
            // The fence of a rejoin knows which of these to expect.
            Err(error @ (LegError::Conflict | LegError::Preempted))
                if purpose == Purpose::Rejoin =>
            {
                self.rejoin_reply(Err(error));
            }
            Err(LegError::Conflict | LegError::Preempted) => {
                self.gone(leg, purpose);
                self.conflict(leg);
            }
            Err(error) => self.failed(leg, purpose, error),
        }
    }

    fn good(&mut self, leg: Leg, purpose: Purpose, reply: LegReply) {
        match purpose {
            Purpose::Guest(at) => self.guest_done(at, leg),
            Purpose::Page(page) => self.page_durable(page, leg),
            Purpose::Job(at) => self.job_done(at),
            Purpose::Beat => self.beat_done(leg),
            Purpose::Sync => {
                self.syncs[leg.index()].done();
                self.after_sync();
            }
            Purpose::Probe => self.probing[leg.index()] = false,
            Purpose::Copy(slot) => self.copy_done(slot, leg),
            Purpose::Digest(at) => self.digest_done(at, leg, reply),
            Purpose::Verify => self.verified(leg, reply),
            Purpose::Rejoin => self.rejoin_reply(Ok(reply)),
            Purpose::Identify => self.identified(leg, reply),
            Purpose::Look => self.hope_again(),
        }
    }

    /// The command died with its session (or was refused as a whole): what is still wanted is sent after the relogin.
    fn gone(&mut self, leg: Leg, purpose: Purpose) {
        match purpose {
            Purpose::Guest(at) => self.guest_gone(at, leg),
            Purpose::Job(at) => self.job_gone(at),
            Purpose::Sync => self.syncs[leg.index()].failed(),
            Purpose::Probe => self.probing[leg.index()] = false,
            Purpose::Copy(slot) => self.copy_gone(slot, leg),
            Purpose::Digest(at) => self.digest_gone(at, leg),
            Purpose::Rejoin => self.rejoin_reply(Err(LegError::SessionGone)),
            Purpose::Verify => self.orders.stamp_checks = None,
            Purpose::Look => self.look_later(),
            Purpose::Identify => self.identify_failed(),
            Purpose::Page(_) | Purpose::Beat => {}
        }
    }

    /// The leg answered with an error that a retry does not cure.
    fn failed(&mut self, leg: Leg, purpose: Purpose, error: LegError) {
        let last = self.running.members.sole() == Some(leg);
        match purpose {
            Purpose::Guest(at) => self.guest_failed(at, leg, error),
            Purpose::Sync if last => {
                self.syncs[leg.index()].failed();
                self.sync_wanted[leg.index()] = None;
                self.sync_impossible();
                if self.rejoin.target.is_some() {
                    self.fact(Fact::Blocked(RejoinBlock::SourceUnreadable));
                }
            }
            Purpose::Sync => {
                self.syncs[leg.index()].failed();
                self.lose(leg, LostWhy::SyncFailed);
            }
            // The last member is never removed: logged in to again, and its metadata sent again.
            Purpose::Page(_) | Purpose::Beat | Purpose::Verify if last => self.timed_out(leg),
            Purpose::Job(at) if last => {
                self.job_gone(at);
                self.timed_out(leg);
            }
            Purpose::Copy(slot) => self.copy_failed(slot, leg),
            Purpose::Digest(at) => self.digest_failed(at, leg),
            Purpose::Rejoin => self.rejoin_reply(Err(error)),
            Purpose::Job(at) => {
                self.job_gone(at);
                self.lose(leg, LostWhy::WriteError);
            }
            Purpose::Page(_) | Purpose::Beat => self.lose(leg, LostWhy::WriteError),
            Purpose::Probe => self.probing[leg.index()] = false,
            Purpose::Verify => self.lose(leg, LostWhy::NotRegistered),
            Purpose::Identify => self.identify_failed(),
            Purpose::Look => self.look_later(),
        }
    }

    /// Send what met BUSY again; report the first command of each leg that ran out of time.
    pub(super) fn command_timers(&mut self) {
        while let Some(&(at, handle)) = self.cmds.retries.front() {
            if at > self.now {
                break;
            }
            self.cmds.retries.pop_front();
            let Some(cmd) = self.cmds.table.get_mut(handle) else {
                continue;
            };
            cmd.sent = self.now;
            let Cmd { leg, purpose, .. } = *cmd;
            // Answered since it met BUSY.
            if let Purpose::Guest(req) = purpose
                && self.guest_busy(req, leg)
            {
                self.cmds.remove(handle);
                continue;
            }
            match self.op(leg, purpose) {
                Some(op) => {
                    self.out.push(Output::Leg {
                        leg,
                        cmd: CmdId(handle.to_u64()),
                        op,
                        lane: lane(purpose),
                    });
                }
                None => {
                    self.cmds.remove(handle);
                }
            }
        }
        for leg in Leg::BOTH {
            if self
                .cmds
                .deadline(leg)
                .is_some_and(|deadline| deadline <= self.now)
            {
                self.timed_out(leg);
            }
        }
    }

    /// What met BUSY is not sent again.
    pub(super) fn forget_retries(&mut self) {
        for (_, at) in std::mem::take(&mut self.cmds.retries) {
            if let Some(cmd) = self.cmds.remove(at) {
                self.gone(cmd.leg, cmd.purpose);
            }
        }
    }

    /// All sessions of the leg are gone: commands that waited for a retry die too.
    pub(super) fn forget_commands(&mut self, leg: Leg) {
        for at in self.cmds.of_leg(leg) {
            if let Some(cmd) = self.cmds.remove(at) {
                self.links[leg.index()].note_deadline(cmd.deadline);
                self.gone(leg, cmd.purpose);
            }
        }
        self.cmds.deadlines[leg.index()].clear();
    }
}

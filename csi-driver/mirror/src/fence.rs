//! The persistent reservation profile: how a leg is fenced, and what its registrations say afterwards.
//!
//! ```text
//! REGISTER AND IGNORE EXISTING KEY -> READ KEYS -> READ RESERVATION
//!   -> (no holder: RESERVE) (foreign holder: PREEMPT AND ABORT with its type) -> PREEMPT AND ABORT each other key
//!   -> READ FULL STATUS: only own keys, own holder, type 6? -> else again from READ KEYS
//!   -> REGISTER the further sessions
//! ```
//! Type 6, exclusive access, registrants only (R7), and PREEMPT AND ABORT, never PREEMPT (R6). The own key is never a
//! victim: some targets then remove the caller's registration. The reservation is never released (R30). A fence that
//! succeeded counts only if READ FULL STATUS is asked again after the last fence of the attach (R26): [`only_own`].

use twinsite_register::{Key, KeyTag, Site};

use crate::io::{LegError, LegOp, LegReply, Registrant, Session};
use crate::script::{Fault, Script, Step};

/// The reservation type of every leg: exclusive access, registrants only.
pub const EXCLUSIVE_REGISTRANTS: u8 = 6;
/// Rounds of READ KEYS before another fencer is taken for stronger.
const MAX_ROUNDS: u32 = 8;
/// Stale unit attentions that a session may report before its registration is accepted.
const MAX_STALE: u32 = 3;
/// Sessions of a writer on one leg; each is an I_T nexus with a key of its own.
const FURTHER_SESSIONS: [Session; 1] = [Session::Resync];

/// Does READ FULL STATUS show only keys of this attach, one of them the holder of a type 6 reservation? Keys of `plan` are
/// ignored: it reads only.
pub fn only_own(own: Key, registrants: &[Registrant]) -> bool {
    let known = |r: &Registrant| own.same_attach(r.key) || r.key.tag() == KeyTag::Inspect;
    let holds =
        |r: &Registrant| r.holder && r.kind == EXCLUSIVE_REGISTRANTS && own.same_attach(r.key);
    registrants.iter().all(known) && registrants.iter().any(holds)
}

/// What READ FULL STATUS says to an attached writer after a login (2.14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Every session that should be is registered, an own key holds the leg, nobody else is there.
    Own,
    /// A foreign key holds the leg: superseded.
    Superseded,
    /// No key at all: the target lost its reservations.
    Empty,
    /// An own registration or the holder is missing, or a stranger is registered: the leg is lost, and this is no reason to
    /// register again (R16).
    Missing,
}

/// The standing of `own` on a leg on which these sessions were registered.
pub fn standing(own: Key, sessions: &[Session], registrants: &[Registrant]) -> Standing {
    let foreign = |r: &&Registrant| !own.same_attach(r.key) && r.key.tag() != KeyTag::Inspect;
    if registrants.iter().filter(foreign).any(|r| r.holder) {
        return Standing::Superseded;
    }
    if registrants.iter().all(|r| r.key.tag() == KeyTag::Inspect) {
        return Standing::Empty;
    }
    let registered = |session: &Session| {
        registrants
            .iter()
            .any(|r| r.key == own.session(*session as u8))
    };
    if only_own(own, registrants) && sessions.iter().all(registered) {
        Standing::Own
    } else {
        Standing::Missing
    }
}

/// Is a leg with this reservation held by a writer of the other site? Asked before a fence without the register (R28).
pub fn held_by_other_site(holder: Option<Key>, site: Site) -> bool {
    holder.is_some_and(|key| key.tag() == KeyTag::Writer(site.other()))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Register,
    ReadKeys,
    ReadReservation,
    Reserve,
    Preempt,
    Verify,
    RegisterFurther(usize),
}

/// The fence of one leg.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    own: Key,
    at: At,
    sent: LegOp,
    rounds: u32,
    stale: u32,
    /// Keys that READ KEYS showed and that are not ours, each with the type to preempt it with; the next one last.
    victims: Vec<(Key, u8)>,
}

impl Fence {
    /// A fence with the key of this attach.
    pub(crate) fn new(own: Key) -> Self {
        let own = own.attach();
        Self {
            own,
            at: At::Register,
            sent: LegOp::PrRegister {
                key: own,
                session: Session::Data,
            },
            rounds: 0,
            stale: 0,
            victims: Vec::new(),
        }
    }

    fn send(&mut self, at: At, op: LegOp) -> Step<()> {
        self.at = at;
        self.sent = op.clone();
        Step::Send(op)
    }

    fn read_keys(&mut self) -> Step<()> {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            return Step::Failed(Fault::Taken);
        }
        self.send(At::ReadKeys, LegOp::PrReadKeys)
    }

    fn verify(&mut self) -> Step<()> {
        self.send(At::Verify, LegOp::PrReadFullStatus)
    }

    fn next_victim(&mut self) -> Step<()> {
        match self.victims.pop() {
            Some((victim, kind)) => {
                let op = LegOp::PrPreemptAbort {
                    key: self.own,
                    victim,
                    kind,
                };
                self.send(At::Preempt, op)
            }
            None => self.verify(),
        }
    }

    fn keys(&mut self, keys: &[Key]) -> Step<()> {
        let mut others: Vec<Key> = keys
            .iter()
            .copied()
            .filter(|key| !self.own.same_attach(*key))
            .collect();
        others.sort_unstable();
        others.dedup();
        self.victims = others
            .into_iter()
            .map(|key| (key, EXCLUSIVE_REGISTRANTS))
            .collect();
        self.send(At::ReadReservation, LegOp::PrReadReservation)
    }

    fn reservation(&mut self, holder: Option<(Key, u8)>) -> Step<()> {
        match holder {
            None => self.send(At::Reserve, LegOp::PrReserve { key: self.own }),
            Some((holder, kind)) => {
                // The holder goes first: with it goes the right to write.
                if let Some(at) = self.victims.iter().position(|(key, _)| *key == holder) {
                    self.victims.remove(at);
                    self.victims.push((holder, kind));
                }
                self.next_victim()
            }
        }
    }

    fn full_status(&mut self, registrants: &[Registrant]) -> Step<()> {
        let registered = registrants.iter().any(|r| r.key == self.own);
        if !registered {
            return Step::Failed(Fault::Taken);
        }
        if only_own(self.own, registrants) {
            return self.register_further(0);
        }
        self.read_keys()
    }

    fn register_further(&mut self, n: usize) -> Step<()> {
        let Some(&session) = FURTHER_SESSIONS.get(n) else {
            return Step::Done(());
        };
        let key = self.own.session(session as u8);
        self.send(At::RegisterFurther(n), LegOp::PrRegister { key, session })
    }

    fn failed(&mut self, error: LegError) -> Step<()> {
        match (self.at, error) {
            (_, LegError::Retry) => Step::Again(self.sent.clone()),
            // Told to this nexus about a registration that an earlier attach had.
            (At::Register | At::RegisterFurther(_), LegError::Preempted)
                if self.stale < MAX_STALE =>
            {
                self.stale += 1;
                Step::Again(self.sent.clone())
            }
            // The victim is gone, somebody reserved first, or we were removed: full status tells.
            (At::Preempt | At::Reserve, LegError::Conflict) => {
                self.victims.clear();
                self.verify()
            }
            (_, error) => Step::Failed(Fault::of(error)),
        }
    }
}

impl Script for Fence {
    type Output = ();

    fn start(&mut self) -> LegOp {
        self.sent.clone()
    }

    fn handle(&mut self, result: Result<LegReply, LegError>) -> Step<()> {
        let reply = match result {
            Ok(reply) => reply,
            Err(error) => return self.failed(error),
        };
        match (self.at, reply) {
            (At::Register, LegReply::Done) => self.read_keys(),
            (At::ReadKeys, LegReply::Keys(keys)) => self.keys(&keys),
            (At::ReadReservation, LegReply::Reservation(holder)) => self.reservation(holder),
            (At::Reserve | At::Preempt, LegReply::Done) => self.next_victim(),
            (At::Verify, LegReply::FullStatus(registrants)) => self.full_status(&registrants),
            (At::RegisterFurther(n), LegReply::Done) => self.register_further(n + 1),
            (_, _) => Step::Failed(Fault::Leg),
        }
    }
}

#[cfg(test)]
mod tests;

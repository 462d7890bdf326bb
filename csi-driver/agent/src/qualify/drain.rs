//! Whether a write of a victim reaches the medium after it was cut off.
//!
//! A victim writes every slot of the region at once, one write per slot; in the midst of it the other nexus cuts it off. Every
//! second round the other nexus then overwrites the region, as a new owner would, and no slot may show the victim's bytes
//! later; in the rounds between it only looks twice, and nothing may have changed.
//!
//! The cut is waited for much longer than a fence waits: LIO answers LUN RESET, and PREEMPT AND ABORT, only when a write of the
//! victim whose data it had asked for has timed out, and then ends the victim's connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use twinsite_iscsi::scsi::client::{self, Durability};
use twinsite_iscsi::scsi::{PrOut, ScsiOutcome, Status, TaskFunction, TaskResponse};
use twinsite_iscsi::session::DataDir;

use super::active::{SIX, SLOT_BYTES, SLOTS, held_by, read_keys};
use super::nexus::{Done, Nexus, PATIENCE, ProbeError, is_attention, said};
use super::{Answer, Probe, Qualification};

/// What the new owner writes; the victim's bytes are the number of the round, from 1.
const MARK: u8 = 0xEE;
/// The longest wait for the answer to a cut.
const CUT_PATIENCE: Duration = Duration::from_secs(30);

/// How the report begins to tell a cut that hangs.
const UNANSWERED: &str = "no answer";

/// What a round showed.
pub(super) struct Round {
    /// Victim writes that had begun and not ended when it was cut off.
    pub caught: usize,
    /// Slots that changed afterwards.
    pub late: usize,
    /// How long the cut took to be answered.
    pub took: Duration,
}

type Ends = Vec<Option<Done>>;

/// A batch that was cut off.
struct Cut<T> {
    ends: Ends,
    /// When the cut was sent.
    sent: Instant,
    took: Duration,
    answer: T,
    /// The target ended the victim's connection: what had not ended then has no end.
    victim_lost: bool,
    /// Per slot: it changed after the cut was answered.
    changed: Vec<bool>,
}

impl Qualification {
    pub(super) fn preempt_drain(&mut self) -> Result<(), ProbeError> {
        let [a, b] = self.keys;
        self.a.reserve(&PrOut::Release { key: a, kind: SIX })?;
        let whole = self.whole_batch(b)?;
        let mut rounds = Vec::new();
        for n in 0..self.effort.rounds {
            let mut victim = self.victim(b)?;
            let reserved = victim.reserve(&PrOut::Reserve { key: b, kind: SIX })?;
            if held_by(&mut self.a)? != Some((b, SIX)) {
                let text = format!("the victim cannot reserve: {}", said(&reserved));
                self.say(Probe::Preempt, Answer::NotRun(text));
                return Ok(());
            }
            let delay = whole * n / self.effort.rounds;
            let cut = self.cut_off(&mut victim, n, delay, |nexus| {
                nexus.reserve(&PrOut::PreemptAbort {
                    key: a,
                    victim: b,
                    kind: Some(SIX),
                })
            });
            let cut = self.answered(Probe::Preempt, cut)?;
            let (held, keys) = (held_by(&mut self.a)?, read_keys(&mut self.a)?);
            let right =
                cut.answer.status == Status::Good && held == Some((a, SIX)) && !keys.contains(&b);
            let text = format!("{}, held: {held:x?}, keys: {keys:x?}", said(&cut.answer));
            self.yes_if(Probe::Preempt, right, text);
            if !right {
                return Ok(());
            }
            let late = late(&cut.changed);
            let caught = caught(&cut.ends, cut.sent);
            let took = cut.took;
            rounds.push(Round { caught, late, took });
            if n == 0 {
                if cut.victim_lost {
                    victim = Nexus::login(&self.place, 2)?;
                }
                self.kept_out(&mut victim)?;
            }
            self.a.reserve(&PrOut::Release { key: a, kind: SIX })?;
        }
        self.say(Probe::PreemptDrain, drained(&rounds));
        Ok(())
    }

    pub(super) fn reset_drain(&mut self) -> Result<(), ProbeError> {
        let b = self.keys[1];
        let whole = self.whole_batch(b)?;
        let mut rounds = Vec::new();
        for n in 0..self.effort.rounds {
            let mut victim = self.victim(b)?;
            let delay = whole * n / self.effort.rounds;
            let cut = self.cut_off(&mut victim, n, delay, |nexus| {
                nexus.manage(TaskFunction::LunReset)
            });
            let cut = self.answered(Probe::ResetDrain, cut)?;
            if cut.answer != TaskResponse::Complete {
                let text = format!("LUN RESET: {:?}", cut.answer);
                self.say(Probe::ResetDrain, Answer::No(text));
                return Ok(());
            }
            // What arrives after the reset is new: its first command is told so, the rest is executed.
            let before = cut
                .ends
                .iter()
                .position(|end| end.as_ref().is_some_and(|end| is_attention(&end.outcome)))
                .unwrap_or(cut.ends.len());
            let late = late(&cut.changed[..before]);
            let caught = caught(&cut.ends[..before], cut.sent);
            let took = cut.took;
            rounds.push(Round { caught, late, took });
        }
        self.say(Probe::ResetDrain, drained(&rounds));
        Ok(())
    }

    /// A cut without an answer is a no, and ends the run.
    fn answered<T>(
        &mut self,
        probe: Probe,
        cut: Result<Cut<T>, ProbeError>,
    ) -> Result<Cut<T>, ProbeError> {
        if let Err(ProbeError::NoAnswer(after)) = &cut {
            let text = format!("{UNANSWERED} within {} s amid writes", after.as_secs());
            self.say(probe, Answer::No(text));
        }
        cut
    }

    /// A fresh login of the victim, registered.
    fn victim(&self, key: u64) -> Result<Nexus, ProbeError> {
        let mut victim = Nexus::login(&self.place, 2)?;
        let aptpl = self.aptpl;
        let outcome = victim.reserve(&PrOut::RegisterIgnore { new: key, aptpl })?;
        match outcome.status {
            Status::Good => Ok(victim),
            _ => Err(ProbeError::Unfit(format!("REGISTER: {}", said(&outcome)))),
        }
    }

    /// How long the batch takes when nobody interferes.
    fn whole_batch(&self, key: u64) -> Result<Duration, ProbeError> {
        let mut victim = self.victim(key)?;
        let start = Instant::now();
        let tags = self.start_all(&mut victim, 0xD0)?;
        for tag in tags {
            victim.wait(tag)?;
        }
        Ok(start.elapsed())
    }

    fn start_all(&self, nexus: &mut Nexus, fill: u8) -> Result<Vec<u64>, ProbeError> {
        let data = Bytes::from(vec![fill; SLOT_BYTES as usize]);
        (0..SLOTS)
            .map(|slot| nexus.start(self.slot_write(slot), DataDir::Out(vec![data.clone()])))
            .collect()
    }

    /// The victim writes, and after `delay` the other nexus does `cut`; the medium is watched while the victim goes on.
    fn cut_off<T>(
        &mut self,
        victim: &mut Nexus,
        round: u32,
        delay: Duration,
        cut: impl FnOnce(&mut Nexus) -> Result<T, ProbeError>,
    ) -> Result<Cut<T>, ProbeError> {
        let tags = self.start_all(victim, fill(round))?;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut lost = false;
                while !lost && !stop.load(Ordering::Acquire) {
                    match victim.turn(Duration::from_millis(2)) {
                        Ok(()) => {}
                        Err(ProbeError::Ended(_) | ProbeError::Io(_)) => lost = true,
                        Err(error) => return Err(error),
                    }
                }
                let ends: Ends = tags.iter().map(|tag| victim.take_done(*tag)).collect();
                Ok((ends, lost))
            });
            thread::sleep(delay);
            let sent = Instant::now();
            self.a.wait_for(CUT_PATIENCE);
            let answer = cut(&mut self.a);
            let took = sent.elapsed();
            self.a.wait_for(PATIENCE);
            let watched = answer.and_then(|answer| Ok((answer, self.watch(round)?)));
            stop.store(true, Ordering::Release);
            let (ends, victim_lost) = match writer.join() {
                Ok(ends) => ends?,
                Err(_) => return Err(ProbeError::Ended("the victim's thread".into())),
            };
            let (answer, changed) = watched?;
            Ok(Cut {
                ends,
                sent,
                took,
                answer,
                victim_lost,
                changed,
            })
        })
    }

    /// Which slots change from now on, other than by the new owner's own writes.
    fn watch(&mut self, round: u32) -> Result<Vec<bool>, ProbeError> {
        let first = if round.is_multiple_of(2) {
            for (slot, tag) in self.start_all_by_owner()? {
                // A unit attention, or the cut did not work, which the caller sees.
                if is_attention(&self.a.wait(tag)?) {
                    let data = Bytes::from(vec![MARK; SLOT_BYTES as usize]);
                    self.a
                        .ask(self.slot_write(slot), DataDir::Out(vec![data]))?;
                }
            }
            vec![vec![MARK; SLOT_BYTES as usize]; SLOTS as usize]
        } else {
            self.read_slots()?
        };
        thread::sleep(self.effort.settle);
        let second = self.read_slots()?;
        Ok(first.iter().zip(&second).map(|(a, b)| a != b).collect())
    }

    fn start_all_by_owner(&mut self) -> Result<Vec<(u32, u64)>, ProbeError> {
        let data = Bytes::from(vec![MARK; SLOT_BYTES as usize]);
        (0..SLOTS)
            .map(|slot| {
                let cdb = self.slot_write(slot);
                let tag = self.a.start(cdb, DataDir::Out(vec![data.clone()]))?;
                Ok((slot, tag))
            })
            .collect()
    }

    /// After the preemption: told once, or refused at once, and refused from then on.
    fn kept_out(&mut self, victim: &mut Nexus) -> Result<(), ProbeError> {
        let cdb = client::write16(self.slot_lba(0), 4096 / self.block, Durability::Cached);
        let data = || DataDir::Out(vec![Bytes::from(vec![1; 4096])]);
        let mut seen = Vec::new();
        for _ in 0..4 {
            match victim.once(cdb, data()) {
                Ok(outcome) => seen.push(outcome),
                Err(error) => {
                    self.say(Probe::VictimTold, Answer::No(error.to_string()));
                    return Ok(());
                }
            }
        }
        let refused = |outcome: &ScsiOutcome| outcome.status == Status::ReservationConflict;
        let right = seen
            .iter()
            .all(|outcome| refused(outcome) || is_attention(outcome))
            && seen.last().is_some_and(refused);
        let text: Vec<_> = seen.iter().map(said).collect();
        self.yes_if(Probe::VictimTold, right, text.join(", "));
        Ok(())
    }
}

fn late(changed: &[bool]) -> usize {
    changed.iter().filter(|changed| **changed).count()
}

fn fill(round: u32) -> u8 {
    (round % 100) as u8 + 1
}

/// Writes that were neither ended before the cut nor refused after it.
fn caught(ends: &[Option<Done>], cut: Instant) -> usize {
    let open = |end: &&Option<Done>| match end {
        None => true,
        Some(end) => {
            end.at > cut && matches!(end.outcome.status, Status::Good | Status::TaskAborted)
        }
    };
    ends.iter().filter(open).count()
}

/// One late write is a no; no write in flight is no answer.
pub(super) fn drained(rounds: &[Round]) -> Answer {
    let late: usize = rounds.iter().map(|round| round.late).sum();
    let caught: usize = rounds.iter().map(|round| round.caught).sum();
    let hit = rounds.iter().filter(|round| round.caught > 0).count();
    let slowest = rounds.iter().map(|round| round.took).max();
    let slow = match slowest.filter(|took| *took > PATIENCE) {
        Some(took) => format!(
            "; slowest answer {} s: a takeover fences again",
            took.as_secs()
        ),
        None => String::new(),
    };
    let text = format!(
        "{caught} writes in flight in {hit} of {} rounds, {late} late{slow}",
        rounds.len()
    );
    if late > 0 {
        Answer::No(text)
    } else if caught == 0 {
        Answer::NotRun(text)
    } else {
        Answer::Yes(text)
    }
}

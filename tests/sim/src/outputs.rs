//! What an engine asks of its agent, apart from commands to legs.

use std::time::Duration;

use twinsite_mirror::io::{Input, Output, RegisterError, RemoveWhy};
use twinsite_mirror::status::{Event as EngineEvent, LostWhy, Refusal};

use crate::agent;
use crate::world::{Event, World};

impl World {
    pub(crate) fn output(&mut self, i: usize, output: Output) {
        let life = self.agents[i].life;
        let who = ["agent A1", "agent B", "agent A2"][i];
        match output {
            Output::ReadRegister { id } => self.ask_witness(i, Event::Read { agent: i, life, id }),
            Output::CasRegister { id, expected, new } => {
                let what = format!(
                    "asks the witness: epoch {} {:?} -> epoch {} {:?}",
                    expected.epoch.0, expected.members, new.epoch.0, new.members
                );
                self.say(who, what);
                self.ask_witness(
                    i,
                    Event::Swap {
                        agent: i,
                        life,
                        id,
                        expected,
                        new,
                        answered: true,
                    },
                );
            }
            Output::SaveRecord(record) => {
                let delay = self
                    .random
                    .between(Duration::from_millis(1), Duration::from_millis(8));
                self.after(
                    delay,
                    Event::Saved {
                        agent: i,
                        life,
                        record: Box::new(record),
                    },
                );
            }
            Output::ReadBeat => {
                let result = if self.register_links[i] && self.witness.up {
                    Ok(self.witness.beat)
                } else {
                    Err(RegisterError::Unreachable)
                };
                let delay = if result.is_ok() {
                    Duration::from_millis(20)
                } else {
                    Duration::from_secs(3)
                };
                self.after(
                    delay,
                    Event::Answer {
                        agent: i,
                        life,
                        input: Box::new(Input::BeatObject { result }),
                    },
                );
            }
            Output::WriteBeat(beat) => {
                if self.register_links[i] && self.witness.up && !self.random.chance(1, 10) {
                    let delay = self
                        .random
                        .between(Duration::from_millis(5), Duration::from_millis(500));
                    self.after(delay, Event::BeatWritten(beat));
                }
            }
            Output::ShowDevice(info) => {
                self.say(
                    who,
                    format!("shows the device (continued: {})", info.continued),
                );
                self.device_shown(i, info.continued, info.size);
            }
            Output::RemoveDevice { why } => {
                self.say(who, format!("removes the device: {why:?}"));
                self.device_gone(i);
                if why == RemoveWhy::Superseded {
                    self.agents[i].attached = false;
                }
            }
            Output::Refused(why) => {
                self.say(who, format!("attach refused: {why:?}"));
                self.coverage.met("refused", &why);
                let a = &mut self.agents[i];
                a.attached = false;
                if why == Refusal::OrderStale || why == Refusal::NotContinued || a.record.stale {
                    let uid = self.fresh_uid();
                    self.agents[i].renew(uid);
                    self.agents[i].record = agent::fresh(uid);
                }
                let again = self.now
                    + self
                        .random
                        .between(Duration::from_secs(1), Duration::from_secs(5));
                self.agents[i].attach_at = Some(again);
            }
            Output::Detached => {
                self.say(who, "detached");
                self.device_gone(i);
                let a = &mut self.agents[i];
                (a.attached, a.detaching, a.shell) = (false, false, None);
                a.life += 1;
                self.close_all(i);
            }
            Output::Event(event) => self.engine_event(i, who, event),
            Output::Resize { size } => {
                self.say(who, format!("the device has {size} bytes"));
                self.device_resized(i, size);
            }
            Output::OrderDone { result } => {
                self.say(who, format!("order: {result:?}"));
                self.coverage.met(
                    if result.is_ok() {
                        "order"
                    } else {
                        "order refused"
                    },
                    &result,
                );
            }
            Output::FormatRecorded { .. } => {}
            Output::Connect { .. }
            | Output::Disconnect { .. }
            | Output::Leg { .. }
            | Output::CopyFree { .. }
            | Output::GuestDone { .. } => unreachable!("the shell keeps these"),
        }
    }

    fn engine_event(&mut self, i: usize, who: &str, event: EngineEvent) {
        self.cover(i, event);
        let shown = match event {
            EngineEvent::State { from, to } => format!("{from:?} -> {to:?}"),
            other => format!("{other:?}"),
        };
        self.say(who, shown);
        if matches!(event, EngineEvent::Superseded) {
            self.agents[i].attached = false;
        }
        let alarm = matches!(
            event,
            EngineEvent::LegLost {
                why: LostWhy::RolledBack,
                ..
            }
        );
        if alarm && self.ever_put_back {
            self.coverage.seen("a rollback alarm");
        } else if alarm {
            self.fail("rollback alarm although no leg was put back (I7)");
        }
    }

    fn cover(&mut self, i: usize, event: EngineEvent) {
        match event {
            EngineEvent::State { to, .. } => {
                self.coverage.met("state", &to);
                if let Some(shell) = &mut self.agents[i].shell {
                    shell.noted = to;
                }
            }
            EngineEvent::LegLost { why, .. } => {
                self.coverage.met("lost", &why);
                if why == LostWhy::Slow {
                    self.coverage.seen("a leg was given up as slow");
                }
            }
            EngineEvent::RejoinStarted { full, .. } => self.coverage.seen(if full {
                "a full rejoin"
            } else {
                "a delta rejoin"
            }),
            EngineEvent::RejoinEnded { why, .. } => self.coverage.met("rejoin ended", &why),
            EngineEvent::ReadRepaired { .. } => self.coverage.seen("a read was repaired"),
            EngineEvent::VerifyEnded { .. } => {
                self.coverage.seen("a comparison of the legs was done");
            }
            EngineEvent::LegsDiffer { offset, .. } if self.liar.is_none() => {
                self.fail(format!(
                    "verify tells of a difference at {offset}, no disk lied"
                ));
            }
            EngineEvent::Raised(condition) => self.coverage.met("condition", &condition),
            EngineEvent::Ignored { state, .. } => self.coverage.met("ignored in", &state),
            EngineEvent::LegBack { .. }
            | EngineEvent::VerifyBegan { .. }
            | EngineEvent::VerifyUnreadable { .. }
            | EngineEvent::LegsDiffer { .. }
            | EngineEvent::Membership { .. }
            | EngineEvent::Superseded
            | EngineEvent::FlushWillFail { .. }
            | EngineEvent::ReadFailed { .. }
            | EngineEvent::Cleared(_) => {}
        }
    }
}

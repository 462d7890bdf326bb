//! Requests to the witness: late, lost, executed twice, answered or not.

use std::time::Duration;

use twinsite_mirror::io::{CasResult, Input, Register, RegisterError, RegisterId};

use crate::witness;
use crate::world::{Event, World};

impl World {
    pub(crate) fn ask_witness(&mut self, i: usize, event: Event) {
        let delay = self
            .random
            .between(Duration::from_millis(2), Duration::from_millis(40));
        // An order of a person is watched until it is done.
        let watched = self.agents[i]
            .shell
            .as_ref()
            .is_some_and(|s| s.one_shot.is_some());
        let late = !self.quiet && !watched && self.random.chance(1, 25);
        if let (
            true,
            Event::Swap {
                agent,
                life,
                id,
                expected,
                new,
                ..
            },
        ) = (late, &event)
        {
            // Executed late, perhaps twice; the answer never comes.
            let copy = Event::Swap {
                agent: *agent,
                life: *life,
                id: *id,
                expected: expected.clone(),
                new: new.clone(),
                answered: false,
            };
            let later = self
                .random
                .between(Duration::from_millis(100), Duration::from_secs(20));
            self.after(later, copy.clone());
            if self.random.chance(1, 2) {
                let later = self
                    .random
                    .between(Duration::from_millis(100), Duration::from_secs(20));
                self.after(later, copy);
            }
            let input = Input::RegisterCas {
                id: *id,
                result: CasResult::Unknown,
            };
            let (agent, life) = (*agent, *life);
            self.after(
                Duration::from_secs(3),
                Event::Answer {
                    agent,
                    life,
                    input: Box::new(input),
                },
            );
            return;
        }
        self.after(delay, event);
    }

    fn unanswered(&mut self, agent: usize, life: u64, input: Input) {
        self.after(
            Duration::from_secs(3),
            Event::Answer {
                agent,
                life,
                input: Box::new(input),
            },
        );
    }

    pub(crate) fn read_register(&mut self, agent: usize, life: u64, id: RegisterId) {
        if !self.register_links[agent] || !self.witness.up {
            self.unanswered(
                agent,
                life,
                Input::RegisterRead {
                    id,
                    result: Err(RegisterError::Unreachable),
                },
            );
            return;
        }
        let register = (!self.witness.gone).then(|| Box::new(self.witness.register.clone()));
        if self.witness.is_put_back() {
            self.coverage.seen("a register that was put back was read");
        }
        if let Some(register) = &register {
            let site = usize::from(self.agents[agent].site.index());
            self.marks[site] = Some(witness::raised(self.marks[site], register));
        }
        let delay = self
            .random
            .between(Duration::from_millis(1), Duration::from_millis(20));
        let input = Input::RegisterRead {
            id,
            result: Ok(register),
        };
        self.after(
            delay,
            Event::Answer {
                agent,
                life,
                input: Box::new(input),
            },
        );
    }

    pub(crate) fn swap_register(
        &mut self,
        agent: usize,
        life: u64,
        id: RegisterId,
        expected: &Register,
        new: &Register,
        answered: bool,
    ) {
        if answered && (!self.register_links[agent] || !self.witness.up) {
            self.unanswered(
                agent,
                life,
                Input::RegisterCas {
                    id,
                    result: CasResult::Unknown,
                },
            );
            return;
        }
        let result = match self.witness.swap(expected, new) {
            Ok(true) => CasResult::Won,
            Ok(false) => CasResult::Conflict,
            Err(why) => return self.fail(why),
        };
        self.say(
            "witness",
            format!(
                "{result:?}: epoch {} {:?}",
                self.witness.register.epoch.0, self.witness.register.members
            ),
        );
        if result == CasResult::Won && !self.witness.is_put_back() {
            if let (Some(x), Some(y)) = (expected.members.sole(), new.members.sole())
                && x != y
            {
                self.given_up(y);
            }
            self.check_members();
        }
        if !answered {
            self.coverage.seen("a request was executed late");
            return;
        }
        let lost_answer = !self.quiet && self.random.chance(1, 20);
        if lost_answer {
            self.coverage.seen("an answer was lost");
        }
        let input = Input::RegisterCas {
            id,
            result: if lost_answer {
                CasResult::Unknown
            } else {
                result
            },
        };
        let delay = if lost_answer {
            Duration::from_secs(3)
        } else {
            self.random
                .between(Duration::from_millis(1), Duration::from_millis(20))
        };
        self.after(
            delay,
            Event::Answer {
                agent,
                life,
                input: Box::new(input),
            },
        );
    }
}

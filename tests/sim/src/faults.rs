//! What goes wrong, when, and how it heals. Every fault has a number, so that a failing run can be shrunk to the few it needs.

use std::time::Duration;

use twinsite_mirror::io::{Input, VerifyOrder};
use twinsite_register::Leg;

use crate::human::Human;
use crate::network::{Message, Toward};
use crate::oracle::{GROWN, SIZE, blocks_of, offset};
use crate::random::Random;
use crate::world::{AGENTS, Event, Mix, World};

#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Both ways, or one.
    Cut {
        agent: usize,
        leg: usize,
        to_target: bool,
        to_initiator: bool,
        lasts: Duration,
    },
    /// Everything on its way is held up.
    Hold {
        agent: usize,
        leg: usize,
        lasts: Duration,
    },
    /// The connections of this agent to this leg are reset.
    Reset {
        agent: usize,
        leg: usize,
    },
    /// The line between the sites, for all agents.
    CutSites {
        lasts: Duration,
    },
    CutWitness {
        agent: usize,
        lasts: Duration,
    },
    WitnessDown {
        lasts: Duration,
    },
    PowerCut {
        leg: usize,
        lasts: Duration,
    },
    SitePower {
        leg: usize,
        lasts: Duration,
    },
    Crash {
        agent: usize,
        device_stays: bool,
        lasts: Duration,
    },
    Hang {
        leg: usize,
        lasts: Duration,
    },
    Slow {
        leg: usize,
        lasts: Duration,
    },
    Full {
        leg: usize,
        lasts: Duration,
    },
    Broken {
        leg: usize,
        lasts: Duration,
    },
    BadBlock {
        leg: usize,
        block: u64,
    },
    FlushFails {
        leg: usize,
        lasts: Duration,
    },
    /// Another agent shall have the volume; `polite`: the present one is detached first.
    Move {
        to: usize,
        polite: bool,
    },
    /// An operator writes a free field of the register.
    Note,
    /// One session of a link is held up, the other one goes on.
    HoldOne {
        agent: usize,
        leg: usize,
        session: usize,
        lasts: Duration,
    },
    /// The process is stopped and wakes up later.
    Stop {
        agent: usize,
        lasts: Duration,
    },
    /// So slow that the volume is better off without the leg.
    Crawl {
        leg: usize,
        lasts: Duration,
    },
    /// The leg is copied now; later the copy takes its place.
    Rollback {
        leg: usize,
        lasts: Duration,
    },
    /// The witness shows an earlier register for a while.
    Restore {
        lasts: Duration,
    },
    /// The register is gone; later a person makes a new one.
    Lose {
        lasts: Duration,
    },
    /// A person gives up the last member and makes the other leg go on.
    Force,
    /// Both legs are compared from here on, for so long.
    Verify {
        from: u64,
        lasts: Duration,
    },
    /// The disk of a leg lies about its next write, or a bit of a block turns.
    Lie {
        leg: usize,
        how: How,
    },
    /// The volume grows.
    Expand,
    /// A leg must leave and not return before an operator allows it.
    Drop {
        leg: usize,
        lasts: Duration,
    },
}

/// How a disk lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    Lost,
    Misdirected,
    Rot,
}

impl Fault {
    fn random(random: &mut Random) -> Self {
        let agent = random.below(AGENTS as u64) as usize;
        let leg = random.below(2) as usize;
        let short = Duration::from_millis(200 + random.below(4000));
        let long = Duration::from_millis(500 + random.below(40_000));
        let lasts = if random.chance(1, 2) { short } else { long };
        match random.below(36) {
            0..3 => Self::Cut {
                agent,
                leg,
                to_target: true,
                to_initiator: true,
                lasts,
            },
            3 => Self::Cut {
                agent,
                leg,
                to_target: true,
                to_initiator: false,
                lasts,
            },
            4 => Self::Cut {
                agent,
                leg,
                to_target: false,
                to_initiator: true,
                lasts,
            },
            5..7 => Self::Hold {
                agent,
                leg,
                lasts: short,
            },
            7 => Self::Reset { agent, leg },
            8..11 => Self::CutSites { lasts },
            11..13 => Self::CutWitness { agent, lasts },
            13..15 => Self::WitnessDown { lasts },
            15..18 => Self::PowerCut { leg, lasts },
            18..20 => Self::SitePower { leg, lasts },
            20..23 => Self::Crash {
                agent,
                device_stays: random.chance(1, 2),
                lasts,
            },
            23 => Self::Hang { leg, lasts },
            24 => Self::Slow { leg, lasts },
            25 => Self::Full { leg, lasts: short },
            26 => Self::Broken { leg, lasts: short },
            27 => Self::BadBlock {
                leg,
                block: random.below(blocks_of(SIZE) as u64),
            },
            28 => Self::FlushFails { leg, lasts: short },
            29 => Self::Note,
            _ => Self::Move {
                to: agent,
                polite: random.chance(1, 2),
            },
        }
    }

    /// With what people do, stopped processes and disks that crawl.
    fn random_of_all(random: &mut Random) -> Self {
        let kind = random.below(57);
        if kind < 40 {
            return Self::random(random);
        }
        let agent = random.below(AGENTS as u64) as usize;
        let leg = random.below(2) as usize;
        let seconds = |random: &mut Random, low, high| {
            random.between(Duration::from_secs(low), Duration::from_secs(high))
        };
        match kind {
            40 | 41 => Self::HoldOne {
                agent,
                leg,
                session: random.below(2) as usize,
                lasts: seconds(random, 0, 9),
            },
            42..45 => Self::Stop {
                agent,
                lasts: seconds(random, 0, 25),
            },
            45 => Self::Crawl {
                leg,
                lasts: seconds(random, 10, 80),
            },
            46..48 => Self::Rollback {
                leg,
                lasts: seconds(random, 3, 50),
            },
            48 | 49 => Self::Restore {
                lasts: seconds(random, 2, 40),
            },
            50 => Self::Lose {
                lasts: seconds(random, 2, 20),
            },
            51..53 => Self::Force,
            53 | 54 => Self::Expand,
            56 => Self::Verify {
                from: offset(random.below(blocks_of(SIZE) as u64) as usize) >> 18 << 18,
                lasts: Duration::from_millis(1 + random.below(3)),
            },
            _ => Self::Drop {
                leg,
                lasts: seconds(random, 5, 40),
            },
        }
    }
}

impl World {
    /// Draws the next fault and when it comes.
    pub fn plan_fault(&mut self) {
        let mut own = Random::new(
            self.plan.seed ^ (self.fault_number as u64 + 1).wrapping_mul(0x5851_f42d_4c95_7f2d),
        );
        let pause = own.between(Duration::from_millis(200), Duration::from_secs(14));
        let fault = match self.plan.mix {
            Mix::First => Fault::random(&mut own),
            Mix::All => Fault::random_of_all(&mut own),
        };
        self.after(pause, Event::Fault(fault));
    }

    pub fn fault(&mut self, fault: Fault) {
        if self.quiet {
            return;
        }
        let number = self.fault_number;
        self.fault_number += 1;
        if self.plan.script.is_empty() {
            self.plan_fault();
        }
        if self
            .plan
            .only
            .as_ref()
            .is_some_and(|only| !only.contains(&number))
        {
            return;
        }
        self.figures.faults += 1;
        self.coverage.met("fault", &fault);
        self.say("FAULT", format!("#{number} {fault:?}"));
        let now = self.now;
        match fault {
            Fault::Cut {
                agent,
                leg,
                to_target,
                to_initiator,
                lasts,
            } => {
                let link = &mut self.network.links[agent][leg];
                link.to_target &= !to_target;
                link.to_initiator &= !to_initiator;
                self.after(lasts, Event::Heal(fault));
            }
            Fault::Hold { agent, leg, lasts } => {
                self.network.links[agent][leg].held_until = now + lasts
            }
            Fault::Reset { agent, leg } => self.reset(agent, leg),
            Fault::CutSites { lasts } => {
                self.each_far_link(|l| (l.to_target, l.to_initiator) = (false, false));
                self.after(lasts, Event::Heal(fault));
            }
            Fault::CutWitness { agent, lasts } => {
                self.register_links[agent] = false;
                self.after(lasts, Event::Heal(fault));
            }
            Fault::WitnessDown { lasts } => {
                self.witness.up = false;
                self.after(lasts, Event::Heal(fault));
            }
            Fault::PowerCut { leg, lasts } => self.power_cut(leg, lasts),
            Fault::SitePower { leg, lasts } => {
                self.power_cut(leg, lasts);
                for i in 0..AGENTS {
                    if self.agents[i].site.leg().index() == leg {
                        self.crash(i, false);
                        self.after(lasts, Event::Start(i));
                    }
                }
            }
            Fault::Crash {
                agent,
                device_stays,
                lasts,
            } => {
                self.crash(agent, device_stays);
                self.after(lasts.min(Duration::from_secs(10)), Event::Start(agent));
            }
            Fault::Hang { leg, lasts } => self.targets[leg].disk.faults.hangs_until = now + lasts,
            Fault::Slow { leg, lasts } => {
                self.targets[leg].disk.faults.slow = Duration::from_millis(30);
                self.targets[leg].disk.faults.slow_until = now + lasts;
            }
            Fault::Full { leg, lasts } => self.targets[leg].disk.faults.full_until = now + lasts,
            Fault::Broken { leg, lasts } => {
                self.targets[leg].disk.faults.broken_until = now + lasts
            }
            Fault::BadBlock { leg, block } => {
                let at = twinsite_mirror::io::DATA_START + offset(block as usize);
                self.targets[leg]
                    .disk
                    .faults
                    .bad_blocks
                    .insert(at / crate::disk::BLOCK);
            }
            Fault::FlushFails { leg, lasts } => {
                self.targets[leg].disk.faults.flush_fails_until = now + lasts
            }
            Fault::Move { to, polite } => self.move_to(to, polite),
            Fault::Note => {
                let mut txid = twinsite_register::TxId::ZERO;
                txid.0 = self.random.bytes();
                if let Ok(next) = self.witness.register.unlatch(txid) {
                    self.witness.register = next;
                }
            }
            Fault::HoldOne {
                agent,
                leg,
                session,
                lasts,
            } => self.network.hold_one(agent, leg, session, now + lasts),
            Fault::Stop { agent, lasts } => self.stop(agent, lasts),
            Fault::Crawl { leg, lasts } => {
                self.targets[leg].disk.faults.slow = Duration::from_millis(1700);
                self.targets[leg].disk.faults.slow_until = now + lasts;
            }
            Fault::Rollback { leg, lasts } => self.copy_leg(Leg::BOTH[leg], lasts),
            Fault::Restore { lasts } => {
                let free = self.branch.is_none() && self.put_back.is_none();
                if free && self.witness.put_back(&self.marks) {
                    self.after(lasts, Event::Heal(fault));
                }
            }
            Fault::Lose { lasts } => self.lose_register(lasts),
            Fault::Force => self.force(),
            Fault::Verify { from, lasts } => {
                self.after(lasts, Event::Heal(fault));
                self.order_writer(Input::Verify(VerifyOrder::Begin { from }));
            }
            Fault::Lie { leg, how } => self.lie(leg, how),
            Fault::Expand => {
                let next = GROWN.iter().find(|size| **size > self.promised_size);
                if let Some(size) = next {
                    self.order_writer(Input::Expand { size: *size });
                }
            }
            Fault::Drop { leg, lasts } => {
                self.order_writer(Input::DropLeg(Leg::BOTH[leg]));
                self.after(lasts, Event::Human(Human::Rejoin));
            }
        }
    }

    /// SIGSTOP; what arrives meanwhile waits for it.
    fn stop(&mut self, agent: usize, lasts: Duration) {
        if self.agents[agent].shell.is_some() {
            let until = self.now + lasts;
            let a = &mut self.agents[agent];
            a.stopped_until = a.stopped_until.max(until);
        }
    }

    pub fn heal(&mut self, fault: &Fault) {
        match fault {
            Fault::Cut { agent, leg, .. } => {
                let link = &mut self.network.links[*agent][*leg];
                (link.to_target, link.to_initiator) = (true, true);
                self.resume(*agent, *leg);
            }
            Fault::CutSites { .. } => {
                self.each_far_link(|l| (l.to_target, l.to_initiator) = (true, true));
                for i in 0..AGENTS {
                    self.resume(i, self.agents[i].site.other().leg().index());
                }
            }
            Fault::CutWitness { agent, .. } => self.register_links[*agent] = true,
            Fault::WitnessDown { .. } => self.witness.up = true,
            Fault::Restore { .. } => self.witness.bring_forward(),
            Fault::Verify { .. } => self.order_writer(Input::Verify(VerifyOrder::Stop)),
            _ => {}
        }
    }

    fn resume(&mut self, agent: usize, leg: usize) {
        for delivery in self.network.heal(self.now, agent, leg) {
            self.schedule(Some(delivery));
        }
    }

    fn each_far_link(&mut self, f: impl Fn(&mut crate::network::Link)) {
        for i in 0..AGENTS {
            let far = self.agents[i].site.other().leg().index();
            f(&mut self.network.links[i][far]);
        }
    }

    fn reset(&mut self, agent: usize, leg: usize) {
        let conns: Vec<_> = self
            .network
            .connections
            .iter()
            .filter(|(_, c)| c.writer == agent && c.leg == leg && c.initiator_open)
            .map(|(id, c)| (*id, c.session))
            .collect();
        for (conn, session) in conns {
            // A stopped process learns it when it wakes up.
            if self.now < self.agents[agent].stopped_until {
                if let Some(c) = self.network.connections.get_mut(&conn) {
                    c.target_open = false;
                }
                self.targets[leg].closed(self.now, conn, &mut self.random);
                self.transmit(conn, Toward::Initiator, Message::Close);
                continue;
            }
            if let Some(c) = self.network.connections.get_mut(&conn) {
                c.initiator_open = false;
                c.target_open = false;
            }
            if let Some(shell) = &mut self.agents[agent].shell {
                shell.closed(self.now, leg, session, conn);
            }
            self.targets[leg].closed(self.now, conn, &mut self.random);
        }
        self.agent_out(agent);
        self.target_out(leg);
    }

    pub(crate) fn power_cut(&mut self, leg: usize, lasts: Duration) {
        if !self.targets[leg].is_up() {
            return;
        }
        if self.plan.mix == Mix::All {
            self.targets[leg].silent = self.random.chance(1, 2);
        }
        for conn in self.targets[leg].power_off(&mut self.random) {
            if let Some(c) = self.network.connections.get_mut(&conn) {
                c.target_open = false;
            }
        }
        if self.plan.volatile {
            self.oracle.blocks.iter_mut().for_each(|b| b.observed = 0);
        }
        self.after(lasts, Event::PowerOn(leg));
    }

    fn move_to(&mut self, to: usize, polite: bool) {
        if self.wanted == to {
            return;
        }
        let from = self.wanted;
        self.wanted = to;
        if polite && self.agents[from].shell.is_some() && self.agents[from].attached {
            self.agents[from].detaching = true;
            let life = self.agents[from].life;
            if self.now < self.agents[from].stopped_until {
                let input = Box::new(Input::Detach);
                let agent = from;
                self.after(Duration::ZERO, Event::Answer { agent, life, input });
            } else {
                self.input(from, life, Input::Detach);
            }
        }
        self.agents[to].attach_at = Some(self.now + Duration::from_millis(500));
    }

    /// All faults are over: links, witness, power, disks.
    pub fn heal_all(&mut self) {
        self.quiet = true;
        self.end_by_hand();
        self.register_links = [true; AGENTS];
        self.witness.up = true;
        for leg in Leg::BOTH {
            let x = leg.index();
            self.targets[x].disk.faults = crate::disk::DiskFaults::default();
            if !self.targets[x].is_up() {
                self.targets[x].power_on(self.now, &mut self.random);
            }
            for i in 0..AGENTS {
                let link = &mut self.network.links[i][x];
                (link.to_target, link.to_initiator, link.held_until) = (true, true, Duration::ZERO);
                self.resume(i, x);
            }
        }
    }
}

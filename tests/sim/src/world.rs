//! The event loop: one queue ordered by virtual time, one owner of everything, one seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use twinsite_iscsi::scsi::OpId;
use twinsite_mirror::config::Config;
use twinsite_mirror::io::{AttachRecord, Input, Register, RegisterId};
use twinsite_register::{AttachmentUid, BeatObject, Leg, Mark, Site};

use crate::agent::Agent;
use crate::birth;
use crate::coverage::Coverage;
use crate::disk::Snapshot;
use crate::faults::Fault;
use crate::history::History;
use crate::human::{Branch, Human, Stamp};
use crate::network::{ConnId, Network, Toward};
use crate::oracle::Oracle;
use crate::random::Random;
use crate::target::Target;
use crate::witness::Witness;

/// Two at A, one at B.
pub const AGENTS: usize = 3;

#[derive(Clone, Debug)]
pub enum Event {
    Deliver(ConnId, Toward),
    Stored {
        leg: usize,
        life: u64,
        op: OpId,
    },
    TargetTick(usize),
    AgentTick(usize),
    /// A request reaches the witness.
    Read {
        agent: usize,
        life: u64,
        id: RegisterId,
    },
    Swap {
        agent: usize,
        life: u64,
        id: RegisterId,
        expected: Box<Register>,
        new: Box<Register>,
        answered: bool,
    },
    Answer {
        agent: usize,
        life: u64,
        input: Box<Input>,
    },
    Saved {
        agent: usize,
        life: u64,
        record: Box<AttachRecord>,
    },
    Guest(usize),
    Supervise,
    PowerOn(usize),
    Start(usize),
    Fault(Fault),
    Heal(Fault),
    Human(Human),
    BeatWritten(BeatObject),
}

/// Which faults are drawn, and what guests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// As in the runs of the first seeds that are kept: links, witness, power, disks, processes, moves.
    First,
    /// Also stopped processes, single sessions held, older copies put back, people, discards, a volume that grows.
    All,
}

/// Looks at the world after each fault; true is taken for a violation. Made to test the shrinking of failures.
pub type Bait = fn(&World) -> bool;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Faults happen this long; then all is healed and must become whole.
    pub faults_for: Duration,
    pub volatile: bool,
    pub print: bool,
    /// Print the commands to the legs, too.
    pub commands: bool,
    /// These faults at these times, instead of random ones.
    pub script: Vec<(Duration, Fault)>,
    /// Only faults with these numbers happen (shrinking); `None`: all.
    pub only: Option<Vec<usize>>,
    pub mix: Mix,
    pub bait: Option<Bait>,
}

impl Plan {
    /// Random faults of one seed.
    pub fn of(seed: u64, faults_for: Duration, volatile: bool, mix: Mix) -> Self {
        Self {
            seed,
            faults_for,
            volatile,
            print: false,
            commands: false,
            script: vec![],
            only: None,
            mix,
            bait: None,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub events: u64,
    pub acknowledged: u64,
    pub reads: u64,
    pub swaps: u64,
    pub faults: u64,
    pub attaches: u64,
    pub simulated: Duration,
    pub commands: u64,
}

pub struct World {
    pub now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    pub(crate) sequence: u64,
    pub random: Random,
    pub history: History,
    pub network: Network,
    pub targets: [Target; 2],
    pub agents: Vec<Agent>,
    pub witness: Witness,
    /// Agent to witness.
    pub register_links: [bool; AGENTS],
    pub marks: [Option<Mark>; 2],
    pub oracle: Oracle,
    pub figures: Figures,
    pub plan: Plan,
    /// Which agent shall have the volume.
    pub wanted: usize,
    pub next_uid: u8,
    pub quiet: bool,
    pub violation: Option<String>,
    pub(crate) target_ticks: [Duration; 2],
    pub(crate) agent_ticks: [Duration; AGENTS],
    pub fault_number: usize,
    pub coverage: Coverage,
    /// The largest size that a guest was told.
    pub promised_size: u64,
    /// A member that is an older copy of itself, until the volume is whole again.
    pub put_back: Option<Leg>,
    pub ever_put_back: bool,
    /// The leg whose disk lied.
    pub liar: Option<Leg>,
    pub copies: [Option<Snapshot>; 2],
    pub branch: Option<Branch>,
    /// Superblocks that a person knows not to be believed: of a lost branch, or of a copy that was put back.
    pub odd: [Option<Stamp>; 2],
    pub reseed_id: Option<twinsite_register::RegisterId>,
}

pub fn engine_config() -> Config {
    Config {
        clear_idle: Duration::from_secs(4),
        rejoin_backoff: (Duration::from_secs(1), Duration::from_secs(8)),
        register_poll: Duration::from_secs(4),
        dirty_budget: 8 << 20,
        resync_bytes_per_second: None,
        copy_max: 256 << 10,
        rest_small: 256 << 10,
        predirty: 0,
        ..Config::default()
    }
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let register = birth::register();
        let mut targets = [0, 1].map(|leg| Target::new(leg, birth::lun_size(), plan.volatile));
        for leg in Leg::BOTH {
            let t = &mut targets[leg.index()];
            birth::bear(leg, &register, &mut t.disk);
            t.power_on(Duration::ZERO, &mut random);
        }
        let sites = [Site::A, Site::B, Site::A];
        let agents = sites
            .iter()
            .enumerate()
            .map(|(i, s)| Agent::new(*s, AttachmentUid([i as u8 + 1; 16])))
            .collect();
        let mut network = Network::new(AGENTS);
        for (i, site) in sites.iter().enumerate() {
            for leg in Leg::BOTH {
                let near = leg.site() == *site;
                network.links[i][leg.index()].latency =
                    Duration::from_micros(if near { 60 } else { 600 });
            }
        }
        let mark = Some(Mark::of(&register));
        let mut world = Self {
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: vec![],
            free: vec![],
            sequence: 0,
            random,
            history: History::new(plan.print),
            network,
            targets,
            agents,
            witness: Witness::new(register),
            register_links: [true; AGENTS],
            marks: [mark; 2],
            oracle: Oracle::new(plan.volatile),
            figures: Figures::default(),
            plan,
            wanted: 0,
            next_uid: 10,
            quiet: false,
            violation: None,
            target_ticks: [Duration::MAX; 2],
            agent_ticks: [Duration::MAX; AGENTS],
            fault_number: 0,
            coverage: Coverage::default(),
            promised_size: 0,
            put_back: None,
            ever_put_back: false,
            liar: None,
            copies: [None, None],
            branch: None,
            odd: [None, None],
            reseed_id: None,
        };
        world.at(Duration::ZERO, Event::Supervise);
        for i in 0..AGENTS {
            world.at(Duration::from_millis(10), Event::Guest(i));
        }
        world
    }

    pub fn at(&mut self, time: Duration, event: Event) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(event);
        self.sequence += 1;
        self.queue
            .push(Reverse((time.max(self.now), self.sequence, slot)));
    }

    pub fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub fn say(&mut self, who: &str, what: impl std::fmt::Display) {
        self.history.say(self.now, who, what);
    }

    pub fn fail(&mut self, why: impl Into<String>) {
        if self.violation.is_none() {
            let why = why.into();
            self.say("ORACLE", &why);
            self.violation = Some(why);
        }
    }

    /// Runs until `until` or a violation.
    pub fn run(&mut self, until: Duration) {
        while self.violation.is_none() {
            let Some(Reverse((time, _, _))) = self.queue.peek() else {
                break;
            };
            if *time > until {
                break;
            }
            let Some(Reverse((time, _, slot))) = self.queue.pop() else {
                break;
            };
            self.now = time;
            let Some(event) = self.events[slot].take() else {
                continue;
            };
            self.free.push(slot);
            self.figures.events += 1;
            self.event(event);
        }
        self.now = self.now.max(until);
        self.figures.simulated = self.now;
    }

    /// When the stopped process that this event is for wakes up.
    fn asleep(&self, event: &Event) -> Option<Duration> {
        let agent = match event {
            Event::Deliver(conn, Toward::Initiator) => self.network.connections.get(conn)?.writer,
            Event::AgentTick(i) | Event::Guest(i) => *i,
            Event::Answer { agent, .. } | Event::Saved { agent, .. } => *agent,
            _ => return None,
        };
        let until = self.agents[agent].stopped_until;
        (self.now < until).then_some(until)
    }

    fn event(&mut self, event: Event) {
        if let Some(until) = self.asleep(&event) {
            if let Event::AgentTick(i) = event {
                if self.agent_ticks[i] != self.now {
                    return;
                }
                self.agent_ticks[i] = until;
                self.coverage.seen("a stopped agent woke");
            }
            return self.at(until, event);
        }
        match event {
            Event::Deliver(conn, toward) => self.deliver(conn, toward),
            Event::Stored { leg, life, op } => {
                if self.targets[leg].life == life {
                    self.targets[leg].completed(self.now, op, &mut self.random);
                    self.target_out(leg);
                }
            }
            // An earlier one was set meanwhile: this one is stale.
            Event::TargetTick(leg) if self.target_ticks[leg] != self.now => {}
            Event::AgentTick(i) if self.agent_ticks[i] != self.now => {}
            Event::TargetTick(leg) => {
                self.target_ticks[leg] = Duration::MAX;
                if self.targets[leg].is_up() {
                    self.targets[leg].tick(self.now, &mut self.random);
                }
                self.target_out(leg);
            }
            Event::AgentTick(i) => {
                self.agent_ticks[i] = Duration::MAX;
                if let Some(shell) = &mut self.agents[i].shell {
                    shell.tick(self.now);
                }
                self.agent_out(i);
            }
            Event::Read { agent, life, id } => self.read_register(agent, life, id),
            Event::Swap {
                agent,
                life,
                id,
                expected,
                new,
                answered,
            } => {
                self.swap_register(agent, life, id, &expected, &new, answered);
            }
            Event::Answer { agent, life, input } => self.input(agent, life, *input),
            Event::Saved {
                agent,
                life,
                record,
            } => {
                if self.agents[agent].life == life {
                    self.agents[agent].record = *record;
                    self.input(agent, life, Input::RecordSaved);
                }
            }
            Event::BeatWritten(beat) => self.witness.write_beat(beat),
            Event::Guest(i) => self.guest(i),
            Event::Supervise => self.supervise(),
            Event::PowerOn(leg) => {
                if !self.targets[leg].is_up() {
                    self.put_leg_back(Leg::BOTH[leg]);
                    self.targets[leg].power_on(self.now, &mut self.random);
                    self.say(["target A", "target B"][leg], "power is back");
                }
            }
            Event::Start(i) => self.start(i),
            Event::Fault(fault) => {
                self.fault(fault);
                if self.plan.bait.is_some_and(|bait| bait(self)) {
                    self.fail("bait");
                }
            }
            Event::Heal(fault) => self.heal(&fault),
            Event::Human(human) => self.human(human),
        }
    }

    pub fn input(&mut self, i: usize, life: u64, input: Input) {
        if self.agents[i].life != life {
            return;
        }
        self.note_state(i);
        if let Some(shell) = &mut self.agents[i].shell {
            shell.input(self.now, input);
        }
        self.note_state(i);
        self.agent_out(i);
    }

    /// The states of an attach are not told as events.
    pub(crate) fn note_state(&mut self, i: usize) {
        if let Some(shell) = self.agents[i]
            .shell
            .as_ref()
            .filter(|s| s.one_shot.is_none())
        {
            let state = shell.engine.status(self.now).state;
            if shell.noted != state {
                self.coverage.met("state", &state);
            }
            if let Some(shell) = &mut self.agents[i].shell {
                shell.noted = state;
            }
        }
    }
}

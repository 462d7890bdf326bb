//! What people and operators do: force a leg and confirm what it lost, reseed a lost register, put an older copy of a leg or
//! of the register back, drop a leg and take it back, grow the volume.
//!
//! Each is the real order or the real transition. One of those that a person must end is under way at a time. Not done here,
//! because the protocol names it as a gap: a leg that is put back although no beat became durable on the other one since, or
//! although an unacknowledged write left no trace; one that is put back under a writer that still counts on it.

use std::time::Duration;

use twinsite_mirror::io::{DATA_START, Input, VerifyOrder};
use twinsite_mirror::layout::{BEAT_OFFSET, Beat, MapPage, RegionState, Role, map_offset};
use twinsite_mirror::oneshot::{Done, Failure, OneShotOrder, Reseeding, Task};
use twinsite_mirror::status::{StateName, VerifyPhase};
use twinsite_register::{
    Epoch, Force, Gen, Key, KeyTag, Leg, LegSeed, Members, Register, RegisterId, Reseed,
    SeedMembers, TxId,
};

use crate::birth::VOLUME;
use crate::check::place;
use crate::disk::{BLOCK, Lie, Snapshot};
use crate::faults::How;
use crate::oracle::{BLOCKS, Oracle, blocks_of, offset};
use crate::shell::Shell;
use crate::world::{AGENTS, Event, World, engine_config};

/// A person comes back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Human {
    Confirm(Leg),
    Reseed,
    /// The copy of the leg that was taken earlier replaces it.
    PutBack(Leg),
    Rejoin,
}

/// How long a person thinks before trying again.
const AGAIN: Duration = Duration::from_secs(3);

/// Which superblock a leg carries.
pub type Stamp = Option<(Epoch, u64)>;

/// What a force gave up, as it stood then.
#[derive(Clone, Debug)]
pub struct Branch {
    pub leg: Leg,
    stamp: Stamp,
}

impl World {
    pub fn human(&mut self, human: Human) {
        match human {
            Human::Confirm(leg) => self.confirm(leg),
            Human::Reseed => self.reseed(),
            Human::PutBack(leg) => {
                let off = self
                    .random
                    .between(Duration::from_secs(8), Duration::from_secs(15));
                if self.copies[leg.index()].is_some() && !self.quiet {
                    self.power_cut(leg.index(), off);
                }
            }
            Human::Rejoin => {
                if !self.edit(|r, txid| r.rejoin(Members::NONE, txid).ok())
                    && !self.witness.truth().no_rejoin.is_empty()
                {
                    self.after(AGAIN, Event::Human(human));
                }
            }
        }
    }

    /// An operator changes the register from beside.
    pub fn edit(&mut self, change: impl FnOnce(&Register, TxId) -> Option<Register>) -> bool {
        if !self.witness.up || self.witness.gone || self.witness.is_put_back() {
            return false;
        }
        let mut txid = TxId::ZERO;
        txid.0 = self.random.bytes();
        match change(&self.witness.register, txid) {
            Some(next) => {
                self.witness.register = next;
                true
            }
            None => false,
        }
    }

    /// Something only a person ends is under way.
    fn is_in_hand(&self) -> bool {
        self.branch.is_some()
            || self.put_back.is_some()
            || self.witness.gone
            || self.witness.is_put_back()
            || !self.witness.truth().unconfirmed.is_empty()
            || self.agents.iter().any(|a| {
                a.shell
                    .as_ref()
                    .is_some_and(|shell| shell.one_shot.is_some())
            })
    }

    fn start_order(&mut self, i: usize, task: Task, legs: Members) {
        let site = self.agents[i].site;
        let order = OneShotOrder {
            task,
            legs,
            volume: VOLUME,
            key: Key::new(KeyTag::Writer(site), self.random.word()),
            seed: self.random.bytes(),
            site,
            node: format!("node-{i}"),
            marks: self.marks[usize::from(site.index())].into_iter().collect(),
            config: engine_config(),
        };
        let a = &mut self.agents[i];
        a.life += 1;
        (a.attached, a.attach_at) = (true, None);
        a.shell = Some(Shell::of_order(self.now, i as u8, order));
        self.close_all(i);
        self.agent_out(i);
    }

    pub fn order_ended(&mut self, i: usize, end: Result<Done, Failure>) {
        self.say("person", format!("the order ended: {end:?}"));
        let a = &mut self.agents[i];
        a.shell = None;
        a.life += 1;
        a.attached = false;
        self.close_all(i);
        if let Ok(Done::Reseeded { legs }) = end {
            self.reseeded(i, legs);
        }
    }

    // --- force

    /// A person made sure that the site with the last member is dead, and makes the other leg go on.
    pub fn force(&mut self) {
        let register = self.witness.truth().clone();
        let Some(x) = register.members.sole().filter(|_| !self.is_in_hand()) else {
            return;
        };
        let y = x.other();
        let i = usize::from(y == Leg::B);
        let Some(sb) = self.superblock(y.index()) else {
            return;
        };
        if !self.targets[y.index()].is_up()
            || sb.role != Role::Member
            || !self.register_links[i]
            || !self.witness.up
        {
            return;
        }
        for agent in 0..AGENTS {
            self.crash(agent, false);
        }
        let dark = self
            .random
            .between(Duration::from_secs(10), Duration::from_secs(25));
        self.power_cut(x.index(), dark);
        self.wanted = i;
        let force = Force {
            expect_epoch: register.epoch,
            expect_txid: register.txid,
            leg: y,
            seen: LegSeed {
                epoch: sb.epoch,
                generation: sb.generation,
                sb_seq: sb.sb_seq,
            },
            site: y.site(),
            generation: Gen(self.random.bytes()),
            inconsistent: false,
            who: "a person".into(),
            why: "the other site is dead".into(),
        };
        self.say(
            "person",
            format!("forces leg {y}, gives up what leg {x} has"),
        );
        self.start_order(i, Task::Force(Box::new(force)), Members::only(y));
    }

    /// The register names another last member: what the old one has is given up from here on.
    pub fn given_up(&mut self, leg: Leg) {
        self.coverage.seen("a leg was forced");
        for block in 0..BLOCKS {
            let at = (DATA_START + offset(block)) / BLOCK;
            let kept = self.targets[leg.index()].disk.durable_block(at);
            match (self.stored(leg.index(), block), Oracle::value(block, &kept)) {
                (Ok(raw), Ok(durable)) => self.oracle.give_up(block, raw, durable),
                (Err(why), _) | (_, Err(why)) => return self.fail(why),
            }
        }
        // A growth that only the other leg knows of is given up with the rest.
        if let Some(sb) = self.superblock(leg.index()) {
            self.promised_size = self.promised_size.min(sb.geometry.size());
        }
        let lost = leg.other();
        let stamp = self.stamp_of(lost);
        self.odd[lost.index()] = Some(stamp);
        self.branch = Some(Branch { leg: lost, stamp });
        let thinks = self
            .random
            .between(Duration::from_secs(5), Duration::from_secs(30));
        self.after(thinks, Event::Human(Human::Confirm(lost)));
    }

    pub fn stamp_of(&self, leg: Leg) -> Stamp {
        self.superblock(leg.index()).map(|sb| (sb.epoch, sb.sb_seq))
    }

    fn confirm(&mut self, leg: Leg) {
        if !self.witness.truth().unconfirmed.contains(leg) {
            self.branch = None;
            return;
        }
        if let Some(branch) = &self.branch
            && self.stamp_of(leg) != branch.stamp
        {
            return self.fail(format!(
                "leg {leg} of a lost branch was written before a person confirmed (R44)"
            ));
        }
        if self.edit(|r, txid| r.confirm(leg, "a person", txid).ok()) {
            self.coverage.seen("a lost branch was confirmed");
            self.say("person", format!("confirms the lost branch of leg {leg}"));
            self.branch = None;
        } else {
            self.after(AGAIN, Event::Human(Human::Confirm(leg)));
        }
    }

    // --- the register is lost

    pub fn lose_register(&mut self, lasts: Duration) {
        if !self.is_in_hand() {
            self.witness.gone = true;
            self.after(lasts, Event::Human(Human::Reseed));
        }
    }

    /// Both agents are detached, the legs get the id of a new register, and then it is made.
    fn reseed(&mut self) {
        if !self.witness.gone {
            return;
        }
        self.after(Duration::from_secs(12), Event::Human(Human::Reseed));
        let i = self.wanted;
        let reachable = (0..2).all(|leg| {
            let link = &self.network.links[i][leg];
            self.targets[leg].is_up() && link.to_target && link.to_initiator
        });
        if !reachable
            || self.agents[i]
                .shell
                .as_ref()
                .is_some_and(|s| s.one_shot.is_some())
        {
            return;
        }
        for agent in 0..AGENTS {
            self.crash(agent, false);
        }
        let register_id = *self
            .reseed_id
            .get_or_insert_with(|| RegisterId(self.random.bytes()));
        self.say("person", "reseeds");
        let order = Reseeding {
            register_id,
            chosen: Members::BOTH,
            expect: [None; 2],
            inconsistent: false,
        };
        self.start_order(i, Task::Reseed(order), Members::BOTH);
    }

    fn reseeded(&mut self, i: usize, seeds: [Option<LegSeed>; 2]) {
        let (Some(register_id), [Some(a), Some(b)]) = (self.reseed_id, seeds) else {
            return;
        };
        let [Some(sa), Some(sb)] = [self.superblock(0), self.superblock(1)] else {
            return;
        };
        let known = |sb: &twinsite_mirror::layout::Superblock| {
            (sb.members.contains(sb.leg) && matches!(sb.role, Role::Member | Role::Growing))
                .then_some(sb.epoch)
        };
        let pair = sa.role == Role::Member
            && sb.role == Role::Member
            && sa.members == Members::BOTH
            && sb.members == Members::BOTH
            && (sa.epoch, sa.generation) == (sb.epoch, sb.generation);
        // Who forced a leg that nobody could attach yet does not forget it: that leg says so, too.
        let named = self.witness.truth().granted.first().map(|g| g.leg);
        let forced = named.filter(|leg| self.witness.truth().members == Members::only(*leg));
        let members = if let Some(leg) = forced {
            let seen = if leg == Leg::A { a } else { b };
            SeedMembers::Alone { leg, seen }
        } else if pair {
            SeedMembers::Pair { a, b }
        } else if known(&sa) > known(&sb) {
            SeedMembers::Alone {
                leg: Leg::A,
                seen: a,
            }
        } else {
            SeedMembers::Alone {
                leg: Leg::B,
                seen: b,
            }
        };
        let old = self.witness.truth().clone();
        let marks = self.marks.iter().flatten();
        let epochs = marks.clone().map(|m| m.epoch).chain([sa.epoch, sb.epoch]);
        let seqs = marks.map(|m| m.seq).chain([sa.active_seq, sb.active_seq]);
        let mut former = old.former.clone();
        former.push(old.register_id);
        let reseed = Reseed {
            register_id,
            former,
            group: old.group,
            volumes: old.volumes.clone(),
            highest_epoch: epochs.max().unwrap_or(Epoch(0)),
            highest_seq: seqs.max().unwrap_or(0),
            highest_order: sa.order.n.max(sb.order.n),
            members,
            site: self.agents[i].site,
            generation: Gen(self.random.bytes()),
            txid: TxId(self.random.bytes()),
            who: "a person".into(),
            why: "the witness lost it".into(),
        };
        match Register::reseed(&reseed, None) {
            Ok(register) => {
                self.coverage.seen("a register was reseeded");
                // A shrink that was won and reached no superblock is forgotten with it: the leg that had left is behind, and told.
                self.ever_put_back |= old.epoch > sa.epoch.max(sb.epoch);
                self.say(
                    "person",
                    format!("a new register, members {:?}", register.members),
                );
                for leg in register.unconfirmed.iter() {
                    self.odd[leg.index()] = Some(self.stamp_of(leg));
                    self.branch = Some(Branch {
                        leg,
                        stamp: self.stamp_of(leg),
                    });
                    self.after(Duration::from_secs(9), Event::Human(Human::Confirm(leg)));
                }
                self.witness.reseeded(register);
                self.reseed_id = None;
                self.check_members();
            }
            Err(why) => self.fail(format!("a reseed is refused: {why}")),
        }
    }

    // --- older copies

    pub fn copy_leg(&mut self, leg: Leg, lasts: Duration) {
        self.copies[leg.index()] = Some(self.targets[leg.index()].disk.snapshot());
        self.after(lasts, Event::Human(Human::PutBack(leg)));
    }

    /// The power comes back, and the disk is the copy of then, where that is no named gap.
    pub fn put_leg_back(&mut self, leg: Leg) {
        let Some(copy) = self.copies[leg.index()].take() else {
            return;
        };
        let members = self.witness.truth().members;
        let relied_on = self.agents.iter().any(|a| {
            a.shell.as_ref().is_some_and(|s| {
                let status = s.engine.status(self.now);
                let idle = matches!(
                    status.state,
                    StateName::Off | StateName::Refused | StateName::Superseded
                );
                let alone =
                    status.state == StateName::Solo && status.members == Members::only(leg.other());
                s.one_shot.is_some() || !(idle || alone)
            })
        });
        if self.quiet || self.is_in_hand() || relied_on || members == Members::only(leg) {
            return;
        }
        if members.contains(leg) && !self.is_told(leg, &copy) {
            return;
        }
        self.coverage.seen("a leg was put back");
        self.say("person", format!("puts an older copy of leg {leg} back"));
        self.targets[leg.index()].disk.put_back(copy);
        self.ever_put_back = true;
        self.odd[leg.index()] = Some(self.stamp_of(leg));
        if members.contains(leg) {
            self.put_back = Some(leg);
        }
    }

    /// Does the copy show that it is older: by the beat, and in every block that differs by a dirty bit?
    fn is_told(&self, leg: Leg, copy: &Snapshot) -> bool {
        let other = leg.other().index();
        let beat = |bytes: &[u8]| {
            Beat::parse(bytes)
                .ok()
                .map_or((Epoch(0), 0), |b| (b.epoch, b.beat))
        };
        let live = self.targets[other].disk.block(BEAT_OFFSET / BLOCK);
        if beat(&live) <= beat(&copy.block(BEAT_OFFSET / BLOCK)) {
            return false;
        }
        (0..BLOCKS).all(|block| {
            let (page, index) = place(block);
            let dirty = |bytes: &[u8]| {
                MapPage::parse_or_dirty(page, bytes).region(index) == RegionState::Dirty
            };
            let map = map_offset(page) / BLOCK;
            let kept = self.stored(other, block);
            let old = Oracle::value(block, &copy.block((DATA_START + offset(block)) / BLOCK));
            kept == old
                || dirty(&copy.block(map))
                || dirty(&self.targets[other].disk.block(map))
                || kept.is_ok_and(|v| v <= self.oracle.blocks[block].acked && v != 0)
        })
    }

    // --- disks that lie

    /// Nothing but a comparison of the legs tells; what it must tell is what differs at the end.
    pub fn lie(&mut self, leg: usize, how: How) {
        self.liar = Some(Leg::BOTH[leg]);
        let disk = &mut self.targets[leg].disk;
        match how {
            How::Lost => disk.faults.lie = Some(Lie::Lost),
            How::Misdirected => {
                let to = DATA_START + offset(BLOCKS / 3);
                disk.faults.lie = Some(Lie::Misdirected(to));
            }
            How::Rot => {
                let blocks = (0..BLOCKS).map(|b| (DATA_START + offset(b)) / BLOCK);
                let written = blocks.clone().find(|b| disk.block(*b)[..8] != [0; 8]);
                disk.rot(written.unwrap_or(DATA_START / BLOCK));
            }
        }
    }

    /// The comparison that a person orders after a disk lied.
    pub fn verify_all(&mut self) {
        self.order_writer(Input::Verify(VerifyOrder::Begin { from: 0 }));
    }

    /// `None`: it still runs. What it told is what differs, no more and no less.
    pub fn check_verified(&mut self) -> Option<()> {
        let shell = self.agents[self.wanted].shell.as_ref()?;
        let found = shell.engine.status(self.now).verify?;
        if found.phase != VerifyPhase::Done {
            return None;
        }
        let told = |block: usize| {
            let at = offset(block);
            found.differing.ranges.iter().any(|r| r.contains(&at))
        };
        for block in 0..blocks_of(self.promised_size) {
            let at = (DATA_START + offset(block)) / BLOCK;
            let differ = self.targets[0].disk.block(at) != self.targets[1].disk.block(at);
            if differ {
                self.coverage.seen("a block that differs was told");
            }
            if differ != told(block) {
                self.fail(format!(
                    "block {block} differs: {differ}, and verify told the contrary"
                ));
            }
        }
        Some(())
    }

    // --- orders to the writer

    pub fn order_writer(&mut self, input: Input) {
        let i = self.wanted;
        if self.agents[i].shell.is_some() && self.agents[i].attached {
            let life = self.agents[i].life;
            self.after(
                Duration::ZERO,
                Event::Answer {
                    agent: i,
                    life,
                    input: Box::new(input),
                },
            );
        }
    }

    /// Nothing waits for a person any more.
    pub fn end_by_hand(&mut self) {
        self.witness.bring_forward();
        self.copies = [None, None];
        if self.witness.gone {
            self.after(Duration::ZERO, Event::Human(Human::Reseed));
        }
        self.let_legs_back();
    }

    /// A person says that every leg may come back. Orders that were under way may still end after the last fault.
    pub fn let_legs_back(&mut self) {
        for leg in self.witness.truth().unconfirmed.iter() {
            self.after(Duration::ZERO, Event::Human(Human::Confirm(leg)));
        }
        if !self.witness.truth().no_rejoin.is_empty() {
            self.after(Duration::ZERO, Event::Human(Human::Rejoin));
        }
    }

    /// Both superblocks say how large the volume is, and that nothing is left to do.
    pub fn check_size(&mut self) {
        for leg in Leg::BOTH {
            let Some(sb) = self.superblock(leg.index()) else {
                return self.fail(format!("leg {leg} has no superblock at the end"));
            };
            let size = sb.geometry.size();
            if size < self.promised_size || sb.size_new != 0 {
                self.fail(format!(
                    "leg {leg} has {size} bytes and is to have {}, the device has {}",
                    sb.size_new, self.promised_size
                ));
            }
        }
    }
}

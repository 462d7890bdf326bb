//! An engine that serves what the test made up, its outputs as short lines, and the answers that the test gives.
//!
//! A command stays open until the test, or [`Bench::settle`], answers it; what is said to be written is kept, so that a
//! copy carries what was there. Not here: what the engine takes over (`setup`), how a line reads (`lines`).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use twinsite_register::{Key, Leg, Register};

use super::lines::{cas_line, error_name, op_line};
use super::setup::{Setup, key, leg_infos, register, served};
use crate::engine::Engine;
use crate::io::{
    CasResult, CmdId, CopyId, DATA_START, GuestOp, Input, LegDown, LegError, LegInfo, LegOp,
    LegReply, Output, RegisterError, RegisterId as AskId, Registrant, ReqId,
};
use crate::layout::{Base, HISTORY_OFFSET, MAP_OFFSET, SLOT_OFFSETS, Superblock};
use crate::status::{Event, StateName};

pub(super) const A: Leg = Leg::A;
pub(super) const B: Leg = Leg::B;

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) struct Bench {
    pub(super) engine: Engine,
    pub(super) now: Duration,
    pub(super) register: Register,
    pub(super) key: Key,
    pub(super) infos: [LegInfo; 2],
    open: Vec<(Leg, CmdId, LegOp, String)>,
    /// Of the data of each leg: what its blocks were written with.
    pub(super) contents: [BTreeMap<u64, u64>; 2],
    copies: BTreeMap<CopyId, Vec<u64>>,
    lines: VecDeque<String>,
    reads: Vec<AskId>,
    cas: Vec<(AskId, Register, Register)>,
    pub(super) events: Vec<Event>,
    next_req: u64,
    bases: Vec<Base>,
    /// Size and new size of every superblock that was written.
    pub(super) sizes: Vec<(u64, u64)>,
    /// Answer beats at once and do not print them.
    pub(super) quiet_beats: bool,
    /// Answer polls of the register at once and do not print them.
    pub(super) polls: bool,
    /// What the record says of an owed flush failure.
    pub(super) owed: bool,
    /// Records are not answered.
    pub(super) hold_records: bool,
}

impl Bench {
    /// Before any output was looked at.
    pub(super) fn raw(setup: Setup) -> Self {
        let (key, infos) = (key(), leg_infos(&setup));
        let register = register(key, setup.members);
        let mut bench = Self {
            engine: Engine::serving_from(ms(0), served(&setup)),
            now: ms(0),
            register,
            key,
            infos,
            open: Vec::new(),
            contents: [BTreeMap::new(), BTreeMap::new()],
            copies: BTreeMap::new(),
            lines: VecDeque::new(),
            reads: Vec::new(),
            cas: Vec::new(),
            events: Vec::new(),
            next_req: 1,
            bases: Vec::new(),
            sizes: Vec::new(),
            quiet_beats: false,
            polls: true,
            owed: setup.owed,
            hold_records: false,
        };
        bench.collect();
        bench
    }

    /// Serving: the first beat is durable, the device is shown, everything idle.
    pub(super) fn served(setup: Setup) -> Self {
        let mut bench = Self::raw(setup);
        bench.quiet_beats = true;
        bench.settle();
        bench
    }

    /// Another decision has come to this.
    pub(super) fn decided(&mut self, setup: &Setup) {
        self.register = register(self.key, setup.members);
        self.reads.clear();
        self.cas.clear();
        self.engine.decided(self.now, served(setup));
        self.collect();
    }

    /// Answer everything with success until nothing is open; returns what was seen.
    pub(super) fn settle(&mut self) -> Vec<String> {
        for _ in 0..10_000 {
            if let Some((leg, cmd, op, _)) = self.open.first().cloned() {
                self.open.remove(0);
                let reply = self.good(leg, &op);
                self.input(Input::LegDone {
                    leg,
                    cmd,
                    result: Ok(reply),
                });
            } else if !self.cas.is_empty() {
                self.win();
            } else if !self.reads.is_empty() {
                self.read();
            } else {
                return self.seen();
            }
        }
        panic!("does not settle: {:?}", self.lines);
    }

    /// The command is executed: data is what the last write of a block stands for, its request id.
    fn good(&mut self, leg: Leg, op: &LegOp) -> LegReply {
        match op {
            LegOp::WriteData {
                req, offset, len, ..
            } => {
                for block in Self::blocks(*offset - DATA_START, *len) {
                    self.contents[leg.index()].insert(block, req.0);
                }
                LegReply::Done
            }
            LegOp::PrReadFullStatus => self.own(),
            LegOp::Identify => LegReply::Identity(self.infos[leg.index()]),
            LegOp::ReadMeta { len, .. } => LegReply::Meta(vec![0; *len as usize]),
            LegOp::PrReadKeys => LegReply::Keys(vec![self.key]),
            LegOp::PrReadReservation => LegReply::Reservation(Some((self.key, 6))),
            LegOp::CopyRead { copy, offset, len } => {
                let versions = self.versions(leg, *offset - DATA_START, *len);
                self.copies.insert(*copy, versions);
                LegReply::Done
            }
            LegOp::CopyWrite { copy, offset, len } => {
                let blocks = Self::blocks(*offset - DATA_START, *len);
                let versions = self.copies[copy].iter().copied();
                self.contents[leg.index()].extend(blocks.zip(versions));
                LegReply::Done
            }
            LegOp::Digest { offset, len, block } => {
                LegReply::Digests(self.digests(leg, *offset - DATA_START, *len, *block))
            }
            _ => LegReply::Done,
        }
    }

    fn versions(&self, leg: Leg, offset: u64, len: u32) -> Vec<u64> {
        Self::blocks(offset, len)
            .map(|block| self.contents[leg.index()].get(&block).copied())
            .map(Option::unwrap_or_default)
            .collect()
    }

    fn blocks(offset: u64, len: u32) -> std::ops::Range<u64> {
        offset / 4096..(offset + u64::from(len)) / 4096
    }

    fn digests(&self, leg: Leg, offset: u64, len: u32, block: u32) -> Vec<u64> {
        let versions = self.versions(leg, offset, len).into_iter();
        let versions: Vec<u8> = versions.flat_map(u64::to_le_bytes).collect();
        crate::digest::digests(block / 4096 * 8, [&versions[..]])
    }

    /// READ FULL STATUS as it should be.
    pub(super) fn own(&self) -> LegReply {
        LegReply::FullStatus(vec![
            Registrant {
                key: self.key,
                holder: true,
                kind: 6,
            },
            Registrant {
                key: self.key.session(1),
                holder: false,
                kind: 6,
            },
        ])
    }

    pub(super) fn input(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(output) = self.engine.poll() {
            self.output(output);
        }
    }

    fn output(&mut self, output: Output) {
        let line = match output {
            Output::Leg { leg, cmd, op, .. } => {
                if let LegOp::WriteMeta { offset, block } = &op
                    && SLOT_OFFSETS.contains(offset)
                {
                    let sb = Superblock::parse(&**block).unwrap();
                    self.bases.extend(sb.base);
                    self.sizes.push((sb.geometry.size(), sb.size_new));
                }
                let line = format!("{leg} {}", op_line(&op));
                if matches!(&op, LegOp::WriteMeta { offset, .. } if (HISTORY_OFFSET..MAP_OFFSET).contains(offset))
                    || (self.quiet_beats && (line.contains(" beat ") || line.contains(" probe")))
                {
                    // Nobody's business here.
                    let reply = self.good(leg, &op);
                    self.engine.handle(
                        self.now,
                        Input::LegDone {
                            leg,
                            cmd,
                            result: Ok(reply),
                        },
                    );
                    return;
                }
                self.open.push((leg, cmd, op, line.clone()));
                line
            }
            Output::SaveRecord(record) => {
                if !self.hold_records {
                    self.owed = record.flush_owed;
                    self.engine.handle(self.now, Input::RecordSaved);
                }
                return;
            }
            Output::ReadRegister { id } => {
                let serving = matches!(self.state(), StateName::Synced | StateName::Solo);
                if self.quiet_beats && serving && self.polls {
                    let result = Ok(Some(Box::new(self.register.clone())));
                    self.engine
                        .handle(self.now, Input::RegisterRead { id, result });
                    return;
                }
                self.reads.push(id);
                "read R".to_owned()
            }
            Output::CasRegister { id, expected, new } => {
                let line = cas_line(&expected, &new);
                self.cas.push((id, *expected, *new));
                line
            }
            Output::GuestDone { id, result } => match result {
                Ok(()) => format!("done {}", id.0),
                Err(error) => format!("done {} {}", id.0, error_name(error)),
            },
            Output::ShowDevice(info) => format!("show {}", info.size),
            Output::RemoveDevice { why } => format!("remove {why:?}"),
            Output::Connect { leg } => format!("{leg} connect"),
            Output::Disconnect { leg } => {
                // The shell answers what is open and says that the sessions are gone.
                self.lines.push_back(format!("{leg} disconnect"));
                self.gone(leg, LegDown::Closed);
                return;
            }
            Output::Resize { size } => format!("resize {size}"),
            Output::OrderDone { result } => format!("order {result:?}"),
            Output::FormatRecorded { result } => format!("format {result:?}"),
            Output::Detached => "detached".to_owned(),
            Output::CopyFree { .. } | Output::WriteBeat(_) => return,
            Output::Event(event) => {
                self.events.push(event);
                return;
            }
            other => format!("{other:?}"),
        };
        self.lines.push_back(line);
    }

    /// Lines since the last look.
    pub(super) fn seen(&mut self) -> Vec<String> {
        self.lines.drain(..).collect()
    }

    /// Compare the lines since the last look.
    #[track_caller]
    pub(super) fn check(&mut self, expected: &[&str]) {
        let seen = self.seen();
        assert_eq!(seen, expected);
    }

    fn take(&mut self, name: &str) -> (Leg, CmdId, LegOp) {
        let at = self
            .open
            .iter()
            .position(|(.., line)| line.starts_with(name));
        let at = at.unwrap_or_else(|| panic!("no open command {name}: {:?}", self.open_lines()));
        let (leg, cmd, op, _) = self.open.remove(at);
        (leg, cmd, op)
    }

    pub(super) fn open_lines(&self) -> Vec<&str> {
        self.open.iter().map(|(.., line)| line.as_str()).collect()
    }

    /// Answer the open command whose line begins so.
    #[track_caller]
    pub(super) fn ok(&mut self, name: &str) {
        let (leg, cmd, op) = self.take(name);
        let reply = self.good(leg, &op);
        self.input(Input::LegDone {
            leg,
            cmd,
            result: Ok(reply),
        });
    }

    pub(super) fn reply(&mut self, name: &str, reply: LegReply) {
        let (leg, cmd, _) = self.take(name);
        self.input(Input::LegDone {
            leg,
            cmd,
            result: Ok(reply),
        });
    }

    pub(super) fn fail(&mut self, name: &str, error: LegError) {
        let (leg, cmd, _) = self.take(name);
        self.input(Input::LegDone {
            leg,
            cmd,
            result: Err(error),
        });
    }

    /// The sessions of a leg die.
    pub(super) fn down(&mut self, leg: Leg) {
        self.gone(leg, LegDown::SessionLost);
    }

    fn gone(&mut self, leg: Leg, why: LegDown) {
        let open = std::mem::take(&mut self.open);
        let (dead, live) = open.into_iter().partition(|entry| entry.0 == leg);
        self.open = live;
        let dead: Vec<_> = dead;
        for (leg, cmd, ..) in dead {
            self.engine.handle(
                self.now,
                Input::LegDone {
                    leg,
                    cmd,
                    result: Err(LegError::SessionGone),
                },
            );
        }
        self.engine.handle(self.now, Input::LegDown { leg, why });
        self.collect();
    }

    /// Logged in again, and verified.
    pub(super) fn back(&mut self, leg: Leg) {
        self.up(leg);
        self.ok(&format!("{leg} full status"));
    }

    pub(super) fn up(&mut self, leg: Leg) {
        let info = self.infos[leg.index()];
        self.input(Input::LegUp { leg, info });
    }

    /// Let time pass, with the ticks that are asked for.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            match self.engine.deadline().filter(|&at| at <= end) {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.input(Input::Tick);
                }
                None => break,
            }
        }
        self.now = end;
        self.input(Input::Tick);
    }

    pub(super) fn guest(&mut self, op: GuestOp) -> u64 {
        let id = self.next_req;
        self.next_req += 1;
        self.input(Input::Guest { id: ReqId(id), op });
        id
    }

    pub(super) fn write(&mut self, offset: u64) -> u64 {
        self.guest(GuestOp::Write {
            offset,
            len: 4096,
            fua: false,
        })
    }

    pub(super) fn read_at(&mut self, offset: u64) -> u64 {
        self.guest(GuestOp::Read { offset, len: 4096 })
    }

    pub(super) fn flush(&mut self) -> u64 {
        self.guest(GuestOp::Flush)
    }

    /// Write and have it answered.
    pub(super) fn written(&mut self, offset: u64) {
        self.write(offset);
        self.settle();
    }

    /// Answer the read of the register with the value it has.
    #[track_caller]
    pub(super) fn read(&mut self) {
        // The engine counts on the last one only.
        let id = self.reads.pop().expect("a read of the register");
        self.reads.clear();
        let result = Ok(Some(Box::new(self.register.clone())));
        self.input(Input::RegisterRead { id, result });
    }

    pub(super) fn unreadable(&mut self) {
        let id = self.reads.pop().expect("a read of the register");
        self.reads.clear();
        self.input(Input::RegisterRead {
            id,
            result: Err(RegisterError::Unreachable),
        });
    }

    /// The request is executed, and its answer arrives.
    #[track_caller]
    pub(super) fn win(&mut self) {
        let (id, expected, new) = self.cas.remove(0);
        assert_eq!(expected, self.register, "expected value");
        self.register = new;
        self.input(Input::RegisterCas {
            id,
            result: CasResult::Won,
        });
    }

    /// The request is executed and its answer is lost.
    pub(super) fn win_silently(&mut self) {
        let (_, expected, new) = self.cas.remove(0);
        if expected == self.register {
            self.register = new;
        }
    }

    /// No answer, not executed so far.
    pub(super) fn no_answer(&mut self) {
        let (id, ..) = self.cas.remove(0);
        self.input(Input::RegisterCas {
            id,
            result: CasResult::Unknown,
        });
    }

    /// Refused.
    pub(super) fn conflict(&mut self) {
        let (id, ..) = self.cas.remove(0);
        self.input(Input::RegisterCas {
            id,
            result: CasResult::Conflict,
        });
    }

    pub(super) fn proposed(&self) -> &Register {
        &self.cas[0].2
    }

    /// The base in the last superblock that was written to A.
    pub(super) fn base(&self) -> Base {
        self.bases
            .last()
            .copied()
            .expect("a superblock with a base")
    }

    pub(super) fn state(&self) -> StateName {
        self.engine.status(self.now).state
    }

    /// Somebody else changes the register.
    pub(super) fn edit(&mut self, edit: impl FnOnce(&mut Register)) {
        edit(&mut self.register);
        self.register.txid.0[15] = self.register.txid.0[15].wrapping_add(1);
        self.register.txid.0[0] = 0xee;
    }

    /// B is lost for good: the engine is Solo(A).
    pub(super) fn shrink_to_a(&mut self) {
        self.down(B);
        self.wait(ms(3100));
        self.settle();
        assert_eq!(self.state(), StateName::Solo);
    }
}

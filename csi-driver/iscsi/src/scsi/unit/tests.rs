//! The unit driven with a store in memory, whose operations can be held back.

mod blocks;
mod bulk;
mod drains;
mod fences;
mod hostile;
mod identity;
mod keeping;
mod ordering;
mod random;
mod reservations;
mod states;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{
    BlockSize, Extent, LogicalUnit, OpId, PrState, StoreError, StoreOp, StoreReply, UnitConfig,
    UnitOutput,
};
use crate::scsi::{
    Attribute, Cdb, Code, Expected, Lun, NexusId, PrOut, ScsiOutcome, Sense, SenseKey, Status,
    TaskFunction, TaskKey, TaskResponse, TransportId,
};

pub(super) const BLOCK: usize = 512;
pub(super) const BLOCKS: usize = 4096;
pub(super) const A: NexusId = NexusId(1);
pub(super) const B: NexusId = NexusId(2);
pub(super) const C: NexusId = NexusId(3);

pub(super) fn config() -> UnitConfig {
    UnitConfig {
        size: (BLOCK * BLOCKS) as u64,
        block_size: BlockSize::B512,
        naa: [0x60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        serial: "S123".to_owned(),
        vendor: "TWINSITE".to_owned(),
        product: "leg".to_owned(),
        revision: "1".to_owned(),
        target_name: "iqn.2026-01.test:t".to_owned(),
        portal_group: 1,
        relative_port: 1,
        luns: vec![Lun::from_number(0), Lun::from_number(1)],
        read_only: false,
        removable: false,
        write_cache: true,
        thin: true,
        discard_zeroes: true,
        atomic_writes: true,
        boot_id: 0xB007,
        started: Duration::from_secs(100),
        max_transfer: 1 << 20,
        task_limit: 64,
        pr: PrState::default(),
    }
}

pub(super) fn port(nexus: NexusId) -> TransportId {
    TransportId {
        name: format!("iqn.2026-01.test:i{}", nexus.0),
        isid: Some([0x40, 0, 0, 0, 0, nexus.0 as u8]),
    }
}

pub(super) struct Lab {
    pub(super) unit: LogicalUnit,
    pub(super) now: Duration,
    pub(super) medium: Vec<u8>,
    mapped: Vec<bool>,
    /// Operations are kept until `release`.
    pub(super) hold: bool,
    pub(super) held: VecDeque<(OpId, StoreOp)>,
    /// Everything the unit asked for.
    pub(super) asked: Vec<StoreOp>,
    pub(super) fail: Option<StoreError>,
    pub(super) done: BTreeMap<TaskKey, ScsiOutcome>,
    pub(super) aborted: Vec<TaskKey>,
    pub(super) gathering: Vec<NexusId>,
    pub(super) functions: Vec<(u64, TaskResponse)>,
    pub(super) saved: Bytes,
    tags: u64,
}

impl Lab {
    /// A unit with two nexuses whose first unit attention is gone.
    pub(super) fn new() -> Self {
        Self::with(config())
    }

    pub(super) fn with(config: UnitConfig) -> Self {
        let size = config.size as usize;
        let mut lab = Self {
            unit: LogicalUnit::new(config),
            now: Duration::from_secs(1000),
            medium: vec![0; size],
            mapped: vec![false; size / BLOCK],
            hold: false,
            held: VecDeque::new(),
            asked: Vec::new(),
            fail: None,
            done: BTreeMap::new(),
            aborted: Vec::new(),
            gathering: Vec::new(),
            functions: Vec::new(),
            saved: Bytes::new(),
            tags: 0,
        };
        lab.login(A);
        lab.login(B);
        lab
    }

    /// Logs in and takes the unit attentions.
    pub(super) fn login(&mut self, nexus: NexusId) {
        self.unit.nexus_added(self.now, nexus, port(nexus));
        while self.run(nexus, &[0; 6]).status == Status::CheckCondition {}
    }

    pub(super) fn submit(
        &mut self,
        nexus: NexusId,
        cdb: &Cdb,
        data: Vec<Bytes>,
        expected: Expected,
    ) -> TaskKey {
        self.submit_as(nexus, Attribute::Simple, cdb, data, expected)
    }

    pub(super) fn submit_as(
        &mut self,
        nexus: NexusId,
        attribute: Attribute,
        cdb: &Cdb,
        data: Vec<Bytes>,
        expected: Expected,
    ) -> TaskKey {
        self.tags += 1;
        let task = TaskKey {
            nexus,
            tag: self.tags,
        };
        self.unit
            .handle_command(self.now, task, attribute, *cdb, data, expected);
        self.pump();
        task
    }

    pub(super) fn outcome(&mut self, task: TaskKey) -> ScsiOutcome {
        self.done
            .remove(&task)
            .unwrap_or_else(|| panic!("{task:?} is not answered"))
    }

    /// A command without data out, expecting plenty.
    pub(super) fn run(&mut self, nexus: NexusId, cdb: &[u8]) -> ScsiOutcome {
        let task = self.submit(nexus, &Cdb::new(cdb), Vec::new(), Expected::In(1 << 20));
        self.outcome(task)
    }

    pub(super) fn read_in(&mut self, nexus: NexusId, cdb: &Cdb) -> Vec<u8> {
        let task = self.submit(nexus, cdb, Vec::new(), Expected::In(1 << 20));
        let outcome = self.outcome(task);
        assert_eq!(outcome.status, Status::Good, "{cdb:x?} {:?}", outcome.sense);
        flat(&outcome)
    }

    /// A command with data out, all of it expected.
    pub(super) fn send(&mut self, nexus: NexusId, cdb: &[u8], data: &[u8]) -> ScsiOutcome {
        let expected = Expected::Out(data.len() as u32);
        let task = self.submit(
            nexus,
            &Cdb::new(cdb),
            vec![Bytes::copy_from_slice(data)],
            expected,
        );
        self.outcome(task)
    }

    pub(super) fn reserve_out(&mut self, nexus: NexusId, action: PrOut) -> Status {
        let task = self.submit_reserve_out(nexus, action);
        self.outcome(task).status
    }

    pub(super) fn submit_reserve_out(&mut self, nexus: NexusId, action: PrOut) -> TaskKey {
        let (cdb, list) = action.emit();
        let expected = Expected::Out(list.len() as u32);
        self.submit(nexus, &cdb, vec![list], expected)
    }

    pub(super) fn manage(&mut self, nexus: NexusId, function: TaskFunction) -> u64 {
        self.tags += 1;
        self.unit
            .handle_task_management(self.now, nexus, self.tags, function);
        self.pump();
        self.tags
    }

    pub(super) fn pump(&mut self) {
        while let Some(output) = self.unit.poll() {
            match output {
                UnitOutput::Store { op, request } => {
                    self.asked.push(request.clone());
                    if self.hold {
                        self.held.push_back((op, request));
                    } else {
                        self.perform(op, request);
                    }
                }
                UnitOutput::Complete { task, outcome } => {
                    assert!(
                        !self.aborted.contains(&task),
                        "{task:?} answered after its abort"
                    );
                    assert!(
                        self.done.insert(task, outcome).is_none(),
                        "{task:?} answered twice"
                    );
                }
                UnitOutput::AbortData { task } => {
                    assert!(!self.done.contains_key(&task) && !self.aborted.contains(&task));
                    self.aborted.push(task);
                }
                UnitOutput::AbortGathering { nexus } => self.gathering.push(nexus),
                UnitOutput::TaskManagementDone { tag, response, .. } => {
                    self.functions.push((tag, response))
                }
            }
        }
    }

    /// Lets the oldest held operation through.
    pub(super) fn release(&mut self) {
        let (op, request) = self.held.pop_front().expect("an operation is held");
        self.perform(op, request);
        self.pump();
    }

    pub(super) fn release_all(&mut self) {
        while !self.held.is_empty() {
            self.release();
        }
    }

    fn perform(&mut self, op: OpId, request: StoreOp) {
        let result = match self.fail {
            Some(error) => Err(error),
            None => Ok(self.store(request)),
        };
        self.unit.handle_store(self.now, op, result);
    }

    fn store(&mut self, request: StoreOp) -> StoreReply {
        match request {
            StoreOp::Read { offset, len } => {
                let data = &self.medium[offset as usize..(offset + len) as usize];
                let (first, second) = data.split_at(data.len() / 3);
                StoreReply::Data(vec![
                    Bytes::copy_from_slice(first),
                    Bytes::copy_from_slice(second),
                ])
            }
            StoreOp::Write { offset, data, .. } | StoreOp::WriteAtomic { offset, data } => {
                let mut at = offset as usize;
                for piece in data {
                    self.medium[at..at + piece.len()].copy_from_slice(&piece);
                    at += piece.len();
                }
                assert_eq!(at % BLOCK, 0, "writes are whole blocks");
                self.mapped[offset as usize / BLOCK..at / BLOCK].fill(true);
                StoreReply::Done
            }
            StoreOp::Discard { offset, len } => {
                self.medium[offset as usize..(offset + len) as usize].fill(0);
                self.mapped[offset as usize / BLOCK..(offset + len) as usize / BLOCK].fill(false);
                StoreReply::Done
            }
            StoreOp::WriteZeros { offset, len, .. } => {
                self.medium[offset as usize..(offset + len) as usize].fill(0);
                self.mapped[offset as usize / BLOCK..(offset + len) as usize / BLOCK].fill(true);
                StoreReply::Done
            }
            StoreOp::Map { offset, len } => {
                let first = offset as usize / BLOCK;
                let extent = |(place, mapped): (usize, &bool)| Extent {
                    offset: ((first + place) * BLOCK) as u64,
                    len: BLOCK as u64,
                    mapped: *mapped,
                };
                let blocks = &self.mapped[first..first + len as usize / BLOCK];
                StoreReply::Extents(blocks.iter().enumerate().map(extent).collect())
            }
            StoreOp::SavePr(bytes) => {
                self.saved = bytes;
                StoreReply::Done
            }
            StoreOp::Flush => StoreReply::Done,
        }
    }
}

pub(super) fn flat(outcome: &ScsiOutcome) -> Vec<u8> {
    outcome
        .data_in
        .iter()
        .fold(BytesMut::new(), |mut all, piece| {
            all.extend_from_slice(piece);
            all
        })
        .to_vec()
}

pub(super) fn code(outcome: &ScsiOutcome) -> Code {
    assert_eq!(outcome.status, Status::CheckCondition);
    outcome.sense.expect("check condition has sense").code
}

pub(super) fn key_and_code(outcome: &ScsiOutcome) -> (SenseKey, Code) {
    let Sense { key, code, .. } = outcome.sense.expect("check condition has sense");
    (key, code)
}

pub(super) fn blocks_of(byte: u8, count: usize) -> Vec<u8> {
    vec![byte; BLOCK * count]
}

/// WRITE(10).
pub(super) fn write10(lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = blocks.to_be_bytes();
    [0x2A, 0, a, b, c, d, 0, high, low, 0]
}

/// READ(10).
pub(super) fn read10(lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = write10(lba, blocks);
    cdb[0] = 0x28;
    cdb
}

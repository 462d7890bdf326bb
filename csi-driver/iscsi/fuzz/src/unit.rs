//! A logical unit under arbitrary commands, parameter lists, task management, and answers of its store.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::scsi::{
    Attribute, BlockSize, Cdb, Expected, Extent, LogicalUnit, Lun, NexusId, OpId, PrState, Sense,
    StoreError, StoreOp, StoreReply, TaskFunction, TaskKey, TransportId, UnitConfig, UnitOutput,
};

use crate::choices::Choices;

const SIZE: u64 = 1 << 20;
/// Steps after the input is used up; every command ends long before.
const MAX_DRAIN: usize = 100_000;
static ZEROS: [u8; SIZE as usize] = [0; SIZE as usize];
const NEXUSES: u8 = 3;

pub fn logical_unit(data: &[u8]) {
    let mut choices = Choices(data);
    let mut bench = Bench::new(choices.byte());
    while !choices.is_empty() {
        bench.act(&mut choices);
        bench.collect();
    }
    for _ in 0..MAX_DRAIN {
        let Some((op, request)) = bench.held.pop_front() else {
            break;
        };
        bench.unit.handle_store(bench.now, op, Ok(honest(&request)));
        bench.collect();
    }
    assert!(bench.held.is_empty(), "the unit never comes to an end");
    assert_eq!(bench.unit.tasks(), 0, "all tasks end");
    bench
        .sent
        .retain(|task| bench.present.contains(&task.nexus));
    assert!(bench.sent.is_empty(), "without an end: {:?}", bench.sent);
}

struct Bench {
    unit: LogicalUnit,
    now: Duration,
    present: BTreeSet<NexusId>,
    held: VecDeque<(OpId, StoreOp)>,
    /// Commands without an end.
    sent: BTreeSet<TaskKey>,
    tags: u64,
    nexuses: u64,
    block: u64,
}

impl Bench {
    fn new(flags: u8) -> Self {
        let bit = |number: u8| flags >> number & 1 != 0;
        let block_size = if bit(0) {
            BlockSize::B4096
        } else {
            BlockSize::B512
        };
        let unit = LogicalUnit::new(UnitConfig {
            size: SIZE,
            block_size,
            naa: [0x60; 16],
            serial: "S123".to_owned(),
            vendor: "TWINSITE".to_owned(),
            product: "leg".to_owned(),
            revision: "1".to_owned(),
            target_name: "iqn.2026-01.example:disk".to_owned(),
            portal_group: 1,
            relative_port: 1,
            luns: vec![Lun::from_number(0), Lun::from_number(1)],
            read_only: bit(1),
            removable: bit(2),
            write_cache: bit(3),
            thin: bit(4),
            discard_zeroes: bit(5),
            atomic_writes: true,
            boot_id: 0xB007,
            started: Duration::from_secs(1),
            max_transfer: 1 << 16,
            task_limit: 16,
            pr: PrState::default(),
        });
        let mut bench = Self {
            unit,
            now: Duration::from_secs(100),
            present: BTreeSet::new(),
            held: VecDeque::new(),
            sent: BTreeSet::new(),
            tags: 0,
            nexuses: 0,
            block: u64::from(block_size.bytes()),
        };
        for port in 0..2 {
            let nexus = bench.login(port);
            // The first unit attention is for TEST UNIT READY; the fuzzer's own commands come through.
            bench.command(
                nexus,
                Attribute::Simple,
                [0; 16],
                Expected::None,
                Vec::new(),
            );
        }
        bench.collect();
        bench
    }

    fn login(&mut self, port: u8) -> NexusId {
        self.nexuses += 1;
        let nexus = NexusId(self.nexuses);
        let transport = TransportId {
            name: format!("iqn.2026-01.example:i{port}"),
            isid: Some([0x40, 0, 0, 0, 0, port]),
        };
        self.unit.nexus_added(self.now, nexus, transport);
        self.present.insert(nexus);
        nexus
    }

    fn nexus(&self, choice: u8) -> NexusId {
        let at = usize::from(choice) % self.present.len().max(1);
        self.present.iter().nth(at).copied().unwrap_or(NexusId(0))
    }

    fn act(&mut self, choices: &mut Choices<'_>) {
        let [what, who] = choices.array();
        let nexus = self.nexus(who);
        match what % 32 {
            0 => self.manage(nexus, choices.byte()),
            1 if self.present.len() > 1 => {
                self.present.remove(&nexus);
                self.unit.nexus_removed(self.now, nexus);
            }
            2 if self.present.len() < usize::from(NEXUSES) => {
                self.login(who % NEXUSES);
            }
            3 => self.now += Duration::from_millis(u64::from(choices.u16())),
            4..=12 => self.answer(what >> 5, who),
            _ => {
                let attribute = match what >> 5 {
                    6 => Attribute::Ordered,
                    7 => Attribute::HeadOfQueue,
                    _ => Attribute::Simple,
                };
                self.any_command(nexus, attribute, choices);
            }
        }
    }

    fn any_command(&mut self, nexus: NexusId, attribute: Attribute, choices: &mut Choices<'_>) {
        let field = choices.array();
        let [shape, size] = choices.array();
        let length = match shape >> 4 {
            0..8 => usize::from(size),
            8..12 => usize::from(size) * 512,
            _ => usize::from(size) % 8 * 4096,
        };
        let (expected, data) = match shape & 3 {
            0 => (Expected::None, Vec::new()),
            1 => (Expected::In(length as u32), Vec::new()),
            // A list from the input, then zeros.
            2 => {
                let mut list = choices.take(length.min(256)).to_vec();
                list.resize(length, 0);
                (Expected::Out(length as u32), vec![Bytes::from(list)])
            }
            // Less than was announced.
            _ => {
                let list = choices.take(length.min(32)).to_vec();
                (Expected::Out(length as u32), vec![Bytes::from(list)])
            }
        };
        self.command(nexus, attribute, field, expected, data);
    }

    fn command(
        &mut self,
        nexus: NexusId,
        attribute: Attribute,
        field: [u8; 16],
        expected: Expected,
        data: Vec<Bytes>,
    ) {
        self.tags += 1;
        let task = TaskKey {
            nexus,
            tag: self.tags,
        };
        self.sent.insert(task);
        let cdb = Cdb::from_field(field);
        self.unit
            .handle_command(self.now, task, attribute, cdb, data, expected);
    }

    fn manage(&mut self, nexus: NexusId, choice: u8) {
        let tag = self.tags.saturating_sub(u64::from(choice >> 4));
        let function = match choice % 9 {
            0 => TaskFunction::AbortTaskSet,
            1 => TaskFunction::ClearTaskSet,
            2 => TaskFunction::LunReset,
            3 => TaskFunction::ItNexusReset,
            4 => TaskFunction::QueryTaskSet,
            5 => TaskFunction::QueryTask { tag },
            6 => TaskFunction::TargetWarmReset,
            7 => TaskFunction::ClearAca,
            _ => TaskFunction::AbortTask { tag },
        };
        self.tags += 1;
        self.unit
            .handle_task_management(self.now, nexus, self.tags, function);
    }

    /// The store answers one of the operations under way, in any order.
    fn answer(&mut self, how: u8, which: u8) {
        if self.held.is_empty() {
            return;
        }
        let at = usize::from(which) % self.held.len();
        let Some((op, request)) = self.held.remove(at) else {
            return;
        };
        let result = match how {
            0 => Err(StoreError::Medium),
            1 => Err(StoreError::NoSpace),
            2 => Err(StoreError::Unsupported),
            3 => Err(StoreError::Gone),
            4 if matches!(request, StoreOp::Map { .. }) => Ok(sparse(&request, which)),
            _ => Ok(honest(&request)),
        };
        self.unit.handle_store(self.now, op, result);
    }

    fn collect(&mut self) {
        while let Some(output) = self.unit.poll() {
            match output {
                UnitOutput::Store { op, request } => {
                    self.check(&request);
                    self.held.push_back((op, request));
                }
                UnitOutput::Complete { task, outcome } => {
                    assert!(self.sent.remove(&task), "{task:?} ends twice");
                    if let Some(sense) = outcome.sense {
                        assert!(Sense::parse(&sense.emit()).is_some());
                    }
                }
                UnitOutput::AbortData { task } => {
                    assert!(self.sent.remove(&task), "{task:?} ends twice");
                }
                UnitOutput::AbortGathering { .. } | UnitOutput::TaskManagementDone { .. } => {}
            }
        }
    }

    fn check(&self, request: &StoreOp) {
        let (offset, len, whole) = match request {
            StoreOp::Read { offset, len }
            | StoreOp::Discard { offset, len }
            | StoreOp::WriteZeros { offset, len, .. } => (*offset, *len, true),
            StoreOp::Map { offset, len } => (*offset, *len, false),
            StoreOp::Write { offset, data, .. } | StoreOp::WriteAtomic { offset, data } => {
                let len: usize = data.iter().map(Bytes::len).sum();
                (*offset, len as u64, true)
            }
            StoreOp::SavePr(state) => {
                assert!(
                    PrState::restore(state).is_ok(),
                    "saved state is not restored"
                );
                return;
            }
            StoreOp::Flush => return,
        };
        let fits = len > 0 && offset.checked_add(len).is_some_and(|end| end <= SIZE);
        let whole = !whole || (offset % self.block == 0 && len % self.block == 0);
        assert!(fits && whole, "{request:?}");
    }
}

fn honest(request: &StoreOp) -> StoreReply {
    match request {
        StoreOp::Read { len, .. } => {
            StoreReply::Data(vec![Bytes::from_static(&ZEROS[..*len as usize])])
        }
        StoreOp::Map { offset, len } => StoreReply::Extents(vec![Extent {
            offset: *offset,
            len: *len,
            mapped: true,
        }]),
        StoreOp::Write { .. }
        | StoreOp::WriteAtomic { .. }
        | StoreOp::Flush
        | StoreOp::Discard { .. }
        | StoreOp::WriteZeros { .. }
        | StoreOp::SavePr(_) => StoreReply::Done,
    }
}

/// Extents of uneven lengths that end early.
fn sparse(request: &StoreOp, seed: u8) -> StoreReply {
    let StoreOp::Map { offset, len } = request else {
        return honest(request);
    };
    let step = 1 + u64::from(seed) * 300;
    let mut extents = Vec::new();
    let mut at = *offset;
    while at < offset + len && extents.len() < 1 + usize::from(seed & 7) {
        let len = step.min(offset + len - at);
        extents.push(Extent {
            offset: at,
            len,
            mapped: extents.len() % 2 == 0,
        });
        at += len;
    }
    StoreReply::Extents(extents)
}

//! Commands made of random bytes: no panic, one end each, nothing outside the medium.

use bytes::Bytes;

use super::random::Random;
use super::{A, B, Lab, config, port};
use crate::scsi::unit::StoreOp;
use crate::scsi::{Attribute, Cdb, Expected, NexusId, TaskFunction, TaskKey};

const OPCODES: [u8; 45] = [
    0x00, 0x03, 0x08, 0x0A, 0x12, 0x15, 0x16, 0x17, 0x1A, 0x1B, 0x1D, 0x1E, 0x25, 0x28, 0x2A, 0x2E,
    0x2F, 0x34, 0x35, 0x37, 0x41, 0x42, 0x48, 0x4D, 0x55, 0x5A, 0x5E, 0x5F, 0x83, 0x84, 0x88, 0x89,
    0x8A, 0x8B, 0x8E, 0x8F, 0x90, 0x91, 0x93, 0x9E, 0xA0, 0xA3, 0xA8, 0xAA, 0xB7,
];

fn command(random: &mut Random) -> (Cdb, Vec<Bytes>, Expected) {
    let mut field = [0; 16];
    field.iter_mut().for_each(|byte| *byte = random.byte());
    if random.below(20) != 0 {
        field[0] = OPCODES[random.below(OPCODES.len() as u64) as usize];
        field[1] &= 0x1F;
    }
    let cdb = Cdb::from_field(field);
    let size = match random.below(4) {
        0 => random.below(40),
        1 => 512 * random.below(8),
        2 => 24,
        _ => random.below(2000),
    };
    let data: Vec<u8> = (0..size).map(|_| random.byte()).collect();
    let expected = match random.below(5) {
        0 => Expected::None,
        1 | 2 => Expected::In(size as u32),
        _ => Expected::Out(size as u32),
    };
    let data = match expected {
        Expected::Out(_) if random.below(10) != 0 => vec![Bytes::from(data)],
        _ => Vec::new(),
    };
    (cdb, data, expected)
}

fn inside(op: &StoreOp, size: u64) -> bool {
    let fits =
        |offset: u64, len: u64| len > 0 && offset.checked_add(len).is_some_and(|end| end <= size);
    match op {
        StoreOp::Read { offset, len }
        | StoreOp::Discard { offset, len }
        | StoreOp::WriteZeros { offset, len, .. }
        | StoreOp::Map { offset, len } => {
            fits(*offset, *len) && offset.is_multiple_of(512) && len.is_multiple_of(512)
        }
        StoreOp::Write { offset, data, .. } | StoreOp::WriteAtomic { offset, data } => {
            let len: usize = data.iter().map(Bytes::len).sum();
            fits(*offset, len as u64) && offset.is_multiple_of(512) && len.is_multiple_of(512)
        }
        StoreOp::Flush | StoreOp::SavePr(_) => true,
    }
}

fn storm(seed: u64, steps: u64) {
    let mut random = Random(seed);
    let mut config = config();
    config.removable = seed.is_multiple_of(2);
    config.size = 512 * 256;
    let size = config.size;
    let mut lab = Lab::with(config);
    lab.hold = true;
    let mut nexuses = vec![A, B];
    let mut next = 100;
    let mut sent: Vec<TaskKey> = Vec::new();
    for _ in 0..steps {
        lab.now += std::time::Duration::from_millis(random.below(50));
        let nexus = nexuses[random.below(nexuses.len() as u64) as usize];
        match random.below(100) {
            0 => {
                let function = match random.below(6) {
                    0 => TaskFunction::AbortTaskSet,
                    1 => TaskFunction::ClearTaskSet,
                    2 => TaskFunction::LunReset,
                    3 => TaskFunction::ItNexusReset,
                    4 => TaskFunction::QueryTaskSet,
                    _ => TaskFunction::AbortTask {
                        tag: sent.last().map_or(0, |task| task.tag),
                    },
                };
                lab.manage(nexus, function);
            }
            1 if nexuses.len() > 1 => {
                nexuses.retain(|other| *other != nexus);
                lab.unit.nexus_removed(lab.now, nexus);
                lab.pump();
            }
            2 if nexuses.len() < 4 => {
                next += 1;
                let mut port = port(NexusId(1 + random.below(3)));
                port.isid = Some([0x40, 0, 0, 0, 0, random.below(3) as u8]);
                lab.unit.nexus_added(lab.now, NexusId(next), port);
                nexuses.push(NexusId(next));
            }
            3..=50 => {
                let (cdb, data, expected) = command(&mut random);
                let attribute = match random.below(10) {
                    0 => Attribute::Ordered,
                    1 => Attribute::HeadOfQueue,
                    _ => Attribute::Simple,
                };
                sent.push(lab.submit_as(nexus, attribute, &cdb, data, expected));
            }
            _ if !lab.held.is_empty() => {
                let turn = random.below(lab.held.len() as u64) as usize;
                lab.held.rotate_left(turn);
                lab.release();
            }
            _ => {}
        }
    }
    lab.release_all();
    assert_eq!(lab.unit.tasks(), 0, "seed {seed}: all tasks end");
    for task in sent
        .into_iter()
        .filter(|task| nexuses.contains(&task.nexus))
    {
        let ended = lab.done.contains_key(&task) || lab.aborted.contains(&task);
        assert!(ended, "seed {seed}: {task:?} never ended");
    }
    for op in &lab.asked {
        assert!(inside(op, size), "seed {seed}: {op:?}");
    }
}

#[test]
fn random_commands_end_once_and_stay_inside_the_medium() {
    for seed in 0..60 {
        storm(seed, 1500);
    }
}

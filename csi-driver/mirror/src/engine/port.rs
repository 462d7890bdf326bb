//! What both phases of the engine write to: the queue of outputs and the names of what is under way.
//!
//! The volumes of a group share one port, so that names are unique among them and outputs keep their order. Whoever writes
//! for a volume selects it first; an engine of one volume has only the volume 0.

use std::collections::VecDeque;

use crate::io::{AttachRecord, CmdId, Lane, Leg, LegOp, Output, Register, RegisterId};
use crate::status::Event;

/// Attach names its commands from a counter with this bit; the serving phase from a slab, always below it.
pub(crate) const ATTACH_COMMAND: u64 = 1 << 63;

/// Outputs not yet polled, and counters for names.
#[derive(Debug, Default)]
pub(crate) struct Port {
    out: VecDeque<(usize, Output)>,
    /// Whose outputs come now.
    volume: usize,
    commands: u64,
    registers: u64,
    /// By volume.
    records: Vec<RecordSave>,
}

/// One record is on its way to the disk at a time: an answer is always to the last one that was asked for.
#[derive(Debug, Default)]
enum RecordSave {
    #[default]
    Idle,
    Open {
        /// To be saved next.
        next: Option<AttachRecord>,
    },
}

impl Port {
    /// What comes from now on is of this volume.
    pub(crate) const fn of(&mut self, volume: usize) -> &mut Self {
        self.volume = volume;
        self
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.out.push_back((self.volume, output));
    }

    pub(crate) fn pop(&mut self) -> Option<(usize, Output)> {
        self.out.pop_front()
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.push(Output::Event(event));
    }

    /// A command of the attach phase, under a new name.
    pub(crate) fn attach_command(&mut self, leg: Leg, op: LegOp, lane: Lane) -> CmdId {
        self.commands += 1;
        let cmd = CmdId(ATTACH_COMMAND | self.commands);
        self.push(Output::Leg { leg, cmd, op, lane });
        cmd
    }

    pub(crate) fn read_register(&mut self) -> RegisterId {
        let id = self.next_register();
        self.push(Output::ReadRegister { id });
        id
    }

    pub(crate) fn cas_register(&mut self, expected: Register, new: Register) -> RegisterId {
        let id = self.next_register();
        self.push(Output::CasRegister {
            id,
            expected: Box::new(expected),
            new: Box::new(new),
        });
        id
    }

    /// Put this record on disk, after the one that is on its way.
    pub(crate) fn save_record(&mut self, record: AttachRecord) {
        let saving = self.saving();
        match saving {
            RecordSave::Idle => {
                *saving = RecordSave::Open { next: None };
                self.push(Output::SaveRecord(record));
            }
            RecordSave::Open { next } => *next = Some(record),
        }
    }

    /// A record is on disk. Is it the last one that was asked for?
    pub(crate) fn record_saved(&mut self) -> bool {
        let RecordSave::Open { next } = std::mem::take(self.saving()) else {
            return false;
        };
        match next {
            Some(record) => {
                self.save_record(record);
                false
            }
            None => true,
        }
    }

    /// The last record that was asked for is on disk.
    pub(crate) fn record_is_saved(&self) -> bool {
        let saving = self.records.get(self.volume);
        matches!(saving, None | Some(RecordSave::Idle))
    }

    fn saving(&mut self) -> &mut RecordSave {
        if self.records.len() <= self.volume {
            self.records
                .resize_with(self.volume + 1, RecordSave::default);
        }
        &mut self.records[self.volume]
    }

    fn next_register(&mut self) -> RegisterId {
        self.registers += 1;
        RegisterId(self.registers)
    }
}

//! The promise that the mirror rests on, under random traffic: once PREEMPT AND ABORT is answered GOOD,
//! no write of the victim is under way or ever starts, until the victim registers again.
//!
//! Every write carries the number of its writer in each byte, and writers come in several sessions that
//! drop and come back. Plain and long writes, COMPARE AND WRITE and WRITE SAME are all sent.

use bytes::Bytes;

use super::random::Random;
use super::{BLOCK, Lab, config, port};
use crate::scsi::unit::StoreOp;
use crate::scsi::{
    Cdb, Expected, NexusId, PrOut, PrType, Status, TaskFunction, TaskKey, TransportId,
};

const WRITERS: usize = 3;
const SESSIONS: usize = 2;

struct Writer {
    number: u8,
    key: u64,
    sessions: Vec<Option<NexusId>>,
    /// A fence was answered, and it is still kept out.
    fenced: bool,
}

impl Writer {
    fn port(&self, session: usize) -> TransportId {
        port(NexusId(u64::from(self.number) * 10 + session as u64))
    }
}

/// The writer whose data an operation carries.
fn writer_of(op: &StoreOp) -> Option<u8> {
    match op {
        StoreOp::Write { data, .. } => data.first().map(|piece| piece[0]),
        _ => None,
    }
}

struct Play {
    lab: Lab,
    random: Random,
    writers: Vec<Writer>,
    next: u64,
    /// Fences not answered yet: the task and its victim.
    fences: Vec<(TaskKey, usize)>,
    seen: usize,
    fenced: usize,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut lab = Lab::with(config());
        lab.hold = true;
        let writers = (0..WRITERS)
            .map(|place| Writer {
                number: place as u8 + 1,
                key: (place as u64 + 1) << 16,
                sessions: vec![None; SESSIONS],
                fenced: false,
            })
            .collect();
        Self {
            lab,
            random: Random(seed),
            writers,
            next: 1000,
            fences: Vec::new(),
            seen: 0,
            fenced: 0,
        }
    }

    fn pick(&mut self) -> Option<(usize, usize, NexusId)> {
        let writer = self.random.below(WRITERS as u64) as usize;
        let session = self.random.below(SESSIONS as u64) as usize;
        match self.writers[writer].sessions[session] {
            Some(nexus) => Some((writer, session, nexus)),
            None => {
                self.next += 1;
                let nexus = NexusId(self.next);
                let port = self.writers[writer].port(session);
                self.lab.unit.nexus_added(self.lab.now, nexus, port);
                self.writers[writer].sessions[session] = Some(nexus);
                None
            }
        }
    }

    fn write(&mut self, writer: usize, nexus: NexusId) {
        let number = self.writers[writer].number;
        let lba = self.random.below(8) as u8;
        let block = |byte| Bytes::from(vec![byte; BLOCK]);
        let (cdb, data): (Vec<u8>, Vec<Bytes>) = match self.random.below(4) {
            0 => (
                vec![0x41, 0, 0, 0, 0, lba, 0, 0x0F, 0x00, 0],
                vec![block(number)],
            ),
            1 => {
                let from = self.random.below(WRITERS as u64 + 1) as u8;
                let mut cdb = vec![0x89, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, 1, 0, 0];
                cdb[1] = 0x08;
                (cdb, vec![block(from), block(number)])
            }
            _ => (vec![0x2A, 0, 0, 0, 0, lba, 0, 0, 1, 0], vec![block(number)]),
        };
        let length = data.len() * BLOCK;
        self.lab
            .submit(nexus, &Cdb::new(&cdb), data, Expected::Out(length as u32));
    }

    fn step(&mut self) {
        let turn = self.random.below(100);
        if turn < 45 && !self.lab.held.is_empty() {
            let turn = self.random.below(self.lab.held.len() as u64) as usize;
            self.lab.held.rotate_left(turn);
            return self.lab.release();
        }
        let Some((writer, session, nexus)) = self.pick() else {
            return;
        };
        let key = self.writers[writer].key | session as u64;
        match turn {
            0..=79 => self.write(writer, nexus),
            80..=84 => {
                let new = if turn == 80 { 0 } else { key };
                self.lab
                    .submit_reserve_out(nexus, PrOut::RegisterIgnore { new, aptpl: true });
            }
            85..=87 => {
                let kind = PrType::ExclusiveAccessRegistrants;
                self.lab
                    .submit_reserve_out(nexus, PrOut::Reserve { key, kind });
            }
            88..=94 => self.fence(writer, nexus, key),
            95 => {
                self.lab.manage(nexus, TaskFunction::LunReset);
            }
            _ => {
                self.writers[writer].sessions[session] = None;
                self.lab.unit.nexus_removed(self.lab.now, nexus);
                self.lab.pump();
            }
        }
    }

    /// Only a fence of both sessions' keys fences a writer, so one is sent after the other.
    fn fence(&mut self, writer: usize, nexus: NexusId, key: u64) {
        let victim = (writer + 1 + self.random.below(WRITERS as u64 - 1) as usize) % WRITERS;
        let kind = Some(PrType::ExclusiveAccessRegistrants);
        for session in 0..SESSIONS as u64 {
            let victim_key = self.writers[victim].key | session;
            let action = PrOut::PreemptAbort {
                key,
                victim: victim_key,
                kind,
            };
            let task = self.lab.submit_reserve_out(nexus, action);
            if session + 1 == SESSIONS as u64 {
                self.fences.push((task, victim));
            }
        }
    }

    /// Nothing of this writer is registered and the reservation keeps it out.
    fn kept_out(&self, writer: usize) -> bool {
        let reservations = &self.lab.unit.reservations;
        let mut ports = (0..SESSIONS).map(|session| self.writers[writer].port(session));
        ports.all(|port| reservations.key_of(&port).is_none() && !reservations.permit(&port).write)
    }

    /// A fence counts from its answer until its victim registers again or the reservation falls.
    fn check(&mut self, seed: u64) {
        for writer in 0..WRITERS {
            self.writers[writer].fenced &= self.kept_out(writer);
        }
        let fences = std::mem::take(&mut self.fences);
        for (task, victim) in fences {
            match self.lab.done.get(&task).map(|outcome| outcome.status) {
                Some(Status::Good) => {
                    self.writers[victim].fenced = self.kept_out(victim);
                    self.fenced += usize::from(self.writers[victim].fenced);
                }
                Some(_) => {}
                None => self.fences.push((task, victim)),
            }
        }
        let fenced: Vec<u8> = self
            .writers
            .iter()
            .filter(|writer| writer.fenced)
            .map(|writer| writer.number)
            .collect();
        let of_fenced = |op: &StoreOp| writer_of(op).is_some_and(|number| fenced.contains(&number));
        let started = self.lab.asked[self.seen..].iter().any(of_fenced);
        assert!(!started, "seed {seed}: a write of {fenced:?} started");
        let under_way = self.lab.held.iter().any(|(_, op)| of_fenced(op));
        assert!(
            !under_way,
            "seed {seed}: a write of {fenced:?} is under way"
        );
        self.seen = self.lab.asked.len();
    }
}

#[test]
fn no_write_of_a_fenced_writer_reaches_the_store() {
    let mut fenced = 0;
    for seed in 0..40 {
        let mut play = Play::new(seed);
        for _ in 0..3000 {
            play.step();
            play.check(seed);
        }
        play.lab.release_all();
        play.check(seed);
        assert_eq!(play.lab.unit.tasks(), 0, "seed {seed}: all tasks end");
        fenced += play.fenced;
    }
    assert!(fenced > 400, "the play fences: {fenced}");
}

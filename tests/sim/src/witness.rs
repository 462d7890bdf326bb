//! The witness: one register, one beat object, and requests that come late, twice or never.

use std::collections::{BTreeMap, VecDeque};

use twinsite_register::{BeatObject, Epoch, Gen, Mark, Members, Register};

/// Old values that are kept.
const BACKUPS: usize = 12;

#[derive(Debug)]
pub struct Witness {
    pub register: Register,
    pub beat: Option<BeatObject>,
    pub up: bool,
    /// Put back from a backup: what the register really was, and how many reads saw the old one.
    hidden: Option<Box<Register>>,
    /// The object is gone until a person makes a new one.
    pub gone: bool,
    /// Values it had, newest last.
    backups: VecDeque<Register>,
    /// I3: members and generation of each epoch.
    epochs: BTreeMap<Epoch, (Gen, Members)>,
    pub swaps: u64,
}

impl Witness {
    pub fn new(register: Register) -> Self {
        let epochs = BTreeMap::from([(register.epoch, (register.generation, register.members))]);
        Self {
            register,
            beat: None,
            up: true,
            hidden: None,
            gone: false,
            backups: VecDeque::new(),
            epochs,
            swaps: 0,
        }
    }

    /// Executes a compare-and-swap. `Ok(true)` = won.
    pub fn swap(&mut self, expected: &Register, new: &Register) -> Result<bool, String> {
        if self.gone || *expected != self.register {
            return Ok(false);
        }
        // What becomes of a register that was put back is no history: the real one comes back.
        if let Some(hidden) = &self.hidden {
            // Unless a request that was on its way makes it what no mark is above: then it goes on from there.
            let above = |r: &Register| (r.epoch, r.generation, r.active.seq);
            if above(new) == above(hidden) {
                self.hidden = None;
            }
            self.register = new.clone();
            return Ok(true);
        }
        if self.backups.len() == BACKUPS {
            self.backups.pop_front();
        }
        self.backups.push_back(self.register.clone());
        let old = std::mem::replace(&mut self.register, new.clone());
        let r = &self.register;
        self.swaps += 1;
        if let Err(why) = r.check() {
            return Err(format!("the register was made impossible: {why}"));
        }
        if r.epoch < old.epoch || r.active.seq < old.active.seq || r.order.n < old.order.n {
            return Err(format!(
                "epoch, seq or order went back (I8): {:?} after {:?}",
                r.epoch, old.epoch
            ));
        }
        let now = (r.generation, r.members);
        let known = *self.epochs.entry(r.epoch).or_insert(now);
        if known != now {
            return Err(format!("two memberships of epoch {:?} (I3)", r.epoch));
        }
        Ok(true)
    }

    /// The register as it is, whatever the witness shows.
    pub fn truth(&self) -> &Register {
        self.hidden.as_deref().unwrap_or(&self.register)
    }

    pub fn is_put_back(&self) -> bool {
        self.hidden.is_some()
    }

    /// Shows the newest earlier value that is below both marks, for now.
    pub fn put_back(&mut self, marks: &[Option<Mark>; 2]) -> bool {
        let below = |r: &Register| {
            marks.iter().flatten().all(|m| {
                m.register_id == r.register_id && (r.epoch < m.epoch || r.active.seq < m.seq)
            })
        };
        if self.hidden.is_some() || self.gone {
            return false;
        }
        let Some(old) = self.backups.iter().rev().find(|r| below(r)).cloned() else {
            return false;
        };
        self.hidden = Some(Box::new(std::mem::replace(&mut self.register, old)));
        true
    }

    /// The newest backup was found after all.
    pub fn bring_forward(&mut self) {
        if let Some(register) = self.hidden.take() {
            self.register = *register;
        }
    }

    /// A person made this register in place of one that was lost.
    pub fn reseeded(&mut self, register: Register) {
        self.epochs
            .insert(register.epoch, (register.generation, register.members));
        self.backups.clear();
        (self.register, self.gone, self.hidden) = (register, false, None);
    }

    pub fn write_beat(&mut self, beat: BeatObject) {
        self.beat = Some(self.beat.map_or(beat, |old| beat.merged(old)));
    }
}

/// The mark of a site after it saw this register.
pub fn raised(mark: Option<Mark>, register: &Register) -> Mark {
    mark.map_or_else(|| Mark::of(register), |m| m.raised(register))
}

//! The witness: one register, one beat object, and requests that come late, twice or never.

use std::collections::BTreeMap;

use twinsite_mirror::layout::Superblock;
use twinsite_register::{BeatObject, Epoch, Gen, Mark, Members, Register};

#[derive(Debug)]
pub struct Witness {
    pub register: Register,
    pub beat: Option<BeatObject>,
    pub up: bool,
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
            epochs,
            swaps: 0,
        }
    }

    /// Executes a compare-and-swap. `Ok(true)` = won.
    pub fn swap(&mut self, expected: &Register, new: &Register) -> Result<bool, String> {
        if *expected != self.register {
            return Ok(false);
        }
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

    pub fn write_beat(&mut self, beat: BeatObject) {
        self.beat = Some(self.beat.map_or(beat, |old| beat.merged(old)));
    }
}

/// The mark of a site after it saw this register.
pub fn raised(mark: Option<Mark>, register: &Register) -> Mark {
    mark.map_or_else(|| Mark::of(register), |m| m.raised(register))
}

/// Is this superblock older than the register, or of it?
pub fn is_not_ahead(sb: &Superblock, register: &Register) -> bool {
    sb.register_id != register.register_id || sb.epoch <= register.epoch
}

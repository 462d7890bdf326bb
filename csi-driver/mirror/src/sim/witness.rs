//! The register: compare-and-swap of whole values, linearizable reads.

use twinsite_register::Register;

#[derive(Debug)]
pub(super) struct Witness {
    pub(super) value: Register,
    /// Members and generation of each epoch ever (I3).
    history: std::collections::BTreeMap<u64, (twinsite_register::Members, twinsite_register::Gen)>,
    pub(super) changes: Vec<Register>,
}

impl Witness {
    pub(super) fn new(value: Register) -> Self {
        let mut witness = Self {
            value: value.clone(),
            history: Default::default(),
            changes: Vec::new(),
        };
        witness.check(&value);
        witness
    }

    /// Execute a compare-and-swap.
    pub(super) fn cas(&mut self, expected: &Register, new: &Register) -> bool {
        if self.value != *expected {
            return false;
        }
        assert!(
            new.epoch >= self.value.epoch && new.active.seq >= self.value.active.seq,
            "I8: {new:?}"
        );
        new.check().unwrap();
        let new = new.clone();
        self.check(&new);
        self.changes.push(new.clone());
        self.value = new;
        true
    }

    fn check(&mut self, new: &Register) {
        let entry = (new.members, new.generation);
        let known = *self.history.entry(new.epoch.0).or_insert(entry);
        assert_eq!(known, entry, "I3: two memberships in one epoch");
    }
}

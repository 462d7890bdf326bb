//! Mutants: one rule at a time taken out of the code by a patch. `twinsite-mutants` builds a copy of the tree that has them
//! all (`weave`), switches on one after the other, and asks the tests of its crate, and for some the simulator, whether they
//! notice. A checker that cannot fail is worth nothing.

mod list;
pub mod weave;

pub use list::MUTANTS;

/// Who must notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Tests of the crate.
    Tests,
    /// Tests of the crate, and the simulator.
    Both,
}

/// A patch.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    pub name: &'static str,
    pub rule: &'static str,
    pub by: By,
    pub file: &'static str,
    pub find: &'static str,
    pub put: &'static str,
}

impl Mutant {
    /// The crate whose tests are asked.
    pub fn package(&self) -> &'static str {
        if self.file.starts_with("operator/register") {
            "twinsite-register"
        } else if self.file.starts_with("csi-driver/iscsi") {
            "twinsite-iscsi"
        } else {
            "twinsite-mirror"
        }
    }

    /// The file with the rule taken out; `None`: its place is not found exactly once.
    pub fn apply(&self, whole: &str) -> Option<String> {
        (whole.matches(self.find).count() == 1).then(|| whole.replacen(self.find, self.put, 1))
    }
}

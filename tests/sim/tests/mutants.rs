//! Every mutant still finds its place in the tree, exactly once: a patch that no longer applies proves nothing.

use std::collections::BTreeMap;
use std::path::Path;

use twinsite_sim::mutants::{MUTANTS, weave};

#[test]
fn every_mutant_finds_its_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for m in MUTANTS {
        let whole = std::fs::read_to_string(root.join(m.file)).unwrap();
        assert!(
            m.apply(&whole).is_some(),
            "{}: {} has changed",
            m.name,
            m.file
        );
        assert_ne!(m.find, m.put);
    }
}

#[test]
fn every_mutant_has_a_name_of_its_own_and_every_rule_but_r33_one() {
    let mut names: Vec<&str> = MUTANTS.iter().map(|m| m.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), MUTANTS.len());
    for n in (1..=45).filter(|n| *n != 33) {
        let rule = format!("R{n}");
        assert!(MUTANTS.iter().any(|m| m.rule == rule), "{rule}");
    }
}

/// All of them are built into one program.
#[test]
fn every_mutant_can_stand_beside_what_it_breaks() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (number, m) in MUTANTS.iter().enumerate() {
        files.entry(m.file).or_default().push((number, m));
    }
    for (file, mutants) in files {
        let whole = std::fs::read_to_string(root.join(file)).unwrap();
        weave::weave(&whole, &mutants).unwrap();
    }
}

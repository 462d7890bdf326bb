//! How often each fault and each state of an engine was met: what never happened was not tested, and must show.

use std::collections::BTreeMap;
use std::fmt::Debug;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<String, u64>);

/// What a run of many seeds should meet.
const EXPECTED: &[(&str, &[&str])] = &[
    (
        "fault",
        &[
            "Cut",
            "Hold",
            "HoldOne",
            "Reset",
            "CutSites",
            "CutWitness",
            "WitnessDown",
            "Restore",
            "PowerCut",
            "SitePower",
            "Crash",
            "Stop",
            "Hang",
            "Slow",
            "Crawl",
            "Full",
            "Broken",
            "BadBlock",
            "FlushFails",
            "Rollback",
            "Move",
            "Note",
            "Force",
            "Lose",
            "Verify",
            "Expand",
            "Drop",
        ],
    ),
    (
        "state",
        &[
            "Off",
            "Check",
            "Fence",
            "Decide",
            "CasWait",
            "SbWrite",
            "LeaseWait",
            "Reconcile",
            "Synced",
            "Frozen",
            "ShrinkWait",
            "ThawWait",
            "Solo",
            "RjTarget",
            "RjBoth",
            "RjNeed",
            "Growing",
            "GrowWait",
            "BumpWait",
            "Expand",
            "Detach",
            "Superseded",
            "Refused",
        ],
    ),
    (
        "lost",
        &[
            "Session",
            "Timeout",
            "WriteError",
            "SyncFailed",
            "Restarted",
            "RolledBack",
            "Dropped",
            "NotRegistered",
            "Slow",
        ],
    ),
    (
        "seen",
        &[
            "a device went on behind a new agent",
            "a flush failed as owed",
            "a leg was put back",
            "a rollback alarm",
            "a stopped agent woke",
            "bytes of an old session",
            "a request was executed late",
            "an answer was lost",
            "a silent host",
            "a torn block",
            "a full rejoin",
            "a delta rejoin",
            "a register that was put back was read",
            "a leg was forced",
            "a lost branch was confirmed",
            "the volume grew",
            "a discard",
            "a read was repaired",
            "a leg was given up as slow",
            "a register was reseeded",
            "a comparison of the legs was done",
        ],
    ),
];

/// The word before the first brace, parenthesis or space.
fn word(what: &impl Debug) -> String {
    let text = format!("{what:?}");
    let end = text
        .find(|c: char| !c.is_alphanumeric())
        .unwrap_or(text.len());
    text[..end].to_owned()
}

impl Coverage {
    fn count(&mut self, name: String) {
        *self.0.entry(name).or_default() += 1;
    }

    pub fn met(&mut self, kind: &str, what: &impl Debug) {
        self.count(format!("{kind}.{}", word(what)));
    }

    pub fn seen(&mut self, what: &str) {
        self.count(format!("seen.{what}"));
    }

    pub fn times(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    pub fn add(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name.clone()).or_default() += count;
        }
    }

    pub fn all(&self) -> &BTreeMap<String, u64> {
        &self.0
    }

    /// Expected and never met.
    pub fn absent(&self) -> Vec<String> {
        EXPECTED
            .iter()
            .flat_map(|(kind, words)| words.iter().map(move |w| format!("{kind}.{w}")))
            .filter(|name| !self.0.contains_key(name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_met_is_named() {
        let mut c = Coverage::default();
        assert!(c.absent().contains(&"state.Synced".to_owned()));
        c.met("state", &twinsite_mirror::status::StateName::Synced);
        assert!(!c.absent().contains(&"state.Synced".to_owned()));
        c.met(
            "lost",
            &twinsite_mirror::status::LostWhy::Session(twinsite_mirror::io::LegDown::Closed),
        );
        assert_eq!(c.times("lost.Session"), 1);
    }
}

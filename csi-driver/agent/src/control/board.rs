//! What a node says about its objects, put up for whoever carries it on (the bridge to Kubernetes).
//!
//! Invariants: what is put up is of one moment, at the end of a turn. An object that is neither wanted nor held after a
//! look that was asked for after its file was removed will not be touched again: `looked` names the last such look.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

use crate::objects::Problem;

/// Kind and name.
pub type Label = (&'static str, String);

/// What is put up.
#[derive(Clone, Debug, Default)]
pub struct Posted {
    /// The highest number of a look that was asked for and made.
    pub looked: u64,
    /// Objects that are wanted, or still have something to be let go of.
    pub held: BTreeSet<Label>,
    pub statuses: BTreeMap<Label, Arc<Value>>,
    /// What cannot be read.
    pub problems: Vec<Problem>,
}

/// The node's side of it.
#[derive(Debug)]
pub struct Board(watch::Sender<Posted>);

impl Board {
    pub fn new() -> (Self, watch::Receiver<Posted>) {
        let (sender, receiver) = watch::channel(Posted::default());
        (Self(sender), receiver)
    }

    /// Puts up what is new.
    pub(super) fn post(&self, next: Draft) {
        self.0.send_if_modified(|posted| {
            let mut changed = posted.looked != next.looked || posted.held != next.held;
            posted.looked = next.looked;
            posted.held = next.held;
            let before = posted.statuses.len();
            posted
                .statuses
                .retain(|label, _| next.statuses.contains_key(label));
            changed |= posted.statuses.len() != before;
            for (label, status) in next.statuses {
                match posted.statuses.get(&label) {
                    Some(known) if **known == status => {}
                    _ => {
                        posted.statuses.insert(label, Arc::new(status));
                        changed = true;
                    }
                }
            }
            if posted.problems != next.problems {
                posted.problems = next.problems;
                changed = true;
            }
            changed
        });
    }
}

/// What a turn has to say.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) looked: u64,
    pub(super) held: BTreeSet<Label>,
    pub(super) statuses: BTreeMap<Label, Value>,
    pub(super) problems: Vec<Problem>,
}

impl Draft {
    pub(super) fn add<S: Serialize>(&mut self, kind: &'static str, name: &str, status: &S) {
        match serde_json::to_value(status) {
            Ok(status) => {
                self.statuses.insert((kind, name.to_owned()), status);
            }
            Err(error) => tracing::error!(kind, name, %error, "a status cannot be written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_news() {
        let (board, mut posted) = Board::new();
        let draft = |state: &str| {
            let mut draft = Draft {
                looked: 1,
                ..Draft::default()
            };
            draft.add("Leg", "a", &serde_json::json!({"state": state}));
            draft
        };
        board.post(draft("Serving"));
        assert!(posted.has_changed().unwrap());
        posted.mark_unchanged();
        board.post(draft("Serving"));
        assert!(!posted.has_changed().unwrap());
        board.post(draft("Failed"));
        assert!(posted.has_changed().unwrap());
        posted.mark_unchanged();
        board.post(Draft {
            looked: 1,
            ..Draft::default()
        });
        assert!(posted.has_changed().unwrap());
        assert!(posted.borrow().statuses.is_empty());
    }
}

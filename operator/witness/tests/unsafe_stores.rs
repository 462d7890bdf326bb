//! Stores that do not keep their conditions, each in the way that some real one did, are refused.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use std::{collections::BTreeMap, sync::Arc, sync::Mutex};

use bytes::Bytes;
use twinsite_witness::{
    Care, Condition, Guard, ObjectName, Pending, ProbeError, Store, StoreError, Version, Versioned,
    Written, probe,
};

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    IgnoresCreateOnly,
    IgnoresVersions,
    SwapsWhatIsAbsent,
    RefusesButWrites,
    LetsTwoWin,
    AnswersConflictToAll,
    IsDown,
}

struct Flawed {
    flaw: Flaw,
    objects: Mutex<BTreeMap<ObjectName, (u64, Bytes)>>,
}

impl Flawed {
    fn put(&self, name: &ObjectName, bytes: Bytes, condition: &Condition) -> Written {
        let mut objects = self.objects.lock().unwrap();
        let stored = objects.get(name).map(|(number, _)| *number);
        let racing = bytes.starts_with(b"racer");
        let holds = match (condition, stored) {
            (Condition::Any, _) | (Condition::Absent, None) => true,
            (Condition::Absent, Some(_)) => self.flaw == Flaw::IgnoresCreateOnly,
            (Condition::Unchanged(_), None) => self.flaw == Flaw::SwapsWhatIsAbsent,
            (Condition::Unchanged(at), Some(number)) => {
                at.0 == number.to_string()
                    || self.flaw == Flaw::IgnoresVersions
                    || (self.flaw == Flaw::LetsTwoWin && racing)
            }
        };
        match self.flaw {
            Flaw::IsDown => return Written::Unknown("down".to_owned()),
            Flaw::AnswersConflictToAll if racing => return Written::Refused,
            _ if holds || self.flaw == Flaw::RefusesButWrites => {
                objects.insert(name.clone(), (stored.unwrap_or(0) + 1, bytes));
            }
            _ => {}
        }
        if holds {
            Written::Done
        } else {
            Written::Refused
        }
    }
}

impl Store for Flawed {
    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        _: Care,
    ) -> Pending<'a, Result<Option<Versioned>, StoreError>> {
        let found = self.objects.lock().unwrap().get(name).cloned();
        Box::pin(async move {
            Ok(found.map(|(number, bytes)| Versioned {
                bytes,
                version: Version(number.to_string()),
            }))
        })
    }

    fn write<'a>(
        &'a self,
        name: &'a ObjectName,
        bytes: Bytes,
        condition: Condition,
        _: Care,
    ) -> Pending<'a, Written> {
        let written = self.put(name, bytes, &condition);
        Box::pin(async move { written })
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> Pending<'a, ()> {
        self.objects.lock().unwrap().remove(name);
        Box::pin(async {})
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

async fn verdict(flaw: Flaw) -> (Result<(), ProbeError>, usize) {
    let store = Arc::new(Flawed {
        flaw,
        objects: Mutex::default(),
    });
    let verdict = probe(Arc::clone(&store) as Arc<dyn Store>).await;
    let left = store.objects.lock().unwrap().len();
    (verdict, left)
}

#[tokio::test]
async fn a_store_that_keeps_its_conditions_is_used() {
    assert!(matches!(verdict(Flaw::None).await, (Ok(()), 0)));
    assert!(matches!(
        verdict(Flaw::AnswersConflictToAll).await,
        (Ok(()), 0)
    ));
}

#[tokio::test]
async fn a_store_that_does_not_is_refused_for_ever_and_says_why() {
    for (flaw, word) in [
        (Flaw::IgnoresCreateOnly, "a second create"),
        (Flaw::IgnoresVersions, "an old version"),
        (Flaw::SwapsWhatIsAbsent, "an absent object"),
        (Flaw::RefusesButWrites, "a refused create"),
        (Flaw::LetsTwoWin, "racing"),
    ] {
        match verdict(flaw).await {
            (Err(ProbeError::Unsafe { what, .. }), 0) => {
                assert!(what.contains(word), "{word}: {what}")
            }
            (other, left) => panic!("{word}: {other:?}, {left} objects left"),
        }
    }
}

#[tokio::test]
async fn a_store_is_not_used_before_it_was_probed() {
    let name = ObjectName::new(&["object"]).unwrap();
    for (flaw, opens) in [(Flaw::None, true), (Flaw::IgnoresVersions, false)] {
        let store: Arc<dyn Store> = Arc::new(Flawed {
            flaw,
            objects: Mutex::default(),
        });
        let guard = Guard::new(store);
        let bytes = Bytes::from_static(b"x");
        let write = async || {
            guard
                .write(&name, bytes.clone(), Condition::Absent, Care::Durable)
                .await
        };
        assert!(matches!(write().await, Written::Unknown(_)));
        assert_eq!(guard.admit().await.is_ok(), opens);
        assert_eq!(write().await == Written::Done, opens);
        assert_eq!(guard.read(&name, Care::Durable).await.is_ok(), opens);
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_not_called_unsafe() {
    assert!(matches!(
        verdict(Flaw::IsDown).await,
        (Err(ProbeError::Unreachable { .. }), 0)
    ));
}

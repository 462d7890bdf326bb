//! Objects of which this version cannot read everything: kept apart, so that one of them never hides the others.
//!
//! Invariants: an entry is there exactly as long as the object that it is about shows the oddity; what is odd about it is told once.
//! Not here: what is done, or not done, about such an object (`volume`), how it is read (`twinsite_api::Seen`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource, ResourceExt as _, runtime::watcher::Event};
use twinsite_api::{Seen, VolumeId, reason, unknown};

use super::events::{News, Tone};

/// What this program is, for people who look for a newer one.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Namespace and name; no namespace is an empty one.
type Name = (String, String);

/// The odd objects of one kind.
#[derive(Clone, Debug, Default)]
pub struct Odd(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<Name, One>,
    /// Those of a list that is on its way.
    coming: BTreeMap<Name, One>,
}

#[derive(Clone, Debug)]
struct One {
    reference: ObjectReference,
    what: What,
    id: Option<VolumeId>,
    told: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// Why it cannot be read at all.
    Unreadable(String),
    /// Its fields that are not known; the rest is read.
    Unknown(String),
}

impl Odd {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why this object cannot be read.
    #[must_use]
    pub fn unreadable(&self, namespace: &str, name: &str) -> Option<String> {
        match self.what(namespace, name)? {
            What::Unreadable(why) => Some(why),
            What::Unknown(_) => None,
        }
    }

    /// Fields of this object that are not known.
    #[must_use]
    pub fn unknown(&self, namespace: &str, name: &str) -> Option<String> {
        match self.what(namespace, name)? {
            What::Unreadable(_) => None,
            What::Unknown(fields) => Some(fields),
        }
    }

    /// Whether the volume of this identity is there and cannot be read.
    #[must_use]
    pub fn hides(&self, id: VolumeId) -> bool {
        self.state().known.values().any(|one| one.id == Some(id))
    }

    fn what(&self, namespace: &str, name: &str) -> Option<What> {
        let name = (namespace.to_owned(), name.to_owned());
        self.state().known.get(&name).map(|one| one.what.clone())
    }

    /// What has not been told yet.
    pub fn news(&self) -> Vec<News> {
        let mut state = self.state();
        let untold = state.known.values_mut().filter(|one| !one.told);
        untold
            .map(|one| {
                one.told = true;
                let (word, note) = match &one.what {
                    What::Unreadable(why) => (reason::UNREADABLE, unreadable(why)),
                    What::Unknown(fields) => (reason::UNKNOWN_FIELDS, not_known(fields)),
                };
                News {
                    regarding: one.reference.clone(),
                    tone: Tone::Warning,
                    reason: word.to_owned(),
                    note,
                }
            })
            .collect()
    }

    /// The event without what cannot be read. Such an object stands as it was when it could be read, which `last` gives.
    pub(super) fn sort<K>(
        &self,
        event: Event<Seen<K>>,
        last: impl Fn(&Seen<K>) -> Option<K>,
    ) -> Option<Event<K>>
    where
        K: Resource<DynamicType = ()>,
    {
        match event {
            Event::Init => {
                self.state().coming.clear();
                Some(Event::Init)
            }
            Event::InitApply(seen) => {
                let one = one(&seen);
                if let Some(one) = one {
                    let known = self.state().known.get(&name(&seen)).cloned();
                    self.state().coming.insert(name(&seen), heard(one, known));
                }
                let last = last(&seen);
                seen.read.ok().or(last).map(Event::InitApply)
            }
            Event::InitDone => {
                let mut state = self.state();
                state.known = std::mem::take(&mut state.coming);
                Some(Event::InitDone)
            }
            Event::Apply(seen) => {
                let mut state = self.state();
                let known = state.known.remove(&name(&seen));
                if let Some(one) = one(&seen) {
                    state.known.insert(name(&seen), heard(one, known));
                }
                drop(state);
                let last = last(&seen);
                seen.read.ok().or(last).map(Event::Apply)
            }
            Event::Delete(seen) => {
                self.state().known.remove(&name(&seen));
                let last = last(&seen);
                seen.read.ok().or(last).map(Event::Delete)
            }
        }
    }
}

/// In a sentence, with what to do.
#[must_use]
pub fn unreadable(why: &str) -> String {
    format!(
        "version {VERSION} cannot read this object ({why}) and does nothing about it; what runs goes on: upgrade twinsite in this cluster, or take the newer value back"
    )
}

/// In a sentence, with what to do.
#[must_use]
pub fn not_known(fields: &str) -> String {
    format!(
        "{fields}: not known to version {VERSION}, which goes on without: upgrade twinsite in this cluster"
    )
}

fn name<K: Resource<DynamicType = ()>>(seen: &Seen<K>) -> Name {
    (seen.namespace().unwrap_or_default(), seen.name_any())
}

fn one<K: Resource<DynamicType = ()>>(seen: &Seen<K>) -> Option<One> {
    let what = match &seen.read {
        Err(error) => What::Unreadable(error.to_string()),
        Ok(_) if seen.unknown.is_empty() => return None,
        Ok(_) => What::Unknown(unknown::listed(&seen.unknown)),
    };
    Some(One {
        reference: seen.object_ref(&()),
        what,
        id: seen.volume_id(),
        told: false,
    })
}

/// The same as before is no news.
fn heard(mut one: One, known: Option<One>) -> One {
    if known.as_ref().is_some_and(|known| known.what == one.what) {
        one.told = known.is_some_and(|known| known.told);
        return one;
    }
    let (kind, namespace, name) = (
        &one.reference.kind,
        &one.reference.namespace,
        &one.reference.name,
    );
    match &one.what {
        What::Unreadable(why) => {
            tracing::warn!(
                kind,
                namespace,
                name,
                why,
                "an object cannot be read: nothing is done about it"
            );
        }
        What::Unknown(fields) => {
            tracing::warn!(
                kind,
                namespace,
                name,
                fields,
                "fields are not known: going on without them"
            );
        }
    }
    one
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use twinsite_api::{Failback, MirroredVolume};

    use super::*;

    fn seen(name: &str, field: &str, value: &str) -> Seen<MirroredVolume> {
        let mut object = json!({
            "apiVersion": "twinsite.io/v1alpha1", "kind": "MirroredVolume",
            "metadata": {"name": name, "namespace": "rv", "uid": "1"},
            "spec": {
                "sitePair": "ctrc", "activeSite": "medical", "capacity": "1Gi", "claim": {"name": name},
                "legs": [{"site": "medical", "pool": "m1"}],
            },
        });
        object["spec"][field] = value.into();
        serde_json::from_value(object).unwrap()
    }

    fn failback(event: Option<Event<MirroredVolume>>) -> Option<Option<Failback>> {
        match event? {
            Event::Apply(volume) | Event::InitApply(volume) | Event::Delete(volume) => {
                Some(volume.spec.failback)
            }
            Event::Init | Event::InitDone => None,
        }
    }

    #[test]
    fn one_that_cannot_be_read_stands_as_it_was_and_is_told_once() {
        let odd = Odd::default();
        let none = |_: &Seen<MirroredVolume>| None;
        let good = |_: &Seen<MirroredVolume>| seen("records", "failback", "Manual").read.ok();
        let newer = || seen("records", "failback", "OnSundays");
        // Never read: it is kept apart, and the list goes on.
        odd.sort(Event::<Seen<MirroredVolume>>::Init, none);
        assert!(odd.sort(Event::InitApply(newer()), none).is_none());
        let other = odd.sort(Event::InitApply(seen("plain", "failback", "Manual")), none);
        assert_eq!(failback(other), Some(Some(Failback::Manual)));
        odd.sort(Event::<Seen<MirroredVolume>>::InitDone, none);
        assert!(
            odd.unreadable("rv", "records")
                .unwrap()
                .contains("OnSundays")
        );
        assert!(odd.hides(VolumeId::of("ctrc", "rv", "records")));
        assert!(odd.unreadable("rv", "plain").is_none());
        assert_eq!(odd.news().len(), 1);
        // Read once: it stands as it was.
        assert_eq!(
            failback(odd.sort(Event::Apply(newer()), good)),
            Some(Some(Failback::Manual))
        );
        assert_eq!(odd.news(), []);
        // Mended, and gone.
        odd.sort(Event::Apply(seen("records", "failback", "Manual")), good);
        assert!(!odd.hides(VolumeId::of("ctrc", "rv", "records")));
        odd.sort(Event::Apply(newer()), good);
        assert_eq!(odd.news().len(), 1);
        odd.sort(Event::Delete(newer()), good);
        assert!(odd.unreadable("rv", "records").is_none());
    }

    #[test]
    fn one_with_a_field_that_is_not_known_is_read_without_it() {
        let odd = Odd::default();
        let newer = odd.sort(Event::Apply(seen("records", "tomorrow", "blue")), |_| None);
        assert!(newer.is_some());
        assert_eq!(
            odd.unknown("rv", "records").as_deref(),
            Some("spec.tomorrow")
        );
        assert!(odd.unreadable("rv", "records").is_none());
        assert_eq!(odd.news()[0].reason, reason::UNKNOWN_FIELDS);
    }
}

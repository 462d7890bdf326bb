//! Marks: the highest register of each group that this cluster saw, kept in its own ConfigMaps, where a restored witness
//! cannot reach (protocol 2.3 rule 6).
//!
//! ```text
//! ConfigMap twinsite-marks-<pair>-<0..f>     by the first hex digit of the group
//!   data: <group> = {"mark": {...}, "tombstone": false}
//! ```
//! Invariants: a mark never goes down, also when two replicas write; a register that is Below the marks changes nothing.
//! The mark of a deleted volume goes when its register is gone: the name is free then.
//! Not here: when a mark rises (`twinsite_register::Mark`); marks beside the pools (the agent keeps them).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};
use serde::{Deserialize, Serialize};
use twinsite_register::{Class, GroupId, Mark, Register, State, classify};

use crate::shell::watch::{RequestError, within};

const SHARDS: u8 = 16;
/// A name with this prefix and a shard must be a name of Kubernetes.
const LONGEST_PAIR: usize = 200;
/// How often a ConfigMap that somebody else wrote is written again.
const ROUNDS: u32 = 8;

/// What is kept of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    mark: Mark,
    /// The register was deleted when it was seen last.
    #[serde(default)]
    tombstone: bool,
}

/// The marks of one pair.
#[derive(Debug, Default)]
pub struct Marks {
    kept: BTreeMap<GroupId, Kept>,
    /// Shards whose ConfigMap is behind.
    dirty: BTreeSet<u8>,
    /// Groups whose mark is to go.
    gone: BTreeSet<GroupId>,
}

/// Why marks could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum MarksError {
    #[error("a SitePair whose name is longer than {LONGEST_PAIR} characters cannot keep marks")]
    LongName,
    #[error("the ConfigMap {name} cannot be used")]
    Request {
        name: String,
        #[source]
        source: RequestError,
    },
    #[error(
        "the ConfigMap {name} holds something else under {key}: mend it from another cluster's or a backup, never empty it"
    )]
    Damaged { name: String, key: String },
    #[error("others keep writing the ConfigMap {0}")]
    Contended(String),
}

impl Marks {
    /// What kind of register this is, seen with the marks; `None`: the witness answered that there is none.
    pub fn classify(&self, group: GroupId, read: Option<&Register>) -> Class {
        let marks: Vec<Mark> = self
            .kept
            .get(&group)
            .map(|kept| kept.mark)
            .into_iter()
            .collect();
        classify(read, &marks, &[])
    }

    /// The highest that was seen of a group.
    pub fn of(&self, group: GroupId) -> Option<Mark> {
        self.kept.get(&group).map(|kept| kept.mark)
    }

    /// A register was read: if it may be believed, the mark rises to it.
    pub fn see(&mut self, group: GroupId, read: Option<&Register>) -> Class {
        let class = self.classify(group, read);
        let known = self.kept.get(&group).copied();
        let Some(register) = read else {
            if known.is_some_and(|kept| kept.tombstone) {
                self.forget(group);
            }
            return class;
        };
        let mark = known.map(|kept| kept.mark);
        // One that is below the mark changes nothing.
        if let Ok(mark) = Mark::after(mark.as_slice(), register) {
            let new = Kept {
                mark,
                tombstone: register.state == State::Tombstone,
            };
            if known != Some(new) {
                self.kept.insert(group, new);
                self.gone.remove(&group);
                self.dirty.insert(shard(group));
            }
        }
        class
    }

    /// Whether something waits to be written.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The volume was deleted to the end.
    pub fn forget(&mut self, group: GroupId) {
        if self.kept.remove(&group).is_some() {
            self.gone.insert(group);
            self.dirty.insert(shard(group));
        }
    }

    fn merge(&mut self, group: GroupId, stored: Kept) {
        if self.gone.contains(&group) {
            return;
        }
        let kept = self.kept.entry(group).or_insert(stored);
        kept.mark = kept.mark.joined(stored.mark);
    }
}

/// The marks under their lock; a panic elsewhere leaves them whole.
pub fn held(marks: &Mutex<Marks>) -> MutexGuard<'_, Marks> {
    marks.lock().unwrap_or_else(PoisonError::into_inner)
}

const fn shard(group: GroupId) -> u8 {
    group.0[0] >> 4
}

/// Where the marks of one pair are kept.
#[derive(Clone)]
pub struct MarkStore {
    api: Api<ConfigMap>,
    prefix: String,
}

impl MarkStore {
    /// The marks of a pair in the release namespace.
    ///
    /// # Errors
    /// The name of the pair is too long to name ConfigMaps.
    pub fn new(client: Client, namespace: &str, pair: &str) -> Result<Self, MarksError> {
        if pair.len() > LONGEST_PAIR {
            return Err(MarksError::LongName);
        }
        Ok(Self {
            api: Api::namespaced(client, namespace),
            prefix: format!("twinsite-marks-{pair}"),
        })
    }

    fn name(&self, shard: u8) -> String {
        format!("{}-{shard:x}", self.prefix)
    }

    /// All marks of the pair.
    ///
    /// # Errors
    /// The API server does not answer, or a mark cannot be read: then no register may be believed.
    pub async fn load(&self) -> Result<Marks, MarksError> {
        let mut marks = Marks::default();
        for shard in 0..SHARDS {
            let name = self.name(shard);
            if let Some(map) =
                within(self.api.get_opt(&name))
                    .await
                    .map_err(|source| MarksError::Request {
                        name: name.clone(),
                        source,
                    })?
            {
                for (group, kept) in parse(&name, &map)? {
                    marks.merge(group, kept);
                }
            }
        }
        Ok(marks)
    }

    /// Writes what is behind.
    ///
    /// # Errors
    /// The API server does not answer or refuses; what is behind stays so.
    pub async fn flush(&self, marks: &Mutex<Marks>) -> Result<(), MarksError> {
        let dirty: Vec<u8> = held(marks).dirty.iter().copied().collect();
        for shard in dirty {
            held(marks).dirty.remove(&shard);
            if let Err(error) = self.write(shard, marks).await {
                held(marks).dirty.insert(shard);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn write(&self, number: u8, marks: &Mutex<Marks>) -> Result<(), MarksError> {
        let name = self.name(number);
        let failed = |source| MarksError::Request {
            name: name.clone(),
            source,
        };
        for _ in 0..ROUNDS {
            let stored = within(self.api.get_opt(&name)).await.map_err(failed)?;
            if let Some(map) = &stored {
                let parsed = parse(&name, map)?;
                let mut marks = held(marks);
                for (group, kept) in parsed {
                    marks.merge(group, kept);
                }
            }
            let data: BTreeMap<String, String> = held(marks)
                .kept
                .iter()
                .filter(|(group, _)| shard(**group) == number)
                .map(|(group, kept)| {
                    let text = serde_json::to_string(kept).unwrap_or_default();
                    (group.to_string(), text)
                })
                .collect();
            let exists = stored.is_some();
            let mut map = stored.unwrap_or_else(|| ConfigMap {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    ..ObjectMeta::default()
                },
                ..ConfigMap::default()
            });
            if map.data.as_ref() == Some(&data) {
                return Ok(());
            }
            map.data = Some(data);
            let params = PostParams::default();
            let written = if exists {
                within(self.api.replace(&name, &params, &map)).await
            } else {
                within(self.api.create(&params, &map)).await
            };
            match written {
                Ok(_) => {
                    held(marks).gone.retain(|group| shard(*group) != number);
                    return Ok(());
                }
                Err(error) if error.code() == Some(409) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(MarksError::Contended(name))
    }
}

fn parse(name: &str, map: &ConfigMap) -> Result<Vec<(GroupId, Kept)>, MarksError> {
    let entries = map.data.iter().flatten();
    entries
        .map(|(key, text)| {
            let damaged = || MarksError::Damaged {
                name: name.to_owned(),
                key: key.clone(),
            };
            let group: GroupId = key.parse().map_err(|_| damaged())?;
            let kept: Kept = serde_json::from_str(text).map_err(|_| damaged())?;
            Ok((group, kept))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinsite_register::{Create, Epoch, Gen, Members, RegisterId, Site, TxId, VolumeId};

    const GROUP: GroupId = GroupId([7; 16]);

    fn register(id: u8, epoch: u64, seq: u64) -> Register {
        let born = Register::create(Create {
            register_id: RegisterId([id; 16]),
            group: GROUP,
            volumes: vec![VolumeId([7; 16])],
            generation: Gen([2; 16]),
            site: Site::A,
            txid: TxId([4; 16]),
        });
        let mut register = born.unwrap();
        (register.state, register.epoch, register.active.seq) = (State::Live, Epoch(epoch), seq);
        register
    }

    fn shown(marks: &Marks) -> Option<(u8, u64, u64)> {
        let mark = marks.of(GROUP)?;
        Some((mark.register_id.0[0], mark.epoch.0, mark.seq))
    }

    #[test]
    fn marks_rise_and_never_fall() {
        let mut marks = Marks::default();
        assert_eq!(marks.see(GROUP, Some(&register(1, 5, 2))), Class::Live);
        marks.see(GROUP, Some(&register(1, 7, 2)));
        assert_eq!(shown(&marks), Some((1, 7, 2)));
        let class = marks.see(GROUP, Some(&register(1, 6, 3)));
        assert!(matches!(class, Class::Below(_)), "{class:?}");
        assert_eq!(shown(&marks), Some((1, 7, 2)));
        assert_eq!(marks.see(GROUP, None), Class::Absent);
        assert_eq!(
            shown(&marks),
            Some((1, 7, 2)),
            "a register that is gone is no news of a deletion"
        );
    }

    #[test]
    fn the_name_of_a_deleted_volume_is_free_once_its_register_is_gone() {
        let mut marks = Marks::default();
        marks.see(GROUP, Some(&register(1, 5, 2)));
        let mut tombstone = register(1, 6, 2);
        tombstone.state = State::Tombstone;
        tombstone.members = Members::NONE;
        assert_eq!(marks.see(GROUP, Some(&tombstone)), Class::Tombstone);
        let class = marks.see(GROUP, Some(&register(2, 1, 1)));
        assert!(matches!(class, Class::Below(_)), "{class:?}");
        marks.see(GROUP, None);
        assert_eq!(marks.see(GROUP, Some(&register(2, 1, 1))), Class::Live);
    }

    #[test]
    fn what_somebody_else_wrote_only_raises_a_mark() {
        let mut marks = Marks::default();
        marks.see(GROUP, Some(&register(1, 5, 4)));
        let stored = |epoch, seq| Kept {
            mark: Mark::of(&register(1, epoch, seq)),
            tombstone: false,
        };
        marks.merge(GROUP, stored(9, 2));
        marks.merge(GROUP, stored(3, 3));
        assert_eq!(shown(&marks), Some((1, 9, 4)));
    }
}

//! Marks: the highest register of each group that this site saw, kept where a restored witness cannot
//! reach (protocol 2.3 rule 6).
//!
//! ```text
//! <state>/marks/<group>.json          beside the agent's state
//! <pool>/marks/<group>.json           beside each pool that this node serves
//! ```
//! Either copy alone is enough: the state folder of a reinstalled node is empty, its pool is not.
//! Not here: when a mark rises (`twinsite_register::Mark`); the cluster's own marks (the operator keeps them).
//!
//! Invariants: a mark never goes down; a register that is Below the marks never changes them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use twinsite_register::{GroupId, Mark, Register};

use super::durable::{read_optional, write_durable};

/// All marks of this node.
#[derive(Debug)]
pub struct Marks {
    state: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pools: BTreeMap<String, PathBuf>,
    /// What is on disk in every folder.
    known: BTreeMap<GroupId, Vec<Mark>>,
}

const FOLDER: &str = "marks";

impl Marks {
    /// Marks in a state folder.
    pub fn open(state: &Path) -> io::Result<Self> {
        let state = state.join(FOLDER);
        fs::create_dir_all(&state)?;
        Ok(Self {
            state,
            inner: Mutex::default(),
        })
    }

    /// Keeps marks beside this pool too, and believes those that are there.
    pub fn add_pool(&self, name: &str, directory: &Path) -> io::Result<()> {
        let folder = directory.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let mut inner = self.inner();
        inner.pools.insert(name.to_owned(), folder);
        inner.known.clear();
        Ok(())
    }

    pub fn remove_pool(&self, name: &str) {
        let mut inner = self.inner();
        inner.pools.remove(name);
        inner.known.clear();
    }

    /// The marks of a group from every folder.
    pub fn of(&self, group: GroupId) -> io::Result<Vec<Mark>> {
        self.load(&mut self.inner(), group)
    }

    /// A register was read or written: if it may be believed, the marks rise to it. On disk when it returns.
    pub fn see(&self, register: &Register) {
        let mut inner = self.inner();
        let marks = match self.load(&mut inner, register.group) {
            Ok(marks) => marks,
            Err(error) => {
                tracing::error!(group = %register.group, %error, "the marks cannot be read");
                return;
            }
        };
        let raised = match Mark::after(&marks, register) {
            Ok(raised) => raised,
            Err(why) => {
                tracing::error!(group = %register.group, %why, "the register at the witness is older than what was seen here");
                return;
            }
        };
        if marks.iter().all(|mark| *mark == raised) && !marks.is_empty() {
            return;
        }
        if let Err(error) = self.store(&inner, register.group, raised) {
            tracing::error!(group = %register.group, %error, "the marks cannot be written");
            return;
        }
        inner.known.insert(register.group, vec![raised]);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folders<'a>(&'a self, inner: &'a Inner) -> impl Iterator<Item = &'a Path> {
        std::iter::once(self.state.as_path()).chain(inner.pools.values().map(PathBuf::as_path))
    }

    fn load(&self, inner: &mut Inner, group: GroupId) -> io::Result<Vec<Mark>> {
        if let Some(marks) = inner.known.get(&group) {
            return Ok(marks.clone());
        }
        let mut marks: Vec<Mark> = Vec::new();
        for folder in self.folders(inner) {
            if let Some(bytes) = read_optional(&folder.join(file_name(group)))? {
                let mark: Mark = serde_json::from_slice(&bytes)?;
                if !marks.contains(&mark) {
                    marks.push(mark);
                }
            }
        }
        Ok(marks)
    }

    fn store(&self, inner: &Inner, group: GroupId, mark: Mark) -> io::Result<()> {
        let bytes = serde_json::to_vec(&mark)?;
        for folder in self.folders(inner) {
            write_durable(&folder.join(file_name(group)), &bytes)?;
        }
        Ok(())
    }
}

fn file_name(group: GroupId) -> String {
    format!("{group}.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinsite_register::{Create, Epoch, Gen, RegisterId, Site, State, TxId, VolumeId};

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

    fn shown(marks: &Marks) -> Vec<(u8, u64, u64)> {
        let marks = marks.of(GROUP).unwrap();
        marks
            .iter()
            .map(|mark| (mark.register_id.0[0], mark.epoch.0, mark.seq))
            .collect()
    }

    #[test]
    fn marks_rise_and_never_fall() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::open(dir.path()).unwrap();
        assert_eq!(shown(&marks), []);
        marks.see(&register(1, 5, 2));
        marks.see(&register(1, 7, 2));
        assert_eq!(shown(&marks), [(1, 7, 2)]);
        marks.see(&register(1, 6, 3));
        assert_eq!(shown(&marks), [(1, 7, 2)], "epoch 6 is below epoch 7");
        assert_eq!(shown(&Marks::open(dir.path()).unwrap()), [(1, 7, 2)]);
    }

    #[test]
    fn another_register_counts_only_if_it_replaced_the_known_one() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::open(dir.path()).unwrap();
        marks.see(&register(1, 7, 2));
        marks.see(&register(2, 9, 9));
        assert_eq!(shown(&marks), [(1, 7, 2)]);
        let mut reseeded = register(2, 1007, 3);
        reseeded.former.push(RegisterId([1; 16]));
        marks.see(&reseeded);
        assert_eq!(shown(&marks), [(2, 1007, 3)]);
    }

    #[test]
    fn a_pool_remembers_for_a_node_that_was_reinstalled() {
        let (old, new, pool) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
        );
        let marks = Marks::open(old.path()).unwrap();
        marks.add_pool("m1", pool.path()).unwrap();
        marks.see(&register(1, 7, 2));
        let marks = Marks::open(new.path()).unwrap();
        assert_eq!(shown(&marks), []);
        marks.add_pool("m1", pool.path()).unwrap();
        assert_eq!(shown(&marks), [(1, 7, 2)]);
        marks.see(&register(1, 3, 2));
        assert_eq!(shown(&marks), [(1, 7, 2)]);
    }

    #[test]
    fn folders_that_disagree_all_count_until_a_register_is_above_them() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Marks::open(one.path()).unwrap().see(&register(1, 7, 2));
        let other = Marks::open(two.path()).unwrap();
        other.see(&register(1, 5, 4));
        other.add_pool("m1", one.path()).unwrap();
        assert_eq!(shown(&other), [(1, 5, 4), (1, 7, 2)]);
        other.see(&register(1, 6, 4));
        assert_eq!(shown(&other), [(1, 5, 4), (1, 7, 2)]);
        other.see(&register(1, 7, 4));
        assert_eq!(shown(&other), [(1, 7, 4)]);
    }
}

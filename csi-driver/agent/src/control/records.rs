//! What an agent keeps of its attachments, so that it can be killed at any instant.
//!
//! ```text
//! <state>/records/<uid>.json    keys and order of one Attachment uid (protocol 2.7), on disk before a fence
//! <state>/uids/<name>           uid of an Attachment whose manifest has none
//! ```
//! An Attachment without a uid gets a random one at first sight, which ends with the object: the same
//! manifest removed and put back is another Attachment, as in Kubernetes.
//!
//! Invariants: a record that cannot be read is an error, never an empty record: an empty one would let
//! an Attachment that is out of date attach again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, task::spawn_blocking};
use twinsite_mirror::io::AttachRecord;
use twinsite_register::{AttachmentUid, Key};

use super::durable::{random, read_optional, remove_durable, write_durable};

/// The records of this node.
#[derive(Clone, Debug)]
pub struct Records {
    records: Arc<Path>,
    uids: Arc<Path>,
    /// The last save that was asked for, of each uid.
    latest: Arc<Mutex<BTreeMap<AttachmentUid, u64>>>,
}

/// What became of one try to save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saved {
    Done,
    Failed,
    /// Somebody wants another record saved, or none.
    Outdated,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot {what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is damaged: {what}; the attachment cannot be continued, make another one")]
    Damaged { path: PathBuf, what: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    uid: AttachmentUid,
    keys: Vec<Key>,
    n: Option<u64>,
    stale: bool,
    #[serde(default)]
    flush_owed: bool,
}

const VERSION: u32 = 1;
/// After a record could not be saved, the next try.
const RETRY: Duration = Duration::from_secs(1);

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(0);

impl Records {
    /// Records in a state folder, which is made if it is not there.
    pub fn open(state: &Path) -> Result<Self, RecordError> {
        let folder = |name: &str| {
            let path = state.join(name);
            fs::create_dir_all(&path).map_err(|source| RecordError::Io {
                what: "make",
                path: path.clone(),
                source,
            })?;
            Ok::<Arc<Path>, RecordError>(path.into())
        };
        Ok(Self {
            records: folder("records")?,
            uids: folder("uids")?,
            latest: Arc::default(),
        })
    }

    fn path(&self, uid: AttachmentUid) -> PathBuf {
        self.records.join(format!("{uid}.json"))
    }

    /// What is known of earlier tries of this uid.
    pub fn load(&self, uid: AttachmentUid) -> Result<AttachRecord, RecordError> {
        let path = self.path(uid);
        let read = read_optional(&path).map_err(|source| RecordError::Io {
            what: "read",
            path: path.clone(),
            source,
        })?;
        let Some(bytes) = read else {
            return Ok(AttachRecord {
                uid,
                keys: Vec::new(),
                n: None,
                stale: false,
                flush_owed: false,
            });
        };
        let damaged = |what: String| RecordError::Damaged {
            path: path.clone(),
            what,
        };
        let stored: Stored =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if stored.version != VERSION {
            return Err(damaged(format!("version {} is not known", stored.version)));
        }
        if stored.uid != uid {
            return Err(damaged("it is the record of another attachment".to_owned()));
        }
        Ok(AttachRecord {
            uid,
            keys: stored.keys,
            n: stored.n,
            stale: stored.stale,
            flush_owed: stored.flush_owed,
        })
    }

    /// On disk when it returns.
    pub fn save(&self, record: &AttachRecord) -> Result<(), RecordError> {
        let path = self.path(record.uid);
        let stored = Stored {
            version: VERSION,
            uid: record.uid,
            keys: record.keys.clone(),
            n: record.n,
            stale: record.stale,
            flush_owed: record.flush_owed,
        };
        let bytes = serde_json::to_vec(&stored).expect("plain values with text keys");
        write_durable(&path, &bytes).map_err(|source| RecordError::Io {
            what: "write",
            path,
            source,
        })
    }

    /// Saves from a thread that must not wait; the reply comes from another one. A record that cannot be written (a full
    /// disk) is tried again until it can, or until a later one of its uid is to be saved: the attach waits meanwhile, which is
    /// what it must do.
    pub fn save_apart(
        &self,
        runtime: &Handle,
        record: AttachRecord,
        reply: impl FnOnce() + Send + 'static,
    ) {
        let records = self.clone();
        let serial = NEXT_SERIAL.fetch_add(1, Ordering::Relaxed);
        records.latest().insert(record.uid, serial);
        runtime.spawn(async move {
            loop {
                let (records, record) = (records.clone(), record.clone());
                let tried = spawn_blocking(move || records.save_latest(&record, serial)).await;
                match tried {
                    Ok(Saved::Done) => return reply(),
                    Ok(Saved::Outdated) | Err(_) => return,
                    Ok(Saved::Failed) => tokio::time::sleep(RETRY).await,
                }
            }
        });
    }

    fn latest(&self) -> std::sync::MutexGuard<'_, BTreeMap<AttachmentUid, u64>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves unless a later record of the uid is to be saved, or it was forgotten. The lock keeps an older record from
    /// replacing a newer one.
    fn save_latest(&self, record: &AttachRecord, serial: u64) -> Saved {
        let latest = self.latest();
        if latest.get(&record.uid) != Some(&serial) {
            return Saved::Outdated;
        }
        match self.save(record) {
            Ok(()) => Saved::Done,
            Err(error) => {
                tracing::error!(uid = %record.uid, error = &error as &dyn std::error::Error, "the record of an attachment cannot be saved: it cannot attach until it can; make room, or see to the disk of the state folder");
                Saved::Failed
            }
        }
    }

    /// The uid of an Attachment whose manifest has none.
    pub fn uid_of(&self, name: &str) -> Result<String, RecordError> {
        let path = self.uids.join(name);
        let failed = |what| {
            let path = path.clone();
            move |source| RecordError::Io { what, path, source }
        };
        if let Some(bytes) = read_optional(&path).map_err(failed("read"))? {
            let text = String::from_utf8(bytes).unwrap_or_default();
            if text.parse::<AttachmentUid>().is_err() {
                return Err(RecordError::Damaged {
                    path,
                    what: "it holds no uid".to_owned(),
                });
            }
            return Ok(text);
        }
        let uid = AttachmentUid(random().map_err(failed("name"))?).to_string();
        write_durable(&path, uid.as_bytes()).map_err(failed("write"))?;
        Ok(uid)
    }

    /// Ends an Attachment that is gone and detached: its name starts anew.
    pub fn forget(&self, name: &str, uid: AttachmentUid) -> Result<(), RecordError> {
        self.latest().remove(&uid);
        for path in [self.uids.join(name), self.path(uid)] {
            remove_durable(&path).map_err(|source| RecordError::Io {
                what: "remove",
                path,
                source,
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: AttachmentUid = AttachmentUid([5; 16]);

    #[test]
    fn a_record_is_what_was_saved_last() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let empty = AttachRecord {
            uid: UID,
            keys: Vec::new(),
            n: None,
            stale: false,
            flush_owed: false,
        };
        assert_eq!(records.load(UID).unwrap(), empty);
        let full = AttachRecord {
            uid: UID,
            keys: vec![Key::from_u64(0xA1 << 56 | 0x100)],
            n: Some(4),
            stale: true,
            flush_owed: true,
        };
        records.save(&empty).unwrap();
        records.save(&full).unwrap();
        assert_eq!(Records::open(dir.path()).unwrap().load(UID).unwrap(), full);
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_saved_is_tried_again_unless_a_later_one_came() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let folder = dir.path().join("records");
        // As on a full disk: no file can be made.
        fs::remove_dir(&folder).unwrap();
        fs::write(&folder, "in the way").unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        for n in [1, 2] {
            let record = AttachRecord {
                uid: UID,
                keys: Vec::new(),
                n: Some(n),
                stale: false,
                flush_owed: false,
            };
            let tell = tell.clone();
            records.save_apart(&Handle::current(), record, move || tell.send(n).unwrap());
        }
        drop(tell);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(told.try_recv().is_err());
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        assert_eq!(told.recv().await, Some(2));
        assert_eq!(told.recv().await, None, "the first one was given up");
        assert_eq!(records.load(UID).unwrap().n, Some(2));
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records
            .save(&AttachRecord {
                uid: UID,
                keys: Vec::new(),
                n: Some(1),
                stale: false,
                flush_owed: false,
            })
            .unwrap();
        let path = records.path(UID);
        let whole = fs::read_to_string(&path).unwrap();
        for broken in [
            "",
            "{}",
            &whole[..whole.len() - 1],
            &whole.replace("\"version\":1", "\"version\":2"),
            &whole.replace("0505", "0506"),
        ] {
            fs::write(&path, broken).unwrap();
            assert!(
                matches!(records.load(UID), Err(RecordError::Damaged { .. })),
                "{broken}"
            );
        }
    }

    #[test]
    fn an_attachment_without_a_uid_keeps_the_one_it_was_given_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let first = records.uid_of("records-m1").unwrap();
        assert_eq!(records.uid_of("records-m1").unwrap(), first);
        assert_ne!(records.uid_of("records-m2").unwrap(), first);
        let uid: AttachmentUid = first.parse().unwrap();
        records
            .save(&AttachRecord {
                uid,
                keys: Vec::new(),
                n: Some(1),
                stale: true,
                flush_owed: false,
            })
            .unwrap();
        records.forget("records-m1", uid).unwrap();
        assert_ne!(records.uid_of("records-m1").unwrap(), first);
        assert!(!records.load(uid).unwrap().stale);
    }
}

//! What was asked for each volume on this node: one small file per volume.
//!
//! The kernel says what is mounted; only a record says for whom and as what. A record may be older than a reboot and is
//! never believed about mounts.
//!
//! Invariants: a file is written whole or not at all; its name is a volume id and nothing else.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use twinsite_api::VolumeId;

use crate::capability::{Capability, Mode};

/// A staged volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub volume: VolumeId,
    /// The Attachment whose device it is.
    pub attachment: String,
    pub staging: PathBuf,
    pub capability: Capability,
    /// The file system that was mounted; `None`: raw block.
    #[serde(default)]
    pub fs_type: Option<String>,
    #[serde(default)]
    pub targets: BTreeMap<PathBuf, Target>,
}

/// A path at which a pod sees the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Target {
    pub read_only: bool,
    pub mode: Mode,
}

/// The folder of records.
#[derive(Debug, Clone)]
pub(super) struct Records(PathBuf);

impl Records {
    /// Opens the folder, makes it if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// The record of a volume. One that cannot be read counts as none: the kernel's table still protects what is mounted.
    pub(super) fn load(&self, volume: VolumeId) -> Option<Record> {
        let path = self.path(volume);
        let text = fs::read(&path).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| {
                tracing::warn!(path = %path.display(), %error, "a record is damaged and is made anew");
            })
            .ok()
    }

    /// Writes a record.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn save(&self, record: &Record) -> io::Result<()> {
        let path = self.path(record.volume);
        let draft = path.with_extension("draft");
        let mut file = fs::File::create(&draft)?;
        file.write_all(&serde_json::to_vec(record).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    }

    /// Removes a record; none is fine.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn remove(&self, volume: VolumeId) -> io::Result<()> {
        match fs::remove_file(self.path(volume)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// How many volumes are staged.
    pub(super) fn count(&self) -> usize {
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten();
        files
            .filter(|file| file.path().extension().is_some_and(|end| end == "json"))
            .count()
    }

    fn path(&self, volume: VolumeId) -> PathBuf {
        self.0.join(format!("{volume}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Access;

    #[test]
    fn a_record_is_found_again_and_a_damaged_one_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(&folder.path().join("volumes")).unwrap();
        let volume = VolumeId::of("p", "n", "v");
        assert_eq!(records.load(volume), None);
        let target = Target {
            read_only: true,
            mode: Mode::Writer,
        };
        let record = Record {
            volume,
            attachment: format!("{volume}-writer"),
            staging: "/staging".into(),
            capability: Capability {
                access: Access::Block,
                mode: Mode::Writer,
            },
            fs_type: None,
            targets: BTreeMap::from([("/target".into(), target)]),
        };
        records.save(&record).unwrap();
        assert_eq!(records.load(volume), Some(record));
        assert_eq!(records.count(), 1);
        fs::write(records.path(volume), b"{").unwrap();
        assert_eq!(records.load(volume), None);
        records.remove(volume).unwrap();
        records.remove(volume).unwrap();
        assert_eq!(records.count(), 0);
    }
}

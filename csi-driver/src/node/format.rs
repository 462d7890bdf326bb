//! The file system of a volume: made once, by the record on its legs, and looked at before each mount.
//!
//! ```text
//!   record   what is on the device   step
//!   None     nothing                 record Started, mkfs, record Done
//!   None     the wanted one          record Done: it was made by hand
//!   Started  anything                mkfs again, record Done: nobody has mounted it yet
//!   Done     the wanted one          check it, use it
//!   else                             refuse
//! ```
//!
//! Invariants: no file system is made on what may ever have been mounted; a repair that could lose data is left to a person.

use std::path::Path;

use twinsite_api::FormatState;

use super::agent::{Agent, AgentError, FormatStep};
use crate::mount::{LOOK_LIMIT, RunError, WORK_LIMIT, run};

/// Why a volume has no file system that can be mounted.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormatError {
    #[error(
        "the volume carries {found}, and {wanted} was asked for: name the right fsType, or empty the volume by hand; it is not formatted over"
    )]
    Other { found: String, wanted: String },
    #[error(
        "the legs record that {0} was made, and the device shows none: its beginning was overwritten; restore it, it is not formatted again"
    )]
    Vanished(String),
    #[error(
        "{fs_type} has errors that may lose data when mended ({said}): with the pod stopped, run {advice} on the device"
    )]
    Damaged {
        fs_type: String,
        said: String,
        advice: &'static str,
    },
    #[error("the state of the file system cannot be recorded on the legs: {0}")]
    Record(#[source] AgentError),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// What to do about a device's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Use,
    Adopt,
    /// `blank`: nothing was ever written to the device, it reads as zeros.
    Make {
        blank: bool,
    },
    Refuse(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    Other(String),
    Vanished,
}

fn decide(recorded: FormatState, found: Option<&str>, wanted: &str) -> Step {
    match (recorded, found) {
        (FormatState::None, None) => Step::Make { blank: true },
        (FormatState::Started, _) => Step::Make { blank: false },
        (FormatState::None, Some(found)) if found == wanted => Step::Adopt,
        (FormatState::Done, Some(found)) if found == wanted => Step::Use,
        (FormatState::Done, None) => Step::Refuse(Refusal::Vanished),
        (_, Some(found)) => Step::Refuse(Refusal::Other(found.to_owned())),
    }
}

/// Sees to it that the device, which is mounted nowhere, has the file system `wanted` and that it can be mounted.
///
/// # Errors
/// It has another one, or one that a person must mend.
pub(super) async fn prepare(
    agent: &Agent,
    attachment: &str,
    recorded: FormatState,
    device: &Path,
    wanted: &str,
) -> Result<(), FormatError> {
    let found = probe(device).await?;
    let record = |step| async move {
        agent
            .record_format(attachment, step, wanted)
            .await
            .map_err(FormatError::Record)
    };
    match decide(recorded, found.as_deref(), wanted) {
        Step::Use => check(device, wanted).await,
        Step::Adopt => {
            tracing::warn!(
                attachment,
                wanted,
                "a file system that was made by hand is taken over"
            );
            check(device, wanted).await?;
            record(FormatStep::Done).await
        }
        Step::Make { blank } => {
            record(FormatStep::Started).await?;
            make(device, wanted, blank).await?;
            record(FormatStep::Done).await
        }
        Step::Refuse(Refusal::Vanished) => Err(FormatError::Vanished(wanted.to_owned())),
        Step::Refuse(Refusal::Other(found)) => Err(FormatError::Other {
            found,
            wanted: wanted.to_owned(),
        }),
    }
}

/// What is on a device: a file system, or another sign of use.
///
/// # Errors
/// The device cannot be read.
pub(super) async fn probe(device: &Path) -> Result<Option<String>, RunError> {
    const NOTHING: i32 = 2;
    let arguments = ["-p", "-o", "export"].map(std::ffi::OsStr::new);
    let arguments = arguments.into_iter().chain([device.as_os_str()]);
    let said = run("blkid", arguments, &[NOTHING], LOOK_LIMIT).await?;
    Ok(signature(&said.stdout))
}

fn signature(export: &str) -> Option<String> {
    let value = |key: &str| {
        let mut lines = export.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    value("TYPE").or_else(|| value("PTTYPE").map(|kind| format!("a partition table ({kind})")))
}

async fn make(device: &Path, fs_type: &str, blank: bool) -> Result<(), RunError> {
    tracing::info!(device = %device.display(), fs_type, "making the file system");
    let mut arguments: Vec<&std::ffi::OsStr> = Vec::new();
    let mut add =
        |words: &'static [&'static str]| arguments.extend(words.iter().map(std::ffi::OsStr::new));
    // A discard before would only copy zeros to two sites.
    let program = match (fs_type, blank) {
        ("xfs", _) => {
            add(&["-q", "-f", "-K"]);
            "mkfs.xfs"
        }
        (_, true) => {
            add(&[
                "-q",
                "-F",
                "-e",
                "remount-ro",
                "-E",
                "nodiscard,assume_storage_prezeroed=1",
            ]);
            "mkfs.ext4"
        }
        (_, false) => {
            add(&[
                "-q",
                "-F",
                "-e",
                "remount-ro",
                "-E",
                "nodiscard,lazy_itable_init=0",
            ]);
            "mkfs.ext4"
        }
    };
    arguments.push(device.as_os_str());
    run(program, arguments, &[], WORK_LIMIT).await.map(drop)
}

/// Grows an ext4 that is mounted nowhere to its device: unlike a mounted one, that needs no privilege. XFS only grows mounted.
///
/// # Errors
/// The file system cannot be read or grown.
pub(super) async fn fit(device: &Path, fs_type: &str, size: u64) -> Result<(), FormatError> {
    if fs_type != "ext4" {
        return Ok(());
    }
    let arguments = ["-h".as_ref(), device.as_os_str()];
    let said = run("dumpe2fs", arguments, &[], LOOK_LIMIT).await?;
    let has = ext4_bytes(&said.stdout);
    if has.is_none_or(|(bytes, block)| size < bytes + block) {
        return Ok(());
    }
    tracing::info!(device = %device.display(), size, "growing the file system");
    let forced = ["-f".as_ref(), "-p".as_ref(), device.as_os_str()];
    run("e2fsck", forced, &[1], WORK_LIMIT).await?;
    run("resize2fs", [device], &[], WORK_LIMIT).await?;
    Ok(())
}

/// Bytes of an ext4, and of one of its blocks, as dumpe2fs tells.
fn ext4_bytes(text: &str) -> Option<(u64, u64)> {
    let value = |key: &str| -> Option<u64> {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    };
    let block = value("Block size:")?;
    Some((value("Block count:")?.checked_mul(block)?, block))
}

/// Replays and mends what can be mended without loss. XFS does so when it is mounted.
async fn check(device: &Path, fs_type: &str) -> Result<(), FormatError> {
    const MENDED: i32 = 1;
    // Errors are left, or it would not even begin.
    const NEEDS_A_PERSON: i32 = 4 | 8;
    if fs_type != "ext4" {
        return Ok(());
    }
    let arguments = ["-p".as_ref(), device.as_os_str()];
    match run("e2fsck", arguments, &[MENDED], WORK_LIMIT).await {
        Ok(said) => {
            if said.code == MENDED {
                tracing::warn!(device = %device.display(), said = said.stdout.trim(), "the file system was mended");
            }
            Ok(())
        }
        Err(RunError::Failed {
            code: Some(code),
            said,
            ..
        }) if code & NEEDS_A_PERSON != 0 => Err(FormatError::Damaged {
            fs_type: fs_type.to_owned(),
            said,
            advice: "e2fsck -f",
        }),
        Err(error) => Err(error.into()),
    }
}

/// Whether a mount failed because the file system itself is damaged.
pub(super) fn damage(fs_type: &str, error: RunError) -> FormatError {
    let said = error.to_string();
    let damaged = ["needs cleaning", "bad superblock", "wrong fs type"];
    match fs_type {
        "xfs" if damaged.iter().any(|words| said.contains(words)) => FormatError::Damaged {
            fs_type: fs_type.to_owned(),
            said,
            advice: "xfs_repair",
        },
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_made_only_where_none_can_have_been_mounted() {
        use FormatState::{Done, None as Unmade, Started};
        let other = |name: &str| Step::Refuse(Refusal::Other(name.to_owned()));
        for (recorded, found, step) in [
            (Unmade, None, Step::Make { blank: true }),
            (Unmade, Some("ext4"), Step::Adopt),
            (Unmade, Some("xfs"), other("xfs")),
            (Started, None, Step::Make { blank: false }),
            (Started, Some("ext4"), Step::Make { blank: false }),
            (Started, Some("xfs"), Step::Make { blank: false }),
            (Done, Some("ext4"), Step::Use),
            (Done, Some("xfs"), other("xfs")),
            (Done, None, Step::Refuse(Refusal::Vanished)),
        ] {
            assert_eq!(
                decide(recorded, found, "ext4"),
                step,
                "{recorded:?} {found:?}"
            );
        }
    }

    #[test]
    fn a_partition_table_is_a_sign_of_use_too() {
        assert_eq!(
            signature("DEVNAME=/dev/x\nTYPE=xfs\n").as_deref(),
            Some("xfs")
        );
        assert_eq!(
            signature("DEVNAME=/dev/x\nPTTYPE=gpt\n").as_deref(),
            Some("a partition table (gpt)")
        );
        assert_eq!(signature("DEVNAME=/dev/x\nPARTUUID_TYPE=1\n"), None);
    }

    #[tokio::test]
    async fn what_is_on_a_file_is_seen_by_the_real_programs() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("device");
        let file = std::fs::File::create(&device).unwrap();
        file.set_len(320 << 20).unwrap();
        assert_eq!(probe(&device).await.unwrap(), None);
        make(&device, "xfs", true).await.unwrap();
        assert_eq!(probe(&device).await.unwrap().as_deref(), Some("xfs"));
        make(&device, "ext4", false).await.unwrap();
        assert_eq!(probe(&device).await.unwrap().as_deref(), Some("ext4"));
        check(&device, "ext4").await.unwrap();
        file.set_len(0).unwrap();
        file.set_len(320 << 20).unwrap();
        make(&device, "ext4", true).await.unwrap();
        check(&device, "ext4").await.unwrap();
        let twice = 640 << 20;
        file.set_len(twice).unwrap();
        for _ in 0..2 {
            fit(&device, "ext4", twice).await.unwrap();
        }
        let said = run(
            "dumpe2fs",
            ["-h".as_ref(), device.as_os_str()],
            &[],
            LOOK_LIMIT,
        )
        .await;
        assert_eq!(ext4_bytes(&said.unwrap().stdout).unwrap().0, twice);
    }

    #[tokio::test]
    async fn damage_that_a_mending_could_worsen_is_left_to_a_person() {
        use std::os::unix::fs::FileExt;
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("device");
        let file = std::fs::File::create(&device).unwrap();
        file.set_len(64 << 20).unwrap();
        make(&device, "ext4", true).await.unwrap();
        // The group descriptors and bitmaps behind the first block, and a state that asks for a check.
        file.write_all_at(&[0xff; 512 << 10], 4096).unwrap();
        file.write_all_at(&[0x02], 1024 + 0x3a).unwrap();
        let checked = check(&device, "ext4").await;
        let text = checked.as_ref().unwrap_err().to_string();
        assert!(
            matches!(checked, Err(FormatError::Damaged { .. })),
            "{text}"
        );
        assert!(text.contains("e2fsck -f"), "{text}");
    }
}

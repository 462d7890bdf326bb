//! NodeGetVolumeStats and NodeExpand: how large a volume is, how full, and growing its file system.

use std::path::Path;

use tokio::time::Instant;
use tonic::Status;
use twinsite_api::VolumeId;

use super::{
    Node,
    record::Record,
    stage::{Shown, table},
};
use crate::{
    capability::Mode,
    mount::{DeviceNumber, LOOK_LIMIT, RunError, WORK_LIMIT, run},
    proto::csi::{VolumeUsage, volume_usage::Unit},
};

impl Node {
    /// The record of a volume that is seen at this path.
    fn seen_at(&self, volume: VolumeId, path: &Path) -> Result<Record, Status> {
        let record = self
            .records
            .load(volume)
            .ok_or_else(|| Status::not_found(format!("{volume} is not staged on this node")))?;
        let ours = record.targets.contains_key(path)
            || (record.staging == path && !record.capability.is_block());
        if !ours || table()?.at(path).is_none() {
            return Err(Status::not_found(format!(
                "{volume} is not at {}",
                path.display()
            )));
        }
        Ok(record)
    }

    pub(super) async fn stats(
        &self,
        volume: VolumeId,
        path: &Path,
    ) -> Result<Vec<VolumeUsage>, Status> {
        let record = self.seen_at(volume, path)?;
        if record.capability.is_block() {
            let size = DeviceNumber::of(path).and_then(DeviceNumber::size);
            let size = size.map_err(|error| {
                Status::internal(format!("the device at {}: {error}", path.display()))
            })?;
            return Ok(vec![VolumeUsage {
                total: signed(size),
                unit: Unit::Bytes.into(),
                ..VolumeUsage::default()
            }]);
        }
        // In a child: a file system whose device does not answer may keep whoever asks.
        let arguments = ["-f", "-c", "%S %b %f %a %c %d"].map(std::ffi::OsStr::new);
        let arguments = arguments.into_iter().chain([path.as_os_str()]);
        let said = run("stat", arguments, &[], LOOK_LIMIT).await?;
        usage(&said.stdout)
            .ok_or_else(|| Status::internal(format!("stat says {:?}", said.stdout.trim())))
    }

    /// The bytes that a volume has after it has grown to at least `wanted`.
    pub(super) async fn expand(
        &self,
        volume: VolumeId,
        path: &Path,
        wanted: u64,
        until: Instant,
    ) -> Result<u64, Status> {
        let record = self.seen_at(volume, path)?;
        let device = loop {
            let device = self.device(&record.attachment, until).await?;
            if device.size >= wanted {
                break device;
            }
            if Instant::now() + super::LOOK >= until {
                return Err(Status::unavailable(format!(
                    "the device of {volume} has {} bytes and not {wanted} yet: both legs must be in sync for it to grow",
                    device.size
                )));
            }
            tokio::time::sleep(super::LOOK).await;
        };
        if let Some(fs_type) = &record.fs_type
            && record.capability.mode != Mode::Reader
        {
            self.grow(fs_type, &device, &record.staging).await?;
        }
        Ok(device.size)
    }

    /// Grows a mounted file system to the size of its device; one that has it already stays as it is.
    pub(super) async fn grow(
        &self,
        fs_type: &str,
        device: &Shown,
        mounted_at: &Path,
    ) -> Result<(), Status> {
        let read_only = table()?
            .at(mounted_at)
            .is_none_or(|mount| mount.fs_read_only);
        if read_only {
            return Ok(());
        }
        let (program, what) = match fs_type {
            "xfs" => ("xfs_growfs", mounted_at),
            _ => ("resize2fs", device.path.as_path()),
        };
        match run(program, [what], &[], WORK_LIMIT).await {
            // The kernel lets ext4 grow under a mount only with this capability.
            Err(RunError::Failed { said, .. }) if said.contains("Permission denied") => {
                Err(Status::failed_precondition(
                    "the device has grown; ext4 grows under a mount only with CAP_SYS_RESOURCE: run the node service privileged, or start the pod anew, the file system grows before it is mounted",
                ))
            }
            done => done.map(drop).map_err(Status::from),
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Block size, blocks, free, available to users, inodes, free inodes.
fn usage(text: &str) -> Option<Vec<VolumeUsage>> {
    let numbers: Vec<u64> = text
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect::<Option<_>>()?;
    let [size, blocks, free, available, inodes, free_inodes] = numbers[..] else {
        return None;
    };
    let bytes = |count: u64| signed(count.saturating_mul(size));
    Some(vec![
        VolumeUsage {
            available: bytes(available),
            total: bytes(blocks),
            used: bytes(blocks.saturating_sub(free)),
            unit: Unit::Bytes.into(),
        },
        VolumeUsage {
            available: signed(free_inodes),
            total: signed(inodes),
            used: signed(inodes.saturating_sub(free_inodes)),
            unit: Unit::Inodes.into(),
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_inodes_are_told() {
        let told = usage("4096 100 60 50 1000 990\n").unwrap();
        let numbers: Vec<_> = told
            .iter()
            .map(|usage| (usage.total, usage.used, usage.available, usage.unit))
            .collect();
        assert_eq!(
            numbers,
            [(409_600, 163_840, 204_800, 1), (1000, 10, 990, 2)]
        );
        assert_eq!(usage("4096 1 2"), None);
        assert_eq!(usage("a b c d e f"), None);
    }
}

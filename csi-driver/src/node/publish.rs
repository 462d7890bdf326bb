//! NodePublish and NodeUnpublish: the staged volume at the path of a pod.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio::time::Instant;
use tonic::Status;
use twinsite_api::VolumeId;

use super::{
    Node,
    record::{Record, Target},
    stage::{Stage, disk, table},
};
use crate::{
    capability::{Capability, Mode},
    mount::{self, DeviceNumber, LOOK_LIMIT, Mount, Mounts},
};

/// What a NodePublish call asks for.
#[derive(Debug, Clone)]
pub(super) struct Publish {
    pub volume: VolumeId,
    pub staging: PathBuf,
    pub target: PathBuf,
    pub capability: Capability,
    pub read_only: bool,
}

impl Node {
    pub(super) async fn publish(&self, order: Publish, until: Instant) -> Result<(), Status> {
        let staged = self.records.load(order.volume);
        let staged = staged.filter(|record| record.staging == order.staging);
        let Some(mut record) = staged else {
            return Err(Status::failed_precondition(format!(
                "{} is not staged at {}",
                order.volume,
                order.staging.display()
            )));
        };
        if !record.capability.agrees(&order.capability) {
            return Err(Status::failed_precondition(format!(
                "{} is staged with another capability",
                order.volume
            )));
        }
        let read_only = order.read_only || order.capability.mode == Mode::Reader;
        let mounts = table()?;
        record
            .targets
            .retain(|target, _| mounts.at(target).is_some());
        others(&record, &order, read_only)?;
        let wanted = Target {
            read_only,
            mode: order.capability.mode,
        };
        if order.capability.is_block() {
            let device = self.device(&record.attachment, until).await?;
            self.save(&mut record, &order.target, wanted)?;
            publish_block(&device.path, device.number, &order.target, read_only).await
        } else {
            let Some(staging) = mounts.at(&order.staging) else {
                // kubelet may publish without staging after a failed unstage: nothing of the node's disk is shown instead.
                return Err(Status::failed_precondition(format!(
                    "nothing is mounted at {}: stage {} again",
                    order.staging.display(),
                    order.volume
                )));
            };
            if !self.is_shown(&record.attachment, staging.device).await {
                self.stage_again(&record, until).await?;
            }
            let mounts = table()?;
            let Some(staging) = mounts.at(&order.staging) else {
                return Err(Status::aborted(format!(
                    "{} was just unmounted: ask again",
                    order.staging.display()
                )));
            };
            self.save(&mut record, &order.target, wanted)?;
            publish_mount(&mounts, staging, &order, read_only).await
        }
    }

    /// Whether a device is still the one that the agent shows for this attachment.
    async fn is_shown(&self, attachment: &str, device: DeviceNumber) -> bool {
        let seen = self.agent.attachment(attachment).await.ok().flatten();
        let shown = seen.and_then(|status| status.device);
        shown.is_some_and(|shown| DeviceNumber::of(shown.path.as_ref()).ok() == Some(device))
    }

    /// Mounts the present device where one that has gone is mounted.
    ///
    /// The device of a volume dies with its agent. Its pods are started anew, and as long as one of the old ones has not ended kubelet
    /// takes the volume for staged: nobody but this call comes by before the new pod would see the dead device.
    async fn stage_again(&self, record: &Record, until: Instant) -> Result<(), Status> {
        let order = Stage {
            volume: record.volume,
            attachment: record.attachment.clone(),
            staging: record.staging.clone(),
            capability: record.capability.clone(),
            fs_type: record.fs_type.clone(),
        };
        self.stage(order, until).await
    }

    fn save(&self, record: &mut Record, target: &Path, wanted: Target) -> Result<(), Status> {
        record.targets.insert(target.to_owned(), wanted);
        self.records.save(record).map_err(disk)
    }

    pub(super) async fn unpublish(&self, volume: VolumeId, target: &Path) -> Result<(), Status> {
        mount::unmount(target).await?;
        remove(target)?;
        if let Some(mut record) = self.records.load(volume)
            && record.targets.remove(target).is_some()
        {
            self.records.save(&record).map_err(disk)?;
        }
        Ok(())
    }
}

/// What is already published may stand against it.
fn others(record: &Record, order: &Publish, read_only: bool) -> Result<(), Status> {
    for (path, target) in &record.targets {
        let shown = path.display();
        if *path == order.target {
            if target.read_only != read_only {
                return Err(Status::already_exists(format!(
                    "{} is published at {shown} otherwise: unpublish it first",
                    order.volume
                )));
            }
            continue;
        }
        let alone = |mode| mode != Mode::MultiWriter;
        if alone(target.mode) || alone(order.capability.mode) {
            return Err(Status::failed_precondition(format!(
                "{} is published at {shown}, and its access mode allows one path",
                order.volume
            )));
        }
        if order.capability.is_block() && target.read_only != read_only {
            return Err(Status::failed_precondition(format!(
                "{} is published at {shown}: a device is read only for all or for none",
                order.volume
            )));
        }
    }
    Ok(())
}

async fn publish_mount(
    mounts: &Mounts,
    staging: &Mount,
    order: &Publish,
    read_only: bool,
) -> Result<(), Status> {
    match mounts.at(&order.target) {
        Some(mount) if mount.device == staging.device && mount.read_only == read_only => {
            return Ok(());
        }
        Some(mount) if mount.device == staging.device => mount::unmount(&order.target).await?,
        // Of a device that has gone.
        Some(_) => mount::abandon(&order.target).await?,
        None => {}
    }
    fs::create_dir_all(&order.target).map_err(disk)?;
    Ok(mount::bind(&order.staging, &order.target, read_only).await?)
}

/// A file of the pod with the device bound on it.
async fn publish_block(
    device: &Path,
    number: DeviceNumber,
    target: &Path,
    read_only: bool,
) -> Result<(), Status> {
    let switch = if read_only { "--setro" } else { "--setrw" };
    let arguments = [switch.as_ref(), device.as_os_str()];
    mount::run("blockdev", arguments, &[], LOOK_LIMIT).await?;
    if table()?.at(target).is_some() {
        if DeviceNumber::of(target).is_ok_and(|bound| bound == number) {
            return Ok(());
        }
        mount::abandon(target).await?;
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder).map_err(disk)?;
    }
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(target);
    file.map_err(disk)?;
    Ok(mount::bind(device, target, false).await?)
}

/// Removes what a volume was seen at: an empty folder or an empty file, never anything that holds something.
fn remove(target: &Path) -> Result<(), Status> {
    let removed = match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(target),
        Ok(meta) if meta.len() == 0 => fs::remove_file(target),
        Ok(_) => Err(io::Error::other(format!(
            "{} holds data and is nothing of ours: remove it by hand",
            target.display()
        ))),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tonic::Code;

    use super::*;
    use crate::capability::Access;

    fn capability(mode: Mode, block: bool) -> Capability {
        let mount = Access::Mount {
            fs_type: None,
            flags: Vec::new(),
        };
        Capability {
            access: if block { Access::Block } else { mount },
            mode,
        }
    }

    fn check(
        there: (&str, Mode, bool),
        asked: (&str, Mode, bool),
        block: bool,
        code: Option<Code>,
    ) {
        let volume = VolumeId::of("p", "n", "v");
        let target = Target {
            read_only: there.2,
            mode: there.1,
        };
        let record = Record {
            volume,
            attachment: "w".to_owned(),
            staging: "/s".into(),
            capability: capability(there.1, block),
            fs_type: None,
            targets: BTreeMap::from([(there.0.into(), target)]),
        };
        let order = Publish {
            volume,
            staging: "/s".into(),
            target: asked.0.into(),
            capability: capability(asked.1, block),
            read_only: asked.2,
        };
        let judged = others(&record, &order, asked.2).map_err(|error| error.code());
        assert_eq!(judged.err(), code, "{there:?} {asked:?}");
    }

    #[test]
    fn a_second_path_needs_the_mode_for_it_and_a_second_call_the_same_wish() {
        use Mode::{MultiWriter, SingleWriter, Writer};
        let (taken, refused) = (None, Some(Code::FailedPrecondition));
        check(("/a", Writer, false), ("/a", Writer, false), false, taken);
        check(
            ("/a", Writer, false),
            ("/a", Writer, true),
            false,
            Some(Code::AlreadyExists),
        );
        check(("/a", Writer, false), ("/b", Writer, false), false, refused);
        check(
            ("/a", SingleWriter, false),
            ("/b", MultiWriter, false),
            false,
            refused,
        );
        check(
            ("/a", MultiWriter, false),
            ("/b", SingleWriter, false),
            false,
            refused,
        );
        check(
            ("/a", MultiWriter, false),
            ("/b", MultiWriter, false),
            false,
            taken,
        );
        check(
            ("/a", MultiWriter, false),
            ("/b", MultiWriter, true),
            false,
            taken,
        );
        check(
            ("/a", MultiWriter, false),
            ("/b", MultiWriter, true),
            true,
            refused,
        );
    }

    #[test]
    fn what_holds_data_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        remove(&path("nothing")).unwrap();
        fs::create_dir(path("empty")).unwrap();
        remove(&path("empty")).unwrap();
        fs::write(path("file"), "").unwrap();
        remove(&path("file")).unwrap();
        fs::create_dir(path("full")).unwrap();
        fs::write(path("full/data"), "x").unwrap();
        remove(&path("full")).unwrap_err();
        remove(&path("full/data")).unwrap_err();
        assert!(path("full/data").exists());
    }
}

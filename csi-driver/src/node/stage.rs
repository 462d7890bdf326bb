//! NodeStage and NodeUnstage: the device of a volume, with its file system mounted at one path of the node.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Code, Status};
use twinsite_api::{AttachmentState, AttachmentStatus, FormatState, VolumeId};

use super::{
    Node,
    agent::AgentError,
    format::{self, FormatError},
    record::Record,
};
use crate::{
    capability::{Access, Capability, Mode},
    mount::{self, DeviceNumber, Mounts, RunError},
};

/// How often the agent is asked for the device.
const LOOK: Duration = Duration::from_millis(100);
/// How long an order that is missing or refused may take to become another one: the agent hears of it a moment later.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the agent may take to hear what it can do without.
const TELL_LIMIT: Duration = Duration::from_secs(2);
/// What a volume gets that asks for nothing.
const DEFAULT_FS: &str = "ext4";

/// What a NodeStage call asks for.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub volume: VolumeId,
    pub attachment: String,
    pub staging: PathBuf,
    pub capability: Capability,
    /// The file system that the volume has, as the controller says.
    pub fs_type: Option<String>,
}

/// A block device that answers.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub path: PathBuf,
    pub number: DeviceNumber,
    pub size: u64,
    pub format: FormatState,
}

impl From<RunError> for Status {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Late { .. } => Self::unavailable(error.to_string()),
            RunError::Start { .. } | RunError::Failed { .. } => Self::internal(error.to_string()),
        }
    }
}

impl From<FormatError> for Status {
    fn from(error: FormatError) -> Self {
        let text = error.to_string();
        match error {
            FormatError::Other { .. } | FormatError::Vanished(_) | FormatError::Damaged { .. } => {
                Self::failed_precondition(text)
            }
            // One of the legs is away: the first format needs both.
            FormatError::Record(_) => Self::unavailable(text),
            FormatError::Run(error) => error.into(),
        }
    }
}

pub(super) fn table() -> Result<Mounts, Status> {
    Mounts::read().map_err(|error| Status::internal(format!("the mounts cannot be read: {error}")))
}

pub(super) fn disk(error: io::Error) -> Status {
    Status::internal(format!("this node's disk: {error}"))
}

impl Node {
    pub(super) async fn stage(&self, order: Stage, until: Instant) -> Result<(), Status> {
        let before = self.records.load(order.volume);
        let mounted = |record: &Record| {
            let mounts = table()?;
            Ok::<_, Status>(record.capability.is_block() || mounts.at(&record.staging).is_some())
        };
        if let Some(record) = &before
            && record.staging == order.staging
            && !record.capability.agrees(&order.capability)
            && mounted(record)?
        {
            return Err(Status::already_exists(format!(
                "{} is staged at {} with another capability: unstage it first",
                order.volume,
                order.staging.display()
            )));
        }
        let device = self.take(&order.attachment, until).await?;
        let mut record = Record {
            volume: order.volume,
            attachment: order.attachment.clone(),
            staging: order.staging.clone(),
            capability: order.capability.clone(),
            fs_type: None,
            targets: before.map(|record| record.targets).unwrap_or_default(),
        };
        if let Access::Mount { fs_type, flags } = &order.capability.access {
            let wanted = fs_type.clone().or_else(|| order.fs_type.clone());
            let wanted = wanted.unwrap_or_else(|| DEFAULT_FS.to_owned());
            record.fs_type = Some(wanted.clone());
            // First, so that whatever is mounted has a record.
            self.records.save(&record).map_err(disk)?;
            let mut options = flags.clone();
            if order.capability.mode == Mode::Reader {
                options.push("ro".to_owned());
            }
            self.mount(&order, &device, &wanted, options).await?;
            self.grow(&wanted, &device, &order.staging).await?;
        } else {
            self.records.save(&record).map_err(disk)?;
        }
        Ok(())
    }

    async fn mount(
        &self,
        order: &Stage,
        device: &Shown,
        fs_type: &str,
        mut options: Vec<String>,
    ) -> Result<(), Status> {
        let mounts = table()?;
        match mounts.at(&order.staging) {
            Some(mount) if mount.device == device.number => return Ok(()),
            Some(_) => {
                tracing::warn!(volume = %order.volume, at = %order.staging.display(), "a mount of a device that has gone is taken away");
                mount::abandon(&order.staging).await?;
            }
            None => {}
        }
        fs::create_dir_all(&order.staging).map_err(disk)?;
        if mounts.of(device.number).next().is_none() {
            format::prepare(
                &self.agent,
                &order.attachment,
                device.format,
                &device.path,
                fs_type,
            )
            .await?;
            format::fit(&device.path, fs_type, device.size).await?;
        }
        if fs_type == "xfs" {
            // A dead device of the same volume may still be held by a pod.
            options.push("nouuid".to_owned());
        }
        mount::mount(&device.path, &order.staging, fs_type, &options)
            .await
            .map_err(|error| format::damage(fs_type, error).into())
    }

    /// The device of an attachment, as soon as it is served. What no waiting mends is waited for only [`PATIENCE`]: for as
    /// long as this call lasts kubelet neither takes the pod's volume down nor lets a deleted pod go.
    pub(super) async fn device(&self, attachment: &str, until: Instant) -> Result<Shown, Status> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let seen = self.agent.attachment(attachment).await;
            match shown(attachment, seen) {
                Ok(device) => return device,
                Err(why) if Instant::now() + LOOK >= until => return Err(why),
                Err(why)
                    if why.code() == Code::FailedPrecondition && Instant::now() >= patience =>
                {
                    return Err(why);
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// The device, which stays until it is let go again.
    ///
    /// One of a volume that leaves the site, of a group of which others are still used, is shown still, and may go any moment.
    async fn take(&self, attachment: &str, until: Instant) -> Result<Shown, Status> {
        loop {
            self.device(attachment, until).await?;
            match self.agent.used(attachment).await {
                Ok(true) => return self.device(attachment, until).await,
                Ok(false) if Instant::now() + LOOK >= until => {
                    return Err(Status::unavailable(format!(
                        "{attachment} is just being detached: ask again"
                    )));
                }
                Ok(false) => tokio::time::sleep(LOOK).await,
                // Of a version that does not know the question.
                Err(AgentError::Refused(_)) => return self.device(attachment, until).await,
                Err(error) => return Err(Status::unavailable(error.to_string())),
            }
        }
    }

    pub(super) async fn unstage(&self, volume: VolumeId, staging: &Path) -> Result<(), Status> {
        let record = self.records.load(volume);
        if let Some(record) = &record {
            let mounts = table()?;
            let mut seen = record.targets.keys();
            if let Some(target) = seen.find(|target| mounts.at(target).is_some()) {
                return Err(Status::failed_precondition(format!(
                    "{volume} is still published at {}: unpublish it first",
                    target.display()
                )));
            }
        }
        mount::unmount(staging).await?;
        if record
            .as_ref()
            .is_none_or(|record| record.staging == staging)
        {
            self.records.remove(volume).map_err(disk)?;
            if let Some(record) = record {
                self.let_go(&record).await;
            }
        }
        Ok(())
    }

    /// A volume that leaves the site need not wait until Kubernetes detaches it, which takes a report of kubelet more.
    async fn let_go(&self, record: &Record) {
        let told = tokio::time::timeout(TELL_LIMIT, self.agent.unused(&record.attachment)).await;
        if !matches!(told, Ok(Ok(()))) {
            // It is detached with its Attachment then.
            tracing::debug!(volume = %record.volume, ?told, "the agent does not know that the device is not used any more");
        }
    }
}

/// The device, or why there is none: the outer error may go away by waiting.
fn shown(
    attachment: &str,
    seen: Result<Option<AttachmentStatus>, AgentError>,
) -> Result<Result<Shown, Status>, Status> {
    let status = match seen {
        Ok(Some(status)) => status,
        Ok(None) => {
            return Err(Status::failed_precondition(format!(
                "this node has no order for {attachment}: it is not published here"
            )));
        }
        Err(error) => return Err(Status::unavailable(error.to_string())),
    };
    match (status.state, &status.device) {
        (AttachmentState::Attached, Some(device)) => {
            let format = status.format.unwrap_or(FormatState::None);
            let path = PathBuf::from(&device.path);
            let Ok(number) = DeviceNumber::of(&path) else {
                return Err(Status::internal(format!(
                    "{} is not in this container's /dev: mount the node's /dev there",
                    device.path
                )));
            };
            Ok(Ok(Shown {
                path,
                number,
                size: device.size,
                format,
            }))
        }
        _ => Err(waiting(attachment, &status)),
    }
}

/// Why an attachment shows no device that answers.
fn waiting(attachment: &str, status: &AttachmentStatus) -> Status {
    let reason = status.reason.as_deref().unwrap_or("no reason given");
    let message = status.message.as_deref().unwrap_or_default();
    let active = status
        .register
        .as_ref()
        .map(|register| register.active_site.name.as_str())
        .filter(|name| !name.is_empty());
    match status.state {
        AttachmentState::Suspended => Status::unavailable(format!(
            "the I/O of {attachment} waits ({}): {message}",
            status.engine.as_deref().unwrap_or("membership unknown")
        )),
        AttachmentState::Pending | AttachmentState::Attaching | AttachmentState::Attached => {
            Status::unavailable(format!(
                "{attachment} is not served yet ({:?}): {message}",
                status.state
            ))
        }
        AttachmentState::Refused if reason == twinsite_api::reason::NOT_ACTIVE => {
            Status::failed_precondition(format!(
                "the volume is active at site {}: {message}",
                active.unwrap_or("(unknown)")
            ))
        }
        AttachmentState::Refused
        | AttachmentState::Failed
        | AttachmentState::Superseded
        | AttachmentState::Detaching
        | AttachmentState::Detached
        | AttachmentState::Done => Status::failed_precondition(format!(
            "{attachment} is {:?} ({reason}): {message}",
            status.state
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: Code, part: &str) {
        let status: AttachmentStatus = serde_yaml::from_str(text).unwrap();
        let Err(why) = shown("w", Ok(Some(status))) else {
            panic!("{text}");
        };
        assert_eq!(why.code(), code, "{text}: {}", why.message());
        assert!(why.message().contains(part), "{}", why.message());
    }

    #[test]
    fn what_waits_may_come_and_what_is_refused_names_the_active_site() {
        check("{state: Pending}", Code::Unavailable, "not served yet");
        check("{state: Attaching}", Code::Unavailable, "Attaching");
        check(
            "{state: Suspended, engine: Frozen(A)}",
            Code::Unavailable,
            "Frozen(A)",
        );
        check(
            "{state: Superseded, reason: Superseded}",
            Code::FailedPrecondition,
            "Superseded",
        );
        check(
            "{state: Refused, reason: NotActive, message: order a move, register: {registerId: r, state: Live, epoch: 3, generation: g, members: [A, B], activeSite: {name: research, seq: 4, latched: false}, activeIndex: B}}",
            Code::FailedPrecondition,
            "active at site research",
        );
        check(
            "{state: Refused, reason: WaitMember, message: bring it back}",
            Code::FailedPrecondition,
            "bring it back",
        );
        let absent = shown("w", Ok(None)).unwrap_err();
        assert_eq!(absent.code(), Code::FailedPrecondition);
        let away = AgentError::Late;
        assert_eq!(shown("w", Err(away)).unwrap_err().code(), Code::Unavailable);
    }
}

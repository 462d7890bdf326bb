//! Volume and storage health as this node sees it.
//!
//! An empty list is the only sign of health. Reasons are stable words: alerts and runbooks are written against them.

use tonic::Status;
use twinsite_api::{AttachmentState, AttachmentStatus, VolumeId, VolumeLegState, condition_type};

use super::{
    Node,
    agent::{AgentError, Overview},
    record::Record,
    stage::table,
};
use crate::{
    capability::Mode,
    mount::{DeviceNumber, Mounts},
    proto::csi::{
        StorageHealthErrorType, VolumeHealth, VolumeHealthErrorType,
        node_get_storage_health_response::StorageBackendHealth, volume_health::VolumeHealthEntry,
    },
};

/// One thing that is wrong with a volume.
pub fn entry(
    status: VolumeHealthErrorType,
    reason: &str,
    message: impl Into<String>,
) -> VolumeHealthEntry {
    VolumeHealthEntry {
        status: status.into(),
        reason: reason.to_owned(),
        message: message.into(),
    }
}

/// What is wrong with an attachment, worst first; the copies one by one.
pub fn of_attachment(status: &AttachmentStatus) -> Vec<VolumeHealthEntry> {
    use VolumeHealthErrorType::{DataLoss, Degraded, Inaccessible};
    let mut found = Vec::new();
    let raised = |type_: &str| {
        let mut conditions = status.conditions.iter();
        conditions.any(|condition| condition.type_ == type_ && condition.status == "True")
    };
    let message = status.message.clone().unwrap_or_default();
    if raised(condition_type::SPLIT_BRAIN) {
        let text = "a leg carries writes that a force gave up; a person must confirm before it is overwritten";
        found.push(entry(DataLoss, "SplitBrain", text));
    }
    match status.state {
        AttachmentState::Attached => {}
        AttachmentState::Suspended => {
            let engine = status.engine.as_deref().unwrap_or("membership unknown");
            found.push(entry(
                Inaccessible,
                "IoSuspended",
                format!("I/O waits: {engine}. {message}"),
            ));
        }
        AttachmentState::Superseded => {
            let text = "another writer took the volume over: its pod here must go";
            found.push(entry(Inaccessible, "Superseded", text));
        }
        state => {
            let reason = status.reason.as_deref().unwrap_or_default();
            let text = format!("no device: {state:?} {reason}. {message}");
            found.push(entry(Inaccessible, "NotServed", text));
        }
    }
    let mut poor = status
        .legs
        .iter()
        .filter(|leg| leg.state != VolumeLegState::Member);
    // Entries are unique by status and reason: the first copy that is not in sync speaks for both.
    if let Some(leg) = poor.next() {
        let reason = match leg.state {
            VolumeLegState::Resyncing => "LegResyncing",
            VolumeLegState::Unreachable => "LegUnreachable",
            VolumeLegState::Outdated | VolumeLegState::New | VolumeLegState::Member => {
                "LegOutdated"
            }
        };
        let progress = status
            .resync_percent
            .map(|percent| format!(", {percent} % copied"))
            .unwrap_or_default();
        let why = leg.message.as_deref().unwrap_or_default();
        let text = format!(
            "one copy only: the one at {} is {:?}{progress}. {why}",
            leg.site, leg.state
        );
        found.push(entry(Degraded, reason, text.trim()));
    }
    found
}

/// What is wrong with the mounts of a volume whose device should be `device`.
fn of_mounts(
    record: &Record,
    mounts: &Mounts,
    device: Option<DeviceNumber>,
) -> Vec<VolumeHealthEntry> {
    use VolumeHealthErrorType::Inaccessible;
    if record.capability.is_block() {
        let old = record
            .targets
            .keys()
            .find(|target| mounts.at(target).is_some() && DeviceNumber::of(target).ok() != device);
        let text = |at: &std::path::Path| {
            format!(
                "{} shows a device that has gone: the pod must be started anew",
                at.display()
            )
        };
        return old
            .map(|at| entry(Inaccessible, "StaleDevice", text(at)))
            .into_iter()
            .collect();
    }
    let Some(mount) = mounts.at(&record.staging) else {
        let text = format!("nothing is mounted at {}", record.staging.display());
        return vec![entry(Inaccessible, "NotMounted", text)];
    };
    let mut found = Vec::new();
    let mut points = record.targets.keys().chain([&record.staging]);
    let stale = points.find(|point| {
        mounts
            .at(point)
            .is_some_and(|mount| Some(mount.device) != device)
    });
    if let Some(point) = stale {
        let text = format!(
            "{} is mounted from a device that has gone: the pod must be started anew",
            point.display()
        );
        found.push(entry(Inaccessible, "StaleDevice", text));
    } else if mount.fs_read_only && record.capability.mode != Mode::Reader {
        let text = "the file system turned read only after an error: start the pod anew, so that it is checked and mounted again";
        found.push(entry(Inaccessible, "ReadOnlyFileSystem", text));
    }
    found
}

impl Node {
    pub(super) async fn volume_health(&self, volume: VolumeId) -> Result<VolumeHealth, Status> {
        let record = self.records.load(volume);
        let name = record.as_ref().map_or_else(
            || super::attachment_of(volume),
            |record| record.attachment.clone(),
        );
        let mut found = Vec::new();
        match self.agent.attachment(&name).await {
            Ok(Some(status)) => {
                found.extend(of_attachment(&status));
                if let Some(record) = &record {
                    let device = status.device.as_ref();
                    let device =
                        device.and_then(|device| DeviceNumber::of(device.path.as_ref()).ok());
                    found.extend(of_mounts(record, &table()?, device));
                }
            }
            Ok(None) if record.is_some() => found.push(entry(
                VolumeHealthErrorType::Inaccessible,
                "NotServed",
                "the agent has no order for the volume",
            )),
            Ok(None) => {
                return Err(Status::not_found(format!("{volume} is not on this node")));
            }
            Err(error) => found.push(entry(
                VolumeHealthErrorType::Inaccessible,
                "AgentUnreachable",
                error.to_string(),
            )),
        }
        Ok(VolumeHealth {
            volume_id: volume.to_string(),
            health_statuses: found,
        })
    }

    pub(super) async fn storage_health(&self) -> Vec<StorageBackendHealth> {
        of_storage(&self.agent.overview().await)
    }
}

fn of_storage(seen: &Result<Overview, AgentError>) -> Vec<StorageBackendHealth> {
    use StorageHealthErrorType::{StorageDegraded, StorageUnreachable};
    let backend =
        |status: StorageHealthErrorType, reason: &str, message: String| StorageBackendHealth {
            status: status.into(),
            reason: reason.to_owned(),
            message,
            volume_capability: None,
        };
    let overview = match seen {
        Ok(overview) => overview,
        Err(error) => {
            return vec![backend(
                StorageUnreachable,
                "AgentUnreachable",
                error.to_string(),
            )];
        }
    };
    let mut found = Vec::new();
    let mut away: Vec<&str> = overview
        .attachments
        .values()
        .flat_map(|status| &status.legs)
        .filter(|leg| leg.state == VolumeLegState::Unreachable)
        .map(|leg| leg.site.as_str())
        .collect();
    away.sort_unstable();
    away.dedup();
    if !away.is_empty() {
        let text = format!("this node reaches no copy at {}", away.join(" and "));
        found.push(backend(StorageDegraded, "SiteUnreachable", text));
    }
    let mut pools = overview.pools.iter();
    let fault = pools.find_map(|(name, pool)| Some((name, pool.fault.as_ref()?)));
    if let Some((name, fault)) = fault {
        let text = format!("pool {name}: {fault}");
        found.push(backend(StorageDegraded, "PoolFault", text));
    }
    let legs = overview.legs.iter();
    let lost = legs
        .filter(|(_, leg)| !leg.served)
        .map(|(name, _)| name.as_str());
    let lost: Vec<&str> = lost.collect();
    if !lost.is_empty() {
        let text = format!("{} legs are not served, {} first", lost.len(), lost[0]);
        found.push(backend(StorageDegraded, "LegNotServed", text));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(VolumeHealthErrorType, &str)]) {
        let status: AttachmentStatus = serde_yaml::from_str(text).unwrap();
        let found: Vec<_> = of_attachment(&status)
            .into_iter()
            .map(|entry| (entry.status, entry.reason))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(status, reason)| (i32::from(*status), (*reason).to_owned()))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn a_healthy_volume_has_nothing_to_tell_and_the_others_do() {
        use VolumeHealthErrorType::{DataLoss, Degraded, Inaccessible};
        let legs = |state: &str| {
            format!(
                "[{{leg: A, site: medical, state: Member}}, {{leg: B, site: research, state: {state}}}]"
            )
        };
        check(
            &format!("{{state: Attached, legs: {}}}", legs("Member")),
            &[],
        );
        for (state, reason) in [
            ("Unreachable", "LegUnreachable"),
            ("Resyncing", "LegResyncing"),
            ("Outdated", "LegOutdated"),
        ] {
            check(
                &format!("{{state: Attached, legs: {}}}", legs(state)),
                &[(Degraded, reason)],
            );
        }
        check("{state: Suspended}", &[(Inaccessible, "IoSuspended")]);
        check("{state: Superseded}", &[(Inaccessible, "Superseded")]);
        check(
            "{state: Refused, reason: NotActive}",
            &[(Inaccessible, "NotServed")],
        );
        check(
            "{state: Attached, conditions: [{type: SplitBrain, status: 'True', reason: LostBranch, message: '', lastTransitionTime: '2026-11-28T06:00:00Z'}]}",
            &[(DataLoss, "SplitBrain")],
        );
    }

    #[test]
    fn the_storage_behind_a_node_is_judged_by_what_its_agent_says() {
        let reasons = |text: &str| -> Vec<String> {
            let overview = serde_yaml::from_str(text).unwrap();
            let found = of_storage(&Ok(overview)).into_iter();
            found.map(|backend| backend.reason).collect()
        };
        assert!(reasons("{attachments: {}, pools: {p: {}}}").is_empty());
        assert_eq!(
            reasons(
                "{attachments: {w: {legs: [{leg: B, site: research, state: Unreachable}]}}, pools: {p: {fault: gone}}, legs: {l: {served: false}}}"
            ),
            ["SiteUnreachable", "PoolFault", "LegNotServed"]
        );
        let away = of_storage(&Err(AgentError::Late));
        assert_eq!(
            away[0].status,
            i32::from(StorageHealthErrorType::StorageUnreachable)
        );
    }
}

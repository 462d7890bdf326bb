//! Volume health as the objects tell it: what its operator says, and what the writing agent says.

use tonic::Status;
use twinsite_api::{
    AttachmentMode, MirroredVolume, Role, VolumeLegState, condition_type, order::attachment_name,
};

use super::{Controller, identity, list::page};
use crate::{
    node::health::{entry, of_attachment},
    proto::csi::{
        ControllerListVolumeHealthResponse, VolumeHealth, VolumeHealthErrorType,
        volume_health::VolumeHealthEntry,
    },
};

impl Controller {
    pub(super) async fn health(&self, volume: &MirroredVolume) -> Result<VolumeHealth, Status> {
        let id = identity(volume);
        let writer = attachment_name(id, AttachmentMode::Writer);
        let attachment = self.objects.attachment(&writer).await?;
        let status = attachment
            .as_ref()
            .and_then(|writer| writer.status.as_ref());
        // What the writer sees is nearer than what its operator has gathered.
        let mut found = status.map(of_attachment).unwrap_or_default();
        for one in of_volume(volume) {
            if !found.iter().any(|there| there.status == one.status) {
                found.push(one);
            }
        }
        Ok(VolumeHealth {
            volume_id: id.to_string(),
            health_statuses: found,
        })
    }

    pub(super) async fn list_health(
        &self,
        most: i32,
        token: &str,
    ) -> Result<ControllerListVolumeHealthResponse, Status> {
        let (volumes, next_token) = page(self.live().await?, most, token)?;
        let mut entries = Vec::new();
        for (_, volume) in volumes {
            entries.push(self.health(&volume).await?);
        }
        Ok(ControllerListVolumeHealthResponse {
            entries,
            next_token,
        })
    }
}

fn of_volume(volume: &MirroredVolume) -> Vec<VolumeHealthEntry> {
    use VolumeHealthErrorType::{DataLoss, Degraded, Inaccessible};
    let Some(status) = &volume.status else {
        return Vec::new();
    };
    let raised = |type_: &str| {
        let mut conditions = status.conditions.iter();
        conditions.find(|one| one.type_ == type_ && one.status == "True")
    };
    let mut found = Vec::new();
    if let Some(condition) = raised(condition_type::SPLIT_BRAIN) {
        let message = condition.message.clone();
        found.push(entry(DataLoss, "SplitBrain", message));
    }
    if let Some(condition) = raised(condition_type::MEMBERSHIP_UNKNOWN) {
        let message = condition.message.clone();
        found.push(entry(Inaccessible, "IoSuspended", message));
    } else if status.role == Some(Role::Active)
        && let Some(condition) = raised(condition_type::STALLED)
    {
        let message = condition.message.clone();
        found.push(entry(Inaccessible, "Stalled", message));
    }
    let mut legs = status.legs.iter();
    if let Some(leg) = legs.find(|leg| leg.state != VolumeLegState::Member) {
        let text = format!("one copy only: the one at {} is {:?}", leg.site, leg.state);
        found.push(entry(Degraded, "LegOutOfSync", text));
    } else if let Some(condition) = raised(condition_type::DEGRADED) {
        let message = condition.message.clone();
        found.push(entry(Degraded, "Degraded", message));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::volume;

    fn check(status: &str, expected: &[(VolumeHealthErrorType, &str)]) {
        let mut volume = volume("records");
        volume.status = Some(serde_yaml::from_str(status).unwrap());
        let found = of_volume(&volume)
            .into_iter()
            .map(|one| (one.status, one.reason));
        let expected = expected
            .iter()
            .map(|(status, reason)| (i32::from(*status), (*reason).to_owned()));
        assert_eq!(
            found.collect::<Vec<_>>(),
            expected.collect::<Vec<_>>(),
            "{status}"
        );
    }

    #[test]
    fn what_the_operator_says_becomes_health() {
        use VolumeHealthErrorType::{DataLoss, Degraded, Inaccessible};
        let raised = |role: &str, type_: &str| {
            format!(
                "{{role: {role}, conditions: [{{type: {type_}, status: 'True', reason: R, message: m, lastTransitionTime: '2026-11-28T06:00:00Z'}}]}}"
            )
        };
        check("{}", &[]);
        check("{legs: [{site: medical, state: Member}]}", &[]);
        check(
            "{legs: [{site: research, state: Outdated}]}",
            &[(Degraded, "LegOutOfSync")],
        );
        for (role, type_, expected) in [
            ("Active", "SplitBrain", Some((DataLoss, "SplitBrain"))),
            ("Active", "Stalled", Some((Inaccessible, "Stalled"))),
            ("Standby", "Stalled", None),
            (
                "Active",
                "MembershipUnknown",
                Some((Inaccessible, "IoSuspended")),
            ),
            ("Active", "Degraded", Some((Degraded, "Degraded"))),
        ] {
            check(&raised(role, type_), expected.as_slice());
        }
    }
}

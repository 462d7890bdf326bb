//! The same object in the other cluster: two clusters are synced from one Git minutes apart, so that they differ for a while.
//!
//! Differences are told and stop what needs agreement (birth, a planned move); nothing that runs is stopped by them. A peer
//! that does not answer is unknown, never a conflict.

use twinsite_api::MirroredVolumeSpec;

use super::{Reach, situation::Situation};

/// Word for specs that differ.
pub(super) const DIFFERS: &str = "TwinDiffers";

/// The fields in which two specs differ although they should not.
pub(super) fn differences(
    own: &MirroredVolumeSpec,
    other: &MirroredVolumeSpec,
) -> Vec<&'static str> {
    let mut fields = Vec::new();
    let mut differ = |name, differ: bool| {
        if differ {
            fields.push(name);
        }
    };
    differ("activeSite", own.active_site != other.active_site);
    differ("capacity", own.capacity != other.capacity);
    differ("volumeMode", own.volume_mode != other.volume_mode);
    differ("fsType", own.fs_type != other.fs_type);
    differ("accessModes", own.access_modes != other.access_modes);
    differ("claim.name", own.claim.name != other.claim.name);
    differ(
        "deletionPolicy",
        own.deletion_policy != other.deletion_policy,
    );
    differ(
        "failback",
        own.failback.unwrap_or_default() != other.failback.unwrap_or_default(),
    );
    let sites = |spec: &MirroredVolumeSpec| {
        let mut sites: Vec<String> = spec.legs.iter().map(|leg| leg.site.clone()).collect();
        sites.sort();
        sites
    };
    differ("legs", sites(own) != sites(other));
    fields
}

/// Why there is no twin to be read.
pub(super) fn missing(situation: &Situation<'_>) -> String {
    let other = situation.other_site;
    let reference = situation.desired.reference();
    if situation.pair.spec.peer_kubeconfig_secret.is_none() {
        return format!(
            "SitePair names no peerKubeconfigSecret: nothing is known of the cluster of {other}"
        );
    }
    match (&situation.seen.peer.reach, &situation.seen.peer.volume) {
        (Reach::Unknown, _) => format!("the cluster of {other} has not been asked yet"),
        (
            Reach::Silent {
                of_volume: true,
                why,
                ..
            },
            _,
        ) => format!("the cluster of {other}: {why}"),
        (Reach::Silent { why, .. }, _) => format!("the cluster of {other} does not answer: {why}"),
        (Reach::Answers, None) => format!(
            "the cluster of {other} has no MirroredVolume {reference}: apply it there too (does namespace {} exist there?)",
            situation.desired.namespace()
        ),
        (Reach::Answers, Some(_)) => {
            format!("MirroredVolume {reference} is being deleted in the cluster of {other}")
        }
    }
}

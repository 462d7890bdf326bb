//! What is wanted of one volume in one cluster.

use std::sync::Arc;

use twinsite_api::{
    GroupId, LegIndex, MirrorGroup, MirroredVolume, SitePair, VolumeGroup, VolumeId,
};

use super::names;

/// What is wanted of one volume: the objects as their writers left them. A planner reads them, nobody changes them.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The MirroredVolume of this cluster, with the status of the last round; one of a group with what its group lends it.
    pub volume: Arc<MirroredVolume>,
    /// The MirrorGroup that it is in, if that names it.
    pub group: Option<Arc<MirrorGroup>>,
    /// The group of which it is left, if its own objects are gone here.
    pub left_of: Option<VolumeGroup>,
    /// The SitePair of this cluster that it names, if there is one.
    pub pair: Option<Arc<SitePair>>,
    /// The site that this cluster is.
    pub site: String,
    /// Index of this site as claimed at the witness; `None`: not claimed, or by another cluster, and nothing is done.
    pub index: Option<LegIndex>,
}

impl Desired {
    /// Whether the MirroredVolume has our finalizer.
    pub fn is_held(&self) -> bool {
        let mut held = self.volume.metadata.finalizers.iter().flatten();
        held.any(|held| held == names::VOLUME_FINALIZER)
    }

    /// Namespace of the MirroredVolume.
    pub fn namespace(&self) -> &str {
        self.volume.metadata.namespace.as_deref().unwrap_or("")
    }

    /// Name of the MirroredVolume.
    pub fn name(&self) -> &str {
        self.volume.metadata.name.as_deref().unwrap_or("")
    }

    /// `namespace/name`: what people call the volume.
    pub fn reference(&self) -> String {
        format!("{}/{}", self.namespace(), self.name())
    }

    /// The identity that follows from the names: the same in both clusters.
    pub fn id(&self) -> VolumeId {
        VolumeId::of(&self.volume.spec.site_pair, self.namespace(), self.name())
    }

    /// Whose register decides.
    pub fn register_id(&self) -> GroupId {
        match (&self.group, &self.left_of) {
            (Some(group), _) => group.id(),
            (None, Some(left)) => left.id,
            (None, None) => GroupId::Volume(self.id()),
        }
    }

    /// The volumes that share the register, in the order in which they are dealt with.
    pub fn together(&self) -> Vec<VolumeId> {
        match (&self.group, &self.left_of) {
            (Some(group), _) => group.volume_ids(),
            (None, Some(left)) => left.volumes.clone(),
            (None, None) => vec![self.id()],
        }
    }

    /// Whether it shares its register with other volumes.
    pub fn is_grouped(&self) -> bool {
        self.group.is_some() || self.left_of.is_some()
    }

    /// The other site of the pair.
    pub fn other_site(&self) -> Option<&str> {
        let sites = &self.pair.as_ref()?.spec.sites;
        sites
            .iter()
            .map(|site| site.name.as_str())
            .find(|name| *name != self.site)
    }

    /// Whether the object is being deleted.
    pub fn is_going(&self) -> bool {
        self.volume.metadata.deletion_timestamp.is_some()
    }
}

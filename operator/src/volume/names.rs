//! Names of the objects that belong to a volume, and the labels and finalizers by which they are found again.

use twinsite_api::{AttachmentMode, LegIndex, VolumeId};

/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "twinsite-operator";
/// The CSI driver that PersistentVolumes name.
pub const CSI_DRIVER: &str = "csi.twinsite.io";
/// StorageClass of the volumes that are declared as MirroredVolumes: it lets claims grow.
pub const STORAGE_CLASS: &str = "twinsite";
/// Finalizer of a MirroredVolume, set and removed by the operator of the cluster.
pub const VOLUME_FINALIZER: &str = "twinsite.io/volume";
/// Finalizer of Leg and Attachment: set by the maker, removed by the node's agent once it has let go.
pub const AGENT_FINALIZER: &str = "twinsite.io/agent";
/// Label: the volume id.
pub const VOLUME_LABEL: &str = "twinsite.io/volume";
/// Label: namespace of the MirroredVolume.
pub const NAMESPACE_LABEL: &str = "twinsite.io/namespace";
/// Label: name of the MirroredVolume. A name too long for a label stands in the annotation of the same key only.
pub const NAME_LABEL: &str = "twinsite.io/name";
/// Annotation of a Leg: what becomes of the data once the MirroredVolume is gone here.
pub const DELETION_ANNOTATION: &str = "twinsite.io/deletion-policy";
/// Label of a MirroredVolume that the CSI driver made: the provisioner of that site makes the PersistentVolume.
pub const PROVISIONER_LABEL: &str = "twinsite.io/provisioner";
/// Value of [`PROVISIONER_LABEL`].
pub const PROVISIONER_CSI: &str = "csi";
/// Annotation of a MirroredVolume by which a person gives up the lost branch of a force: `<leg>@<epoch>`, such as `B@18`.
pub const CONFIRM_ANNOTATION: &str = "twinsite.io/confirm-lost-branch";
/// Annotation of a MirroredVolume by which a person gives up a LUN for ever: `<leg>=<naa>`, such as `B=naa.6...`.
pub const RETIRE_ANNOTATION: &str = "twinsite.io/retire-leg";

/// Name of the Leg of a volume: `ts-...-a`.
pub fn leg(volume: VolumeId, leg: LegIndex) -> String {
    format!("{volume}-{}", leg.letter())
}

/// Name of the Attachment of a volume in a cluster: one per mode, so that creating it is the mutual exclusion.
pub fn attachment(volume: VolumeId, mode: AttachmentMode) -> String {
    let suffix = match mode {
        AttachmentMode::Writer => "writer",
        AttachmentMode::Caretaker => "caretaker",
        AttachmentMode::Birth => "birth",
        AttachmentMode::Inspect => "inspect",
        AttachmentMode::Wipe => "wipe",
        AttachmentMode::Reseed => "reseed",
    };
    format!("{volume}-{suffix}")
}

/// Name of the PersistentVolume, which is also its volumeHandle.
pub fn persistent_volume(volume: VolumeId) -> String {
    volume.to_string()
}

/// How `node.status.volumesInUse` names the volume.
pub fn unique_volume(volume: VolumeId) -> String {
    format!("kubernetes.io/csi/{CSI_DRIVER}^{volume}")
}

//! Names of the objects that belong to a volume, and the labels and finalizers by which they are found again.

use std::collections::BTreeMap;

use twinsite_api::VolumeId;
pub use twinsite_api::order::{AGENT_FINALIZER, VOLUME_FINALIZER, attachment_name, leg_name};

/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "twinsite-operator";
/// The CSI driver that PersistentVolumes name.
pub const CSI_DRIVER: &str = "csi.twinsite.io";
/// StorageClass of the volumes that are declared as MirroredVolumes: it lets claims grow.
pub const STORAGE_CLASS: &str = "twinsite";
/// Label: the volume id.
pub const VOLUME_LABEL: &str = "twinsite.io/volume";
/// Label: namespace of the MirroredVolume.
pub const NAMESPACE_LABEL: &str = "twinsite.io/namespace";
/// Label: name of the MirroredVolume. A name too long for a label stands in the annotation of the same key only.
pub const NAME_LABEL: &str = "twinsite.io/name";
/// Annotation of a Leg: what becomes of the data once the MirroredVolume is gone here.
pub const DELETION_ANNOTATION: &str = "twinsite.io/deletion-policy";
/// Annotation of a Leg of a group: the ids of its volumes, for what is left when the MirrorGroup is gone here.
pub const GROUP_VOLUMES_ANNOTATION: &str = "twinsite.io/group-volumes";
/// Label of a MirroredVolume that the CSI driver made: the provisioner of that site makes the PersistentVolume.
pub const PROVISIONER_LABEL: &str = "twinsite.io/provisioner";
/// Value of [`PROVISIONER_LABEL`].
pub const PROVISIONER_CSI: &str = "csi";
/// Annotation of a MirroredVolume by which a person gives up the lost branch of a force: `<leg>@<epoch>`, such as `B@18`.
pub const CONFIRM_ANNOTATION: &str = "twinsite.io/confirm-lost-branch";
/// Annotation of a MirroredVolume by which a person gives up a LUN for ever: `<leg>=<naa>`, such as `B=naa.6...`.
pub const RETIRE_ANNOTATION: &str = "twinsite.io/retire-leg";

/// Name of the PersistentVolume, which is also its volumeHandle.
pub fn persistent_volume(volume: VolumeId) -> String {
    volume.to_string()
}

/// How `node.status.volumesInUse` names the volume.
pub fn unique_volume(volume: VolumeId) -> String {
    format!("kubernetes.io/csi/{CSI_DRIVER}^{volume}")
}

/// The longest value of a label.
const LABEL_LENGTH: usize = 63;

/// Labels of everything that belongs to a volume.
pub fn labels(volume: VolumeId, namespace: &str, name: &str) -> BTreeMap<String, String> {
    let all = [
        (VOLUME_LABEL, volume.to_string()),
        (NAMESPACE_LABEL, namespace.to_owned()),
        (NAME_LABEL, name.to_owned()),
    ];
    let fits = |(_, value): &(&str, String)| value.len() <= LABEL_LENGTH;
    all.into_iter()
        .filter(fits)
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Annotations of the same: the names whole.
pub fn annotations(namespace: &str, name: &str) -> BTreeMap<String, String> {
    [(NAMESPACE_LABEL, namespace), (NAME_LABEL, name)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

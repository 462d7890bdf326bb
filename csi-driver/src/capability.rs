//! What a caller wants of a volume: how it is shown, and by how many it is used.
//!
//! Volumes here are used by one node at a time; the register sees to that. ReadWriteOncePod is [`Mode::SingleWriter`].

use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::proto::csi::{
    VolumeCapability,
    volume_capability::{AccessType, access_mode},
};

/// Names of the file systems that are made here.
pub const FILE_SYSTEMS: [&str; 2] = ["ext4", "xfs"];

/// A capability that volumes can have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capability {
    pub access: Access,
    pub mode: Mode,
}

/// How a volume is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Access {
    Block,
    Mount {
        /// `None`: whatever the volume has.
        fs_type: Option<String>,
        flags: Vec<String>,
    },
}

/// By how many a volume is used, always on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// One path on the node, the old name of it.
    Writer,
    /// One path on the node, read only.
    Reader,
    /// One path on the node: ReadWriteOncePod.
    SingleWriter,
    /// Several paths on the node: ReadWriteOnce.
    MultiWriter,
}

/// Why a capability cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    #[error("the volume capability is missing")]
    Missing,
    #[error("the volume capability names neither block nor mount")]
    NoAccess,
    #[error("the access mode is unknown")]
    UnknownMode,
    #[error(
        "access mode {0}: a mirrored volume is used by one node at a time; use ReadWriteOncePod or ReadWriteOnce"
    )]
    ManyNodes(&'static str),
    #[error("file system {0:?}: ext4 and xfs are made here")]
    FileSystem(String),
    #[error("volume_mount_group is not offered: fsGroup is set by kubelet")]
    MountGroup,
}

impl CapabilityError {
    /// The answer where a request names what no volume here can ever give.
    pub fn invalid(self) -> Status {
        Status::invalid_argument(self.to_string())
    }

    /// The answer on a node: what is missing is a bad request, what cannot be given a failed condition.
    pub fn on_node(self) -> Status {
        match self {
            Self::Missing | Self::NoAccess | Self::UnknownMode => self.invalid(),
            Self::ManyNodes(_) | Self::FileSystem(_) | Self::MountGroup => {
                Status::failed_precondition(self.to_string())
            }
        }
    }
}

impl Capability {
    /// Reads a capability.
    ///
    /// # Errors
    /// It is missing, or no volume here has it.
    pub fn parse(wire: Option<&VolumeCapability>) -> Result<Self, CapabilityError> {
        use access_mode::Mode as Wire;
        let wire = wire.ok_or(CapabilityError::Missing)?;
        let mode = wire
            .access_mode
            .as_ref()
            .and_then(|mode| Wire::try_from(mode.mode).ok());
        let access = match &wire.access_type {
            None => return Err(CapabilityError::NoAccess),
            Some(AccessType::Block(_)) => Access::Block,
            Some(AccessType::Mount(mount)) => {
                let name = Some(mount.fs_type.clone()).filter(|name| !name.is_empty());
                if let Some(name) = &name
                    && !FILE_SYSTEMS.contains(&name.as_str())
                {
                    return Err(CapabilityError::FileSystem(name.clone()));
                }
                if !mount.volume_mount_group.is_empty() {
                    return Err(CapabilityError::MountGroup);
                }
                Access::Mount {
                    fs_type: name,
                    flags: mount.mount_flags.clone(),
                }
            }
        };
        let mode = match mode {
            None | Some(Wire::Unknown) => return Err(CapabilityError::UnknownMode),
            Some(Wire::SingleNodeWriter) => Mode::Writer,
            Some(Wire::SingleNodeReaderOnly) => Mode::Reader,
            Some(Wire::SingleNodeSingleWriter) => Mode::SingleWriter,
            Some(Wire::SingleNodeMultiWriter) => Mode::MultiWriter,
            Some(
                many @ (Wire::MultiNodeReaderOnly
                | Wire::MultiNodeSingleWriter
                | Wire::MultiNodeMultiWriter),
            ) => return Err(CapabilityError::ManyNodes(many.as_str_name())),
        };
        Ok(Self { access, mode })
    }

    pub fn is_block(&self) -> bool {
        self.access == Access::Block
    }

    /// The file system that is asked for, if one is.
    pub fn fs_type(&self) -> Option<&str> {
        match &self.access {
            Access::Mount { fs_type, .. } => fs_type.as_deref(),
            Access::Block => None,
        }
    }

    /// Whether what was set up for one serves the other too: who uses it may differ, what is seen may not.
    pub fn agrees(&self, other: &Self) -> bool {
        let read_only = |mode| mode == Mode::Reader;
        self.access == other.access && read_only(self.mode) == read_only(other.mode)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::proto::csi::volume_capability::{AccessMode, BlockVolume, MountVolume};

    /// A capability as it comes over the wire.
    pub fn wire(fs_type: Option<&str>, mode: access_mode::Mode) -> VolumeCapability {
        let access_type = match fs_type {
            Some(name) => AccessType::Mount(MountVolume {
                fs_type: name.to_owned(),
                ..MountVolume::default()
            }),
            None => AccessType::Block(BlockVolume {}),
        };
        VolumeCapability {
            access_type: Some(access_type),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    #[test]
    fn capabilities_are_taken_or_refused_with_a_reason() {
        use access_mode::Mode as Wire;
        let read = |fs, mode| Capability::parse(Some(&wire(fs, mode))).map_err(|e| e.on_node());
        assert!(read(None, Wire::SingleNodeWriter).unwrap().is_block());
        assert_eq!(
            read(Some("xfs"), Wire::SingleNodeSingleWriter)
                .unwrap()
                .fs_type(),
            Some("xfs")
        );
        assert_eq!(
            read(Some(""), Wire::SingleNodeMultiWriter)
                .unwrap()
                .fs_type(),
            None
        );
        for (fs, mode, code) in [
            (
                Some("ntfs"),
                Wire::SingleNodeWriter,
                tonic::Code::FailedPrecondition,
            ),
            (
                Some("ext4"),
                Wire::MultiNodeMultiWriter,
                tonic::Code::FailedPrecondition,
            ),
            (Some("ext4"), Wire::Unknown, tonic::Code::InvalidArgument),
        ] {
            assert_eq!(read(fs, mode).unwrap_err().code(), code);
        }
        assert_eq!(Capability::parse(None), Err(CapabilityError::Missing));
        let bare = VolumeCapability::default();
        assert_eq!(
            Capability::parse(Some(&bare)),
            Err(CapabilityError::NoAccess)
        );
    }

    #[test]
    fn who_uses_it_may_differ_and_what_is_seen_may_not() {
        use access_mode::Mode as Wire;
        let read = |fs, mode| Capability::parse(Some(&wire(fs, mode))).unwrap();
        let written = read(Some("ext4"), Wire::SingleNodeWriter);
        assert!(written.agrees(&read(Some("ext4"), Wire::SingleNodeMultiWriter)));
        assert!(!written.agrees(&read(Some("ext4"), Wire::SingleNodeReaderOnly)));
        assert!(!written.agrees(&read(Some("xfs"), Wire::SingleNodeWriter)));
        assert!(!written.agrees(&read(None, Wire::SingleNodeWriter)));
    }
}

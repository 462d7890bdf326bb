//! Where the controller's objects live: a Kubernetes API, or a folder. Everything the controller knows and does goes through
//! this one trait, so that both give the same answers.

use std::{collections::BTreeMap, sync::Arc};

use tonic::Status;
use twinsite_api::{Attachment, MirroredVolume, Quantity, SitePair, StoragePool, VolumeId};

/// Why an object cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectsError {
    /// Nobody answers, or the outcome is not known: asking again is right.
    #[error("{0}")]
    Away(String),
    /// The change was refused, and would be again.
    #[error("{0}")]
    Refused(String),
}

impl From<ObjectsError> for Status {
    fn from(error: ObjectsError) -> Self {
        match error {
            ObjectsError::Away(why) => Self::unavailable(why),
            ObjectsError::Refused(why) => Self::internal(why),
        }
    }
}

/// What came of making an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    New,
    /// One of this name is there already.
    Exists,
}

pub type Result<T> = std::result::Result<T, ObjectsError>;

/// The objects of one cluster.
#[tonic::async_trait]
pub trait Objects: std::fmt::Debug + Send + Sync + 'static {
    /// All volumes, perhaps a moment old.
    async fn volumes(&self) -> Result<Vec<Arc<MirroredVolume>>>;
    /// All volumes as they are now: for what is not found among the others.
    async fn volumes_now(&self) -> Result<Vec<Arc<MirroredVolume>>> {
        self.volumes().await
    }
    /// Why the volume of this identity cannot be read although it is there.
    async fn unreadable(&self, _id: VolumeId) -> Result<Option<String>> {
        Ok(None)
    }
    /// One volume as it is now.
    async fn volume(&self, namespace: &str, name: &str) -> Result<Option<MirroredVolume>>;
    async fn create_volume(&self, volume: &MirroredVolume) -> Result<Made>;
    /// Raises the capacity in the spec; the others' fields stay as they are.
    async fn grow_volume(&self, namespace: &str, name: &str, capacity: Quantity) -> Result<()>;
    /// Deletes a volume; none is fine. It may stay for a while with a deletion timestamp.
    async fn delete_volume(&self, namespace: &str, name: &str) -> Result<()>;

    async fn pair(&self, name: &str) -> Result<Option<SitePair>>;
    async fn pools(&self) -> Result<Vec<StoragePool>>;
    /// Whether the driver runs on a node of this name.
    async fn has_node(&self, node: &str) -> Result<bool>;

    async fn attachments(&self) -> Result<Vec<Attachment>>;
    /// All attachments, perhaps a moment old: for who looks at them again and again.
    async fn attachments_lately(&self) -> Result<Vec<Arc<Attachment>>> {
        let all = self.attachments().await?;
        Ok(all.into_iter().map(Arc::new).collect())
    }
    /// One attachment as it is now.
    async fn attachment(&self, name: &str) -> Result<Option<Attachment>>;
    /// Makes an attachment; of two callers one gets [`Made::New`].
    async fn create_attachment(&self, attachment: &Attachment) -> Result<Made>;
    /// Replaces the spec of an attachment, if it is still the one that was read.
    async fn change_attachment(&self, attachment: &Attachment) -> Result<()>;
    /// Replaces the annotations of an attachment, if they are still those that were read; `false`: they are not, or it is gone.
    async fn annotate_attachment(
        &self,
        attachment: &Attachment,
        annotations: BTreeMap<String, String>,
    ) -> Result<bool>;
    /// Deletes this attachment and no later one of its name; none is fine. It stays, with a deletion timestamp, until its agent has
    /// detached.
    async fn delete_attachment(&self, attachment: &Attachment) -> Result<()>;
}

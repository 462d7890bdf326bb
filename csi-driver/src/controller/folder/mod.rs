//! Objects in folders, as agents without Kubernetes read them: for single machines and tests.
//!
//! ```text
//!   DIR/*.yaml            what the site's agent reads: SitePair, StoragePools, and the Legs and Attachments made here
//!   DIR/status/*.yaml     what it says
//!   DIR/volumes/*.yaml    MirroredVolumes with their status      (the agent looks at no folder below its own)
//!   DIR/going/*.yaml      Attachments that were deleted and are not detached yet
//! ```
//! There is no operator here: [`steward`] does for volumes what it would, for as many sites as have their folder on this
//! machine.
//!
//! Invariants: a file is written whole or not at all; one process writes.

pub mod steward;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use twinsite_api::{
    Attachment, AttachmentStatus, MirroredVolume, Quantity, SitePair, SitePairStatus, StoragePool,
    StoragePoolStatus,
};

use super::objects::{Made, Objects, ObjectsError, Result};

/// An agent looks twice a second: one that had no time to say that it took an order may have taken it.
const UNSEEN: Duration = Duration::from_millis(1500);

/// The folders of the sites.
#[derive(Debug)]
pub struct Folder {
    site: String,
    /// By site; the own one is among them.
    sites: BTreeMap<String, PathBuf>,
    writing: Mutex<()>,
}

impl Folder {
    /// `sites`: the folder of objects of each site's agent, the own site's among them.
    ///
    /// # Errors
    /// A folder is not there, or the own one is not named.
    pub fn open(site: &str, sites: BTreeMap<String, PathBuf>) -> io::Result<Self> {
        let Some(own) = sites.get(site) else {
            return Err(io::Error::other(format!(
                "no folder is named for site {site}"
            )));
        };
        for below in ["volumes", "going"] {
            fs::create_dir_all(own.join(below))?;
        }
        Ok(Self {
            site: site.to_owned(),
            sites,
            writing: Mutex::new(()),
        })
    }

    fn own(&self) -> &Path {
        &self.sites[&self.site]
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn volume_file(&self, namespace: &str, name: &str) -> PathBuf {
        self.own().join(format!("volumes/{namespace}.{name}.yaml"))
    }

    fn attachment_file(&self, name: &str) -> PathBuf {
        self.own().join(format!("{name}.yaml"))
    }

    fn going_file(&self, name: &str) -> PathBuf {
        self.own().join(format!("going/{name}.yaml"))
    }

    fn attachment_now(&self, name: &str) -> Result<Option<Attachment>> {
        let status: Option<AttachmentStatus> = said(self.own(), "attachment", name)?;
        if let Some(mut there) = read::<Attachment>(&self.attachment_file(name))? {
            there.status = status;
            return Ok(Some(there));
        }
        let going = self.going_file(name);
        let Some(mut there) = read::<Attachment>(&going)? else {
            return Ok(None);
        };
        let age = |file: &Path| {
            let changed = fs::metadata(file).and_then(|meta| meta.modified()).ok()?;
            SystemTime::now().duration_since(changed).ok()
        };
        if status.is_none() && age(&going).is_none_or(|age| age > UNSEEN) {
            remove(&going)?;
            return Ok(None);
        }
        there.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        there.status = status;
        Ok(Some(there))
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ObjectsError + '_ {
    move |error| ObjectsError::Away(format!("{}: {error}", path.display()))
}

/// An object of a file that holds one; `None`: there is no such file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read_to_string(path) {
        Ok(text) => serde_yaml::from_str(&text)
            .map(Some)
            .map_err(|error| ObjectsError::Refused(format!("{}: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Objects of one kind in the files of a folder. What is broken is the agent's to tell.
fn list<T: DeserializeOwned>(folder: &Path, kind: &str) -> Result<Vec<T>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(failed(folder))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|end| end == "yaml" || end == "yml")
        })
        .collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text.map_err(failed(&path))?,
        };
        for document in serde_yaml::Deserializer::from_str(&text) {
            let Ok(value) = serde_yaml::Value::deserialize(document) else {
                break;
            };
            if value["kind"].as_str() == Some(kind) {
                found.extend(serde_yaml::from_value(value));
            }
        }
    }
    Ok(found)
}

/// What an agent says of an object.
fn said<T: DeserializeOwned>(folder: &Path, kind: &str, name: &str) -> Result<Option<T>> {
    #[derive(Deserialize)]
    struct Said<T> {
        status: T,
    }
    let path = folder.join(format!("status/{kind}-{name}.yaml"));
    Ok(read::<Said<T>>(&path)?.map(|said| said.status))
}

fn write<T: Serialize>(path: &Path, object: &T) -> Result<()> {
    let text = serde_yaml::to_string(object)
        .map_err(|error| ObjectsError::Refused(format!("{}: {error}", path.display())))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Agents do not look at files whose name begins with a point.
    let draft = path.with_file_name(format!(".{name}.draft"));
    let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, path));
    written.map_err(failed(path))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

/// A random uid, as an API server would give.
fn new_uid() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/uuid");
    let text = fs::read_to_string(path).map_err(failed(path))?;
    Ok(text.trim().to_owned())
}

fn pool_with_status(folder: &Path, mut pool: StoragePool) -> Result<StoragePool> {
    pool.status = said::<StoragePoolStatus>(folder, "storagepool", &pool.name_any())?;
    Ok(pool)
}

#[tonic::async_trait]
impl Objects for Folder {
    async fn volumes(&self) -> Result<Vec<Arc<MirroredVolume>>> {
        let found = list(&self.own().join("volumes"), "MirroredVolume")?;
        Ok(found.into_iter().map(Arc::new).collect())
    }

    async fn volume(&self, namespace: &str, name: &str) -> Result<Option<MirroredVolume>> {
        read(&self.volume_file(namespace, name))
    }

    async fn create_volume(&self, volume: &MirroredVolume) -> Result<Made> {
        let _writing = self.lock();
        let path = self.volume_file(&volume.namespace().unwrap_or_default(), &volume.name_any());
        if path.exists() {
            return Ok(Made::Exists);
        }
        let mut volume = volume.clone();
        volume.metadata.uid = Some(new_uid()?);
        volume.metadata.generation = Some(1);
        write(&path, &volume)?;
        Ok(Made::New)
    }

    async fn grow_volume(&self, namespace: &str, name: &str, capacity: Quantity) -> Result<()> {
        let _writing = self.lock();
        let path = self.volume_file(namespace, name);
        if let Some(mut volume) = read::<MirroredVolume>(&path)? {
            volume.spec.capacity = capacity;
            write(&path, &volume)?;
        }
        Ok(())
    }

    async fn delete_volume(&self, namespace: &str, name: &str) -> Result<()> {
        let _writing = self.lock();
        let path = self.volume_file(namespace, name);
        if let Some(mut volume) = read::<MirroredVolume>(&path)?
            && volume.metadata.deletion_timestamp.is_none()
        {
            volume.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
            write(&path, &volume)?;
        }
        Ok(())
    }

    async fn pair(&self, name: &str) -> Result<Option<SitePair>> {
        let pairs: Vec<SitePair> = list(self.own(), "SitePair")?;
        let Some(mut pair) = pairs.into_iter().find(|pair| pair.name_any() == name) else {
            return Ok(None);
        };
        pair.status = said::<SitePairStatus>(self.own(), "sitepair", name)?;
        Ok(Some(pair))
    }

    async fn pools(&self) -> Result<Vec<StoragePool>> {
        let mut found = Vec::new();
        for (site, folder) in &self.sites {
            let pools: Vec<StoragePool> = list(folder, "StoragePool")?;
            for pool in pools.into_iter().filter(|pool| pool.spec.site == *site) {
                found.push(pool_with_status(folder, pool)?);
            }
        }
        Ok(found)
    }

    async fn has_node(&self, node: &str) -> Result<bool> {
        let pools: Vec<StoragePool> = list(self.own(), "StoragePool")?;
        let mut nodes = pools.into_iter().filter_map(|pool| pool.spec.node);
        Ok(nodes.any(|known| known.name == node))
    }

    async fn attachments(&self) -> Result<Vec<Attachment>> {
        let mut found: Vec<Attachment> = list(self.own(), "Attachment")?;
        for going in list::<Attachment>(&self.own().join("going"), "Attachment")? {
            found.extend(self.attachment_now(&going.name_any())?);
        }
        Ok(found)
    }

    async fn attachment(&self, name: &str) -> Result<Option<Attachment>> {
        let _writing = self.lock();
        self.attachment_now(name)
    }

    async fn create_attachment(&self, attachment: &Attachment) -> Result<Made> {
        let _writing = self.lock();
        let name = attachment.name_any();
        if self.attachment_now(&name)?.is_some() {
            return Ok(Made::Exists);
        }
        let mut attachment = attachment.clone();
        attachment.metadata.uid = Some(new_uid()?);
        attachment.metadata.generation = Some(1);
        // Nobody would take it away again here.
        attachment.metadata.finalizers = None;
        write(&self.attachment_file(&name), &attachment)?;
        Ok(Made::New)
    }

    async fn change_attachment(&self, attachment: &Attachment) -> Result<()> {
        let _writing = self.lock();
        let path = self.attachment_file(&attachment.name_any());
        let there = read::<Attachment>(&path)?;
        let Some(mut there) = there.filter(|it| it.metadata.uid == attachment.metadata.uid) else {
            return Ok(());
        };
        there.spec = attachment.spec.clone();
        there.metadata.generation = there.metadata.generation.map(|generation| generation + 1);
        write(&path, &there)
    }

    async fn annotate_attachment(
        &self,
        attachment: &Attachment,
        annotations: BTreeMap<String, String>,
    ) -> Result<bool> {
        let _writing = self.lock();
        let path = self.attachment_file(&attachment.name_any());
        let is_same = |there: &Attachment| {
            let (there, read) = (&there.metadata, &attachment.metadata);
            there.uid == read.uid && there.annotations == read.annotations
        };
        let Some(mut there) = read::<Attachment>(&path)?.filter(is_same) else {
            return Ok(false);
        };
        there.metadata.annotations = Some(annotations);
        write(&path, &there)?;
        Ok(true)
    }

    async fn delete_attachment(&self, attachment: &Attachment) -> Result<()> {
        let _writing = self.lock();
        let name = attachment.name_any();
        let path = self.attachment_file(&name);
        let Some(there) = read::<Attachment>(&path)? else {
            return Ok(());
        };
        if there.metadata.uid != attachment.metadata.uid {
            return Ok(());
        }
        write(&self.going_file(&name), &there)?;
        remove(&path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinsite_api::{AttachmentMode, AttachmentState, order};

    use crate::controller::tests::{pair, volume};

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("status")).unwrap();
        let sites = BTreeMap::from([("medical".to_owned(), dir.path().to_owned())]);
        let folder = Folder::open("medical", sites).unwrap();
        (dir, folder)
    }

    #[tokio::test]
    async fn an_attachment_is_there_until_its_agent_says_no_more() {
        let (dir, folder) = folder();
        let mode = AttachmentMode::Writer;
        let order = order::object(&volume("records"), &pair(), "medical", "m1", mode).unwrap();
        let name = order.name_any();
        assert_eq!(folder.create_attachment(&order).await.unwrap(), Made::New);
        assert_eq!(
            folder.create_attachment(&order).await.unwrap(),
            Made::Exists
        );
        let status = dir.path().join(format!("status/attachment-{name}.yaml"));
        fs::write(&status, "status: {state: Attached}\n").unwrap();
        let there = folder.attachment(&name).await.unwrap().unwrap();
        let state = there.status.as_ref().unwrap().state;
        assert_eq!(state, AttachmentState::Attached);
        folder.delete_attachment(&there).await.unwrap();
        assert!(!folder.attachment_file(&name).exists());
        let going = folder.attachment(&name).await.unwrap().unwrap();
        assert!(going.metadata.deletion_timestamp.is_some());
        assert_eq!(
            folder.create_attachment(&order).await.unwrap(),
            Made::Exists
        );
        assert_eq!(folder.attachments().await.unwrap().len(), 1);
        fs::remove_file(&status).unwrap();
        tokio::time::sleep(UNSEEN + Duration::from_millis(100)).await;
        assert!(folder.attachment(&name).await.unwrap().is_none());
        assert_eq!(folder.create_attachment(&order).await.unwrap(), Made::New);
    }

    #[tokio::test]
    async fn kinds_are_found_in_files_of_several_and_broken_ones_hide_nothing() {
        let (dir, folder) = folder();
        let text = "apiVersion: twinsite.io/v1alpha1\nkind: StoragePool\nmetadata: {name: m1}\nspec: {site: medical, node: {name: m1, directory: /d}, portals: ['h:1']}\n---\napiVersion: twinsite.io/v1alpha1\nkind: SitePair\nmetadata: {name: ctrc}\nspec: {sites: [{name: medical}, {name: research}], witness: {directory: {path: /w}}}\n";
        fs::write(dir.path().join("site.yaml"), text).unwrap();
        fs::write(dir.path().join("a-broken.yaml"), "kind: [").unwrap();
        fs::write(
            dir.path().join("status/storagepool-m1.yaml"),
            "status: {freeBytes: 7, legs: 0}",
        )
        .unwrap();
        assert!(folder.pair("ctrc").await.unwrap().is_some());
        assert!(folder.pair("other").await.unwrap().is_none());
        let pools = folder.pools().await.unwrap();
        assert_eq!(pools[0].status.as_ref().unwrap().free_bytes, Some(7));
        assert!(folder.has_node("m1").await.unwrap());
        assert!(!folder.has_node("m2").await.unwrap());
    }

    #[tokio::test]
    async fn a_volume_is_kept_with_what_is_said_of_it() {
        let (_dir, folder) = folder();
        let records = volume("records");
        assert_eq!(folder.create_volume(&records).await.unwrap(), Made::New);
        assert_eq!(folder.create_volume(&records).await.unwrap(), Made::Exists);
        let grown = Quantity::from_bytes(2 << 30);
        folder.grow_volume("rv", "records", grown).await.unwrap();
        let there = folder.volume("rv", "records").await.unwrap().unwrap();
        assert_eq!(there.spec.capacity.bytes(), 2 << 30);
        assert_eq!(there.status, records.status);
        folder.delete_volume("rv", "records").await.unwrap();
        let going = folder.volumes().await.unwrap();
        assert!(going[0].metadata.deletion_timestamp.is_some());
    }
}

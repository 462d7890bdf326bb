//! Objects in a Kubernetes API.
//!
//! All volumes, and what is only compared, come from copies that watches keep; one volume, and attachments, are asked for, since what is
//! decided on them must not be old. Making an Attachment is a plain create: its fixed name is the mutual exclusion. Every request has a
//! limit: its volume is held meanwhile.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::storage::v1::CSINode;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use twinsite_api::{
    Attachment, MirroredVolume, Quantity, Seen, SitePair, StoragePool, Unreadable, VolumeId,
};

use super::objects::{Made, Objects, ObjectsError, Result};
use crate::{DRIVER, identity::Ready};

/// Who writes, in managedFields.
const MANAGER: &str = "twinsite-csi";
/// The limit of one request: a volume is held while one is open, and a server that died silently never answers.
const REQUEST: Duration = Duration::from_secs(10);
/// The server ends a watch after this time, in seconds; of a dead connection nothing else is heard.
const WATCH_SECONDS: u32 = 60;
/// Longer than a watch is left without a word.
const SILENCE: Duration = Duration::from_secs(75);

/// Limits for the requests of a client, and for how long its server may be silent.
pub fn limit(config: &mut kube::Config) {
    config.connect_timeout = Some(REQUEST);
    config.read_timeout = Some(SILENCE);
}

/// A request with its limit.
async fn within<T>(
    request: impl Future<Output = std::result::Result<T, kube::Error>>,
) -> std::result::Result<T, kube::Error> {
    let late = |_| {
        let seconds = REQUEST.as_secs();
        Err(kube::Error::Service(
            format!("no answer in {seconds} s").into(),
        ))
    };
    tokio::time::timeout(REQUEST, request)
        .await
        .unwrap_or_else(late)
}

/// The objects of the cluster that a client leads to.
pub struct Kubernetes {
    client: Client,
    volumes: reflector::Store<Seen<MirroredVolume>>,
    attachments: reflector::Store<Seen<Attachment>>,
    ready: Ready,
}

impl Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

/// A copy of all objects of a kind, kept by a watch.
fn copy<K>(client: &Client) -> reflector::Store<Seen<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let api: Api<Seen<K>> = Api::all(client.clone());
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let mut watch = Box::pin(watcher(api, config).default_backoff().reflect(writer));
    tokio::spawn(async move {
        while let Some(event) = watch.next().await {
            if let Err(error) = event {
                tracing::warn!(kind = %K::kind(&()), %error, "the objects cannot be watched now");
            }
        }
    });
    store
}

impl Kubernetes {
    /// Starts to watch; `ready` is set as soon as all volumes and attachments are known.
    pub fn start(client: Client, ready: Ready) -> Self {
        let volumes = copy::<MirroredVolume>(&client);
        let attachments = copy::<Attachment>(&client);
        let (known, of_volumes, of_attachments) =
            (ready.clone(), volumes.clone(), attachments.clone());
        tokio::spawn(async move {
            let both = tokio::join!(
                of_volumes.wait_until_ready(),
                of_attachments.wait_until_ready()
            );
            if matches!(both, (Ok(()), Ok(()))) {
                known.set(true);
            }
        });
        Self {
            client,
            volumes,
            attachments,
            ready,
        }
    }

    /// A copy that is not filled yet would say that something is not there.
    fn is_filled(&self) -> Result<()> {
        if !self.ready.is_set() {
            let why = "the objects of the cluster are not known yet: ask again";
            return Err(ObjectsError::Away(why.to_owned()));
        }
        Ok(())
    }

    fn all<T>(&self) -> Api<T>
    where
        T: kube::Resource<Scope = kube::core::ClusterResourceScope>,
        T::DynamicType: Default,
    {
        Api::all(self.client.clone())
    }

    /// All of a kind that can be read.
    async fn list<K>(&self) -> Result<Vec<K>>
    where
        K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<Seen<K>> = Api::all(self.client.clone());
        let listed = within(api.list(&ListParams::default()))
            .await
            .map_err(failed)?;
        let read = listed.items.into_iter().filter_map(|seen| {
            let name = seen.name_any();
            let told = |why: &Unreadable| tracing::debug!(name, %why, "an object cannot be read");
            seen.read.inspect_err(told).ok()
        });
        Ok(read.collect())
    }

    fn of(&self, namespace: &str) -> Api<MirroredVolume> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// The object, or that it cannot be read: never that it is not there.
fn read<K>(found: std::result::Result<Option<Seen<K>>, kube::Error>) -> Result<Option<K>>
where
    K: kube::Resource<DynamicType = ()>,
{
    let Some(found) = found.map_err(failed)? else {
        return Ok(None);
    };
    let name = found.name_any();
    let object = found
        .read
        .map_err(|why| ObjectsError::Away(newer(&name, &why)))?;
    Ok(Some(object))
}

fn newer(name: &str, why: &Unreadable) -> String {
    format!(
        "{name} cannot be read by version {}: {why}: upgrade twinsite in this cluster, or take the newer value back",
        env!("CARGO_PKG_VERSION")
    )
}

/// Tells what may go away by itself from what will not.
fn failed(error: kube::Error) -> ObjectsError {
    let text = format!("the Kubernetes API: {error}");
    match &error {
        kube::Error::Api(status) if (400..429).contains(&status.code) && status.code != 409 => {
            ObjectsError::Refused(text)
        }
        _ => ObjectsError::Away(text),
    }
}

fn made<T>(result: std::result::Result<T, kube::Error>) -> Result<Made> {
    match result {
        Ok(_) => Ok(Made::New),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Made::Exists),
        Err(error) => Err(failed(error)),
    }
}

fn gone<T>(result: std::result::Result<T, kube::Error>) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(_) => Ok(()),
    }
}

fn writes() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

#[tonic::async_trait]
impl Objects for Kubernetes {
    async fn volumes(&self) -> Result<Vec<Arc<MirroredVolume>>> {
        self.is_filled()?;
        let volumes = self.volumes.state();
        let read = volumes.iter().filter_map(|seen| seen.read.as_ref().ok());
        Ok(read.cloned().map(Arc::new).collect())
    }

    async fn volumes_now(&self) -> Result<Vec<Arc<MirroredVolume>>> {
        Ok(self.list().await?.into_iter().map(Arc::new).collect())
    }

    async fn unreadable(&self, id: VolumeId) -> Result<Option<String>> {
        let all: Api<Seen<MirroredVolume>> = Api::all(self.client.clone());
        let listed = within(all.list(&ListParams::default()))
            .await
            .map_err(failed)?;
        let mut odd = listed.items.iter();
        let odd = odd.find(|seen| seen.volume_id() == Some(id));
        Ok(odd.and_then(|seen| Some(newer(&seen.name_any(), seen.read.as_ref().err()?))))
    }

    async fn volume(&self, namespace: &str, name: &str) -> Result<Option<MirroredVolume>> {
        let api: Api<Seen<MirroredVolume>> = Api::namespaced(self.client.clone(), namespace);
        read(within(api.get_opt(name)).await)
    }

    async fn create_volume(&self, volume: &MirroredVolume) -> Result<Made> {
        let namespace = volume.namespace().unwrap_or_default();
        made(within(self.of(&namespace).create(&writes(), volume)).await)
    }

    async fn grow_volume(&self, namespace: &str, name: &str, capacity: Quantity) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"capacity": capacity}}));
        let params = PatchParams::apply(MANAGER);
        let patched = within(self.of(namespace).patch(name, &params, &patch)).await;
        patched.map(drop).map_err(failed)
    }

    async fn delete_volume(&self, namespace: &str, name: &str) -> Result<()> {
        let params = DeleteParams::default();
        gone(within(self.of(namespace).delete(name, &params)).await)
    }

    async fn pair(&self, name: &str) -> Result<Option<SitePair>> {
        read(within(self.all().get_opt(name)).await)
    }

    async fn pools(&self) -> Result<Vec<StoragePool>> {
        self.list().await
    }

    async fn has_node(&self, node: &str) -> Result<bool> {
        let api: Api<CSINode> = self.all();
        let found = within(api.get_opt(node)).await.map_err(failed)?;
        let drivers = found.into_iter().flat_map(|found| found.spec.drivers);
        let mut ours = drivers.filter(|driver| driver.name == DRIVER);
        Ok(ours.any(|driver| driver.node_id == node))
    }

    async fn attachments(&self) -> Result<Vec<Attachment>> {
        self.list().await
    }

    async fn attachments_lately(&self) -> Result<Vec<Arc<Attachment>>> {
        self.is_filled()?;
        let attachments = self.attachments.state();
        let read = attachments
            .iter()
            .filter_map(|seen| seen.read.as_ref().ok());
        Ok(read.cloned().map(Arc::new).collect())
    }

    async fn attachment(&self, name: &str) -> Result<Option<Attachment>> {
        read(within(self.all().get_opt(name)).await)
    }

    async fn create_attachment(&self, attachment: &Attachment) -> Result<Made> {
        made(within(self.all().create(&writes(), attachment)).await)
    }

    async fn change_attachment(&self, attachment: &Attachment) -> Result<()> {
        let steps = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": attachment.metadata.resource_version},
            {"op": "replace", "path": "/spec", "value": attachment.spec},
        ]);
        let steps = serde_json::from_value(steps)
            .map_err(|error| ObjectsError::Refused(format!("a patch of ours: {error}")))?;
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let name = attachment.name_any();
        let api: Api<Attachment> = self.all();
        let patch = Patch::Json::<()>(steps);
        let patched = within(api.patch(&name, &params, &patch)).await.map(drop);
        match patched {
            // Somebody else has written: the next look sees it.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 422 => {
                tracing::debug!(name, why = status.message, "an order was not changed");
                Ok(())
            }
            patched => gone(patched),
        }
    }

    async fn annotate_attachment(
        &self,
        attachment: &Attachment,
        annotations: BTreeMap<String, String>,
    ) -> Result<bool> {
        // What the agent writes meanwhile is another matter.
        let steps = json!([
            {"op": "test", "path": "/metadata/uid", "value": attachment.metadata.uid},
            {"op": "test", "path": "/metadata/annotations", "value": attachment.metadata.annotations},
            {"op": "replace", "path": "/metadata/annotations", "value": annotations},
        ]);
        let steps = serde_json::from_value(steps)
            .map_err(|error| ObjectsError::Refused(format!("a patch of ours: {error}")))?;
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api: Api<Attachment> = self.all();
        let patch = Patch::Json::<()>(steps);
        match within(api.patch(&attachment.name_any(), &params, &patch)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if [404, 409, 422].contains(&status.code) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    async fn delete_attachment(&self, attachment: &Attachment) -> Result<()> {
        let api: Api<Attachment> = self.all();
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: attachment.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let name = attachment.name_any();
        match within(api.delete(&name, &params)).await {
            // Another one has its name now.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                tracing::debug!(name, "a later order was left alone");
                Ok(())
            }
            deleted => gone(deleted),
        }
    }
}

#[cfg(test)]
mod tests {
    use twinsite_api::{AttachmentMode, order};

    use super::*;
    use crate::controller::tests::{pair, volume};

    /// As one does whose machine died: the connection stays, and nothing comes any more.
    #[tokio::test]
    async fn a_server_that_falls_silent_keeps_no_call() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok(connection) = listener.accept().await {
                held.push(connection);
            }
        });
        let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
        limit(&mut config);
        let client = Client::try_from(config).unwrap();
        let objects = Kubernetes::start(client, Ready::default());
        let (volume, mode) = (volume("records"), AttachmentMode::Writer);
        let order = order::object(&volume, &pair(), "medical", "m1", mode).unwrap();
        let calls = async {
            tokio::join!(
                async { objects.attachment("a").await.map(drop) },
                objects.delete_attachment(&order),
                async { objects.pools().await.map(drop) },
            )
        };
        let ended = tokio::time::timeout(REQUEST * 3, calls).await;
        let (one, two, three) = ended.expect("they end");
        for answer in [one, two, three] {
            let why = answer.unwrap_err().to_string();
            assert!(why.contains("no answer in 10 s"), "{why}");
        }
    }
}

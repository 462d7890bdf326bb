//! The calls on objects in memory: idempotence, codes, and what is written. Publishing: `publishing`; groups of
//! volumes: `company`.

mod company;
mod publishing;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt as _;
use tonic::{Code, Request, Status};
use twinsite_api::{
    Attachment, AttachmentState, AttachmentStatus, MirroredVolume, Quantity, SitePair, StoragePool,
};

use super::{
    ControllerConfig, ControllerService, identity,
    objects::{Made, Objects, ObjectsError, Result},
};
use crate::{
    calls::Calls,
    capability::tests::wire,
    proto::csi::{
        CapacityRange, ControllerExpandVolumeRequest, ControllerPublishVolumeRequest,
        ControllerUnpublishVolumeRequest, CreateVolumeRequest, DeleteVolumeRequest,
        ListVolumesRequest, Topology, TopologyRequirement, controller_server::Controller as _,
        volume_capability::access_mode::Mode as Wire,
    },
};

/// The pair of the tests.
pub(super) fn pair() -> SitePair {
    serde_yaml::from_str("{apiVersion: twinsite.io/v1alpha1, kind: SitePair, metadata: {name: ctrc}, spec: {sites: [{name: medical}, {name: research}], witness: {directory: {path: /w}}}}").unwrap()
}

const LIVE: &str = "
volumeId: ID
activeSite: {name: medical, seq: 1, latched: false}
epoch: 1
capacity: 1Gi
legs:
- {site: medical, leg: A, state: Member, portals: ['127.0.0.1:3260'], target: {iqn: iqn.2026-11.io.twinsite:a, naa: naa.6000000000000000}}
- {site: research, leg: B, state: Member, portals: ['127.0.0.2:3260'], target: {iqn: iqn.2026-11.io.twinsite:b, naa: naa.6000000000000001}}
";

fn give_life(volume: &mut MirroredVolume) {
    let text = LIVE.replace("ID", &identity(volume).to_string());
    volume.status = Some(serde_yaml::from_str(&text).unwrap());
}

/// A volume that its operator has made.
pub(super) fn volume(name: &str) -> MirroredVolume {
    let text = format!(
        "{{apiVersion: twinsite.io/v1alpha1, kind: MirroredVolume, metadata: {{name: {name}, namespace: rv}}, spec: {{sitePair: ctrc, activeSite: medical, capacity: 1Gi, fsType: ext4, claim: {{name: {name}}}, legs: [{{site: medical, poolClass: ssd}}, {{site: research, poolClass: ssd}}]}}}}"
    );
    let mut volume: MirroredVolume = serde_yaml::from_str(&text).unwrap();
    give_life(&mut volume);
    volume
}

/// Objects in memory, with an operator and an agent that act at once, as far as they are told to.
#[derive(Debug, Default)]
struct Memory {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    volumes: BTreeMap<(String, String), MirroredVolume>,
    attachments: BTreeMap<String, Attachment>,
    uid: u32,
    operator_away: bool,
    /// What agents say of new attachments; `None`: they are away.
    says: Option<AttachmentStatus>,
    keeps_deleted: bool,
    /// Takes the place of an attachment just before that is deleted.
    later: Option<Attachment>,
    /// How often all attachments were asked for.
    lists: u32,
    /// How many Attachments can be made before the API server is away; `None`: any number.
    makes: Option<u32>,
    free_bytes: Option<u64>,
}

impl Memory {
    fn with(change: impl FnOnce(&mut Inner)) -> Arc<Self> {
        let mut inner = Inner {
            says: Some(said(AttachmentState::Attached, None)),
            ..Inner::default()
        };
        change(&mut inner);
        Arc::new(Self {
            inner: Mutex::new(inner),
        })
    }

    fn now<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.inner.lock().unwrap())
    }
}

fn said(state: AttachmentState, reason: Option<&str>) -> AttachmentStatus {
    AttachmentStatus {
        state,
        reason: reason.map(str::to_owned),
        ..AttachmentStatus::default()
    }
}

#[tonic::async_trait]
impl Objects for Memory {
    async fn volumes(&self) -> Result<Vec<Arc<MirroredVolume>>> {
        Ok(self.now(|inner| inner.volumes.values().cloned().map(Arc::new).collect()))
    }

    async fn volume(&self, namespace: &str, name: &str) -> Result<Option<MirroredVolume>> {
        let key = (namespace.to_owned(), name.to_owned());
        Ok(self.now(|inner| inner.volumes.get(&key).cloned()))
    }

    async fn create_volume(&self, volume: &MirroredVolume) -> Result<Made> {
        Ok(self.now(|inner| {
            let key = (volume.namespace().unwrap(), volume.name_any());
            if inner.volumes.contains_key(&key) {
                return Made::Exists;
            }
            let mut volume = volume.clone();
            inner.uid += 1;
            volume.metadata.uid = Some(inner.uid.to_string());
            if !inner.operator_away {
                give_life(&mut volume);
            }
            inner.volumes.insert(key, volume);
            Made::New
        }))
    }

    async fn grow_volume(&self, namespace: &str, name: &str, capacity: Quantity) -> Result<()> {
        let key = (namespace.to_owned(), name.to_owned());
        self.now(|inner| {
            let away = inner.operator_away;
            let volume = inner.volumes.get_mut(&key).unwrap();
            volume.spec.capacity = capacity.clone();
            if !away {
                volume.status.as_mut().unwrap().capacity = Some(capacity);
            }
        });
        Ok(())
    }

    async fn delete_volume(&self, namespace: &str, name: &str) -> Result<()> {
        let key = (namespace.to_owned(), name.to_owned());
        self.now(|inner| inner.volumes.remove(&key));
        Ok(())
    }

    async fn pair(&self, name: &str) -> Result<Option<SitePair>> {
        Ok(Some(pair()).filter(|pair| pair.name_any() == name))
    }

    async fn pools(&self) -> Result<Vec<StoragePool>> {
        let Some(free) = self.now(|inner| inner.free_bytes) else {
            return Ok(Vec::new());
        };
        let text = format!(
            "{{apiVersion: twinsite.io/v1alpha1, kind: StoragePool, metadata: {{name: p}}, spec: {{site: medical, class: ssd, node: {{name: n, directory: /d}}, portals: ['h:1']}}, status: {{freeBytes: {free}}}}}"
        );
        Ok(vec![serde_yaml::from_str(&text).unwrap()])
    }

    async fn has_node(&self, node: &str) -> Result<bool> {
        Ok(["m1", "m2"].contains(&node))
    }

    async fn attachments(&self) -> Result<Vec<Attachment>> {
        Ok(self.now(|inner| {
            inner.lists += 1;
            inner.attachments.values().cloned().collect()
        }))
    }

    async fn attachments_lately(&self) -> Result<Vec<Arc<Attachment>>> {
        Ok(self.now(|inner| inner.attachments.values().cloned().map(Arc::new).collect()))
    }

    async fn attachment(&self, name: &str) -> Result<Option<Attachment>> {
        Ok(self.now(|inner| {
            let says = inner.says.clone();
            let mut found = inner.attachments.get(name).cloned()?;
            found.status = says;
            Some(found)
        }))
    }

    async fn create_attachment(&self, attachment: &Attachment) -> Result<Made> {
        self.now(|inner| {
            let name = attachment.name_any();
            if inner.attachments.contains_key(&name) {
                return Ok(Made::Exists);
            }
            if let Some(left) = &mut inner.makes {
                *left = left
                    .checked_sub(1)
                    .ok_or_else(|| ObjectsError::Away("no answer".to_owned()))?;
            }
            inner.uid += 1;
            let mut attachment = attachment.clone();
            attachment.metadata.uid = Some(inner.uid.to_string());
            inner.attachments.insert(name, attachment);
            Ok(Made::New)
        })
    }

    async fn change_attachment(&self, attachment: &Attachment) -> Result<()> {
        let name = attachment.name_any();
        self.now(|inner| inner.attachments.insert(name, attachment.clone()));
        Ok(())
    }

    async fn annotate_attachment(
        &self,
        attachment: &Attachment,
        annotations: BTreeMap<String, String>,
    ) -> Result<bool> {
        Ok(self.now(|inner| {
            let there = inner.attachments.get_mut(&attachment.name_any());
            let read = &attachment.metadata;
            let there = there.filter(|there| {
                there.metadata.uid == read.uid && there.metadata.annotations == read.annotations
            });
            there
                .map(|there| there.metadata.annotations = Some(annotations))
                .is_some()
        }))
    }

    async fn delete_attachment(&self, attachment: &Attachment) -> Result<()> {
        self.now(|inner| {
            let name = attachment.name_any();
            if let Some(later) = inner.later.take() {
                inner.attachments.insert(name.clone(), later);
            }
            let is_same = |there: &&mut Attachment| there.metadata.uid == attachment.metadata.uid;
            let Some(there) = inner.attachments.get_mut(&name).filter(is_same) else {
                return;
            };
            if inner.keeps_deleted {
                there.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
            } else {
                inner.attachments.remove(&name);
            }
        });
        Ok(())
    }
}

fn service(objects: &Arc<Memory>) -> ControllerService {
    service_at("medical", objects)
}

fn service_at(site: &str, objects: &Arc<Memory>) -> ControllerService {
    let config = ControllerConfig {
        site: site.to_owned(),
        max_volumes: 2,
        default_namespace: Some("default".to_owned()),
    };
    let objects: Arc<dyn Objects> = objects.clone();
    ControllerService::new(config, objects, Calls::default())
}

/// A request whose caller waits for a fifth of a second.
fn soon<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_millis(200));
    request
}

fn create(name: &str) -> CreateVolumeRequest {
    let parameters = [("sitePair", "ctrc"), ("poolClass", "ssd")];
    CreateVolumeRequest {
        name: name.to_owned(),
        volume_capabilities: vec![wire(Some("ext4"), Wire::SingleNodeWriter)],
        parameters: parameters
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..CreateVolumeRequest::default()
    }
}

fn publish(id: &str, node: &str, mode: Wire) -> ControllerPublishVolumeRequest {
    ControllerPublishVolumeRequest {
        volume_id: id.to_owned(),
        node_id: node.to_owned(),
        volume_capability: Some(wire(Some("ext4"), mode)),
        ..ControllerPublishVolumeRequest::default()
    }
}

async fn created(service: &ControllerService, name: &str) -> String {
    let answer = service.create_volume(soon(create(name))).await.unwrap();
    answer.into_inner().volume.unwrap().volume_id
}

async fn published(
    service: &ControllerService,
    id: &str,
    node: &str,
) -> std::result::Result<(), Status> {
    let request = publish(id, node, Wire::SingleNodeWriter);
    let answer = service.controller_publish_volume(soon(request)).await;
    answer.map(drop)
}

async fn unpublished(
    service: &ControllerService,
    id: &str,
    node: &str,
) -> std::result::Result<(), Status> {
    let request = ControllerUnpublishVolumeRequest {
        volume_id: id.to_owned(),
        node_id: node.to_owned(),
        ..ControllerUnpublishVolumeRequest::default()
    };
    let answer = service.controller_unpublish_volume(soon(request)).await;
    answer.map(drop)
}

async fn deleted(service: &ControllerService, id: &str) -> std::result::Result<(), Status> {
    let request = DeleteVolumeRequest {
        volume_id: id.to_owned(),
        ..DeleteVolumeRequest::default()
    };
    service.delete_volume(soon(request)).await.map(drop)
}

fn code<T>(answer: std::result::Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test]
async fn a_volume_lives_from_create_to_delete_with_each_call_made_twice() {
    let objects = Memory::with(|_| {});
    let service = service(&objects);
    let id = created(&service, "a").await;
    assert_eq!(created(&service, "a").await, id);
    for _ in 0..2 {
        published(&service, &id, "m1").await.unwrap();
    }
    assert_eq!(objects.now(|inner| inner.attachments.len()), 1);
    assert_eq!(code(deleted(&service, &id).await), Code::FailedPrecondition);
    for _ in 0..2 {
        unpublished(&service, &id, "m1").await.unwrap();
    }
    for _ in 0..2 {
        deleted(&service, &id).await.unwrap();
    }
    assert!(objects.now(|inner| inner.volumes.is_empty()));
}

/// They must agree before the volume is born.
#[tokio::test]
async fn one_claim_in_both_clusters_asks_for_the_same_volume() {
    let specs = ["medical", "research"].map(|site| async move {
        let objects = Memory::with(|_| {});
        created(&service_at(site, &objects), "a").await;
        objects.now(|inner| inner.volumes.values().next().unwrap().spec.clone())
    });
    let [medical, research] = specs;
    assert_eq!(medical.await, research.await);
}

#[tokio::test]
async fn what_is_made_by_people_is_neither_deleted_nor_grown_nor_taken_over() {
    let records = volume("records");
    let id = identity(&records).to_string();
    let mut taken = records.clone();
    taken.metadata.namespace = Some("default".to_owned());
    taken.metadata.name = Some("taken".to_owned());
    taken.status = None;
    let objects = Memory::with(|inner| {
        for volume in [records, taken] {
            let key = (volume.namespace().unwrap(), volume.name_any());
            inner.volumes.insert(key, volume);
        }
    });
    let service = service(&objects);
    published(&service, &id, "m1").await.unwrap();
    unpublished(&service, &id, "").await.unwrap();
    assert_eq!(code(deleted(&service, &id).await), Code::FailedPrecondition);
    let grow = |bytes| ControllerExpandVolumeRequest {
        volume_id: id.clone(),
        capacity_range: Some(CapacityRange {
            required_bytes: bytes,
            limit_bytes: 0,
        }),
        ..ControllerExpandVolumeRequest::default()
    };
    let grown = service.controller_expand_volume(soon(grow(2 << 30))).await;
    assert_eq!(code(grown), Code::FailedPrecondition);
    let same = service.controller_expand_volume(soon(grow(1 << 30))).await;
    assert_eq!(same.unwrap().into_inner().capacity_bytes, 1 << 30);
    let taken = service.create_volume(soon(create("taken"))).await;
    assert_eq!(code(taken), Code::AlreadyExists);
}

#[tokio::test]
async fn what_takes_long_is_aborted_and_goes_on_when_asked_again() {
    let objects = Memory::with(|inner| inner.operator_away = true);
    let service = service(&objects);
    let request = || service.create_volume(soon(create("a")));
    assert_eq!(code(request().await), Code::Aborted);
    objects.now(|inner| inner.volumes.values_mut().for_each(give_life));
    let answer = request().await.unwrap().into_inner().volume.unwrap();
    assert_eq!(answer.capacity_bytes, 1 << 30);
    assert_eq!(answer.accessible_topology.len(), 1);
}

#[tokio::test]
async fn a_volume_that_cannot_fit_or_must_be_elsewhere_is_not_begun() {
    let objects = Memory::with(|inner| inner.free_bytes = Some(1 << 29));
    let service = service(&objects);
    let full = service.create_volume(soon(create("a"))).await;
    assert_eq!(code(full), Code::ResourceExhausted);
    objects.now(|inner| inner.free_bytes = None);
    let mut elsewhere = create("a");
    let segments = [(crate::TOPOLOGY.to_owned(), "research".to_owned())].into();
    elsewhere.accessibility_requirements = Some(TopologyRequirement {
        requisite: vec![Topology { segments }],
        preferred: Vec::new(),
    });
    let elsewhere = service.create_volume(soon(elsewhere)).await;
    assert_eq!(code(elsewhere), Code::ResourceExhausted);
    assert!(objects.now(|inner| inner.volumes.is_empty()));
}

#[tokio::test]
async fn a_second_operation_on_a_volume_is_aborted() {
    let objects = Memory::with(|inner| inner.says = None);
    let service = service(&objects);
    let id = created(&service, "a").await;
    let first = published(&service, &id, "m1");
    let second = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        unpublished(&service, &id, "m1").await
    };
    let (_, second) = tokio::join!(first, second);
    let second = second.unwrap_err();
    assert_eq!(second.code(), Code::Aborted);
    assert!(second.message().contains("under way"), "{second}");
}

#[tokio::test]
async fn the_list_tells_where_each_volume_is_published() {
    let objects = Memory::with(|_| {});
    let service = service(&objects);
    let id = created(&service, "a").await;
    created(&service, "b").await;
    published(&service, &id, "m2").await.unwrap();
    let listed = service.list_volumes(soon(ListVolumesRequest::default()));
    let entries = listed.await.unwrap().into_inner().entries;
    assert_eq!(entries.len(), 2);
    for entry in entries {
        let nodes = entry.status.unwrap().published_node_ids;
        let here = entry.volume.unwrap().volume_id == id;
        assert_eq!(nodes, if here { vec!["m2"] } else { vec![] });
    }
}

#[tokio::test]
async fn growing_waits_for_both_legs() {
    let objects = Memory::with(|_| {});
    let service = service(&objects);
    let id = created(&service, "a").await;
    objects.now(|inner| inner.operator_away = true);
    let grow = || {
        service.controller_expand_volume(soon(ControllerExpandVolumeRequest {
            volume_id: id.clone(),
            capacity_range: Some(CapacityRange {
                required_bytes: 3 << 30,
                limit_bytes: 0,
            }),
            ..ControllerExpandVolumeRequest::default()
        }))
    };
    assert_eq!(code(grow().await), Code::Aborted);
    objects.now(|inner| {
        for volume in inner.volumes.values_mut() {
            volume.status.as_mut().unwrap().capacity = Some(volume.spec.capacity.clone());
        }
    });
    let answer = grow().await.unwrap().into_inner();
    assert_eq!(answer.capacity_bytes, 3 << 30);
    assert!(answer.node_expansion_required);
}

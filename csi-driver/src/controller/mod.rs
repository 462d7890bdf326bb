//! The Controller service: volumes and publications as objects.
//!
//! It makes and removes MirroredVolumes and Attachments and waits for those who act on them: the operator and the agents.
//! It decides nothing about sites; the register does.

mod company;
mod create;
mod delete;
mod expand;
pub mod folder;
mod health;
mod keep;
pub mod kubernetes;
mod list;
pub mod objects;
mod publish;
mod request;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use kube::ResourceExt as _;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use twinsite_api::{MirroredVolume, VolumeId};

use crate::{
    TOPOLOGY,
    calls::{Calls, deadline},
    inflight::InFlight,
    proto::csi::{
        ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
        ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse,
        ControllerGetVolumeHealthRequest, ControllerGetVolumeHealthResponse,
        ControllerListVolumeHealthRequest, ControllerListVolumeHealthResponse,
        ControllerPublishVolumeRequest, ControllerPublishVolumeResponse,
        ControllerServiceCapability, ControllerUnpublishVolumeRequest,
        ControllerUnpublishVolumeResponse, CreateVolumeRequest, CreateVolumeResponse,
        DeleteVolumeRequest, DeleteVolumeResponse, GetCapacityRequest, GetCapacityResponse,
        ListVolumesRequest, ListVolumesResponse, Topology, ValidateVolumeCapabilitiesRequest,
        ValidateVolumeCapabilitiesResponse, controller_server,
        controller_service_capability::{Rpc, Type, rpc},
    },
};

pub use keep::keep;
pub use objects::Objects;

/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// On volumes that CreateVolume made: their PV is the provisioner's, not the operator's.
pub const PROVISIONER_LABEL: &str = "twinsite.io/provisioner";
/// Its value.
pub const PROVISIONER: &str = "csi";

const CAPABILITIES: [rpc::Type; 10] = [
    rpc::Type::CreateDeleteVolume,
    rpc::Type::PublishUnpublishVolume,
    rpc::Type::ListVolumes,
    rpc::Type::GetCapacity,
    rpc::Type::PublishReadonly,
    rpc::Type::ExpandVolume,
    rpc::Type::ListVolumesPublishedNodes,
    rpc::Type::SingleNodeMultiWriter,
    rpc::Type::GetVolumeHealth,
    rpc::Type::ListVolumeHealth,
];

/// What this controller is for.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// The site of this cluster.
    pub site: String,
    /// Volumes that may be published to a node; 0: any number.
    pub max_volumes: i64,
    /// Namespace of volumes whose request names none; without it such a request is refused.
    pub default_namespace: Option<String>,
}

/// What the calls work with.
#[derive(Debug)]
struct Controller {
    config: ControllerConfig,
    objects: Arc<dyn Objects>,
    /// Publications of volumes that are opened together are looked at and changed by one call at a time.
    together: tokio::sync::Mutex<()>,
}

/// The service.
#[derive(Debug, Clone)]
pub struct ControllerService {
    controller: Arc<Controller>,
    volumes: InFlight,
    calls: Calls,
}

impl ControllerService {
    pub fn new(config: ControllerConfig, objects: Arc<dyn Objects>, calls: Calls) -> Self {
        Self {
            controller: Arc::new(Controller {
                config,
                objects,
                together: tokio::sync::Mutex::default(),
            }),
            volumes: InFlight::default(),
            calls,
        }
    }
}

impl Controller {
    /// The volume with this id; `None` also for a text that is no id of ours.
    async fn find(&self, id: &str) -> Result<Option<MirroredVolume>, Status> {
        let Ok(id) = id.parse::<VolumeId>() else {
            return Ok(None);
        };
        let with_id = |volumes: Vec<Arc<MirroredVolume>>| {
            let mut volumes = volumes.into_iter();
            volumes.find(|volume| identity(volume) == id)
        };
        let mut found = with_id(self.objects.volumes().await?);
        if found.is_none() {
            found = with_id(self.objects.volumes_now().await?);
        }
        let Some(found) = found else {
            // To say that it is not there would let Kubernetes forget it.
            if let Some(why) = self.objects.unreadable(id).await? {
                return Err(Status::unavailable(why));
            }
            return Ok(None);
        };
        let namespace = found.namespace().unwrap_or_default();
        Ok(self.objects.volume(&namespace, &found.name_any()).await?)
    }

    async fn must_find(&self, id: &str) -> Result<MirroredVolume, Status> {
        let found = self.find(id).await?;
        found.ok_or_else(|| Status::not_found(format!("no volume has the id {id:?}")))
    }

    fn topology(&self) -> Topology {
        let segments = HashMap::from([(TOPOLOGY.to_owned(), self.config.site.clone())]);
        Topology { segments }
    }
}

/// The id of a volume, known before the operator has said it.
fn identity(volume: &MirroredVolume) -> VolumeId {
    let said = volume.status.as_ref().and_then(|status| status.volume_id);
    said.unwrap_or_else(|| {
        let namespace = volume.namespace().unwrap_or_default();
        VolumeId::of(&volume.spec.site_pair, &namespace, &volume.name_any())
    })
}

/// Whether CreateVolume made a volume.
fn is_provisioned(volume: &MirroredVolume) -> bool {
    let label = volume.labels().get(PROVISIONER_LABEL);
    label.is_some_and(|label| label == PROVISIONER)
}

/// `namespace/name`, for messages.
fn label(volume: &MirroredVolume) -> String {
    format!(
        "{}/{}",
        volume.namespace().unwrap_or_default(),
        volume.name_any()
    )
}

fn required(text: &str, what: &str) -> Result<(), Status> {
    if text.is_empty() {
        return Err(Status::invalid_argument(format!("{what} is missing")));
    }
    Ok(())
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Waits a moment; `false`: there is no time left for another look.
async fn another_look(until: Instant) -> bool {
    if Instant::now() + LOOK >= until {
        return false;
    }
    tokio::time::sleep(LOOK).await;
    true
}

#[tonic::async_trait]
impl controller_server::Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let until = deadline(&request);
        let (service, request) = (self.clone(), request.into_inner());
        let name = request.name.clone();
        let work = async move {
            required(&request.name, "name")?;
            let _guard = service.volumes.begin(&format!("name {}", request.name))?;
            let volume = service.controller.create(&request, until).await?;
            Ok(CreateVolumeResponse {
                volume: Some(volume),
            })
        };
        self.calls.run("CreateVolume", &name, work).await
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let until = deadline(&request);
        let (service, id) = (self.clone(), request.into_inner().volume_id);
        let volume = id.clone();
        let work = async move {
            required(&id, "volume_id")?;
            let _guard = service.volumes.begin(&id)?;
            service.controller.delete(&id, until).await?;
            Ok(DeleteVolumeResponse {})
        };
        self.calls.run("DeleteVolume", &volume, work).await
    }

    async fn controller_publish_volume(
        &self,
        request: Request<ControllerPublishVolumeRequest>,
    ) -> Result<Response<ControllerPublishVolumeResponse>, Status> {
        let until = deadline(&request);
        let (service, request) = (self.clone(), request.into_inner());
        let volume = request.volume_id.clone();
        let work = async move {
            required(&request.volume_id, "volume_id")?;
            required(&request.node_id, "node_id")?;
            let wish = publish::Wish::parse(&request)?;
            let _guard = service.volumes.begin(&request.volume_id)?;
            let (id, node) = (&request.volume_id, &request.node_id);
            let publish = service.controller.publish(id, node, &wish, until);
            Ok(ControllerPublishVolumeResponse {
                publish_context: publish.await?,
            })
        };
        self.calls
            .run("ControllerPublishVolume", &volume, work)
            .await
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<ControllerUnpublishVolumeResponse>, Status> {
        let until = deadline(&request);
        let (service, request) = (self.clone(), request.into_inner());
        let volume = request.volume_id.clone();
        let work = async move {
            required(&request.volume_id, "volume_id")?;
            let _guard = service.volumes.begin(&request.volume_id)?;
            let (id, node) = (&request.volume_id, &request.node_id);
            service.controller.unpublish(id, node, until).await?;
            Ok(ControllerUnpublishVolumeResponse {})
        };
        self.calls
            .run("ControllerUnpublishVolume", &volume, work)
            .await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let (service, request) = (self.clone(), request.into_inner());
        let volume = request.volume_id.clone();
        let work = async move {
            required(&request.volume_id, "volume_id")?;
            if request.volume_capabilities.is_empty() {
                return Err(Status::invalid_argument("volume_capabilities are missing"));
            }
            let volume = service.controller.must_find(&request.volume_id).await?;
            Ok(request::validate(request, &volume))
        };
        self.calls
            .run("ValidateVolumeCapabilities", &volume, work)
            .await
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let (service, request) = (self.clone(), request.into_inner());
        let work = async move { service.controller.list(&request).await };
        self.calls.run("ListVolumes", "", work).await
    }

    async fn controller_list_volume_health(
        &self,
        request: Request<ControllerListVolumeHealthRequest>,
    ) -> Result<Response<ControllerListVolumeHealthResponse>, Status> {
        let (service, request) = (self.clone(), request.into_inner());
        let work = async move {
            let (most, token) = (request.max_entries, &request.starting_token);
            service.controller.list_health(most, token).await
        };
        self.calls.run("ControllerListVolumeHealth", "", work).await
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<ControllerGetVolumeHealthResponse>, Status> {
        let (service, id) = (self.clone(), request.into_inner().volume_id);
        let volume = id.clone();
        let work = async move {
            required(&id, "volume_id")?;
            let volume = service.controller.must_find(&id).await?;
            Ok(ControllerGetVolumeHealthResponse {
                volume_health: Some(service.controller.health(&volume).await?),
            })
        };
        self.calls
            .run("ControllerGetVolumeHealth", &volume, work)
            .await
    }

    async fn get_capacity(
        &self,
        request: Request<GetCapacityRequest>,
    ) -> Result<Response<GetCapacityResponse>, Status> {
        let (service, request) = (self.clone(), request.into_inner());
        let work = async move { service.controller.capacity(&request).await };
        self.calls.run("GetCapacity", "", work).await
    }

    async fn controller_get_capabilities(
        &self,
        _request: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let capabilities = CAPABILITIES
            .map(|type_| ControllerServiceCapability {
                r#type: Some(Type::Rpc(Rpc {
                    r#type: type_.into(),
                })),
            })
            .to_vec();
        let answer = ControllerGetCapabilitiesResponse { capabilities };
        self.calls
            .run("ControllerGetCapabilities", "", async move { Ok(answer) })
            .await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        let until = deadline(&request);
        let (service, request) = (self.clone(), request.into_inner());
        let volume = request.volume_id.clone();
        let work = async move {
            required(&request.volume_id, "volume_id")?;
            let Some(range) = request.capacity_range else {
                return Err(Status::invalid_argument("capacity_range is missing"));
            };
            let _guard = service.volumes.begin(&request.volume_id)?;
            let id = &request.volume_id;
            service.controller.expand(id, range, until).await
        };
        self.calls
            .run("ControllerExpandVolume", &volume, work)
            .await
    }
}

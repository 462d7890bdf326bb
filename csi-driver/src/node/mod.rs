//! The Node service: from the agent's block device to the path that a pod sees.
//!
//! Each call: parse, take the volume, one step of `stage`, `publish`, `usage` or `health`, answer. What is mounted is read
//! from the kernel each time; what for, from the records.

mod agent;
mod format;
pub mod health;
mod publish;
mod record;
mod stage;
mod usage;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tonic::{Request, Response, Status};
use twinsite_api::{AttachmentMode, VolumeId, order::attachment_name};

use self::{publish::Publish, record::Records, stage::Stage};
use crate::{
    CONTEXT_ATTACHMENT, CONTEXT_FS_TYPE, TOPOLOGY,
    calls::{Calls, deadline},
    capability::{Capability, CapabilityError},
    inflight::InFlight,
    proto::csi::{
        CapacityRange, NodeExpandVolumeRequest, NodeExpandVolumeResponse,
        NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
        NodeGetInfoResponse, NodeGetStorageHealthRequest, NodeGetStorageHealthResponse,
        NodeGetVolumeHealthRequest, NodeGetVolumeHealthResponse, NodeGetVolumeStatsRequest,
        NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
        NodeServiceCapability, NodeStageVolumeRequest, NodeStageVolumeResponse,
        NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest,
        NodeUnstageVolumeResponse, Topology, node_server,
        node_service_capability::{Rpc, Type, rpc},
    },
};

pub use agent::Agent;

/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(250);

const CAPABILITIES: [rpc::Type; 6] = [
    rpc::Type::StageUnstageVolume,
    rpc::Type::GetVolumeStats,
    rpc::Type::ExpandVolume,
    rpc::Type::SingleNodeMultiWriter,
    rpc::Type::GetVolumeHealth,
    rpc::Type::GetStorageHealth,
];

/// Who this node is.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Kubernetes' name of the node.
    pub node: String,
    /// The site of its cluster.
    pub site: String,
    pub agent_socket: PathBuf,
    /// Folder for the records of what is staged.
    pub state: PathBuf,
    /// 0: as many as the CO likes.
    pub max_volumes: i64,
}

/// What the calls work with.
#[derive(Debug)]
struct Node {
    config: NodeConfig,
    agent: Agent,
    records: Records,
}

/// The service.
#[derive(Debug, Clone)]
pub struct NodeService {
    node: Arc<Node>,
    volumes: InFlight,
    calls: Calls,
}

impl NodeService {
    /// # Errors
    /// The folder of records cannot be made.
    pub fn new(config: NodeConfig, calls: Calls) -> io::Result<Self> {
        let node = Node {
            agent: Agent {
                socket: config.agent_socket.clone(),
            },
            records: Records::open(&config.state)?,
            config,
        };
        Ok(Self {
            node: Arc::new(node),
            volumes: InFlight::default(),
            calls,
        })
    }

    /// Gauges of this node in the text format of Prometheus.
    pub fn page(&self) -> String {
        format!(
            "# HELP twinsite_csi_staged_volumes Volumes staged on this node.\n# TYPE twinsite_csi_staged_volumes gauge\ntwinsite_csi_staged_volumes {}\n",
            self.node.records.count()
        )
    }
}

/// The Attachment that publishing a volume makes.
fn attachment_of(volume: VolumeId) -> String {
    attachment_name(volume, AttachmentMode::Writer)
}

fn required(text: &str, what: &str) -> Result<(), Status> {
    if text.is_empty() {
        return Err(Status::invalid_argument(format!("{what} is missing")));
    }
    Ok(())
}

/// An id that is none of ours names a volume that is not here.
fn volume_id(text: &str) -> Result<VolumeId, Status> {
    required(text, "volume_id")?;
    text.parse()
        .map_err(|_| Status::not_found(format!("no volume has the id {text:?}")))
}

fn path(text: &str, what: &str) -> Result<PathBuf, Status> {
    required(text, what)?;
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(Status::invalid_argument(format!(
            "{what} is no absolute path"
        )));
    }
    Ok(path.to_owned())
}

fn attachment(context: &HashMap<String, String>, volume: VolumeId) -> String {
    let named = context.get(CONTEXT_ATTACHMENT).cloned();
    named.unwrap_or_else(|| attachment_of(volume))
}

/// Bytes that a volume must have at least.
pub(crate) fn required_bytes(range: Option<&CapacityRange>) -> Result<u64, Status> {
    let bytes = range.map_or(0, |range| range.required_bytes);
    u64::try_from(bytes).map_err(|_| Status::invalid_argument("required_bytes is negative"))
}

#[tonic::async_trait]
impl node_server::Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let until = deadline(&request);
        let (service, request) = (self.clone(), request.into_inner());
        let volume = request.volume_id.clone();
        let work = async move {
            required(&request.volume_id, "volume_id")?;
            let staging = path(&request.staging_target_path, "staging_target_path")?;
            let capability = request.volume_capability.as_ref();
            let capability = Capability::parse(capability).map_err(CapabilityError::on_node)?;
            let volume = volume_id(&request.volume_id)?;
            let context = |key: &str| {
                let found = request.publish_context.get(key);
                found.or_else(|| request.volume_context.get(key)).cloned()
            };
            let order = Stage {
                volume,
                attachment: attachment(&request.publish_context, volume),
                staging,
                capability,
                fs_type: context(CONTEXT_FS_TYPE),
            };
            let _guard = service.volumes.begin(&request.volume_id)?;
            service.node.stage(order, until).await?;
            Ok(NodeStageVolumeResponse {})
        };
        self.calls.run("NodeStageVolume", &volume, work).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let (service, request) = (self.clone(), request.into_inner());
        let volume = request.volume_id.clone();
        let work = async move {
            required(&request.volume_id, "volume_id")?;
            let staging = path(&request.staging_target_path, "staging_target_path")?;
            let volume = volume_id(&request.volume_id)?;
            let _guard = service.volumes.begin(&request.volume_id)?;
            service.node.unstage(volume, &staging).await?;
            Ok(NodeUnstageVolumeResponse {})
        };
        self.calls.run("NodeUnstageVolume", &volume, work).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let until = deadline(&request);
        let (service, request) = (self.clone(), request.into_inner());
        let volume = request.volume_id.clone();
        let work = async move {
            required(&request.volume_id, "volume_id")?;
            let target = path(&request.target_path, "target_path")?;
            let capability = request.volume_capability.as_ref();
            let capability = Capability::parse(capability).map_err(CapabilityError::on_node)?;
            if request.staging_target_path.is_empty() {
                return Err(Status::failed_precondition(
                    "staging_target_path is missing",
                ));
            }
            let order = Publish {
                volume: volume_id(&request.volume_id)?,
                staging: path(&request.staging_target_path, "staging_target_path")?,
                target,
                capability,
                read_only: request.readonly,
            };
            let _guard = service.volumes.begin(&request.volume_id)?;
            service.node.publish(order, until).await?;
            Ok(NodePublishVolumeResponse {})
        };
        self.calls.run("NodePublishVolume", &volume, work).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let (service, request) = (self.clone(), request.into_inner());
        let volume = request.volume_id.clone();
        let work = async move {
            required(&request.volume_id, "volume_id")?;
            let target = path(&request.target_path, "target_path")?;
            let volume = volume_id(&request.volume_id)?;
            let _guard = service.volumes.begin(&request.volume_id)?;
            service.node.unpublish(volume, &target).await?;
            Ok(NodeUnpublishVolumeResponse {})
        };
        self.calls.run("NodeUnpublishVolume", &volume, work).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let (service, request) = (self.clone(), request.into_inner());
        let volume = request.volume_id.clone();
        let work = async move {
            required(&request.volume_id, "volume_id")?;
            required(&request.volume_path, "volume_path")?;
            let volume = volume_id(&request.volume_id)?;
            let usage = service.node.stats(volume, request.volume_path.as_ref());
            Ok(NodeGetVolumeStatsResponse {
                usage: usage.await?,
            })
        };
        self.calls.run("NodeGetVolumeStats", &volume, work).await
    }

    async fn node_get_volume_health(
        &self,
        request: Request<NodeGetVolumeHealthRequest>,
    ) -> Result<Response<NodeGetVolumeHealthResponse>, Status> {
        let (service, request) = (self.clone(), request.into_inner());
        let volume = request.volume_id.clone();
        let work = async move {
            let volume = volume_id(&request.volume_id)?;
            let health = service.node.volume_health(volume).await?;
            Ok(NodeGetVolumeHealthResponse {
                volume_health: Some(health),
            })
        };
        self.calls.run("NodeGetVolumeHealth", &volume, work).await
    }

    async fn node_get_storage_health(
        &self,
        _request: Request<NodeGetStorageHealthRequest>,
    ) -> Result<Response<NodeGetStorageHealthResponse>, Status> {
        let service = self.clone();
        let work = async move {
            Ok(NodeGetStorageHealthResponse {
                backend_health: service.node.storage_health().await,
            })
        };
        self.calls.run("NodeGetStorageHealth", "", work).await
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let until = deadline(&request);
        let (service, request) = (self.clone(), request.into_inner());
        let volume = request.volume_id.clone();
        let work = async move {
            required(&request.volume_id, "volume_id")?;
            required(&request.volume_path, "volume_path")?;
            let volume = volume_id(&request.volume_id)?;
            let wanted = required_bytes(request.capacity_range.as_ref())?;
            let _guard = service.volumes.begin(&request.volume_id)?;
            let path = request.volume_path.as_ref();
            let size = service.node.expand(volume, path, wanted, until).await?;
            Ok(NodeExpandVolumeResponse {
                capacity_bytes: i64::try_from(size).unwrap_or(i64::MAX),
            })
        };
        self.calls.run("NodeExpandVolume", &volume, work).await
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capabilities = CAPABILITIES
            .map(|type_| NodeServiceCapability {
                r#type: Some(Type::Rpc(Rpc {
                    r#type: type_.into(),
                })),
            })
            .to_vec();
        let answer = NodeGetCapabilitiesResponse { capabilities };
        self.calls
            .run("NodeGetCapabilities", "", async move { Ok(answer) })
            .await
    }

    async fn node_get_info(
        &self,
        _request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        let config = &self.node.config;
        let segments = HashMap::from([(TOPOLOGY.to_owned(), config.site.clone())]);
        let answer = NodeGetInfoResponse {
            node_id: config.node.clone(),
            max_volumes_per_node: config.max_volumes,
            accessible_topology: Some(Topology { segments }),
        };
        self.calls
            .run("NodeGetInfo", "", async move { Ok(answer) })
            .await
    }
}

//! Identity: who we are, what is served, and whether it is ready.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tonic::{Request, Response, Status};

use crate::{
    DRIVER,
    calls::Calls,
    proto::csi::{
        GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
        GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse, identity_server,
        plugin_capability::{Service, Type, VolumeExpansion, service, volume_expansion},
    },
};

/// Whether calls can be answered; set by whoever prepares it.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The service.
#[derive(Debug, Clone)]
pub struct Identity {
    pub calls: Calls,
    pub ready: Ready,
}

#[tonic::async_trait]
impl identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        _request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        let answer = GetPluginInfoResponse {
            name: DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: Default::default(),
        };
        self.calls
            .run("GetPluginInfo", "", async move { Ok(answer) })
            .await
    }

    async fn get_plugin_capabilities(
        &self,
        _request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let service = |type_: service::Type| {
            Type::Service(Service {
                r#type: type_.into(),
            })
        };
        let expansion = |type_: volume_expansion::Type| {
            Type::VolumeExpansion(VolumeExpansion {
                r#type: type_.into(),
            })
        };
        let kinds = [
            service(service::Type::ControllerService),
            service(service::Type::VolumeAccessibilityConstraints),
            expansion(volume_expansion::Type::Online),
        ];
        let capabilities = kinds
            .into_iter()
            .map(|kind| PluginCapability { r#type: Some(kind) })
            .collect();
        let answer = GetPluginCapabilitiesResponse { capabilities };
        self.calls
            .run("GetPluginCapabilities", "", async move { Ok(answer) })
            .await
    }

    async fn probe(
        &self,
        _request: Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        let answer = ProbeResponse {
            ready: Some(self.ready.is_set()),
        };
        self.calls.run("Probe", "", async move { Ok(answer) }).await
    }
}

//! CreateVolume and GetCapacity.

use kube::ResourceExt as _;
use tokio::time::Instant;
use tonic::Status;
use twinsite_api::{HEAD_BYTES, MirroredVolume, SitePair, StoragePool, condition_type};

use super::{
    Controller, another_look, identity, label,
    objects::Made,
    request::{self, Parameters},
    signed,
};
use crate::{
    CONTEXT_FS_TYPE,
    proto::csi::{CreateVolumeRequest, GetCapacityRequest, GetCapacityResponse, Topology, Volume},
};

impl Controller {
    pub(super) async fn create(
        &self,
        request: &CreateVolumeRequest,
        until: Instant,
    ) -> Result<Volume, Status> {
        let config = &self.config;
        let parameters = Parameters::parse(&request.parameters)?;
        let pair = self.must_find_pair(&parameters.pair).await?;
        let namespace = config.default_namespace.as_deref();
        let wanted = request::volume(request, &parameters, &pair, namespace)?;
        if let Some(topology) = &request.accessibility_requirements
            && !topology.requisite.is_empty()
            && !topology.requisite.iter().any(|one| self.is_here(one))
        {
            return Err(Status::resource_exhausted(format!(
                "this controller makes volumes for site {} only",
                config.site
            )));
        }
        let (namespace, name) = (wanted.namespace().unwrap_or_default(), wanted.name_any());
        match self.objects.volume(&namespace, &name).await? {
            Some(there) => {
                let range = request.capacity_range.as_ref();
                if let Some(what) = request::differs(&there, &wanted, range) {
                    return Err(Status::already_exists(format!(
                        "volume {} is there and {what}",
                        label(&there)
                    )));
                }
            }
            None => {
                let size = wanted.spec.capacity.bytes();
                self.has_room(&parameters, &pair, &namespace, size).await?;
                if self.objects.create_volume(&wanted).await? == Made::Exists {
                    return Err(Status::aborted(format!(
                        "volume {} has just been made by another call: ask again",
                        label(&wanted)
                    )));
                }
            }
        }
        let volume = self.wait_live(&namespace, &name, until).await?;
        Ok(self.describe(&volume))
    }

    /// A volume as the CO knows it.
    pub(super) fn describe(&self, volume: &MirroredVolume) -> Volume {
        let fs_type = volume.spec.fs_type.clone();
        let context = fs_type.map(|name| (CONTEXT_FS_TYPE.to_owned(), name));
        Volume {
            capacity_bytes: signed(volume.spec.capacity.bytes()),
            volume_id: identity(volume).to_string(),
            volume_context: context.into_iter().collect(),
            content_source: None,
            accessible_topology: vec![self.topology()],
        }
    }

    /// Waits until both copies exist and the register names them.
    async fn wait_live(
        &self,
        namespace: &str,
        name: &str,
        until: Instant,
    ) -> Result<MirroredVolume, Status> {
        loop {
            let Some(volume) = self.objects.volume(namespace, name).await? else {
                return Err(Status::aborted(format!(
                    "volume {namespace}/{name} was deleted while it was made"
                )));
            };
            if volume.metadata.deletion_timestamp.is_some() {
                return Err(Status::aborted(format!(
                    "an older volume {namespace}/{name} is being deleted: ask again"
                )));
            }
            if is_live(&volume) {
                return Ok(volume);
            }
            if !another_look(until).await {
                return Err(Status::aborted(format!(
                    "volume {namespace}/{name} is being made: {}",
                    progress(&volume)
                )));
            }
        }
    }

    pub(super) async fn must_find_pair(&self, name: &str) -> Result<SitePair, Status> {
        let pair = self.objects.pair(name).await?;
        pair.ok_or_else(|| {
            Status::invalid_argument(format!(
                "there is no SitePair {name}: apply it, or correct the StorageClass"
            ))
        })
    }

    fn is_here(&self, topology: &Topology) -> bool {
        let here = self.topology();
        let mut segments = topology.segments.iter();
        segments.all(|(key, value)| here.segments.get(key).is_none_or(|own| own == value))
    }

    /// No object is made for what cannot fit: the scheduler then looks elsewhere.
    async fn has_room(
        &self,
        parameters: &Parameters,
        pair: &SitePair,
        namespace: &str,
        size: u64,
    ) -> Result<(), Status> {
        let pools = self.objects.pools().await?;
        for site in &pair.spec.sites {
            let class = parameters.class(&site.name);
            match largest_room(&pools, &site.name, class, Some(namespace)) {
                Some(room) if room < size => {
                    return Err(Status::resource_exhausted(format!(
                        "no pool of class {} at {} has {size} bytes free, the largest has {room}",
                        class.map_or("(any)", String::as_str),
                        site.name
                    )));
                }
                // Of the other site's pools its own operator knows better.
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) async fn capacity(
        &self,
        request: &GetCapacityRequest,
    ) -> Result<GetCapacityResponse, Status> {
        let asked = request.accessible_topology.as_ref();
        let elsewhere = asked.is_some_and(|topology| !self.is_here(topology));
        let pools = self.objects.pools().await?;
        let mut sites = vec![self.config.site.clone()];
        let mut parameters = None;
        if !request.parameters.is_empty() {
            let read = Parameters::parse(&request.parameters)?;
            let pair = self.must_find_pair(&read.pair).await?;
            sites = pair.spec.sites.into_iter().map(|site| site.name).collect();
            parameters = Some(read);
        }
        let known = sites.iter().filter_map(|site| {
            let class = parameters.as_ref().and_then(|words| words.class(site));
            largest_room(&pools, site, class, None)
        });
        let room = if elsewhere {
            0
        } else {
            known.min().unwrap_or(0)
        };
        Ok(GetCapacityResponse {
            available_capacity: signed(room),
            maximum_volume_size: Some(signed(room)),
            minimum_volume_size: parameters.map(|words| signed(words.smallest())),
        })
    }
}

/// Bytes of the largest volume that a pool at a site has room for; `None`: no pool there has said.
fn largest_room(
    pools: &[StoragePool],
    site: &str,
    class: Option<&String>,
    namespace: Option<&str>,
) -> Option<u64> {
    let fits = |pool: &&StoragePool| {
        let allowed = &pool.spec.allowed_namespaces;
        pool.spec.site == site
            && class.is_none_or(|class| pool.spec.class.as_ref() == Some(class))
            && namespace.is_none_or(|name| allowed.is_empty() || allowed.iter().any(|a| a == name))
    };
    let room = |pool: &StoragePool| {
        let free = pool.status.as_ref()?.free_bytes?;
        Some(free.saturating_sub(HEAD_BYTES))
    };
    pools.iter().filter(fits).filter_map(room).max()
}

/// Both copies exist and the register names them: the volume can be published.
pub(super) fn is_live(volume: &MirroredVolume) -> bool {
    volume.status.as_ref().is_some_and(|status| {
        status.volume_id.is_some()
            && status.active_site.is_some()
            && status.epoch.is_some_and(|epoch| epoch > 0)
    })
}

/// What its operator says of a volume that is not there yet.
fn progress(volume: &MirroredVolume) -> String {
    let conditions = volume.status.iter().flat_map(|status| &status.conditions);
    let mut told: Vec<String> = Vec::new();
    for condition in conditions {
        let tells = match condition.type_.as_str() {
            condition_type::READY => condition.status != "True",
            condition_type::STALLED => condition.status == "True",
            _ => false,
        };
        let text = format!("{} ({})", condition.message, condition.reason);
        if tells && !told.contains(&text) {
            told.push(text);
        }
    }
    if told.is_empty() {
        return "its operator has not said anything yet".to_owned();
    }
    told.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_at_a_site_is_that_of_its_largest_pool_of_the_class() {
        let pool = |site: &str, class: &str, free: u64| -> StoragePool {
            let text = format!(
                "{{apiVersion: twinsite.io/v1alpha1, kind: StoragePool, metadata: {{name: p}}, spec: {{site: {site}, class: {class}, allowedNamespaces: [rv], node: {{name: n, directory: /d}}, portals: ['h:1']}}, status: {{freeBytes: {free}}}}}"
            );
            serde_yaml::from_str(&text).unwrap()
        };
        let pools = [
            pool("medical", "ssd", 5 << 30),
            pool("medical", "ssd", 7 << 30),
            pool("medical", "hdd", 90 << 30),
            pool("research", "ssd", 1 << 20),
        ];
        let ssd = "ssd".to_owned();
        let room = |site, namespace| largest_room(&pools, site, Some(&ssd), namespace);
        assert_eq!(room("medical", Some("rv")), Some((7 << 30) - HEAD_BYTES));
        assert_eq!(room("medical", Some("other")), None);
        assert_eq!(room("research", None), Some(0));
        assert_eq!(room("moon", None), None);
        assert_eq!(
            largest_room(&pools, "medical", None, None),
            Some((90 << 30) - HEAD_BYTES)
        );
    }
}

//! The watches that feed the copies, each thinned to what is read of it, and whom a change is told of.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{
            Node, NodeStatus, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, PodStatus,
        },
        storage::v1::{CSINode, VolumeAttachment},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{reflector::ObjectRef, watcher},
};
use tokio::time::Instant;
use twinsite_api::{Attachment, Failover, Leg, MirrorGroup, MirroredVolume, SitePair, StoragePool};

use super::{
    super::watch::{Change, copy, copy_thinned},
    Own, Tell, Told,
    index::{Grouped, Index, Sign, locked},
    volume_key,
};

const LEASES: &str = "kube-node-lease";

impl Own {
    /// Starts all copies.
    pub fn start(client: &Client, tell: &Tell) -> Self {
        let index: Arc<Mutex<Index>> = Arc::default();
        let all = watcher::Config::default;
        let at = |index: &Arc<Mutex<Index>>, tell: &Tell| (Arc::clone(index), Arc::clone(tell));
        let (i, t) = at(&index, tell);
        let pairs = copy(
            Api::all(client.clone()),
            all(),
            move |change, pair: Option<&SitePair>, _| {
                if let Some(pair) = pair {
                    let edit = locked(&i).edit(change, "SitePair", &pair.metadata);
                    t(Told::Pair(pair.name_any(), edit));
                }
            },
        );
        let (i, t) = at(&index, tell);
        let pools = copy(
            Api::all(client.clone()),
            all(),
            move |change, pool: Option<&StoragePool>, _| {
                if let Some(pool) = pool {
                    let edit = {
                        let mut index = locked(&i);
                        let said = pool
                            .status
                            .as_ref()
                            .and_then(|status| status.observed_at.as_ref());
                        match (&pool.spec.node, change) {
                            (Some(node), Change::Applied) => {
                                index.said(of_pool(pool), &node.name, said);
                            }
                            _ => drop(index.said.remove(&of_pool(pool))),
                        }
                        index.edit(change, "StoragePool", &pool.metadata)
                    };
                    t(Told::Pool(pool.name_any(), edit));
                }
            },
        );
        let (i, t) = at(&index, tell);
        let volumes = copy(
            Api::all(client.clone()),
            all(),
            move |change, volume: Option<&MirroredVolume>, store| {
                {
                    let mut index = locked(&i);
                    match (change, volume) {
                        (Change::Applied, Some(volume)) => index.add_volume(volume),
                        (Change::Deleted, Some(volume)) => index.remove_volume(volume),
                        _ => {
                            index.volumes.clear();
                            index.claims.clear();
                            store
                                .state()
                                .iter()
                                .for_each(|volume| index.add_volume(volume));
                        }
                    }
                }
                if let Some(volume) = volume {
                    t(Told::Volume(volume_key(volume)));
                }
            },
        );
        let (_, t) = at(&index, tell);
        let groups = copy(
            Api::all(client.clone()),
            all(),
            move |_, group: Option<&MirrorGroup>, _| {
                if let Some(group) = group {
                    t(Told::Group((
                        group.namespace().unwrap_or_default(),
                        group.name_any(),
                    )));
                }
            },
        );
        let (_, t) = at(&index, tell);
        let failovers = copy(
            Api::all(client.clone()),
            all(),
            move |_, failover: Option<&Failover>, _| {
                if let Some(failover) = failover {
                    t(Told::Failover(failover.name_any()));
                }
            },
        );
        let (i, t) = at(&index, tell);
        let legs = copy(
            Api::all(client.clone()),
            all(),
            move |change, leg: Option<&Leg>, store| {
                {
                    let mut index = locked(&i);
                    match (change, leg) {
                        (Change::Applied, Some(leg)) => {
                            let said = leg
                                .status
                                .as_ref()
                                .and_then(|status| status.observed_at.as_ref());
                            index.said(leg.name_any(), &leg.spec.node, said);
                            index
                                .legs_of_pools
                                .set(leg.name_any(), BTreeSet::from([leg.spec.pool.clone()]));
                        }
                        (Change::Deleted, Some(leg)) => {
                            index.said.remove(&leg.name_any());
                            index.legs_of_pools.remove(&leg.name_any());
                        }
                        _ => {
                            index.legs_of_pools = Grouped::default();
                            for leg in store.state() {
                                index
                                    .legs_of_pools
                                    .set(leg.name_any(), BTreeSet::from([leg.spec.pool.clone()]));
                            }
                        }
                    }
                }
                if let Some(leg) = leg {
                    t(Told::Leg(leg.spec.volume));
                }
            },
        );
        let (i, t) = at(&index, tell);
        let attachments = copy(
            Api::all(client.clone()),
            all(),
            move |change, attachment: Option<&Attachment>, _| {
                if let Some(attachment) = attachment {
                    let name = attachment.name_any();
                    if change == Change::Applied {
                        let said = attachment
                            .status
                            .as_ref()
                            .and_then(|status| status.observed_at.as_ref());
                        locked(&i).said(name, &attachment.spec.node, said);
                    } else {
                        locked(&i).said.remove(&name);
                    }
                    t(Told::Attachment(attachment.spec.volume));
                }
            },
        );
        let (_, t) = at(&index, tell);
        let persistent_volumes = copy(
            Api::all(client.clone()),
            all(),
            move |_, volume: Option<&PersistentVolume>, _| {
                if let Some(id) = volume.and_then(|volume| volume.name_any().parse().ok()) {
                    t(Told::Of(id));
                }
            },
        );
        let (_, t) = at(&index, tell);
        let claims = copy(
            Api::all(client.clone()),
            all(),
            move |_, claim: Option<&PersistentVolumeClaim>, _| {
                if let Some(claim) = claim {
                    t(Told::Claim {
                        namespace: claim.namespace().unwrap_or_default(),
                        name: claim.name_any(),
                    });
                }
            },
        );
        let (i, t) = at(&index, tell);
        let pods = copy_thinned(
            Api::all(client.clone()),
            all(),
            thin_pod,
            move |change, pod: Option<&Pod>, store| {
                let told = {
                    let mut index = locked(&i);
                    match (change, pod) {
                        (Change::Applied, Some(pod)) => {
                            index.pods.set(ObjectRef::from_obj(pod), claims_of(pod));
                        }
                        (Change::Deleted, Some(pod)) => {
                            index.pods.remove(&ObjectRef::from_obj(pod))
                        }
                        _ => {
                            index.pods = Grouped::default();
                            for pod in store.state() {
                                index.pods.set(ObjectRef::from_obj(&*pod), claims_of(&pod));
                            }
                        }
                    }
                    pod.map(claims_of).unwrap_or_default()
                };
                for (namespace, name) in told {
                    t(Told::Claim { namespace, name });
                }
            },
        );
        let (_, t) = at(&index, tell);
        let nodes = copy_thinned(
            Api::all(client.clone()),
            all(),
            thin_node,
            move |_, node: Option<&Node>, _| {
                if let Some(node) = node {
                    t(Told::Node(node.name_any()));
                }
            },
        );
        let csi_nodes = copy(
            Api::all(client.clone()),
            all(),
            |_, _: Option<&CSINode>, _| {},
        );
        let (i, t) = at(&index, tell);
        let volume_attachments = copy(
            Api::all(client.clone()),
            all(),
            move |change, one: Option<&VolumeAttachment>, store| {
                let volume =
                    |one: &VolumeAttachment| one.spec.source.persistent_volume_name.clone();
                {
                    let mut index = locked(&i);
                    match (change, one) {
                        (Change::Applied, Some(one)) => {
                            index
                                .volume_attachments
                                .set(one.name_any(), volume(one).into_iter().collect());
                        }
                        (Change::Deleted, Some(one)) => {
                            index.volume_attachments.remove(&one.name_any())
                        }
                        _ => {
                            index.volume_attachments = Grouped::default();
                            for one in store.state() {
                                index
                                    .volume_attachments
                                    .set(one.name_any(), volume(&one).into_iter().collect());
                            }
                        }
                    }
                }
                if let Some(id) = one.and_then(volume).and_then(|name| name.parse().ok()) {
                    t(Told::Of(id));
                }
            },
        );
        let (i, _) = at(&index, tell);
        let node_leases = copy(
            Api::namespaced(client.clone(), LEASES),
            all(),
            move |change, lease: Option<&Lease>, store| {
                let mut index = locked(&i);
                match (change, lease) {
                    (Change::Applied, Some(lease)) => {
                        let renewed = renewed(lease);
                        index.sign(&lease.name_any(), renewed);
                    }
                    (Change::Deleted, Some(lease)) => {
                        index.signs.remove(&lease.name_any());
                    }
                    // While nothing could be watched nothing could be seen: silence begins anew.
                    _ => {
                        let now = Instant::now();
                        index.signs.clear();
                        index.agents.clear();
                        index.began = Some(now);
                        for lease in store.state() {
                            let sign = Sign::first(renewed(&lease), now);
                            index.signs.insert(lease.name_any(), sign);
                        }
                    }
                }
            },
        );
        Self {
            pairs,
            pools,
            volumes,
            groups,
            failovers,
            legs,
            attachments,
            persistent_volumes,
            claims,
            pods,
            nodes,
            csi_nodes,
            volume_attachments,
            node_leases,
            index,
        }
    }
}

/// By what the word of an agent about a pool is known; a Leg or Attachment has no such name.
fn of_pool(pool: &StoragePool) -> String {
    format!("pool/{}", pool.name_any())
}

fn renewed(lease: &Lease) -> Option<MicroTime> {
    lease.spec.as_ref()?.renew_time.clone()
}

fn claims_of(pod: &Pod) -> BTreeSet<(String, String)> {
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| volume.persistent_volume_claim.as_ref())
        .map(|source| (namespace.clone(), source.claim_name.clone()))
        .collect()
}

fn thin_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    pod.metadata.labels = None;
    if let Some(spec) = pod.spec.take() {
        let volumes = spec.volumes.map(|volumes| {
            let used = volumes
                .into_iter()
                .filter(|volume| volume.persistent_volume_claim.is_some());
            used.collect()
        });
        pod.spec = Some(PodSpec {
            node_name: spec.node_name,
            volumes,
            ..Default::default()
        });
    }
    if let Some(status) = pod.status.take() {
        pod.status = Some(PodStatus {
            phase: status.phase,
            ..Default::default()
        });
    }
}

fn thin_node(node: &mut Node) {
    node.metadata.annotations = None;
    if let Some(status) = node.status.take() {
        let ready = status.conditions.map(|conditions| {
            let ready = conditions.into_iter().filter(|one| one.type_ == "Ready");
            ready.collect::<Vec<_>>()
        });
        node.status = Some(NodeStatus {
            conditions: ready,
            volumes_in_use: status.volumes_in_use,
            ..Default::default()
        });
    }
}

//! What the operator of a site sees of the world: its own cluster, the peer as far as it answers, the witness.

use std::sync::Arc;
use std::time::Duration;

use twinsite_api::{Failover, Workload};

use super::{Cluster, World};
use crate::failover;
use crate::volume::{
    Desired, Evidence, FailoverOrder, Observed, Peer, Reach, Reading, Witness, WorkloadView,
};

impl Cluster {
    pub(in crate::volume::tests) fn workload(&self, workload: Workload) -> WorkloadView {
        let mut known = self.workloads.iter();
        let known = known.find(|(known, _)| known.name == workload.name);
        let replicas = known.map(|(_, replicas)| *replicas);
        WorkloadView {
            workload,
            replicas,
            running: replicas,
            trouble: None,
        }
    }
}

impl World {
    pub(in crate::volume::tests) fn observe(&self, place: usize) -> (Option<Desired>, Observed) {
        let cluster = &self.clusters[place];
        let other = &self.clusters[1 - place];
        let mut peer = Peer::default();
        if self.link_up && other.up {
            peer.reach = Reach::Answers;
            peer.volume = other.volume.clone().map(Arc::new);
            peer.pair = Some(Arc::new(other.pair.clone()));
            peer.legs = other.legs.iter().cloned().map(Arc::new).collect();
            peer.attachments = other.attachments.iter().cloned().map(Arc::new).collect();
        } else {
            peer.reach = Reach::Silent {
                last: None,
                why: "connection refused".to_owned(),
                of_volume: false,
            };
        }
        let reach = if self.witness_up {
            Reach::Answers
        } else {
            Reach::Silent {
                last: None,
                why: "timed out".to_owned(),
                of_volume: false,
            }
        };
        let register = self.register.clone().map_or(Reading::Absent, |register| {
            Reading::Found(Arc::new(register))
        });
        let age = |at: i64| {
            self.witness_up
                .then(|| Duration::from_secs(u64::try_from(self.now - at).unwrap()))
        };
        let named = |(at, order): &(usize, Failover)| {
            let volume = cluster.volume.as_ref()?;
            let sees = *at == place || peer.reach.answers();
            (sees && failover::selects(order, volume) && !failover::is_over(order, "rv", self.name))
                .then(|| FailoverOrder {
                    object: Arc::new(order.clone()),
                    at_peer: *at != place,
                })
        };
        let workloads = cluster
            .volume
            .iter()
            .flat_map(|volume| volume.spec.workloads.clone().unwrap_or_default());
        let observed = Observed {
            pools: cluster.pools.iter().cloned().map(Arc::new).collect(),
            legs: cluster.legs.iter().cloned().map(Arc::new).collect(),
            taken_pools: Vec::new(),
            attachments: cluster.attachments.iter().cloned().map(Arc::new).collect(),
            persistent_volume: cluster.persistent_volume.clone().map(Arc::new),
            claim: cluster.claim.clone().map(Arc::new),
            pods: cluster.pods.clone(),
            volume_attachments: cluster.volume_attachments.clone(),
            workloads: workloads.map(|one| cluster.workload(one)).collect(),
            nodes: cluster.nodes.clone(),
            witness: Witness { reach, register },
            marks: cluster.marks.clone(),
            evidence: Evidence {
                site_still_for: age(other.alive_at),
                beat_still_for: age(self.beat_at),
            },
            failovers: self.failovers.iter().filter_map(named).collect(),
            unknown: cluster.unknown.clone(),
            company: Vec::new(),
            kept_by: Vec::new(),
            peer,
            move_permit: true,
        };
        let desired = cluster.volume.clone().map(|volume| Desired {
            volume: Arc::new(volume),
            group: None,
            left_of: None,
            pair: Some(Arc::new(cluster.pair.clone())),
            site: cluster.site.to_owned(),
            index: Some(cluster.index),
        });
        (desired, observed)
    }
}

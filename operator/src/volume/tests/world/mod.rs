//! The world: objects of two clusters, the register, who is up, and the rounds in which it moves.
//!
//! Not here: what Kubernetes and the agents do in a round (beside this folder), several volumes in lock step (`group_world`).

mod observe;
mod take;
mod transcript;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    Attachment, AttachmentMode, Condition, Failover, FailoverStatus, Leg, LegIndex, MirroredVolume,
    SitePair, StoragePool, VolumeId, Workload,
};
use twinsite_register::{Gen, Mark, Register, StampId, TxId};

use super::super::{
    Action, Desired, NodeView, Observed, Plan, PodView, Status, VolumeAttachmentView, orphan, plan,
    status,
};
use super::linter;
use crate::failover;

pub(super) const SITES: [&str; 2] = ["medical", "research"];
const START: i64 = 1_795_838_400;

pub(super) struct Cluster {
    pub(super) site: &'static str,
    pub(super) index: LegIndex,
    /// All of the site: API server, operator, agents, disks.
    pub(super) up: bool,
    /// The operator alone; it may be the last to start.
    pub(super) operator_up: bool,
    /// Fields of the volume's spec that the operator does not know.
    pub(super) unknown: Vec<String>,
    pub(super) volume: Option<MirroredVolume>,
    pub(super) pair: SitePair,
    pub(super) pools: Vec<StoragePool>,
    pub(super) legs: Vec<Leg>,
    pub(super) attachments: Vec<Attachment>,
    pub(super) persistent_volume: Option<PersistentVolume>,
    pub(super) claim: Option<PersistentVolumeClaim>,
    pub(super) workloads: Vec<(Workload, i32)>,
    pub(super) pods: Vec<PodView>,
    pub(super) volume_attachments: Vec<VolumeAttachmentView>,
    pub(super) nodes: Vec<NodeView>,
    pub(super) marks: Vec<Mark>,
    /// When it last renewed its liveness.
    alive_at: i64,
    /// When a pod that uses the volume last came or went.
    pub(super) pods_at: i64,
}

pub(super) struct World {
    /// Of the volume.
    pub(super) name: &'static str,
    pub(super) clusters: [Cluster; 2],
    pub(super) register: Option<Register>,
    pub(super) witness_up: bool,
    /// The operators reach each other's API.
    pub(super) link_up: bool,
    /// Iscsi between the sites.
    pub(super) data_up: bool,
    pub(super) failovers: Vec<(usize, Failover)>,
    pub(super) now: i64,
    pub(super) beat_at: i64,
    /// Whether the copies of the other volumes of its group are served at each site.
    pub(super) others_serve: [bool; 2],
    /// What the superblocks say of themselves.
    pub(super) role: &'static str,
    /// Until when the copies have every write, as they say.
    pub(super) moment: &'static str,
    /// Why agents cannot carry out a force.
    pub(super) fails_to_force: Option<&'static str>,
    lines: Vec<String>,
    pub(super) counter: u64,
    /// Something changed in this round.
    pub(super) changed: bool,
    /// Actions to carry out before the operator of a site dies, once.
    pub(super) dies_after: Option<(usize, usize)>,
    /// After how many seconds a kubelet reports which volumes are in use.
    pub(super) kubelet_lag: i64,
    /// Seconds in which nobody had the volume open, since somebody last asked.
    pub(super) unheld: i64,
}

fn pair() -> SitePair {
    serde_yaml::from_str(
        "{apiVersion: twinsite.io/v1alpha1, kind: SitePair, metadata: {name: ctrc}, spec: {sites: [{name: medical}, {name: research}], \
          pairSecret: twinsite-pair, peerKubeconfigSecret: twinsite-peer, witness: {directory: {path: /srv/witness}}, failover: {policy: Automatic}}}",
    )
    .unwrap()
}

fn pool(site: &str, node: &str, address: &str) -> StoragePool {
    serde_yaml::from_str(&format!(
        "{{apiVersion: twinsite.io/v1alpha1, kind: StoragePool, metadata: {{name: pool-{node}}}, spec: {{site: {site}, class: ssd, \
          node: {{name: {node}, directory: /srv/pool}}, portals: ['{address}:3260']}}, \
          status: {{freeBytes: 1000000000000, conditions: [{{type: Ready, status: 'True', reason: AsDesired, message: '', lastTransitionTime: '2026-11-28T04:00:00Z'}}]}}}}"
    ))
    .unwrap()
}

pub(super) const VOLUME: &str = "
apiVersion: twinsite.io/v1alpha1
kind: MirroredVolume
metadata: {name: records, namespace: rv}
spec:
  sitePair: ctrc
  activeSite: medical
  workloads: [{apiVersion: apps/v1, kind: StatefulSet, name: records}]
  capacity: 2Gi
  fsType: xfs
  claim: {name: records}
  legs: [{site: medical, poolClass: ssd}, {site: research, poolClass: ssd}]
";

/// Whether nothing changes any more, for longer than every evidence takes to age, within so many rounds.
pub(super) fn comes_to_rest(rounds: usize, mut round: impl FnMut() -> bool) -> bool {
    let mut quiet = 0;
    for _ in 0..rounds {
        quiet = if round() { 0 } else { quiet + 1 };
        if quiet >= 25 {
            return true;
        }
    }
    false
}

/// What the condition of this type says, in a line.
pub(super) fn told(conditions: &[Condition], type_: &str) -> String {
    let told = conditions.iter().find(|told| told.type_ == type_);
    told.map_or_else(String::new, |told| {
        format!("{} {}: {}", told.status, told.reason, told.message)
    })
}

fn cluster(place: usize) -> Cluster {
    let site = SITES[place];
    let letter = &site[..1];
    let nodes = [format!("{letter}1"), format!("{letter}2")];
    Cluster {
        site,
        index: LegIndex::BOTH[place],
        up: true,
        operator_up: true,
        unknown: Vec::new(),
        volume: None,
        pair: pair(),
        pools: vec![pool(site, &nodes[0], &format!("192.0.2.{}", place + 1))],
        legs: Vec::new(),
        attachments: Vec::new(),
        persistent_volume: None,
        claim: None,
        workloads: vec![(
            serde_yaml::from_str("{apiVersion: apps/v1, kind: StatefulSet, name: records}")
                .unwrap(),
            1,
        )],
        pods: Vec::new(),
        volume_attachments: Vec::new(),
        nodes: nodes
            .map(|name| NodeView {
                name,
                ready: true,
                ..NodeView::default()
            })
            .to_vec(),
        marks: Vec::new(),
        alive_at: START,
        pods_at: START,
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            name: "records",
            clusters: [cluster(0), cluster(1)],
            register: None,
            witness_up: true,
            link_up: true,
            data_up: true,
            failovers: Vec::new(),
            now: START,
            beat_at: START,
            others_serve: [true, true],
            role: "Member",
            moment: "1-07",
            fails_to_force: None,
            lines: Vec::new(),
            counter: 0,
            changed: false,
            dies_after: None,
            kubelet_lag: 0,
            unheld: 0,
        }
    }

    /// The volume applied to both clusters and living, attached at `medical`.
    pub(super) fn running() -> Self {
        let mut world = Self::new();
        world.apply_to_both(VOLUME);
        world.settle();
        assert!(world.serves(0), "{}", world.transcript());
        world.lines.clear();
        world
    }

    pub(super) fn apply_to_both(&mut self, text: &str) {
        for place in 0..2 {
            self.apply_to(place, text);
        }
    }

    pub(super) fn apply_to(&mut self, place: usize, text: &str) {
        let mut volume: MirroredVolume = serde_yaml::from_str(text).unwrap();
        volume.metadata.uid = Some(self.uid());
        volume.metadata.generation = Some(1);
        self.clusters[place].volume = Some(volume);
    }

    /// A person, or Git, edits the spec in one cluster.
    pub(super) fn edit(&mut self, place: usize, change: impl Fn(&mut MirroredVolume)) {
        let volume = self.clusters[place].volume.as_mut().unwrap();
        change(volume);
        volume.metadata.generation = volume.metadata.generation.map(|generation| generation + 1);
    }

    pub(super) fn edit_both(&mut self, change: impl Fn(&mut MirroredVolume)) {
        for place in 0..2 {
            self.edit(place, &change);
        }
    }

    pub(super) fn order(&mut self, place: usize, text: &str) {
        let mut order: Failover = serde_yaml::from_str(&format!(
            "{{apiVersion: twinsite.io/v1alpha1, kind: Failover, metadata: {{name: by-hand}}, spec: {{sitePair: ctrc, {text}}}}}"
        ))
        .unwrap();
        order.metadata.creation_timestamp = Some(self.time());
        self.failovers.push((place, order));
    }

    pub(super) fn say(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    pub(super) fn id(&self) -> VolumeId {
        VolumeId::of("ctrc", "rv", self.name)
    }

    pub(super) fn uid(&mut self) -> String {
        self.counter += 1;
        format!("00000000-0000-0000-0000-{:012}", self.counter)
    }

    pub(super) fn number(&mut self) -> u8 {
        self.counter += 1;
        u8::try_from(self.counter % 251).unwrap() + 1
    }

    pub(super) fn bytes(&mut self) -> [u8; 16] {
        self.counter += 1;
        let mut bytes = [7; 16];
        bytes[..8].copy_from_slice(&self.counter.to_le_bytes());
        bytes
    }

    pub(super) fn txid(&mut self) -> TxId {
        TxId(self.bytes())
    }

    pub(super) fn stamp_id(&mut self) -> StampId {
        StampId(self.bytes())
    }

    pub(super) fn generation(&mut self) -> Gen {
        Gen(self.bytes())
    }

    pub(super) fn time(&self) -> Time {
        Time(Timestamp::from_second(self.now).unwrap())
    }

    pub(super) fn condition(&self, place: usize, type_: &str) -> Option<&Condition> {
        let status = self.clusters[place].volume.as_ref()?.status.as_ref()?;
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }

    pub(super) fn told(&self, place: usize, type_: &str) -> String {
        let volume = self.clusters[place].volume.as_ref();
        let status = volume.and_then(|volume| volume.status.as_ref());
        status.map_or_else(String::new, |status| told(&status.conditions, type_))
    }

    /// A Writer is attached there and holds the register.
    pub(super) fn serves(&self, place: usize) -> bool {
        let cluster = &self.clusters[place];
        let writer = cluster
            .attachments
            .iter()
            .find(|attachment| attachment.spec.mode == AttachmentMode::Writer);
        let key = writer.and_then(|writer| writer.status.as_ref()?.key.clone());
        let holder = self
            .register
            .as_ref()
            .and_then(|register| register.holder.map(|key| key.to_string()));
        cluster.up && key.is_some() && key == holder
    }

    /// Rounds until nothing changes. Every scenario must get there.
    pub(super) fn settle(&mut self) {
        if comes_to_rest(80, || {
            self.round();
            self.changed
        }) {
            return;
        }
        panic!("no fixpoint:\n{}", self.transcript());
    }

    pub(super) fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.round();
        }
    }

    fn round(&mut self) {
        self.changed = false;
        for place in 0..2 {
            if self.clusters[place].up && self.clusters[place].operator_up {
                self.operate(place);
            }
        }
        self.kubernetes();
        self.agents();
        self.orders();
        self.tick();
    }

    pub(super) fn tick(&mut self) {
        self.now += 1;
        let is_held = self
            .register
            .as_ref()
            .is_some_and(|register| register.holder.is_some());
        self.unheld += i64::from(!is_held);
        for cluster in &mut self.clusters {
            // What cannot be read does not age.
            if cluster.up || !self.witness_up {
                cluster.alive_at = self.now;
            }
        }
        if !self.witness_up || self.holder_lives() {
            self.beat_at = self.now;
        }
    }

    fn holder_lives(&self) -> bool {
        let Some(holder) = self.register.as_ref().and_then(|register| register.holder) else {
            return false;
        };
        self.clusters
            .iter()
            .filter(|cluster| cluster.up)
            .any(|cluster| {
                cluster.attachments.iter().any(|attachment| {
                    let key = attachment
                        .status
                        .as_ref()
                        .and_then(|status| status.key.clone());
                    let lives = cluster
                        .nodes
                        .iter()
                        .any(|node| node.name == attachment.spec.node && node.silent_for.is_none());
                    lives && key == Some(holder.to_string())
                })
            })
    }

    fn operate(&mut self, place: usize) {
        let (desired, observed) = self.observe(place);
        let now = Timestamp::from_second(self.now).unwrap();
        let Some(desired) = desired else {
            self.sweep(place, &observed, now);
            return;
        };
        let planned = plan(&desired, &observed, now);
        linter::check(&desired, &observed, &planned);
        if let (Some(register), true) = (&self.register, self.witness_up) {
            let marks = &mut self.clusters[place].marks;
            *marks = vec![
                marks
                    .first()
                    .map_or_else(|| Mark::of(register), |mark| mark.raised(register)),
            ];
        }
        self.carry_out(place, &desired, &observed, &planned);
        let said = status(&desired, &observed, &planned, None, now);
        self.write_status(place, said);
    }

    /// What is left of the volume there.
    pub(super) fn orphan(&self, place: usize, observed: &Observed) -> orphan::Orphan {
        let cluster = &self.clusters[place];
        orphan::Orphan {
            id: self.id(),
            namespace: "rv".to_owned(),
            name: self.name.to_owned(),
            leg: cluster.legs.first().cloned().map(Arc::new),
            persistent_volume: observed.persistent_volume.clone(),
            pair: Some(Arc::new(cluster.pair.clone())),
            site: cluster.site.to_owned(),
            index: Some(cluster.index),
            company: Vec::new(),
        }
    }

    pub(super) fn sweep(&mut self, place: usize, observed: &Observed, now: Timestamp) {
        let orphan = self.orphan(place, observed);
        self.tidy(place, &orphan, observed, now);
    }

    pub(super) fn tidy(
        &mut self,
        place: usize,
        orphan: &orphan::Orphan,
        observed: &Observed,
        now: Timestamp,
    ) {
        let planned = orphan::plan(orphan, observed, now);
        for action in &planned.actions {
            self.take(place, action);
        }
    }

    fn carry_out(&mut self, place: usize, desired: &Desired, observed: &Observed, planned: &Plan) {
        for (done, action) in planned.actions.iter().enumerate() {
            if self.dies_after == Some((place, done)) {
                self.dies_after = None;
                self.say(format!("{}: the operator dies", self.clusters[place].site));
                return;
            }
            if matches!(action, Action::RecordMove(_)) {
                let now = Timestamp::from_second(self.now).unwrap();
                let said = status(desired, observed, planned, None, now);
                // As the shell does: the events are told at the end of the round.
                self.write_status(
                    place,
                    Status {
                        events: Vec::new(),
                        ..said
                    },
                );
            }
            self.take(place, action);
        }
    }

    pub(super) fn write_status(&mut self, place: usize, said: Status) {
        let site = self.clusters[place].site;
        for event in said.events {
            self.lines
                .push(format!("{site}: event {} {}", event.reason, event.note));
        }
        let Some(volume) = self.clusters[place].volume.as_mut() else {
            return;
        };
        let new = Some(said.status);
        if volume.status != new {
            volume.status = new;
            self.changed = true;
        }
    }

    fn orders(&mut self) {
        for at in 0..self.failovers.len() {
            let (place, order) = self.failovers[at].clone();
            let cluster = &self.clusters[place];
            if !cluster.up {
                continue;
            }
            let volume = cluster.volume.iter();
            let selected = volume.filter(|volume| failover::selects(&order, volume));
            let status = self.ordered(&order, selected.cloned().map(Arc::new));
            if order.status.as_ref() != Some(&status) {
                let told: Vec<String> = status
                    .volumes
                    .iter()
                    .map(|volume| volume.message.clone().unwrap_or_default())
                    .collect();
                self.say(format!("Failover {:?} {}", status.state, told.join("; ")));
                self.failovers[at].1.status = Some(status);
                self.changed = true;
            }
        }
    }

    /// What a person's order says of these volumes.
    pub(super) fn ordered(
        &self,
        order: &Failover,
        volumes: impl Iterator<Item = Arc<MirroredVolume>>,
    ) -> FailoverStatus {
        let to = SITES.iter().position(|site| *site == order.spec.to);
        let to = to.map(|place| LegIndex::BOTH[place]);
        let register = self.register.clone().filter(|_| self.witness_up);
        let register = register.map(Arc::new);
        let views: Vec<failover::VolumeView> = volumes
            .map(|volume| failover::VolumeView {
                volume,
                register: register.clone(),
                to,
            })
            .collect();
        failover::status(order, &views, Timestamp::from_second(self.now).unwrap())
    }

    /// A site loses everything at once; what stands in its API server stays on disk.
    pub(super) fn kill(&mut self, place: usize) {
        self.say(format!("-- {} is dead", SITES[place]));
        self.clusters[place].up = false;
    }

    pub(super) fn revive(&mut self, place: usize) {
        self.say(format!("-- {} returns", SITES[place]));
        self.clusters[place].up = true;
    }

    /// The API server's disk is lost, Git applies everything again; the legs are as full as before.
    pub(super) fn rebuild(&mut self, place: usize) {
        let old = std::mem::replace(&mut self.clusters[place], cluster(place));
        self.clusters[place].pools = old.pools;
        self.apply_to(place, VOLUME);
    }
}

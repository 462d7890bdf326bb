//! The world: objects of two clusters, the register, who is up; applying an action as the shell would.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    Attachment, AttachmentMode, Condition, Failover, Leg, LegIndex, MirroredVolume, SitePair,
    StoragePool, VolumeId, Workload,
};
use twinsite_register::{Gen, Leg as RegisterLeg, Mark, Register, Reseed, StampId, TxId};

use super::super::{
    Action, Desired, Evidence, FailoverOrder, NodeView, Observed, Peer, Plan, PodView, Reach,
    Reading, RegisterChange, Status, VolumeAttachmentView, Witness, WorkloadView, names, orphan,
    plan, status,
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

    pub(super) fn transcript(&self) -> String {
        let mut text = self.lines.join("\n");
        let id = self.id().to_string();
        text = text.replace(&id, "ID");
        text.push('\n');
        for cluster in &self.clusters {
            text.push_str(&format!(
                "\n{} {}\n",
                cluster.site,
                if cluster.up { "" } else { "(down)" }
            ));
            let Some(volume) = &cluster.volume else {
                text.push_str("  no MirroredVolume\n");
                continue;
            };
            let status = volume.status.clone().unwrap_or_default();
            let active = status.active_site.map(|active| {
                format!(
                    "{} seq={}{}",
                    active.name,
                    active.seq,
                    if active.latched { " latched" } else { "" }
                )
            });
            text.push_str(&format!(
                "  role={:?} active={} epoch={} attached={}\n",
                status.role,
                active.unwrap_or_default(),
                status.epoch.unwrap_or_default(),
                status
                    .attached
                    .map(|at| format!("{}/{}", at.site, at.node))
                    .unwrap_or_default()
            ));
            for leg in &status.legs {
                text.push_str(&format!("  leg {} {:?}\n", leg.site, leg.state));
            }
            for condition in &status.conditions {
                text.push_str(&format!(
                    "  {}={} {} {}\n",
                    condition.type_, condition.status, condition.reason, condition.message
                ));
            }
        }
        text
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
        self.condition(place, type_)
            .map_or_else(String::new, |told| {
                format!("{} {}: {}", told.status, told.reason, told.message)
            })
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
        let mut quiet = 0;
        for _ in 0..80 {
            self.round();
            quiet = if self.changed { 0 } else { quiet + 1 };
            // Longer than every evidence takes to age.
            if quiet >= 25 {
                return;
            }
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

    pub(super) fn observe(&self, place: usize) -> (Option<Desired>, Observed) {
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
            };
        }
        let reach = if self.witness_up {
            Reach::Answers
        } else {
            Reach::Silent {
                last: None,
                why: "timed out".to_owned(),
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
        let view = |workload: Workload| {
            let replicas = cluster
                .workloads
                .iter()
                .find(|(known, _)| known.name == workload.name)
                .map(|(_, replicas)| *replicas);
            WorkloadView {
                workload,
                replicas,
                running: replicas,
                trouble: None,
            }
        };
        let observed = Observed {
            pools: cluster.pools.iter().cloned().map(Arc::new).collect(),
            legs: cluster.legs.iter().cloned().map(Arc::new).collect(),
            taken_pools: Vec::new(),
            attachments: cluster.attachments.iter().cloned().map(Arc::new).collect(),
            persistent_volume: cluster.persistent_volume.clone().map(Arc::new),
            claim: cluster.claim.clone().map(Arc::new),
            pods: cluster.pods.clone(),
            volume_attachments: cluster.volume_attachments.clone(),
            workloads: workloads.map(view).collect(),
            nodes: cluster.nodes.clone(),
            witness: Witness { reach, register },
            marks: cluster.marks.clone(),
            evidence: Evidence {
                site_still_for: age(other.alive_at),
                beat_still_for: age(self.beat_at),
            },
            failovers: self.failovers.iter().filter_map(named).collect(),
            unknown: cluster.unknown.clone(),
            kept_by: Vec::new(),
            peer,
            move_permit: true,
        };
        let desired = cluster.volume.clone().map(|volume| Desired {
            volume: Arc::new(volume),
            group: None,
            pair: Some(Arc::new(cluster.pair.clone())),
            site: cluster.site.to_owned(),
            index: Some(cluster.index),
        });
        (desired, observed)
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

    pub(super) fn sweep(&mut self, place: usize, observed: &Observed, now: Timestamp) {
        let cluster = &self.clusters[place];
        let orphan = orphan::Orphan {
            id: self.id(),
            namespace: "rv".to_owned(),
            name: self.name.to_owned(),
            leg: cluster.legs.first().cloned().map(Arc::new),
            pair: Some(Arc::new(cluster.pair.clone())),
            site: cluster.site.to_owned(),
            index: Some(cluster.index),
        };
        let planned = orphan::plan(&orphan, observed, now);
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
        let now = Timestamp::from_second(self.now).unwrap();
        for at in 0..self.failovers.len() {
            let (place, order) = self.failovers[at].clone();
            let cluster = &self.clusters[place];
            if !cluster.up {
                continue;
            }
            let to = SITES
                .iter()
                .position(|site| *site == order.spec.to)
                .map(|place| LegIndex::BOTH[place]);
            let selected = cluster
                .volume
                .clone()
                .filter(|volume| failover::selects(&order, volume));
            let register = self
                .register
                .clone()
                .filter(|_| self.witness_up)
                .map(Arc::new);
            let views: Vec<failover::VolumeView> = selected
                .into_iter()
                .map(|volume| failover::VolumeView {
                    volume: Arc::new(volume),
                    register: register.clone(),
                    to,
                })
                .collect();
            let status = failover::status(&order, &views, now);
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

    /// One action, as the shell would carry it out.
    pub(super) fn take(&mut self, place: usize, action: &Action) {
        self.changed = true;
        self.lines
            .push(format!("{}: {action}", self.clusters[place].site));
        let fresh = ObjectMeta {
            uid: Some(self.uid()),
            creation_timestamp: Some(self.time()),
            ..ObjectMeta::default()
        };
        let deleted = Some(self.time());
        if let Action::ChangeRegister { expect, change } = action {
            let register = self.register.clone().unwrap();
            assert_eq!(register.txid, *expect, "the plan is about another value");
            return self.change(&register, change);
        }
        if let Action::SeedRegister { replaced, seed } = action {
            let old = self.register.clone();
            assert_eq!(old.as_ref().map(|old| old.txid), *replaced);
            let seed = Reseed {
                generation: Gen([0x5e; 16]),
                txid: TxId([0x5e; 16]),
                ..(**seed).clone()
            };
            self.register = Some(Register::reseed(&seed, old.as_ref()).unwrap());
            return;
        }
        let cluster = &mut self.clusters[place];
        let merged = |mut new: ObjectMeta, old: Option<&ObjectMeta>| {
            let base = old.cloned().unwrap_or(fresh.clone());
            new.uid = base.uid;
            new.creation_timestamp = base.creation_timestamp;
            new
        };
        match action {
            Action::AddFinalizer => {
                cluster.volume.as_mut().unwrap().metadata.finalizers =
                    Some(vec![names::VOLUME_FINALIZER.to_owned()]);
            }
            Action::RemoveFinalizer => cluster.volume = None,
            Action::ApplyLeg(leg) => {
                let old = cluster.legs.pop();
                let mut new = (**leg).clone();
                new.metadata = merged(new.metadata, old.as_ref().map(|old| &old.metadata));
                new.status = old.and_then(|old| old.status);
                cluster.legs.push(new);
            }
            Action::DeleteLeg { .. } => cluster.legs.clear(),
            Action::ApplyPersistentVolume(volume) => {
                let old = cluster.persistent_volume.take();
                let mut new = (**volume).clone();
                new.metadata = merged(new.metadata, old.as_ref().map(|old| &old.metadata));
                let bound = old.and_then(|old| old.spec?.claim_ref?.uid);
                new.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = bound;
                cluster.persistent_volume = Some(new);
            }
            Action::RebindPersistentVolume { .. } => {
                let volume = cluster.persistent_volume.as_mut().unwrap();
                volume
                    .spec
                    .as_mut()
                    .unwrap()
                    .claim_ref
                    .as_mut()
                    .unwrap()
                    .uid = None;
            }
            Action::DeletePersistentVolume { .. } => cluster.persistent_volume = None,
            Action::ApplyClaim(claim) => {
                let old = cluster.claim.take();
                let mut new = (**claim).clone();
                new.metadata = merged(new.metadata, old.as_ref().map(|old| &old.metadata));
                cluster.claim = Some(new);
            }
            Action::DeleteClaim { .. } => cluster.claim = None,
            Action::Scale { workload, replicas } => {
                let known = cluster
                    .workloads
                    .iter_mut()
                    .find(|(known, _)| known.name == workload.name)
                    .unwrap();
                known.1 = *replicas;
            }
            Action::CreateAttachment(attachment) => {
                let there = cluster
                    .attachments
                    .iter()
                    .any(|known| known.metadata.name == attachment.metadata.name);
                if !there {
                    let mut new = (**attachment).clone();
                    new.metadata = merged(new.metadata, None);
                    cluster.attachments.push(new);
                }
            }
            Action::UpdateAttachment { uid, change, .. } => {
                let known = cluster
                    .attachments
                    .iter_mut()
                    .find(|known| known.metadata.uid.as_ref() == Some(uid))
                    .unwrap();
                let spec = &mut known.spec;
                if let Some(legs) = &change.legs {
                    spec.legs.clone_from(legs);
                }
                if let Some(size) = &change.size {
                    spec.size = size.clone();
                }
                if let Some(asked) = &change.verify {
                    spec.verify = Some(asked.clone());
                }
                if let Some(drop) = &change.drop_legs {
                    spec.drop_legs.clone_from(drop);
                }
                if change.move_order.is_some() || change.withdraw_move {
                    spec.move_.clone_from(&change.move_order);
                }
                if let Some(release) = change.release {
                    spec.release = release;
                }
            }
            Action::DeleteAttachment { uid, .. } => {
                let known = cluster
                    .attachments
                    .iter_mut()
                    .find(|known| known.metadata.uid.as_ref() == Some(uid))
                    .unwrap();
                known.metadata.deletion_timestamp = deleted;
            }
            Action::ReleaseAttachment { uid, .. } => {
                cluster
                    .attachments
                    .retain(|known| known.metadata.uid.as_ref() != Some(uid));
            }
            Action::DeletePod { uid, .. } | Action::RestartPod { uid, .. } => {
                cluster.pods.retain(|pod| pod.uid != *uid)
            }
            Action::DeleteVolumeAttachment { uid, .. } => {
                cluster.volume_attachments.retain(|known| known.uid != *uid)
            }
            Action::ClearVolumeInUse { node, .. } => {
                cluster
                    .nodes
                    .iter_mut()
                    .find(|known| known.name == *node)
                    .unwrap()
                    .volume_in_use = false;
            }
            Action::RecordMove(_) | Action::ChangeRegister { .. } | Action::SeedRegister { .. } => {
            }
        }
    }

    fn change(&mut self, register: &Register, change: &RegisterChange) {
        let txid = self.txid();
        let generation = self.generation();
        let leg = |index: LegIndex| RegisterLeg::BOTH[index.number()];
        let next = match change {
            RegisterChange::Unlatch => register.unlatch(txid),
            RegisterChange::Latch => register.latch(txid),
            RegisterChange::NoRejoin(legs) => register.rejoin(*legs, txid),
            RegisterChange::Tombstone => register.tombstone(generation, txid),
            RegisterChange::Wiped(index) => register.wiped(leg(*index), txid),
            RegisterChange::Bury => {
                assert!(register.is_buried());
                self.register = None;
                for cluster in &mut self.clusters {
                    cluster.marks.clear();
                }
                return;
            }
            RegisterChange::Confirm { leg: index, who } => register.confirm(leg(*index), who, txid),
            RegisterChange::Retire {
                leg: index,
                naa,
                who,
            } => register.retire(leg(*index), *naa, who, txid),
        };
        self.register = Some(next.unwrap_or_else(|why| panic!("{change}: {why}")));
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

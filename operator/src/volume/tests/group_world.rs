//! Two clusters with a group of volumes: a [`World`] for each volume, in lock step, and what they share taken from the first.
//!
//! Agents open all volumes or none, by one order whose uid is made of all their Attachments.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    Attachment, AttachmentMode, AttachmentState, GroupId, Leg, LegState, MirrorGroup, VolumeId,
    attachment_uid, group_uid,
};
use twinsite_register::Mark;

use super::super::{
    Action, Status,
    group::{self, Group, Member, Plans},
    status,
};
use super::{
    linter,
    world::{self, SITES, World, comes_to_rest},
};

pub(super) const VOLUMES: [&str; 2] = ["journal", "data"];

const GROUP: &str = "
apiVersion: twinsite.io/v1alpha1
kind: MirrorGroup
metadata: {name: ledger, namespace: rv}
spec:
  sitePair: ctrc
  activeSite: medical
  volumes: [journal, data]
  workloads: [{apiVersion: apps/v1, kind: StatefulSet, name: records}]
";

fn volume(name: &str) -> String {
    let capacity = if name == VOLUMES[0] { "2Gi" } else { "3Gi" };
    format!(
        "{{apiVersion: twinsite.io/v1alpha1, kind: MirroredVolume, metadata: {{name: {name}, namespace: rv}}, spec: {{sitePair: ctrc, \
          group: ledger, capacity: {capacity}, fsType: xfs, claim: {{name: {name}}}, legs: [{{site: medical, poolClass: ssd}}, {{site: research, poolClass: ssd}}]}}}}"
    )
}

pub(super) struct GroupWorld {
    /// One for each volume, in the order of their ids.
    pub(super) parts: Vec<World>,
    pub(super) groups: [Option<MirrorGroup>; 2],
    /// Actions of a round to carry out before the operator of a site dies, once.
    pub(super) dies_after: Option<(usize, usize)>,
    lines: Vec<String>,
    changed: bool,
}

impl GroupWorld {
    pub(super) fn new() -> Self {
        let mut names = VOLUMES;
        names.sort_by_key(|name| VolumeId::of("ctrc", "rv", name));
        let part = |(at, name): (usize, &'static str)| {
            let mut world = World::new();
            world.name = name;
            world.counter = 100_000 * u64::try_from(at).unwrap();
            world
        };
        Self {
            parts: names.into_iter().enumerate().map(part).collect(),
            groups: [None, None],
            dies_after: None,
            lines: Vec::new(),
            changed: false,
        }
    }

    pub(super) fn running() -> Self {
        let mut world = Self::new();
        world.apply_to_both();
        world.settle();
        assert!(world.serves(0), "{}", world.transcript());
        world.lines.clear();
        world
    }

    pub(super) fn apply_to_both(&mut self) {
        for place in 0..2 {
            self.apply_group(place);
            for at in 0..self.parts.len() {
                self.apply_volume(place, at);
            }
        }
    }

    pub(super) fn apply_group(&mut self, place: usize) {
        let mut object: MirrorGroup = serde_yaml::from_str(GROUP).unwrap();
        object.metadata.generation = Some(1);
        self.groups[place] = Some(object);
    }

    pub(super) fn apply_volume(&mut self, place: usize, at: usize) {
        let name = self.parts[at].name;
        self.parts[at].apply_to(place, &volume(name));
    }

    pub(super) fn move_to(&mut self, site: &str) {
        for group in self.groups.iter_mut().flatten() {
            group.spec.active_site = site.to_owned();
        }
    }

    pub(super) fn each(&mut self, change: impl Fn(&mut World)) {
        self.parts.iter_mut().for_each(change);
    }

    pub(super) fn say(&mut self, line: &str) {
        self.lines.push(format!("-- {line}"));
    }

    pub(super) fn serves(&self, place: usize) -> bool {
        self.parts.iter().all(|part| part.serves(place))
    }

    pub(super) fn serves_any(&self, place: usize) -> bool {
        self.parts.iter().any(|part| part.serves(place))
    }

    pub(super) fn told(&self, place: usize, type_: &str) -> Vec<String> {
        let parts = self.parts.iter();
        parts.map(|part| part.told(place, type_)).collect()
    }

    /// What the MirrorGroup says of this condition.
    pub(super) fn group_told(&self, place: usize, type_: &str) -> String {
        let status = self.groups[place]
            .as_ref()
            .and_then(|group| group.status.as_ref());
        status.map_or_else(String::new, |status| world::told(&status.conditions, type_))
    }

    pub(super) fn settle(&mut self) {
        if comes_to_rest(120, || {
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
            let cluster = &self.parts[0].clusters[place];
            if cluster.up && cluster.operator_up {
                self.operate(place);
                self.share();
            }
        }
        for place in 0..2 {
            if self.parts[0].clusters[place].up {
                self.kubernetes(place);
                self.agents(place);
            }
        }
        self.orders();
        for part in &mut self.parts {
            self.changed |= std::mem::take(&mut part.changed);
            part.tick();
        }
        self.share();
    }

    /// There is one register, one set of pods, workloads and orders.
    fn share(&mut self) {
        let (first, others) = self.parts.split_first_mut().unwrap();
        for part in others {
            part.register.clone_from(&first.register);
            part.failovers.clone_from(&first.failovers);
            (part.witness_up, part.link_up, part.data_up) =
                (first.witness_up, first.link_up, first.data_up);
            for (cluster, shown) in part.clusters.iter_mut().zip(&first.clusters) {
                cluster.pods.clone_from(&shown.pods);
                cluster.pods_at = shown.pods_at;
                cluster.workloads.clone_from(&shown.workloads);
                (cluster.up, cluster.operator_up) = (shown.up, shown.operator_up);
                for (node, known) in cluster.nodes.iter_mut().zip(&shown.nodes) {
                    (node.ready, node.silent_for) = (known.ready, known.silent_for);
                }
            }
        }
    }

    fn observe(&self, place: usize) -> Group {
        let object = self.groups[place].clone().map(Arc::new);
        let peer_answers = self.parts[0].link_up && self.parts[0].clusters[1 - place].up;
        let twin = self.groups[1 - place].clone().map(Arc::new);
        let twin = twin.filter(|_| peer_answers);
        let mut members = Vec::new();
        for part in &self.parts {
            let (desired, mut seen) = part.observe(place);
            let Some(mut desired) = desired else { continue };
            let names =
                |group: &&Arc<MirrorGroup>| group.spec.volumes.iter().any(|name| name == part.name);
            desired.group = object.as_ref().filter(names).cloned();
            if let Some(group) = &desired.group {
                desired.volume = Arc::new(group.lend(&desired.volume));
                let shown = &self.parts[0].clusters[place];
                let workloads = group.spec.workloads.iter().cloned();
                seen.workloads = workloads.map(|one| shown.workload(one)).collect();
            }
            if let (Some(twin), Some(theirs)) = (&twin, &seen.peer.volume) {
                seen.peer.volume = Some(Arc::new(twin.lend(theirs)));
            }
            members.push(Member { desired, seen });
        }
        let mut group = Group {
            namespace: "rv".to_owned(),
            name: "ledger".to_owned(),
            object,
            twin,
            unreadable: None,
            volumes: members,
        };
        group.join();
        group
    }

    fn operate(&mut self, place: usize) {
        let group = self.observe(place);
        let now = Timestamp::from_second(self.parts[0].now).unwrap();
        self.sweep(place, now);
        let plans = group::plan(&group, now);
        for (one, plan) in group.volumes.iter().zip(&plans.plans) {
            linter::check(&one.desired, &one.seen, plan);
        }
        let shown = self.parts[0].register.clone();
        if let Some(register) = shown.filter(|_| self.parts[0].witness_up) {
            for part in &mut self.parts {
                let marks = &mut part.clusters[place].marks;
                let known = marks.first();
                *marks = vec![known.map_or_else(|| Mark::of(&register), |it| it.raised(&register))];
            }
        }
        if !self.carry_out(place, &group, &plans, now) {
            return;
        }
        let said: Vec<Status> = group
            .volumes
            .iter()
            .zip(&plans.plans)
            .map(|(one, plan)| status(&one.desired, &one.seen, plan, None, now))
            .collect();
        for (one, said) in group.volumes.iter().zip(&said) {
            let at = self.part_of(one.desired.name());
            self.parts[at].write_status(place, said.clone());
        }
        if let Some(object) = self.groups[place].clone() {
            let (status, events) = group::status(&object, &group, &plans, &said, now);
            for event in events {
                let line = format!("{}: event {} {}", SITES[place], event.reason, event.note);
                self.lines.push(line);
            }
            self.changed |= object.status.as_ref() != Some(&status);
            self.groups[place].as_mut().unwrap().status = Some(status);
        }
    }

    /// What is left of volumes whose objects are gone.
    fn sweep(&mut self, place: usize, now: Timestamp) {
        let is_left = |part: &World| {
            let cluster = &part.clusters[place];
            cluster.volume.is_none() && !cluster.legs.is_empty()
        };
        let company: Vec<Arc<Leg>> = (self.parts.iter())
            .filter(|part| is_left(part))
            .flat_map(|part| part.clusters[place].legs.iter().cloned())
            .map(Arc::new)
            .collect();
        for at in 0..self.parts.len() {
            if self.parts[at].clusters[place].volume.is_some() {
                continue;
            }
            let (_, seen) = self.parts[at].observe(place);
            let mut orphan = self.parts[at].orphan(place, &seen);
            let mut left = vec![(self.parts[at].name.to_owned(), seen)];
            if orphan.group().is_some() {
                orphan.company.clone_from(&company);
                for (other, part) in self.parts.iter().enumerate() {
                    if other != at && is_left(part) {
                        left.push((part.name.to_owned(), part.observe(place).1));
                    }
                }
                group::join_left(&mut left);
            }
            let part = &mut self.parts[at];
            part.tidy(place, &orphan, &left[0].1, now);
            let register = part.register.clone();
            self.parts[0].register = register;
            self.share();
        }
    }

    fn part_of(&self, name: &str) -> usize {
        let mut parts = self.parts.iter();
        parts.position(|part| part.name == name).unwrap()
    }

    /// Whether the operator lived through it.
    fn carry_out(&mut self, place: usize, group: &Group, plans: &Plans, now: Timestamp) -> bool {
        for (done, (of, at)) in plans.order().into_iter().enumerate() {
            if self.dies_after == Some((place, done)) {
                self.dies_after = None;
                self.lines
                    .push(format!("{}: the operator dies", SITES[place]));
                self.changed = true;
                return false;
            }
            let (one, plan) = (&group.volumes[of], &plans.plans[of]);
            let action = &plan.actions[at];
            self.lines.push(format!(
                "{}: {}: {action}",
                SITES[place],
                one.desired.name()
            ));
            if matches!(action, Action::RecordMove(_)) {
                let said = status(&one.desired, &one.seen, plan, None, now);
                let part = self.part_of(one.desired.name());
                let said = Status {
                    events: Vec::new(),
                    ..said
                };
                self.parts[part].write_status(place, said);
            }
            let target = self.target(place, one.desired.name(), action);
            self.parts[target].take(place, action);
            if matches!(action, Action::ClearVolumeInUse { .. }) {
                for part in &mut self.parts {
                    part.take(place, action);
                }
            }
            if target != 0 {
                // A change of what is shared.
                let (register, failovers) = (
                    self.parts[target].register.clone(),
                    self.parts[target].failovers.clone(),
                );
                (self.parts[0].register, self.parts[0].failovers) = (register, failovers);
            }
            self.share();
        }
        true
    }

    /// Whose object an action is about.
    fn target(&self, place: usize, name: &str, action: &Action) -> usize {
        let of_uid = |uid: &String| {
            let holds = |part: &World| {
                let cluster = &part.clusters[place];
                let mut attachments = cluster.attachments.iter();
                attachments.any(|one| one.metadata.uid.as_ref() == Some(uid))
                    || cluster.volume_attachments.iter().any(|one| one.uid == *uid)
            };
            self.parts.iter().position(holds)
        };
        let found = match action {
            Action::UpdateAttachment { uid, .. }
            | Action::DeleteAttachment { uid, .. }
            | Action::ReleaseAttachment { uid, .. }
            | Action::DeleteVolumeAttachment { uid, .. } => of_uid(uid),
            Action::Scale { .. }
            | Action::DeletePod { .. }
            | Action::RestartPod { .. }
            | Action::ChangeRegister { .. }
            | Action::SeedRegister { .. } => Some(0),
            _ => None,
        };
        found.unwrap_or_else(|| self.part_of(name))
    }

    fn kubernetes(&mut self, place: usize) {
        for part in &mut self.parts {
            part.bind(place);
        }
        let is_bound = |part: &World| {
            let claim = part.clusters[place].claim.as_ref();
            claim.is_some_and(|claim| claim.spec.as_ref().unwrap().volume_name.is_some())
        };
        if self.parts.iter().all(is_bound) {
            self.parts[0].pods(place);
        }
        self.share();
        for part in &mut self.parts {
            part.attach(place);
        }
    }

    fn agents(&mut self, place: usize) {
        for part in &mut self.parts {
            part.serve(place);
        }
        for home in 0..2 {
            let serves = |part: &World| {
                part.clusters[home].legs.iter().any(|leg| {
                    let status = leg.status.as_ref();
                    status.is_some_and(|status| status.state == LegState::Serving)
                })
            };
            let others = self.parts[1..].iter().all(serves);
            self.parts[0].others_serve[home] = others;
        }
        for mode in [
            AttachmentMode::Birth,
            AttachmentMode::Writer,
            AttachmentMode::Caretaker,
            AttachmentMode::Force,
            AttachmentMode::Wipe,
            AttachmentMode::Reseed,
        ] {
            self.work(place, mode);
        }
        for part in &mut self.parts {
            part.look(place);
        }
        for part in &mut self.parts {
            part.forget_released(place);
        }
        self.share();
    }

    /// The Attachments of one mode, one order.
    fn work(&mut self, place: usize, mode: AttachmentMode) {
        let of = |part: &World| {
            let attachments = &part.clusters[place].attachments;
            attachments.iter().position(|one| one.spec.mode == mode)
        };
        let found: Vec<(usize, usize)> = self
            .parts
            .iter()
            .enumerate()
            .filter_map(|(at, part)| Some((at, of(part)?)))
            .collect();
        let all: Vec<Attachment> = found
            .iter()
            .map(|(part, at)| self.parts[*part].clusters[place].attachments[*at].clone())
            .collect();
        let Some(first) = all.first() else { return };
        if !self.parts[0].lives(place, &first.spec.node) {
            return;
        }
        if all
            .iter()
            .all(|one| one.metadata.deletion_timestamp.is_some())
        {
            // The last of them is gone.
            if self.parts[0].release(first) {
                for (part, at) in found {
                    self.parts[part].clusters[place].attachments[at]
                        .metadata
                        .finalizers = None;
                }
            }
            return;
        }
        let is_one = all.len() == self.parts.len()
            && all.iter().all(|one| {
                one.metadata.deletion_timestamp.is_none()
                    && one.spec.node == first.spec.node
                    && one.spec.move_ == first.spec.move_
                    && one.spec.group_volumes == first.spec.group_volumes
            });
        assert!(
            all.iter().all(|one| {
                matches!(one.spec.group, Some(GroupId::Group(_)))
                    && one.spec.group_volumes.len() == self.parts.len()
            }),
            "an order for a volume of the group alone"
        );
        if !is_one {
            return;
        }
        let uids: Vec<[u8; 16]> = all
            .iter()
            .map(|one| attachment_uid(one.metadata.uid.as_ref().unwrap()))
            .collect();
        let mut order = first.clone();
        let uid: String = group_uid(&uids)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        order.metadata.uid = Some(uid);
        match mode {
            AttachmentMode::Birth => self.parts[0].birth(place, &mut order),
            AttachmentMode::Reseed => {
                let alike = |one: &Attachment| {
                    let mut details = one.spec.reseed.clone().unwrap();
                    details.expect.clear();
                    details
                };
                assert!(all.iter().all(|one| alike(one) == alike(first)));
                self.parts[0].reseed(&mut order);
            }
            AttachmentMode::Wipe => {
                order.status.get_or_insert_default().state = AttachmentState::Done;
            }
            AttachmentMode::Force => self.parts[0].force(place, &all, &mut order),
            _ => self.parts[0].mirror(place, &mut order),
        }
        for ((part, at), old) in found.into_iter().zip(all) {
            let mut status = order.status.clone();
            if let Some(status) = &mut status
                && status.size.is_some()
            {
                status.size = Some(old.spec.size.bytes());
            }
            self.parts[part].changed |= status != old.status;
            self.parts[part].clusters[place].attachments[at].status = status;
        }
    }

    fn orders(&mut self) {
        for at in 0..self.parts[0].failovers.len() {
            let (place, order) = self.parts[0].failovers[at].clone();
            if !self.parts[0].clusters[place].up {
                continue;
            }
            let volumes = self.observe(place).volumes.into_iter();
            let status = self.parts[0].ordered(&order, volumes.map(|one| one.desired.volume));
            if order.status.as_ref() != Some(&status) {
                self.lines.push(format!("Failover {:?}", status.state));
                self.parts[0].failovers[at].1.status = Some(status);
                self.changed = true;
            }
        }
    }

    pub(super) fn transcript(&self) -> String {
        let mut text = self.lines.join("\n");
        for part in &self.parts {
            text = text.replace(&part.id().to_string(), part.name);
        }
        text.push('\n');
        for (site, group) in SITES.iter().zip(&self.groups) {
            let status = group.as_ref().and_then(|group| group.status.clone());
            let status = status.unwrap_or_default();
            let active = status.active_site.map(|active| {
                let latched = if active.latched { " latched" } else { "" };
                format!("{} seq={}{latched}", active.name, active.seq)
            });
            text.push_str(&format!(
                "\n{site}\n  role={:?} active={} epoch={}\n",
                status.role,
                active.unwrap_or_default(),
                status.epoch.unwrap_or_default()
            ));
            for volume in &status.volumes {
                text.push_str(&format!(
                    "  volume {} ready={} {}\n",
                    volume.name, volume.ready, volume.message
                ));
            }
            for one in &status.conditions {
                text.push_str(&format!(
                    "  {}={} {} {}\n",
                    one.type_, one.status, one.reason, one.message
                ));
            }
        }
        text
    }
}

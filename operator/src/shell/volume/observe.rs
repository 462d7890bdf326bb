//! What is seen of one volume.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Node, Pod},
    storage::v1::VolumeAttachment,
};
use kube::{ResourceExt as _, runtime::reflector::ObjectRef};
use twinsite_api::{
    AttachmentMode, Failover, LegIndex, MirrorGroup, MirroredVolume, StoragePool, VolumeId,
};
use twinsite_register::GroupId;

use super::scale;
use crate::{
    failover,
    shell::{odd, operator::Operator, own::VolumeKey},
    site_pair::{self, Parties},
    volume::{
        Desired, Evidence, FailoverOrder, NodeView, Observed, Peer, PodView, Reach, Reading,
        VolumeAttachmentView, Witness, names,
    },
    witness::{Access, Claim, Content},
};

const MODES: [AttachmentMode; 7] = [
    AttachmentMode::Writer,
    AttachmentMode::Caretaker,
    AttachmentMode::Birth,
    AttachmentMode::Inspect,
    AttachmentMode::Wipe,
    AttachmentMode::Reseed,
    AttachmentMode::Force,
];

/// What is wanted of a volume, with what its group lends it.
pub(super) fn desired(
    operator: &Operator,
    volume: Arc<MirroredVolume>,
    group: Option<&Arc<MirrorGroup>>,
) -> Desired {
    let names = |group: &&Arc<MirrorGroup>| group.spec.volumes.contains(&volume.name_any());
    let group = group.filter(names).cloned();
    let volume = match &group {
        Some(group) => Arc::new(group.lend(&volume)),
        None => volume,
    };
    let pair = operator.own.pair(&volume.spec.site_pair);
    let index = index(operator, &volume.spec.site_pair);
    Desired {
        volume,
        group,
        left_of: None,
        pair,
        site: operator.options.site.clone(),
        index,
    }
}

/// The index of this site in a pair, if its name is ours.
pub(super) fn index(operator: &Operator, pair: &str) -> Option<LegIndex> {
    match operator.links.witness(pair)?.claim() {
        Claim::Ours(site) => Some(site_pair::index(site)),
        Claim::Refused(_) | Claim::Unknown => None,
    }
}

/// What is seen of it.
pub(super) async fn observe(operator: &Operator, desired: &Desired) -> Observed {
    let own = &operator.own;
    let (namespace, id) = (desired.namespace(), desired.id());
    let register = GroupId(desired.register_id().bytes());
    let claim = &desired.volume.spec.claim.name;
    let parties = operator.links.parties(&desired.volume.spec.site_pair);
    let unknown = unknown(operator, desired);
    let workloads = scale::workloads(operator, desired).await;
    let pools = own.pools.store.state();
    let volume_name = names::persistent_volume(id);
    let access = parties
        .as_ref()
        .and_then(|parties| parties.witness.as_ref().ok());
    Observed {
        taken_pools: taken_pools(operator, &pools, id),
        nodes: nodes(operator, &pools, id),
        pools,
        legs: LegIndex::BOTH
            .iter()
            .filter_map(|leg| {
                own.legs
                    .store
                    .get(&ObjectRef::new(&names::leg_name(id, *leg)))
            })
            .collect(),
        attachments: MODES
            .iter()
            .filter_map(|mode| {
                own.attachments
                    .store
                    .get(&ObjectRef::new(&names::attachment_name(id, *mode)))
            })
            .collect(),
        persistent_volume: own
            .persistent_volumes
            .store
            .get(&ObjectRef::new(&volume_name)),
        claim: own
            .claims
            .store
            .get(&ObjectRef::new(claim).within(namespace)),
        pods: own
            .pods_of(namespace, claim)
            .iter()
            .filter_map(|pod| pod_view(pod))
            .collect(),
        volume_attachments: own
            .volume_attachments_of(&volume_name)
            .iter()
            .map(|one| attachment_view(one))
            .collect(),
        workloads,
        witness: witness(access.map(Arc::as_ref), parties.as_ref(), register),
        marks: access
            .and_then(|access| access.mark(register))
            .into_iter()
            .collect(),
        peer: peer(parties.as_ref(), desired, id),
        evidence: access.map_or_else(Evidence::default, |access| Evidence {
            site_still_for: access.peer_stillness(),
            beat_still_for: access.beat_stillness(twinsite_register::VolumeId(id.bytes())),
        }),
        failovers: if unknown.is_empty() {
            failovers(operator, parties.as_ref(), desired)
        } else {
            let mut orders = failovers(operator, parties.as_ref(), desired);
            orders.retain(|order| !failover::is_final(order.object.spec.mode));
            orders
        },
        unknown,
        company: Vec::new(),
        kept_by: Vec::new(),
        move_permit: operator.permits.is_free(),
    }
}

/// What this cluster's spec, or its pair's, asks for that is not known here.
fn unknown(operator: &Operator, desired: &Desired) -> Vec<String> {
    let own = &operator.own;
    let volume = own.volumes.odd.unknown(desired.namespace(), desired.name());
    let pair = &desired.volume.spec.site_pair;
    let of_pair = own.pairs.odd.unknown("", pair);
    let of_pair = of_pair.map(|fields| format!("{fields} of SitePair {pair}"));
    let group = desired.volume.spec.group.as_deref();
    let of_group = group.and_then(|group| {
        let fields = own.groups.odd.unknown(desired.namespace(), group)?;
        Some(format!("{fields} of MirrorGroup {group}"))
    });
    volume.into_iter().chain(of_pair).chain(of_group).collect()
}

/// Why the volume or a part of it cannot be read in this cluster.
pub(super) fn unreadable(operator: &Operator, key: &VolumeKey, id: VolumeId) -> Option<String> {
    let own = &operator.own;
    own.volumes.odd.unreadable(&key.0, &key.1).or_else(|| {
        let (legs, attachments) = parts(id);
        let leg = |name: &String| {
            let why = own.legs.odd.unreadable("", name)?;
            Some(format!("Leg {name}: {why}"))
        };
        let attachment = |name: &String| {
            let why = own.attachments.odd.unreadable("", name)?;
            Some(format!("Attachment {name}: {why}"))
        };
        let mut found = legs.iter().find_map(leg);
        found = found.or_else(|| attachments.iter().find_map(attachment));
        found
    })
}

/// Names of the Legs and Attachments that a volume may have.
fn parts(id: VolumeId) -> (Vec<String>, Vec<String>) {
    let legs = LegIndex::BOTH
        .iter()
        .map(|leg| names::leg_name(id, *leg))
        .collect();
    let attachments = MODES
        .iter()
        .map(|mode| names::attachment_name(id, *mode))
        .collect();
    (legs, attachments)
}

fn taken_pools(operator: &Operator, pools: &[Arc<StoragePool>], id: VolumeId) -> Vec<String> {
    let is_device = |pool: &&Arc<StoragePool>| {
        pool.spec
            .node
            .as_ref()
            .is_some_and(|node| node.device.is_some())
    };
    let ours: Vec<String> = LegIndex::BOTH
        .iter()
        .map(|leg| names::leg_name(id, *leg))
        .collect();
    pools
        .iter()
        .filter(is_device)
        .map(|pool| pool.name_any())
        .filter(|pool| {
            operator
                .own
                .legs_of_pool(pool)
                .iter()
                .any(|leg| !ours.contains(leg))
        })
        .collect()
}

fn pod_view(pod: &Pod) -> Option<PodView> {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    Some(PodView {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        owner: pod
            .owner_references()
            .iter()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| (owner.kind.clone(), owner.name.clone())),
    })
}

fn attachment_view(one: &VolumeAttachment) -> VolumeAttachmentView {
    VolumeAttachmentView {
        name: one.name_any(),
        uid: one.uid().unwrap_or_default(),
        node: one.spec.node_name.clone(),
        attached: one.status.as_ref().is_some_and(|status| status.attached),
        deleting: one.metadata.deletion_timestamp.is_some(),
    }
}

/// Nodes with our driver or one of our pools, and nodes that an object of this volume names.
fn nodes(operator: &Operator, pools: &[Arc<StoragePool>], id: VolumeId) -> Vec<NodeView> {
    let own = &operator.own;
    let mut found: BTreeSet<String> = own
        .csi_nodes
        .store
        .state()
        .iter()
        .filter(|node| {
            node.spec
                .drivers
                .iter()
                .any(|driver| driver.name == names::CSI_DRIVER)
        })
        .map(|node| node.name_any())
        .collect();
    let mut agents = found.clone();
    let pool_nodes = pools
        .iter()
        .filter(|pool| pool.spec.site == operator.options.site)
        .filter_map(|pool| pool.spec.node.as_ref())
        .map(|node| node.name.clone());
    agents.extend(pool_nodes);
    found.extend(agents.iter().cloned());
    for leg in LegIndex::BOTH {
        let leg = own
            .legs
            .store
            .get(&ObjectRef::new(&names::leg_name(id, leg)));
        found.extend(leg.map(|leg| leg.spec.node.clone()));
    }
    for mode in MODES {
        let name = names::attachment_name(id, mode);
        found.extend(
            own.attachments
                .store
                .get(&ObjectRef::new(&name))
                .map(|one| one.spec.node.clone()),
        );
    }
    let in_use = names::unique_volume(id);
    found
        .into_iter()
        .map(|name| {
            let node = own.nodes.store.get(&ObjectRef::new(&name));
            let has = |node: &Node| {
                let used = node
                    .status
                    .as_ref()
                    .and_then(|status| status.volumes_in_use.as_ref());
                used.is_some_and(|used| used.contains(&in_use))
            };
            NodeView {
                ready: node.as_deref().is_some_and(is_ready) && agents.contains(&name),
                silent_for: own.node_silence(&name),
                volume_in_use: node.as_deref().is_some_and(has),
                gone: node.is_none(),
                agent_silent: own.agent_silence(&name).is_some(),
                name,
            }
        })
        .collect()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|one| one.type_ == "Ready" && one.status == "True")
}

fn witness(access: Option<&Access>, parties: Option<&Parties>, register: GroupId) -> Witness {
    let Some(access) = access else {
        let why = parties.and_then(|parties| parties.witness.as_ref().err().cloned());
        return Witness {
            reach: why.map_or(Reach::Unknown, |why| Reach::Silent {
                last: None,
                why,
                of_volume: false,
            }),
            register: Reading::Unknown,
        };
    };
    let (link, reading) = (access.link(), access.reading(register));
    let last = link.answered.map(|(_, at)| at);
    let silent = |why: String, of_volume: bool| Reach::Silent {
        last,
        why,
        of_volume,
    };
    let reach = match (link.refused, link.silent, &reading) {
        (Some(why), _, _) | (None, Some((_, why)), _) => silent(why, false),
        (None, None, Some(reading)) => match &reading.content {
            Content::Unusable(what) => silent(format!("the register cannot be used: {what}"), true),
            Content::Register(_) | Content::Absent => Reach::Answers,
        },
        (None, None, None) => Reach::Unknown,
    };
    let register = match reading.map(|reading| reading.content) {
        Some(Content::Register(register)) => Reading::Found(Arc::new(*register)),
        Some(Content::Absent) => Reading::Absent,
        Some(Content::Unusable(_)) | None => Reading::Unknown,
    };
    Witness { reach, register }
}

fn peer(parties: Option<&Parties>, desired: &Desired, id: VolumeId) -> Peer {
    let peer = match parties.map(|parties| &parties.peer) {
        Some(Ok(Some(peer))) => peer,
        Some(Err(why)) => {
            return Peer {
                reach: Reach::Silent {
                    last: None,
                    why: why.clone(),
                    of_volume: false,
                },
                ..Peer::default()
            };
        }
        Some(Ok(None)) | None => return Peer::default(),
    };
    let link = peer.link();
    let reach = match (link.answers, link.why) {
        (true, _) => Reach::Answers,
        (false, Some(why)) => Reach::Silent {
            last: link.last,
            why,
            of_volume: false,
        },
        (false, None) => Reach::Unknown,
    };
    let Some(view) = peer.view() else {
        return Peer {
            reach,
            ..Peer::default()
        };
    };
    let (legs, attachments) = parts(id);
    let volume = (desired.namespace(), desired.name());
    let reach = match view.unreadable(volume, &legs, &attachments) {
        // What it shows is not understood: it might as well not answer.
        Some(why) if reach.answers() => Reach::Silent {
            last: link.last,
            why: format!(
                "it answers, but version {} cannot read what it shows of this volume: {why}",
                odd::VERSION
            ),
            of_volume: true,
        },
        _ => reach,
    };
    Peer {
        reach,
        volume: view.volume(desired.namespace(), desired.name()),
        pair: view.pair(),
        legs: LegIndex::BOTH
            .iter()
            .filter_map(|leg| view.leg(&names::leg_name(id, *leg)))
            .collect(),
        attachments: MODES
            .iter()
            .filter_map(|mode| view.attachment(&names::attachment_name(id, *mode)))
            .collect(),
        lacks: None,
        keeps: Vec::new(),
        company: Vec::new(),
    }
}

/// Why an order of this cluster is not carried out: not all of it is understood.
pub(in crate::shell) fn failover_trouble(operator: &Operator, name: &str) -> Option<String> {
    let odd = &operator.own.failovers.odd;
    odd.unreadable("", name).or_else(|| odd.unknown("", name))
}

/// Orders of either cluster that name this volume and are not over for it, oldest first.
fn failovers(
    operator: &Operator,
    parties: Option<&Parties>,
    desired: &Desired,
) -> Vec<FailoverOrder> {
    let understood =
        |order: &Arc<Failover>| failover_trouble(operator, &order.name_any()).is_none();
    let mut mine = operator.own.failovers.store.state();
    mine.retain(understood);
    let theirs = parties
        .and_then(|parties| parties.peer.as_ref().ok()?.as_ref()?.view())
        .map(|view| {
            let mut orders = view.failovers();
            orders.retain(|order| view.understands(order));
            orders
        })
        .unwrap_or_default();
    let order = |at_peer| move |object: Arc<Failover>| FailoverOrder { object, at_peer };
    let mut orders: Vec<FailoverOrder> = mine
        .into_iter()
        .map(order(false))
        .chain(theirs.into_iter().map(order(true)))
        .filter(|order| {
            failover::selects(&order.object, &desired.volume)
                && !failover::is_over(&order.object, desired.namespace(), desired.name())
        })
        .collect();
    orders.sort_by_key(|order| {
        let metadata = &order.object.metadata;
        (
            metadata.creation_timestamp.as_ref().map(|at| at.0),
            metadata.name.clone(),
        )
    });
    orders
}

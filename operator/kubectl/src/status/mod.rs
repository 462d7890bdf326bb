//! `kubectl twinsite status`: both sites on one screen.
//!
//! Two clusters tell about the same volumes. Where they differ in what they have *seen*, the site that is active speaks,
//! then the one with the newer epoch; where they differ in what is *wanted*, the report says so.
//!
//! Invariants: pure; a cluster that does not answer makes the report shorter, never wrong: what only it knows is missing
//! and not "no".
//! Not here: how it looks (`render`).

mod render;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::Serialize;
use twinsite_api::{
    Failback, FailoverMode, FailoverPolicy, FailoverState, LastMove, MirroredVolume, Role,
    SitePair, SiteState, VolumeLegState, WitnessSpec, condition_type, reason,
};

pub(crate) use render::{Detail, render};

use crate::{
    table::{bytes, seconds},
    world::{Cluster, condition, pair_conditions, pool_ready, verdict, volume_conditions},
};

/// Everything the screen shows, and what `-o json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) pairs: Vec<PairReport>,
    pub(crate) volumes: Vec<VolumeReport>,
    /// Volumes that are one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<GroupReport>,
    /// Failover objects that are not done.
    pub(crate) orders: Vec<OrderReport>,
    /// Clusters that did not answer, and why.
    pub(crate) unreachable: Vec<Unreachable>,
}

/// A cluster that did not answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unreachable {
    pub(crate) context: String,
    pub(crate) error: String,
}

/// An order of a person that is under way, or failed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OrderReport {
    pub(crate) name: String,
    pub(crate) context: String,
    pub(crate) to: String,
    pub(crate) mode: FailoverMode,
    pub(crate) state: FailoverState,
    /// What its volumes wait for, or why they failed.
    pub(crate) messages: Vec<String>,
}

/// A pair and its two sites.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PairReport {
    pub(crate) name: String,
    pub(crate) policy: String,
    pub(crate) detect_after: String,
    pub(crate) witness: &'static str,
    pub(crate) sites: Vec<SiteReport>,
    pub(crate) notes: Vec<String>,
}

/// A site as its own cluster tells.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SiteReport {
    pub(crate) name: String,
    pub(crate) drained: bool,
    /// The context of its cluster, if one that answered is this site.
    pub(crate) context: Option<String>,
    pub(crate) index: Option<String>,
    pub(crate) ready: Option<bool>,
    pub(crate) peer_reachable: Option<bool>,
    pub(crate) witness_reachable: Option<bool>,
    pub(crate) pools: usize,
    pub(crate) pools_ready: usize,
    pub(crate) free_bytes: u64,
}

/// Volumes that share a register: they fail and move as one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GroupReport {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) volumes: Vec<String>,
    pub(crate) active_site: Option<String>,
    pub(crate) latched: bool,
    /// That of the volume which is worst off.
    pub(crate) mirror: Mirror,
    pub(crate) mirror_text: String,
}

/// How the two copies of a volume stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Mirror {
    InSync,
    Resyncing,
    OneSite,
    Waiting,
    SplitBrain,
    Unknown,
}

/// A volume as both clusters tell.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VolumeReport {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) pair: String,
    /// The MirrorGroup that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) capacity: String,
    /// Where the register says it is in use.
    pub(crate) active_site: Option<String>,
    /// Where the manifest wants it.
    pub(crate) wanted_site: Option<String>,
    pub(crate) latched: bool,
    pub(crate) seq: Option<u64>,
    pub(crate) epoch: Option<u64>,
    pub(crate) attached: Option<String>,
    pub(crate) mirror: Mirror,
    /// The same in words.
    pub(crate) mirror_text: String,
    pub(crate) failover_ready: Option<bool>,
    pub(crate) last_move: Option<LastMove>,
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// Nothing is to be done: all clusters answer, all volumes are in sync and where they are wanted.
    pub(crate) fn all_well(&self) -> bool {
        self.unreachable.is_empty()
            && self.volumes.iter().all(|volume| {
                volume.mirror == Mirror::InSync
                    && volume.failover_ready == Some(true)
                    && volume.notes.is_empty()
            })
            && self.pairs.iter().all(|pair| {
                pair.notes.is_empty() && pair.sites.iter().all(|site| site.ready == Some(true))
            })
    }
}

/// What the clusters tell, put together.
pub(crate) fn report(clusters: &[Cluster], namespace: Option<&str>) -> Report {
    let pairs = names(clusters, |cluster| {
        cluster
            .answer()
            .into_iter()
            .flat_map(|objects| &objects.pairs)
            .filter_map(|pair| pair.metadata.name.clone())
            .collect()
    });
    let volumes = names(clusters, |cluster| {
        cluster
            .answer()
            .into_iter()
            .flat_map(|objects| &objects.volumes)
            .filter_map(|volume| {
                Some((
                    volume.metadata.namespace.clone()?,
                    volume.metadata.name.clone()?,
                ))
            })
            .filter(|(own, _)| namespace.is_none_or(|wanted| wanted == own))
            .collect()
    });
    let volumes: Vec<VolumeReport> = volumes
        .iter()
        .filter_map(|(namespace, name)| volume(clusters, namespace, name))
        .collect();
    Report {
        groups: groups(&volumes),
        pairs: pairs.iter().map(|name| pair(clusters, name)).collect(),
        volumes,
        orders: clusters.iter().flat_map(orders).collect(),
        unreachable: clusters
            .iter()
            .filter_map(|cluster| {
                Some(Unreachable {
                    context: cluster.context.clone(),
                    error: cluster.objects.as_ref().err()?.clone(),
                })
            })
            .collect(),
    }
}

fn groups(volumes: &[VolumeReport]) -> Vec<GroupReport> {
    let mut groups: Vec<GroupReport> = Vec::new();
    for volume in volumes {
        let Some(name) = &volume.group else { continue };
        let known = groups
            .iter_mut()
            .find(|group| group.namespace == volume.namespace && group.name == *name);
        match known {
            Some(group) => {
                group.volumes.push(volume.name.clone());
                if volume.mirror > group.mirror {
                    group.mirror = volume.mirror;
                    group.mirror_text.clone_from(&volume.mirror_text);
                }
            }
            None => groups.push(GroupReport {
                namespace: volume.namespace.clone(),
                name: name.clone(),
                volumes: vec![volume.name.clone()],
                active_site: volume.active_site.clone(),
                latched: volume.latched,
                mirror: volume.mirror,
                mirror_text: volume.mirror_text.clone(),
            }),
        }
    }
    groups
}

fn orders(cluster: &Cluster) -> Vec<OrderReport> {
    cluster
        .answer()
        .into_iter()
        .flat_map(|objects| &objects.failovers)
        .filter_map(|order| {
            let status = order.status.clone().unwrap_or_default();
            (status.state != FailoverState::Done).then(|| OrderReport {
                name: order.metadata.name.clone().unwrap_or_default(),
                context: cluster.context.clone(),
                to: order.spec.to.clone(),
                mode: order.spec.mode,
                state: status.state,
                messages: status
                    .volumes
                    .iter()
                    .filter_map(|volume| {
                        let message = volume.message.as_ref()?;
                        Some(format!("{}/{}: {message}", volume.namespace, volume.name))
                    })
                    .collect(),
            })
        })
        .collect()
}

fn names<T: Ord>(clusters: &[Cluster], of: impl Fn(&Cluster) -> Vec<T>) -> BTreeSet<T> {
    clusters.iter().flat_map(of).collect()
}

fn pair(clusters: &[Cluster], name: &str) -> PairReport {
    let seen: Vec<(&Cluster, &SitePair)> = clusters
        .iter()
        .filter_map(|cluster| Some((cluster, cluster.pair(name)?)))
        .collect();
    let spec = &seen[0].1.spec;
    let mut notes = Vec::new();
    if let [(_, one), (_, other), ..] = seen.as_slice()
        && one.spec != other.spec
    {
        notes.push("the SitePair is not the same in both clusters".to_owned());
    }
    for (cluster, pair) in &seen {
        for type_ in [condition_type::SITE_CLAIMED, condition_type::READY] {
            if let Some(bad) = condition(pair_conditions(pair), type_)
                && bad.status == "False"
            {
                notes.push(format!(
                    "{}: {}",
                    cluster.site(name).unwrap_or(&cluster.context),
                    bad.message
                ));
                break;
            }
        }
    }
    PairReport {
        name: name.to_owned(),
        policy: match spec.failover.policy {
            FailoverPolicy::Manual => "Manual",
            FailoverPolicy::Observe => "Observe",
            FailoverPolicy::Automatic => "Automatic",
        }
        .to_owned(),
        detect_after: spec.failover.detect_after.to_string(),
        witness: witness_kind(&spec.witness),
        sites: spec
            .sites
            .iter()
            .map(|site| self::site(&seen, name, &site.name, site.state))
            .collect(),
        notes,
    }
}

const fn witness_kind(spec: &WitnessSpec) -> &'static str {
    if spec.kubernetes.is_some() {
        "a third cluster"
    } else if spec.object_store.is_some() {
        "an object store"
    } else if spec.site.is_some() {
        "one of the sites"
    } else {
        "a directory"
    }
}

fn site(seen: &[(&Cluster, &SitePair)], pair: &str, name: &str, state: SiteState) -> SiteReport {
    let own = seen
        .iter()
        .find(|(cluster, _)| cluster.site(pair) == Some(name));
    let conditions = own.map_or(&[][..], |(_, pair)| pair_conditions(pair));
    let pools: Vec<_> = own
        .and_then(|(cluster, _)| cluster.answer())
        .into_iter()
        .flat_map(|objects| &objects.pools)
        .filter(|pool| pool.spec.site == name)
        .collect();
    // Either cluster knows the claims.
    let index = seen.iter().find_map(|(_, pair)| {
        let claims = &pair.status.as_ref()?.claims;
        Some(claims.iter().find(|claim| claim.name == name)?.index)
    });
    SiteReport {
        name: name.to_owned(),
        drained: state == SiteState::Drained,
        context: own.map(|(cluster, _)| cluster.context.clone()),
        index: index.map(|index| format!("{index:?}")),
        ready: verdict(conditions, condition_type::READY),
        peer_reachable: verdict(conditions, condition_type::PEER_REACHABLE),
        witness_reachable: verdict(conditions, condition_type::WITNESS_REACHABLE),
        pools: pools.len(),
        pools_ready: pools
            .iter()
            .filter(|pool| pool_ready(pool) == Some(true))
            .count(),
        free_bytes: pools
            .iter()
            .filter_map(|pool| pool.status.as_ref()?.free_bytes)
            .sum(),
    }
}

fn volume(clusters: &[Cluster], namespace: &str, name: &str) -> Option<VolumeReport> {
    let seen: Vec<(&Cluster, &MirroredVolume)> = clusters
        .iter()
        .filter_map(|cluster| Some((cluster, cluster.volume(namespace, name)?)))
        .collect();
    let (_, speaker) = seen.iter().max_by_key(|(_, volume)| {
        let status = volume.status.as_ref();
        (
            status.and_then(|status| status.role) == Some(Role::Active),
            status.and_then(|status| status.epoch),
        )
    })?;
    let status = speaker.status.clone().unwrap_or_default();
    let conditions = volume_conditions(speaker);
    let (mirror, mirror_text) = mirror(speaker);
    Some(VolumeReport {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        pair: speaker.spec.site_pair.clone(),
        group: speaker.spec.group.clone(),
        id: status.volume_id.map(|id| id.to_string()),
        capacity: speaker.spec.capacity.to_string(),
        wanted_site: speaker.spec.active_site.clone(),
        latched: status.active_site.as_ref().is_some_and(|site| site.latched),
        seq: status.active_site.as_ref().map(|site| site.seq),
        active_site: status.active_site.as_ref().map(|site| site.name.clone()),
        epoch: status.epoch,
        attached: status
            .attached
            .map(|attached| format!("{}/{}", attached.site, attached.node)),
        mirror,
        mirror_text,
        failover_ready: verdict(conditions, condition_type::FAILOVER_READY),
        last_move: status.last_move,
        notes: notes(clusters, &seen, speaker),
    })
}

fn mirror(volume: &MirroredVolume) -> (Mirror, String) {
    let conditions = volume_conditions(volume);
    let status = volume.status.clone().unwrap_or_default();
    let says = |type_| verdict(conditions, type_) == Some(true);
    if says(condition_type::SPLIT_BRAIN) {
        return (Mirror::SplitBrain, "SPLIT BRAIN".to_owned());
    }
    if says(condition_type::LEG_LOST) || says(condition_type::MEMBERSHIP_UNKNOWN) {
        return (Mirror::Waiting, "I/O WAITS".to_owned());
    }
    if let Some(leg) = status
        .legs
        .iter()
        .find(|leg| leg.state == VolumeLegState::Resyncing)
    {
        let mut text = format!("resync of {}", leg.site);
        if let Some(percent) = leg.resync_percent {
            text.push_str(&format!(" {percent} %"));
        }
        if let Some(left) = leg.dirty_bytes {
            text.push_str(&format!(", {} left", bytes(left)));
        }
        if let Some(eta) = leg.eta_seconds {
            text.push_str(&format!(", {}", seconds(eta)));
        }
        return (Mirror::Resyncing, text);
    }
    if says(condition_type::IN_SYNC) {
        return (Mirror::InSync, "in sync".to_owned());
    }
    let members: Vec<_> = status
        .legs
        .iter()
        .filter(|leg| leg.state == VolumeLegState::Member)
        .map(|leg| leg.site.as_str())
        .collect();
    match members.as_slice() {
        [only] if says(condition_type::DEGRADED) => (Mirror::OneSite, format!("ON {only} ONLY")),
        _ if says(condition_type::DEGRADED) => (Mirror::OneSite, "ON ONE SITE ONLY".to_owned()),
        _ => (Mirror::Unknown, "unknown".to_owned()),
    }
}

/// When the last move brought it there, and for what reason.
fn why_it_moved(volume: &MirroredVolume, to: &str) -> String {
    let status = volume.status.as_ref();
    let last = status.and_then(|status| status.last_move.as_ref());
    let Some(last) = last.filter(|last| last.to == to) else {
        return String::new();
    };
    let at = last.detected_at.as_ref().map_or_else(String::new, |at| {
        format!(" at {}", at.0.strftime("%Y-%m-%d %H:%M:%S UTC"))
    });
    format!("{at} ({})", last.reason)
}

fn notes(
    clusters: &[Cluster],
    seen: &[(&Cluster, &MirroredVolume)],
    speaker: &MirroredVolume,
) -> Vec<String> {
    let pair = &speaker.spec.site_pair;
    let place = |cluster: &Cluster| cluster.site(pair).unwrap_or(&cluster.context).to_owned();
    let mut notes = Vec::new();
    let active = speaker
        .status
        .as_ref()
        .and_then(|status| status.active_site.as_ref());
    if let (Some(active), Some(wanted)) = (active, &speaker.spec.active_site)
        && active.latched
    {
        let back = match speaker.spec.failback {
            Some(Failback::WhenInSync) => {
                "it goes back by itself once it is in sync (failback: WhenInSync)".to_owned()
            }
            _ => format!(
                "once it is in sync, order it back with kubectl twinsite failover {}/{} --to {wanted} --mode planned",
                speaker.metadata.namespace.as_deref().unwrap_or_default(),
                speaker.metadata.name.as_deref().unwrap_or_default()
            ),
        };
        notes.push(format!(
            "it moved to {}{}, and the manifest still says {wanted}: write activeSite: {} there to accept that, or, {back}",
            active.name,
            why_it_moved(speaker, &active.name),
            active.name,
        ));
    }
    let verify = speaker
        .status
        .as_ref()
        .and_then(|status| status.verify.as_ref());
    if let Some(verify) = verify.filter(|verify| verify.is_open() || verify.found_difference()) {
        notes.push(format!("verify: {}", verify.sentence()));
    }
    for cluster in clusters
        .iter()
        .filter(|cluster| cluster.pair(pair).is_some())
    {
        if !seen
            .iter()
            .any(|(other, _)| other.context == cluster.context)
        {
            notes.push(format!("not applied at {}", place(cluster)));
        }
    }
    if let [(one_cluster, one), (other_cluster, other), ..] = seen
        && let Some(difference) = difference(one, other)
    {
        notes.push(format!(
            "the manifests differ in {difference} ({} and {})",
            place(one_cluster),
            place(other_cluster)
        ));
    }
    for (cluster, volume) in seen {
        let conditions = volume_conditions(volume);
        let stalled = condition(conditions, condition_type::STALLED)
            .filter(|stalled| stalled.status == "True");
        let newer = condition(conditions, condition_type::SPEC_UNDERSTOOD);
        if let Some(newer) = newer.filter(|newer| newer.status == "False") {
            notes.push(format!("{}: {}", place(cluster), newer.message));
        }
        for type_ in [
            condition_type::AUTOMATIC_FAILOVER,
            condition_type::REQUEST_REFUSED,
        ] {
            let told = condition(conditions, type_).filter(|told| told.status == "True");
            notes.extend(told.map(|told| format!("{}: {}", place(cluster), told.message)));
        }
        let silent = condition(conditions, condition_type::READY)
            .filter(|ready| ready.reason == reason::AGENT_SILENT);
        notes.extend(silent.map(|ready| format!("{}: {}", place(cluster), ready.message)));
        let not_ready =
            condition(conditions, condition_type::READY).filter(|ready| ready.status == "False");
        if let Some(bad) = stalled.or(not_ready) {
            notes.push(format!(
                "{}: {}: {}",
                place(cluster),
                bad.reason,
                bad.message
            ));
        } else if volume.metadata.deletion_timestamp.is_some() {
            notes.push(format!("{}: being deleted", place(cluster)));
        } else if volume
            .status
            .as_ref()
            .and_then(|status| status.observed_generation)
            != volume.metadata.generation
        {
            notes.push(format!(
                "{}: the operator has not seen the last edit yet",
                place(cluster)
            ));
        }
    }
    notes
}

/// What two clusters want differently of one volume.
fn difference(one: &MirroredVolume, other: &MirroredVolume) -> Option<String> {
    let (one, other) = (&one.spec, &other.spec);
    let mut fields = Vec::new();
    if one.active_site != other.active_site {
        fields.push("activeSite");
    }
    if one.capacity != other.capacity {
        fields.push("capacity");
    }
    if one.legs != other.legs {
        fields.push("legs");
    }
    if fields.is_empty() && one != other {
        fields.push("other fields");
    }
    (!fields.is_empty()).then(|| fields.join(", "))
}

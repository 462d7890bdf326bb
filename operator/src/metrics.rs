//! What the operator counts and shows: `/metrics`.
//!
//! Names are `twinsite_<noun>_<unit>`; a state is one series per value that it has, 1 for the present one. What an agent
//! measures of a mirror (`twinsite_mirror_*`) is not repeated here.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use twinsite_api::{LastMove, MirroredVolumeStatus, VolumeLegState};

use crate::{
    shell::{
        operator::Key,
        own::VolumeKey,
        queue::{Outcome, Queue},
    },
    site_pair::{PeerSeen, WitnessSeen},
    volume::Action,
    witness::Claim,
};

const ROUND_SECONDS: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];
const MOVE_SECONDS: [f64; 10] = [1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 15.0, 30.0, 60.0, 600.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RoundLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ActionLabels {
    action: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PairLabels {
    pair: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VolumeLabels {
    volume: String,
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ConditionLabels {
    volume: String,
    namespace: String,
    name: String,
    condition: String,
    status: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SiteLabels {
    volume: String,
    namespace: String,
    name: String,
    site: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LegLabels {
    volume: String,
    namespace: String,
    name: String,
    site: String,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MoveLabels {
    mode: String,
}

type Moves = Family<MoveLabels, Histogram, fn() -> Histogram>;
type Rounds = Family<KindLabels, Histogram, fn() -> Histogram>;

/// All metrics of this process.
pub struct Metrics {
    registry: Registry,
    pub leader: Gauge,
    pub status_writes: Counter,
    queue_keys: Gauge,
    queue_backlog: Gauge,
    rounds: Family<RoundLabels, Counter>,
    round_seconds: Rounds,
    actions: Family<ActionLabels, Counter>,
    peer_reachable: Family<PairLabels, Gauge>,
    witness_reachable: Family<PairLabels, Gauge>,
    site_claimed: Family<PairLabels, Gauge>,
    conditions: Family<ConditionLabels, Gauge>,
    epochs: Family<VolumeLabels, Gauge>,
    active_sites: Family<SiteLabels, Gauge>,
    legs: Family<LegLabels, Gauge>,
    moves: Moves,
    /// What is shown of each volume, so that it can be taken away again.
    shown: Mutex<HashMap<VolumeKey, Shown>>,
}

#[derive(Default)]
struct Shown {
    volume: Option<VolumeLabels>,
    conditions: Vec<ConditionLabels>,
    site: Option<SiteLabels>,
    legs: Vec<LegLabels>,
    last_move: Option<LastMove>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut new = Self {
            registry: Registry::with_prefix("twinsite"),
            leader: Gauge::default(),
            status_writes: Counter::default(),
            queue_keys: Gauge::default(),
            queue_backlog: Gauge::default(),
            rounds: Family::default(),
            round_seconds: Family::new_with_constructor(|| Histogram::new(ROUND_SECONDS)),
            actions: Family::default(),
            peer_reachable: Family::default(),
            witness_reachable: Family::default(),
            site_claimed: Family::default(),
            conditions: Family::default(),
            epochs: Family::default(),
            active_sites: Family::default(),
            legs: Family::default(),
            moves: Family::new_with_constructor(|| Histogram::new(MOVE_SECONDS)),
            shown: Mutex::default(),
        };
        new.register();
        new
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "operator_leader",
            "1: this replica works",
            self.leader.clone(),
        );
        registry.register(
            "operator_status_writes",
            "Statuses of volumes written",
            self.status_writes.clone(),
        );
        registry.register(
            "operator_queue_keys",
            "Objects that wait for their time or are worked on",
            self.queue_keys.clone(),
        );
        registry.register(
            "operator_queue_backlog",
            "Objects that are due and wait for a worker",
            self.queue_backlog.clone(),
        );
        registry.register(
            "operator_rounds",
            "Rounds of reconciling",
            self.rounds.clone(),
        );
        registry.register(
            "operator_round_seconds",
            "Length of rounds",
            self.round_seconds.clone(),
        );
        registry.register(
            "operator_actions",
            "Steps of plans that were carried out",
            self.actions.clone(),
        );
        registry.register(
            "peer_reachable",
            "1: the peer's cluster answers",
            self.peer_reachable.clone(),
        );
        registry.register(
            "operator_witness_reachable",
            "1: the witness answers the operator",
            self.witness_reachable.clone(),
        );
        registry.register(
            "site_claimed",
            "1: the site's name is this cluster's",
            self.site_claimed.clone(),
        );
        registry.register(
            "volume_condition",
            "1: the condition has this status",
            self.conditions.clone(),
        );
        registry.register("volume_epoch", "Epoch of the register", self.epochs.clone());
        registry.register(
            "volume_active_site_info",
            "1: the register names this site",
            self.active_sites.clone(),
        );
        registry.register(
            "volume_leg_state",
            "1: the copy at this site is in this state",
            self.legs.clone(),
        );
        registry.register(
            "move_duration_seconds",
            "From detection or order to the first write, of moves to this site",
            self.moves.clone(),
        );
    }

    /// The page in the text format.
    pub fn page(&self, queue: &Queue<Key>) -> String {
        self.queue_keys
            .set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
        self.queue_backlog
            .set(i64::try_from(queue.backlog()).unwrap_or(i64::MAX));
        let mut page = String::new();
        if encode(&mut page, &self.registry).is_err() {
            tracing::error!("the metrics cannot be written as text");
        }
        page
    }

    /// A round is over.
    pub fn see_round(&self, key: &Key, took: Duration, outcome: Outcome) {
        let kind = match key {
            Key::Pair(_) => "SitePair",
            Key::Pool(_) => "StoragePool",
            Key::Volume(_) => "MirroredVolume",
            Key::Failover(_) => "Failover",
            Key::Group(_) => "MirrorGroup",
            Key::Orphan(_) => "Orphan",
            Key::Node(_) => "Node",
        };
        let outcome = match outcome {
            Outcome::Again(_) | Outcome::Settled => "ok",
            Outcome::Failed => "failed",
        };
        self.rounds
            .get_or_create(&RoundLabels { kind, outcome })
            .inc();
        self.round_seconds
            .get_or_create(&KindLabels { kind })
            .observe(took.as_secs_f64());
    }

    /// A step of a plan is over.
    pub fn see_action(&self, action: &Action, worked: bool) {
        let action = match action {
            Action::AddFinalizer | Action::RemoveFinalizer => "finalizer",
            Action::ApplyLeg(_) => "apply_leg",
            Action::DeleteLeg { .. } => "delete_leg",
            Action::ReleaseLeg { .. } => "release_leg",
            Action::ApplyPersistentVolume(_) | Action::RebindPersistentVolume { .. } => {
                "apply_persistent_volume"
            }
            Action::DeletePersistentVolume { .. } => "delete_persistent_volume",
            Action::ApplyClaim(_) => "apply_claim",
            Action::DeleteClaim { .. } => "delete_claim",
            Action::Scale { .. } => "scale",
            Action::RecordMove(_) => "record_move",
            Action::CreateAttachment(_) => "create_attachment",
            Action::UpdateAttachment { .. } => "update_attachment",
            Action::DeleteAttachment { .. } => "delete_attachment",
            Action::ReleaseAttachment { .. } => "release_attachment",
            Action::DeletePod { .. } => "delete_pod",
            Action::RestartPod { .. } => "restart_pod",
            Action::DeleteVolumeAttachment { .. } => "delete_volume_attachment",
            Action::ClearVolumeInUse { .. } => "clear_volume_in_use",
            Action::ChangeRegister { .. } => "change_register",
            Action::SeedRegister { .. } => "seed_register",
        };
        let result = if worked { "ok" } else { "failed" };
        self.actions
            .get_or_create(&ActionLabels { action, result })
            .inc();
    }

    /// What a pair's parties are like.
    pub fn see_pair(&self, pair: &str, witness: &WitnessSeen, peer: &PeerSeen) {
        let labels = PairLabels {
            pair: pair.to_owned(),
        };
        let (answers, claimed) = match witness {
            WitnessSeen::Closed(_) => (false, false),
            WitnessSeen::Open {
                silent,
                answered,
                refused,
                claim,
                ..
            } => (
                silent.is_none() && answered.is_some() && refused.is_none(),
                matches!(claim, Claim::Ours(_)),
            ),
        };
        self.witness_reachable
            .get_or_create(&labels)
            .set(i64::from(answers));
        self.site_claimed
            .get_or_create(&labels)
            .set(i64::from(claimed));
        let peer_answers = match peer {
            // Where none is named nobody is away.
            PeerSeen::None => {
                self.peer_reachable.remove(&labels);
                return;
            }
            PeerSeen::Closed(_) => false,
            PeerSeen::Open(link) => link.answers,
        };
        self.peer_reachable
            .get_or_create(&labels)
            .set(i64::from(peer_answers));
    }

    /// A pair is gone.
    pub fn forget_pair(&self, pair: &str) {
        let labels = PairLabels {
            pair: pair.to_owned(),
        };
        for family in [
            &self.witness_reachable,
            &self.site_claimed,
            &self.peer_reachable,
        ] {
            family.remove(&labels);
        }
    }

    /// What a volume is like.
    pub fn see_volume(&self, key: &VolumeKey, status: &MirroredVolumeStatus, site: &str) {
        let labels = VolumeLabels {
            volume: status
                .volume_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
            namespace: key.0.clone(),
            name: key.1.clone(),
        };
        let VolumeLabels {
            volume,
            namespace,
            name,
        } = labels.clone();
        let new = Shown {
            conditions: status
                .conditions
                .iter()
                .map(|one| ConditionLabels {
                    volume: volume.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                    condition: one.type_.clone(),
                    status: one.status.clone(),
                })
                .collect(),
            site: status.active_site.as_ref().map(|active| SiteLabels {
                volume: volume.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
                site: active.name.clone(),
            }),
            legs: status
                .legs
                .iter()
                .map(|leg| LegLabels {
                    volume: volume.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                    site: leg.site.clone(),
                    state: match leg.state {
                        VolumeLegState::Member => "Member",
                        VolumeLegState::Resyncing => "Resyncing",
                        VolumeLegState::Outdated => "Outdated",
                        VolumeLegState::Unreachable => "Unreachable",
                        VolumeLegState::New => "New",
                    },
                })
                .collect(),
            last_move: status.last_move.clone(),
            volume: Some(labels.clone()),
        };
        let epoch = status.epoch.unwrap_or(0);
        self.epochs
            .get_or_create(&labels)
            .set(i64::try_from(epoch).unwrap_or(i64::MAX));
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let known = shown.contains_key(key);
        let old = shown.remove(key).unwrap_or_default();
        for gone in old
            .conditions
            .iter()
            .filter(|one| !new.conditions.contains(one))
        {
            self.conditions.remove(gone);
        }
        for one in &new.conditions {
            self.conditions.get_or_create(one).set(1);
        }
        for gone in old.legs.iter().filter(|one| !new.legs.contains(one)) {
            self.legs.remove(gone);
        }
        for one in &new.legs {
            self.legs.get_or_create(one).set(1);
        }
        if old.site != new.site
            && let Some(gone) = &old.site
        {
            self.active_sites.remove(gone);
        }
        if let Some(one) = &new.site {
            self.active_sites.get_or_create(one).set(1);
        }
        let over = |of: &Shown| {
            of.last_move
                .as_ref()
                .filter(|one| one.to == site)
                .and_then(|one| one.seconds)
        };
        // A move that was over before this process began was counted by another one.
        if known
            && over(&old) != over(&new)
            && let (Some(seconds), Some(last)) = (over(&new), &new.last_move)
        {
            let labels = MoveLabels {
                mode: last.mode.clone(),
            };
            self.moves.get_or_create(&labels).observe(seconds);
        }
        shown.insert(key.clone(), new);
    }

    /// A volume is gone.
    pub fn forget_volume(&self, key: &VolumeKey) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(old) = shown.remove(key) else {
            return;
        };
        for one in &old.conditions {
            self.conditions.remove(one);
        }
        for one in &old.legs {
            self.legs.remove(one);
        }
        if let Some(one) = &old.site {
            self.active_sites.remove(one);
        }
        if let Some(one) = &old.volume {
            self.epochs.remove(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinsite_api::{ActiveSite, VolumeId};

    fn witness(claim: Claim) -> WitnessSeen {
        WitnessSeen::Open {
            place: "the witness".to_owned(),
            refused: None,
            answered: Some(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
            silent: None,
            claim,
            sites: None,
        }
    }

    fn peer() -> PeerSeen {
        PeerSeen::Open(crate::peer::Link {
            answers: true,
            ..crate::peer::Link::default()
        })
    }

    fn sorted(page: &str) -> String {
        let mut lines: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        lines.sort_unstable();
        lines.join("\n") + "\n"
    }

    /// What the alerts are tried on, in the tests of the chart: an operator with one pair and one volume, all well.
    #[test]
    fn the_page_of_the_sample_is_the_one_that_alerts_are_tried_on() {
        let (metrics, queue) = (Metrics::default(), Queue::default());
        metrics.leader.set(1);
        metrics.see_pair(
            "ctrc",
            &witness(Claim::Ours(twinsite_register::Site::A)),
            &peer(),
        );
        let status: MirroredVolumeStatus = serde_yaml::from_str(
            r#"{activeSite: {name: medical, seq: 1, latched: false}, epoch: 17,
                legs: [{site: medical, state: Member}, {site: research, state: Member}],
                conditions: [{type: Ready, status: "True", reason: AsDesired, message: "", lastTransitionTime: "2026-11-28T04:00:00Z"},
                  {type: Stalled, status: "False", reason: AsDesired, message: "", lastTransitionTime: "2026-11-28T04:00:00Z"},
                  {type: FailoverReady, status: "True", reason: AsDesired, message: "", lastTransitionTime: "2026-11-28T04:00:00Z"},
                  {type: AutomaticFailover, status: "False", reason: Alive, message: "", lastTransitionTime: "2026-11-28T04:00:00Z"}]}"#,
        )
        .unwrap();
        let status = MirroredVolumeStatus {
            volume_id: Some(VolumeId::of("ctrc", "rv", "records")),
            ..status
        };
        metrics.see_volume(&("rv".to_owned(), "records".to_owned()), &status, "medical");
        let page = sorted(&metrics.page(&queue));
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics/sample.txt");
        if std::env::var_os("GOLDEN").is_some_and(|mode| mode == "write") {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &page).unwrap();
        }
        assert!(
            std::fs::read_to_string(&file).unwrap_or_default() == page,
            "src/metrics/sample.txt is not this page; GOLDEN=write writes it anew\n{page}"
        );
    }

    #[test]
    fn a_peer_that_is_not_named_is_not_shown_as_away_and_a_pair_that_is_gone_not_at_all() {
        let (metrics, queue) = (Metrics::default(), Queue::default());
        let of_pair = |name: &str| format!("twinsite_{name}{{pair=\"ctrc\"}}");
        metrics.see_pair("ctrc", &witness(Claim::Unknown), &peer());
        assert!(metrics.page(&queue).contains(&of_pair("peer_reachable")));
        metrics.see_pair("ctrc", &witness(Claim::Unknown), &PeerSeen::None);
        let page = metrics.page(&queue);
        assert!(!page.contains(&of_pair("peer_reachable")), "{page}");
        assert!(page.contains(&of_pair("site_claimed")), "{page}");
        metrics.forget_pair("ctrc");
        assert!(!metrics.page(&queue).contains("ctrc"));
    }

    #[test]
    fn a_volume_has_one_series_per_present_state_and_none_once_it_is_gone() {
        let (metrics, queue) = (Metrics::default(), Queue::default());
        let key = ("rv".to_owned(), "records".to_owned());
        let at = |site: &str| MirroredVolumeStatus {
            volume_id: Some(VolumeId::of("ctrc", "rv", "records")),
            epoch: Some(17),
            active_site: Some(ActiveSite {
                name: site.to_owned(),
                seq: 1,
                latched: false,
            }),
            ..MirroredVolumeStatus::default()
        };
        metrics.see_volume(&key, &at("medical"), "medical");
        metrics.see_volume(&key, &at("research"), "medical");
        let page = metrics.page(&queue);
        let lines: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("twinsite_volume_"))
            .collect();
        assert_eq!(lines.len(), 2, "{page}");
        assert!(
            lines
                .iter()
                .any(|line| line.contains(r#"site="research"} 1"#)),
            "{page}"
        );
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with("twinsite_volume_epoch{") && line.ends_with(" 17")),
            "{page}"
        );
        metrics.forget_volume(&key);
        assert!(!metrics.page(&queue).contains("records"));
    }
}

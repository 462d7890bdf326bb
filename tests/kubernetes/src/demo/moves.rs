//! The moves that are measured: a site dies, a node dies, an edit of the manifest.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use twinsite_api::MirroredVolume;

use super::parts::{self, Steps};
use super::report::Round;
use super::stage::{MOVE_LIMIT, Stage};
use super::trace::{ms_of, now_ms};
use crate::process_group::until;

const TAKEOVER_LIMIT: Duration = Duration::from_secs(180);
const NODE_LIMIT: Duration = Duration::from_secs(240);
/// Status follows the deed by a moment.
const AFTERMATH: Duration = Duration::from_secs(2);

impl Stage {
    /// Kills everything of the active site and waits until the other one writes.
    ///
    /// # Errors
    /// It does not.
    pub fn kill_active(&mut self) -> Result<()> {
        let (dying, survivor) = (self.active, self.other());
        self.ledger.mark();
        let wall = now_ms();
        self.site_mut(dying).pull_the_plug();
        self.ledger.mark();
        let killed = Instant::now();
        self.timeline.event(&format!(
            "{dying} is gone: its API server, its nodes, its storage, every process of it"
        ));
        let ledger = self.ledger.clone();
        until(TAKEOVER_LIMIT, "a record at the survivor", || {
            ledger.first_after_mark().is_some()
        })
        .with_context(|| self.state_of(survivor))?;
        let first = self.ledger.first_after_mark().unwrap_or(killed);
        self.active = survivor;
        thread::sleep(AFTERMATH);
        let volume = self.volume(survivor)?;
        let last = volume.status.and_then(|status| status.last_move);
        let at = |time: Option<&Time>| time.map(|time| time.0.as_millisecond());
        let steps = last.map_or_else(Steps::default, |last| Steps {
            fenced: at(last.fenced_at.as_ref()),
            promoted: at(last.promoted_at.as_ref()),
        });
        let seen = self.trace.since(wall);
        let parts = parts::takeover(&seen, survivor, ms_of(killed), steps, ms_of(first));
        self.timeline.event(&format!(
            "{survivor} writes {:.1} s after that: {}",
            (first - killed).as_secs_f64(),
            parts::told(&parts)
        ));
        self.report.rounds.push(Round {
            killed: dying.to_owned(),
            first_write_ms: milliseconds(first - killed),
            first_write_parts: parts,
            first_write_trace: seen,
            ..Round::default()
        });
        Ok(())
    }

    /// How often the volume has moved so far, as its present site says.
    #[must_use]
    pub fn moves(&self) -> Option<u64> {
        let volume = self.volume(self.active).ok()?;
        seat(&volume).map(|(_, seq)| seq)
    }

    /// Waits until the volume has followed the manifest to that site, in a move later than `before`, and records are
    /// acknowledged there. The ledger was marked when the manifest was edited.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_moved(
        &mut self,
        name: &'static str,
        before: Option<u64>,
        commit: i64,
    ) -> Result<()> {
        let from = self.active;
        let ledger = self.ledger.clone();
        until(MOVE_LIMIT, "the planned move", || {
            // A site that was away may still show what it saw before.
            self.volume(name).is_ok_and(|volume| {
                seat(&volume).is_some_and(|(site, seq)| site == name && Some(seq) > before)
            })
        })
        .with_context(|| self.state_of(name))?;
        let total = ledger.total();
        until(MOVE_LIMIT, "records after the move", || {
            ledger.total() > total && ledger.longest_gap() > Duration::ZERO && self.runs_at(name)
        })
        .with_context(|| self.state_of(name))?;
        self.active = name;
        let gap = self.ledger.longest_gap();
        let now = Instant::now();
        let (last, first) = self.ledger.gap_ends().unwrap_or((now, now));
        let seen = self.trace.since(commit);
        let ends = (ms_of(last), ms_of(first));
        let (ahead, within) = parts::planned(&seen, (from, name), commit, ends);
        self.timeline.event(&format!(
            "{name} has it again; before the gap: {}",
            parts::told(&ahead)
        ));
        self.timeline.event(&format!(
            "the longest gap between two records was {:.1} s: {}",
            gap.as_secs_f64(),
            parts::told(&within)
        ));
        if let Some(round) = self.report.rounds.last_mut() {
            round.move_gap_ms = milliseconds(gap);
            round.move_ahead_parts = ahead;
            round.move_gap_parts = within;
            round.move_trace = seen;
        }
        Ok(())
    }

    /// Kills the node that the pod is on, waits until a pod writes on another node of the site, and gives the node its
    /// power back.
    ///
    /// # Errors
    /// None does, or the node does not come back.
    pub async fn lose_node(&mut self) -> Result<()> {
        let active = self.active;
        let pod = self.pod(active)?;
        let name = pod
            .spec
            .and_then(|spec| spec.node_name)
            .context("the pod is on no node")?;
        let nodes = &self.site(active).nodes;
        let index = nodes.iter().position(|node| node.name == name);
        let index = index.context("the pod's node is none of the site's")?;
        let wall = now_ms();
        self.site_mut(active).nodes[index].pull_the_plug();
        self.ledger.mark();
        let killed = Instant::now();
        self.timeline
            .event(&format!("{name} is gone, and the pod with it"));
        let ledger = self.ledger.clone();
        let outcome = until(NODE_LIMIT, "a record from another node", || {
            ledger.first_after_mark().is_some()
        })
        .with_context(|| self.state_of(active));
        let first = self.ledger.first_after_mark().unwrap_or(killed);
        if outcome.is_ok() {
            thread::sleep(AFTERMATH);
            let seen = self.trace.since(wall);
            let parts = parts::node_loss(&seen, active, ms_of(killed), ms_of(first));
            let there = self.pod(active)?.spec.and_then(|spec| spec.node_name);
            self.timeline.event(&format!(
                "{} writes {:.1} s after that: {}",
                there.unwrap_or_default(),
                (first - killed).as_secs_f64(),
                parts::told(&parts)
            ));
            if let Some(round) = self.report.rounds.last_mut() {
                round.node_loss_ms = Some(milliseconds(first - killed));
                round.node_loss_parts = parts;
                round.node_loss_trace = seen;
            }
        }
        self.site_mut(active).start_node(index)?;
        outcome?;
        self.site(active).wait_nodes_ready().await?;
        self.wait_in_sync(NODE_LIMIT)
    }

    fn runs_at(&self, name: &str) -> bool {
        self.pod(name).is_ok_and(|pod| {
            pod.metadata.deletion_timestamp.is_none()
                && pod
                    .status
                    .is_some_and(|status| status.phase.as_deref() == Some("Running"))
        })
    }
}

/// Where the register says that the volume is, and by which move.
fn seat(volume: &MirroredVolume) -> Option<(&str, u64)> {
    let site = volume.status.as_ref()?.active_site.as_ref()?;
    Some((&site.name, site.seq))
}

fn milliseconds(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

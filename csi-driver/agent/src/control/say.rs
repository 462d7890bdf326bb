//! Says how things stand: status files, and the numbers for Prometheus.

use std::collections::BTreeSet;

use twinsite_api::{AttachmentStatus, LegStatus, SitePairStatus, StoragePoolStatus};
use twinsite_mirror::status::Status;
use twinsite_register::Site;

use super::{
    board::{Draft, Label},
    node::{Node, open_status, wall},
    order,
    reconcile::Phase,
    storage::Fault,
    volumes::Ending,
};
use crate::{
    metrics::{LegMetrics, NodeMetrics, PoolMetrics, VolumeMetrics, render},
    status::{
        LegView, PairView, PoolView, StatusFolder, VolumeView, attachment_status, leg_status,
        pair_status, pool_status,
    },
};

impl Node {
    pub(super) fn say(&mut self) {
        self.gather();
        self.write_status();
        self.health.set_metrics(render(&self.metrics()));
    }

    /// Brings the views up to what the objects, the plan and the witness say now.
    fn gather(&mut self) {
        let objects = &self.desired.objects;
        let (node, site) = (self.config.node.as_str(), self.config.site.as_str());
        let wait = |kind: &str, name: &str| {
            let found = self
                .waits
                .iter()
                .find(|wait| wait.kind == kind && wait.name == *name)?;
            Some(Fault {
                word: found.reason,
                text: found.message.clone(),
            })
        };
        let own = |pool: &twinsite_api::StoragePool| {
            pool.spec.site == site
                && pool
                    .spec
                    .node
                    .as_ref()
                    .is_some_and(|backend| backend.name == node)
        };
        self.pools
            .retain(|name, _| objects.pools.get(name).is_some_and(own));
        for (name, pool) in objects.pools.iter().filter(|(_, pool)| own(pool)) {
            let view: &mut PoolView = self.pools.entry(name.clone()).or_default();
            view.generation = pool.metadata.generation;
            let legs = self
                .observed
                .legs
                .values()
                .filter(|leg| leg.served && leg.spec.pool == *name)
                .count();
            view.legs = u32::try_from(legs).unwrap_or(u32::MAX);
        }
        let here = |leg: &twinsite_api::Leg| leg.spec.node == node;
        self.legs
            .retain(|name, _| objects.legs.get(name).is_some_and(here));
        for (name, leg) in objects.legs.iter().filter(|(_, leg)| here(leg)) {
            let view: &mut LegView = self.legs.entry(name.clone()).or_default();
            view.generation = leg.metadata.generation;
            let seen = self.observed.legs.get(name);
            view.served = seen.is_some_and(|seen| seen.served);
            match (wait("Leg", name), seen) {
                (Some(fault), _) => view.fault = Some(fault),
                (None, Some(seen)) if seen.failed_at.is_none() => view.fault = None,
                (None, _) => {}
            }
        }
        let states = self.witnesses.states();
        self.pairs
            .retain(|name, _| objects.pairs.contains_key(name));
        for (name, pair) in &objects.pairs {
            let view: &mut PairView = self.pairs.entry(name.clone()).or_default();
            view.generation = pair.metadata.generation;
            view.site = site.to_owned();
            view.state = states.get(name).cloned();
        }
        let attached = |attachment: &twinsite_api::Attachment| attachment.spec.node == node;
        self.volumes.retain(|name, _| {
            objects.attachments.get(name).is_some_and(attached)
                || self.observed.volumes.contains_key(name)
        });
        for (name, attachment) in objects
            .attachments
            .iter()
            .filter(|(_, attachment)| attached(attachment))
        {
            let volume = self
                .volumes
                .entry(name.clone())
                .or_insert_with(|| super::node::Volume {
                    serial: 0,
                    handle: None,
                    view: VolumeView::default(),
                    reply: None,
                    format: None,
                });
            volume.view.generation = attachment.metadata.generation;
            volume.view.fault = wait("Attachment", name);
            if !self.observed.volumes.contains_key(name) {
                volume.view.wait_for_the_other_site();
            }
        }
        for (name, volume) in &mut self.volumes {
            let seen = self.observed.volumes.get(name);
            // A volume that was closed keeps the end it had: held back by hand, or the agent stops.
            if let Some(seen) = seen {
                volume.view.phase = Some(seen.phase);
                volume.view.register = self.registers.get(&order::group(&seen.spec)).cloned();
            }
        }
    }

    fn write_status(&mut self) {
        let statuses = self.statuses();
        if let Some(board) = &self.config.board {
            board.post(Draft {
                looked: self.looked,
                held: self.held(),
                problems: self.problems.clone(),
                ..statuses.draft()
            });
        }
        if self.status.is_none() {
            match open_status(&self.config.objects) {
                Ok(folder) => self.status = Some(folder),
                Err(error) => {
                    tracing::debug!(%error, "no folder for status files yet");
                    return;
                }
            }
        }
        let Some(folder) = &mut self.status else {
            return;
        };
        statuses.write(folder);
        folder.write_problems(&self.problems);
    }

    fn statuses(&mut self) -> Statuses {
        let now = wall();
        let objects = &self.desired.objects;
        let mut all = Statuses::default();
        for (name, view) in &mut self.pools {
            all.pools
                .push((name.clone(), pool_status(view, now.clone())));
        }
        for (name, view) in &mut self.legs {
            if let Some(leg) = objects.legs.get(name) {
                all.legs
                    .push((name.clone(), leg_status(&leg.spec, view, now.clone())));
            }
        }
        for (name, view) in &mut self.pairs {
            all.pairs
                .push((name.clone(), pair_status(view, now.clone())));
        }
        for (name, volume) in &mut self.volumes {
            // As it is wanted, unless the object is another one by now.
            let seen = self.observed.volumes.get(name);
            let other = seen.filter(|seen| self.desired.uids.get(name) != Some(&seen.uid));
            let wanted = objects.attachments.get(name).map(|object| &object.spec);
            let spec = other.map(|seen| &seen.spec).or(wanted);
            if let Some(spec) = spec {
                let status = attachment_status(spec, &mut volume.view, &now);
                all.attachments.push((name.clone(), status));
            }
        }
        all
    }

    /// What is wanted here, or still has something to be let go of.
    fn held(&self) -> BTreeSet<Label> {
        let (objects, node) = (&self.desired.objects, &self.config.node);
        let legs = objects
            .legs
            .iter()
            .filter(|(_, leg)| leg.spec.node == *node);
        let legs = legs
            .map(|(name, _)| name)
            .chain(self.observed.legs.keys())
            .map(|name| ("Leg", name.clone()));
        let attachments = objects
            .attachments
            .iter()
            .filter(|(_, attachment)| attachment.spec.node == *node);
        let attachments = attachments
            .map(|(name, _)| name)
            .chain(self.observed.volumes.keys())
            .map(|name| ("Attachment", name.clone()));
        legs.chain(attachments).collect()
    }

    fn metrics(&self) -> NodeMetrics {
        let objects = &self.desired.objects;
        let reference = |volume: twinsite_api::VolumeId| {
            let found = objects
                .attachments
                .values()
                .find(|attachment| attachment.spec.volume == volume);
            found.map_or_else(
                || volume.to_string(),
                |attachment| attachment.spec.display_name(),
            )
        };
        let pools = self.pools.iter().map(|(name, view)| PoolMetrics {
            name: name.clone(),
            open: view.fault.is_none() && self.observed.pools.contains_key(name),
            capacity: view
                .space
                .as_ref()
                .map(|(capacity, _)| (capacity.total, capacity.free)),
        });
        let legs = self.legs.iter().filter_map(|(name, view)| {
            let spec = &objects.legs.get(name)?.spec;
            let stats = view.sample.as_ref().map(|sample| &sample.stats);
            let unit = stats
                .and_then(|stats| stats.luns.iter().find(|unit| unit.number == spec.lun))
                .cloned()
                .unwrap_or_default();
            Some(LegMetrics {
                name: name.clone(),
                volume: reference(spec.volume),
                leg: super::apply::leg_name(order::leg(spec.leg)),
                served: view.served,
                sessions: stats.map_or(0, |stats| stats.sessions.len()),
                commands: unit.commands,
                read_bytes: unit.read_bytes,
                written_bytes: unit.written_bytes,
                store_errors: unit.store_errors,
                store_seconds: unit.store_time.as_secs_f64(),
                store_operations: unit.store_operations,
                last_foreign_seconds: view
                    .sample
                    .as_ref()
                    .and_then(|sample| sample.last_foreign)
                    .map(|age| age.as_secs_f64()),
            })
        });
        let volumes = self.volumes.iter().filter_map(|(name, volume)| {
            let seen = self.observed.volumes.get(name)?;
            let register = volume.view.register.as_ref().map(|(register, _)| register);
            let own = seen.spec.own_index().map(|index| order::leg(index).site());
            let active: Option<Site> = register.map(|register| register.active.site);
            Some(VolumeMetrics {
                name: name.clone(),
                volume: seen.spec.display_name(),
                attached: seen.phase == Phase::Open,
                superseded: volume.view.ending == Some(Ending::Superseded),
                engine: volume
                    .view
                    .engine
                    .clone()
                    .unwrap_or_else(|| Box::new(Status::off())),
                verify: volume.view.verify.clone(),
                active_here: active.is_some() && active == own,
                latched: register.is_some_and(|register| register.active.latched),
                unconfirmed: register.is_some_and(|register| !register.unconfirmed.is_empty()),
            })
        });
        NodeMetrics {
            node: self.config.node.clone(),
            site: self.config.site.clone(),
            problems: self.problems.len(),
            witnesses: self
                .pairs
                .iter()
                .filter_map(|(name, view)| {
                    Some((name.clone(), view.state.as_ref()?.reachable == Some(true)))
                })
                .collect(),
            pools: pools.collect(),
            legs: legs.collect(),
            volumes: volumes.collect(),
        }
    }
}

/// Everything that a turn says about objects.
#[derive(Default)]
struct Statuses {
    pools: Vec<(String, StoragePoolStatus)>,
    legs: Vec<(String, LegStatus)>,
    pairs: Vec<(String, SitePairStatus)>,
    attachments: Vec<(String, AttachmentStatus)>,
}

impl Statuses {
    /// What goes to the board: a pair's status is the operator's business.
    fn draft(&self) -> Draft {
        let mut draft = Draft::default();
        for (name, status) in &self.pools {
            draft.add("StoragePool", name, status);
        }
        for (name, status) in &self.legs {
            draft.add("Leg", name, status);
        }
        for (name, status) in &self.attachments {
            draft.add("Attachment", name, status);
        }
        draft
    }

    fn write(&self, folder: &mut StatusFolder) {
        let mut kept = BTreeSet::new();
        for (name, status) in &self.pools {
            folder.write("StoragePool", name, status);
            kept.insert(("StoragePool", name.clone()));
        }
        for (name, status) in &self.legs {
            folder.write("Leg", name, status);
            kept.insert(("Leg", name.clone()));
        }
        for (name, status) in &self.pairs {
            folder.write("SitePair", name, status);
            kept.insert(("SitePair", name.clone()));
        }
        for (name, status) in &self.attachments {
            folder.write("Attachment", name, status);
            kept.insert(("Attachment", name.clone()));
        }
        folder.keep(&kept);
    }
}

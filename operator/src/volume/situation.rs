//! What follows at once from what is desired and seen: who we are, what the register says, what the twin wants.
//!
//! Everything that would make every later question meaningless is refused here, in words that say what to do.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use twinsite_api::{
    Attachment, AttachmentMode, AttachmentState, Leg, LegIndex, LegState, MirroredVolumeSpec,
    MirroredVolumeStatus, SitePair, SiteState, VolumeId, VolumeLeg, attachment_uid, condition_type,
    group_uid, reason,
};
use twinsite_register::{self as register, Class, Register, Site, classify};

use super::{Desired, NodeView, Observed, Reading, Why};

/// How much longer a node must be silent when the witness cannot say whether its writer is alive.
const BLIND_FACTOR: u32 = 3;

/// One volume, seen from one cluster.
pub(crate) struct Situation<'a> {
    pub(crate) desired: &'a Desired,
    pub(crate) seen: &'a Observed,
    pub(crate) now: Timestamp,
    pub(crate) id: VolumeId,
    /// Index of this site, which is that of its leg.
    pub(crate) own: LegIndex,
    pub(crate) pair: &'a SitePair,
    pub(crate) site: &'a str,
    pub(crate) other_site: &'a str,
    /// Class of the register; `None`: the witness does not answer, nothing is decided.
    pub(crate) class: Option<Class>,
}

/// Who has what index: leg and site of it.
pub(crate) const fn leg_of(index: LegIndex) -> register::Leg {
    match index {
        LegIndex::A => register::Leg::A,
        LegIndex::B => register::Leg::B,
    }
}

pub(crate) const fn site_of(index: LegIndex) -> Site {
    leg_of(index).site()
}

pub(crate) fn index_of(leg: register::Leg) -> LegIndex {
    match leg {
        register::Leg::A => LegIndex::A,
        register::Leg::B => LegIndex::B,
    }
}

impl<'a> Situation<'a> {
    /// What has to be right before anything is done; otherwise the spec is stalled with this.
    pub(crate) fn of(
        desired: &'a Desired,
        seen: &'a Observed,
        now: Timestamp,
    ) -> Result<Self, Why> {
        let invalid = |text: String| Why::new(reason::INVALID_SPEC, text);
        let spec = &desired.volume.spec;
        let pair = desired.pair.as_deref().ok_or_else(|| {
            invalid(format!(
                "SitePair {} is not there: apply it, or correct spec.sitePair",
                spec.site_pair
            ))
        })?;
        let known = |site: &str| pair.spec.sites.iter().any(|known| known.name == site);
        if !known(&desired.site) {
            return Err(invalid(format!(
                "this cluster is site {}, which SitePair {} does not name: correct the chart value `site`, or spec.sitePair",
                desired.site, spec.site_pair
            )));
        }
        let other_site = desired.other_site().ok_or_else(|| {
            invalid(format!(
                "SitePair {} names one site only: it needs two",
                spec.site_pair
            ))
        })?;
        let own = desired
            .index
            .ok_or_else(|| unclaimed(desired, pair, seen))?;
        if let (Some(group), false) = (&spec.group, desired.is_grouped()) {
            return Err(invalid(format!(
                "MirrorGroup {group} is not there, or does not name the volume: no volume of a group is dealt with alone"
            )));
        }
        if let Some(stranger) = spec.legs.iter().find(|leg| !known(&leg.site)) {
            return Err(invalid(format!(
                "spec.legs: {} is no site of SitePair {}",
                stranger.site, spec.site_pair
            )));
        }
        if !spec.active_site.as_deref().is_some_and(known) {
            let text = format!(
                "spec.activeSite must name a site of SitePair {}",
                spec.site_pair
            );
            return Err(invalid(text));
        }
        if let Some(register) = seen.witness.current()
            && desired.is_grouped()
            && !is_of(register, &desired.together())
        {
            return Err(Why::new(
                super::group::OTHER_VOLUMES,
                other_volumes(register),
            ));
        }
        let class = match (&seen.witness.register, seen.witness.reach.answers()) {
            (Reading::Found(register), true) => Some(classify(Some(register), &seen.marks, &[])),
            (Reading::Absent, true) => Some(classify(None, &seen.marks, &[])),
            _ => None,
        };
        Ok(Self {
            desired,
            seen,
            now,
            id: desired.id(),
            own,
            pair,
            site: &desired.site,
            other_site,
            class,
        })
    }

    pub(crate) fn spec(&self) -> &'a MirroredVolumeSpec {
        &self.desired.volume.spec
    }

    /// The status of the last round.
    pub(crate) fn last(&self) -> Option<&'a MirroredVolumeStatus> {
        self.desired.volume.status.as_ref()
    }

    /// Validated to be there.
    pub(crate) fn active_site_wanted(&self) -> &'a str {
        self.spec().active_site.as_deref().unwrap_or(self.site)
    }

    /// The register, if it was read, is believed and in use.
    pub(crate) fn live(&self) -> Option<&'a Register> {
        matches!(self.class, Some(Class::Live))
            .then(|| self.seen.witness.current())
            .flatten()
    }

    /// The register of a deleted volume.
    pub(crate) fn tombstone(&self) -> Option<&'a Register> {
        matches!(self.class, Some(Class::Tombstone))
            .then(|| self.seen.witness.current())
            .flatten()
    }

    pub(crate) fn own_leg(&self) -> register::Leg {
        leg_of(self.own)
    }

    pub(crate) fn is_active(&self, register: &Register) -> bool {
        register.active.site == site_of(self.own)
    }

    pub(crate) fn site_name(&self, site: Site) -> &'a str {
        if site == site_of(self.own) {
            self.site
        } else {
            self.other_site
        }
    }

    pub(crate) fn leg_spec(&self, site: &str) -> Option<&'a VolumeLeg> {
        self.spec().legs.iter().find(|leg| leg.site == site)
    }

    pub(crate) fn is_drained(&self, site: &str) -> bool {
        drained(self.pair, site)
    }

    /// The peer's spec, while the peer answers and keeps the volume.
    pub(crate) fn twin(&self) -> Option<&'a MirroredVolumeSpec> {
        let peer = &self.seen.peer;
        let volume = peer.volume.as_deref().filter(|_| peer.reach.answers())?;
        volume
            .metadata
            .deletion_timestamp
            .is_none()
            .then_some(&volume.spec)
    }

    pub(crate) fn attachment(&self, mode: AttachmentMode) -> Option<&'a Attachment> {
        let attachments = self.seen.attachments.iter();
        attachments
            .map(AsRef::as_ref)
            .find(|attachment| attachment.spec.mode == mode && attachment.spec.volume == self.id)
    }

    /// The Attachments of this cluster that are one order with the one of this volume: one for each volume that shares its register.
    pub(crate) fn of_mode(&self, mode: AttachmentMode) -> impl Iterator<Item = &'a Attachment> {
        let all = self.seen.attachments.iter().map(AsRef::as_ref);
        all.filter(move |attachment: &&Attachment| attachment.spec.mode == mode)
    }

    /// This cluster's Legs of all volumes that share the register, in the order of the volumes; `None`: it is not there.
    pub(crate) fn legs_together(&self) -> Vec<Option<&'a Leg>> {
        let leg_of = |volume: VolumeId| {
            let legs = self.seen.legs.iter().map(AsRef::as_ref);
            legs.into_iter()
                .find(|leg: &&Leg| leg.spec.volume == volume && leg.spec.leg == self.own)
        };
        self.desired.together().into_iter().map(leg_of).collect()
    }

    /// This cluster's Leg of the volume.
    pub(crate) fn leg_object(&self) -> Option<&'a Leg> {
        let legs = self.seen.legs.iter().map(AsRef::as_ref);
        legs.into_iter()
            .find(|leg: &&Leg| leg.spec.volume == self.id && leg.spec.leg == self.own)
    }

    /// The own copy can be reached: our target serves it, or it is a LUN of an array. Of a group: all copies of this site.
    pub(crate) fn own_is_served(&self) -> bool {
        if self.desired.group.is_some() {
            return self.legs_together().into_iter().all(|leg| {
                leg.and_then(|leg| leg.status.as_ref())
                    .is_some_and(|status| status.state == LegState::Serving)
            });
        }
        match self.leg_object() {
            Some(leg) => leg
                .status
                .as_ref()
                .is_some_and(|status| status.state == LegState::Serving),
            None => self
                .known_target(self.site)
                .is_some_and(|target| target.array),
        }
    }

    pub(crate) fn known_target(&self, site: &str) -> Option<&'a twinsite_api::LegTarget> {
        let legs = &self.last()?.legs;
        legs.iter().find(|leg| leg.site == site)?.target.as_ref()
    }

    /// The node has given no sign of life for so long that its volumes are fenced and its pods let go.
    ///
    /// If the volume's holder is on that node, a moving beat speaks against it in every case; if the witness cannot be
    /// asked for the beat, the node must have been silent for longer.
    pub(crate) fn is_lost(&self, name: &str) -> bool {
        let Some(node) = self.seen.node(name) else {
            return false;
        };
        let limit = self.pair.spec.node_loss.detect_after.length();
        let silent = |at_least: Duration| {
            node.gone || node.silent_for.is_some_and(|silent| silent >= at_least)
        };
        if self.live().is_some() && !self.may_hold(name) {
            return silent(limit);
        }
        match self.seen.evidence.beat_still_for {
            Some(still) => silent(limit) && still >= crate::policy::BEATS_STILL,
            None => silent(limit * BLIND_FACTOR),
        }
    }

    /// An Attachment of this node is the last one that attached, and has not let go.
    fn may_hold(&self, node: &str) -> bool {
        let on_node = |attachment: &&Arc<Attachment>| attachment.spec.node == node;
        self.seen
            .attachments
            .iter()
            .filter(on_node)
            .any(|attachment| !self.is_fenced(attachment))
    }

    /// Whether this Attachment can write to no leg any more: another one has attached since, or nobody holds the volume.
    pub(crate) fn is_fenced(&self, attachment: &Attachment) -> bool {
        self.live().is_some_and(|register| {
            register.holder.is_none() || self.is_another(register, attachment)
        })
    }

    /// The last order that the register took is not that of this Attachment.
    ///
    /// The order of a group is made by all its Attachments together. If some of them are gone or were made anew, whose order it was is
    /// told by its number, or by its being that of another set of Attachments.
    pub(crate) fn is_another(&self, register: &Register, attachment: &Attachment) -> bool {
        if !self.desired.is_grouped() {
            let uid = attachment.metadata.uid.as_deref().unwrap_or_default();
            return register.order.uid.0 != attachment_uid(uid);
        }
        let number_of = |one: &Attachment| one.status.as_ref().and_then(|status| status.order);
        let mut together = self.of_mode(attachment.spec.mode);
        if together.any(|one| number_of(one) == Some(register.order.n)) {
            return false;
        }
        if let Some(uid) = self.order_uid(attachment.spec.mode) {
            return register.order.uid.0 != uid;
        }
        let number = number_of(attachment);
        let is_known = [AttachmentMode::Writer, AttachmentMode::Caretaker]
            .into_iter()
            .filter(|mode| *mode != attachment.spec.mode)
            .any(|mode| self.order_uid(mode) == Some(register.order.uid.0));
        is_known || number.is_some_and(|number| register.order.n > number)
    }

    /// The uid by which the register knows the order of the group's Attachments of a mode, if all are there.
    fn order_uid(&self, mode: AttachmentMode) -> Option<[u8; 16]> {
        let uids = self.desired.together().into_iter().map(|volume| {
            let mut of_mode = self.of_mode(mode);
            let there = of_mode.find(|attachment| attachment.spec.volume == volume)?;
            Some(attachment_uid(there.metadata.uid.as_deref()?))
        });
        let uids: Option<Vec<[u8; 16]>> = uids.collect();
        Some(group_uid(&uids?))
    }

    /// Pods that will run: not on a lost node, not going.
    pub(crate) fn has_pods(&self) -> bool {
        let comes = |pod: &super::PodView| {
            !pod.deleting && !pod.node.as_deref().is_some_and(|node| self.is_lost(node))
        };
        self.seen.pods.iter().any(comes)
    }

    /// A Writer that is attached, or may be, on a node that lives.
    pub(crate) fn has_writer(&self) -> bool {
        self.of_mode(AttachmentMode::Writer)
            .any(|writer| !self.is_lost(&writer.spec.node))
    }

    /// A node of this site whose agent can carry out an order: that of the own pool first, else the first by name.
    ///
    /// Kubernetes calls a node Ready for a while after it is lost; an order for it would be taken back at once.
    pub(crate) fn working_node(&self, except: Option<&str>) -> Option<&'a str> {
        let fit = |node: &&NodeView| {
            let name = node.name.as_str();
            node.ready && !node.gone && Some(name) != except && !self.is_lost(name)
        };
        let legs = self.legs_together();
        let pool_node = legs.iter().flatten().next();
        let pool_node = pool_node.map(|leg| leg.spec.node.as_str());
        let nodes = || {
            self.seen
                .nodes
                .iter()
                .filter(fit)
                .map(|node| node.name.as_str())
        };
        nodes()
            .find(|name| Some(*name) == pool_node)
            .or_else(|| nodes().min())
    }

    /// Whether the peer's cluster shows that nothing of the volume is attached there, or will be; `None`: it does not answer.
    pub(crate) fn peer_is_detached(&self) -> Option<bool> {
        let peer = &self.seen.peer;
        peer.reach.answers().then(|| {
            let holds = |attachment: &Attachment| {
                let is_released =
                    attachment.spec.release && state(attachment) == AttachmentState::Detached;
                !attachment.spec.mode.is_one_shot() && !is_released
            };
            !peer.attachments.iter().any(|attachment| holds(attachment))
        })
    }
}

/// The register is of these volumes and no others.
fn is_of(register: &Register, volumes: &[VolumeId]) -> bool {
    let mut theirs: Vec<[u8; 16]> = register.volumes.iter().map(|id| id.0).collect();
    theirs.sort_unstable();
    theirs == volumes.iter().map(VolumeId::bytes).collect::<Vec<_>>()
}

fn other_volumes(register: &Register) -> String {
    let ids: Vec<String> = (register.volumes.iter())
        .map(|id| VolumeId::from_bytes(id.0).to_string())
        .collect();
    format!(
        "the register is of the volumes {}: the list of a group is fixed when it is born; name these and no others",
        ids.join(", ")
    )
}

/// The site's name is not ours, or the witness has not said yet whether it is.
fn unclaimed(desired: &Desired, pair: &SitePair, seen: &Observed) -> Why {
    let site = &desired.site;
    let conditions = pair.status.iter().flat_map(|status| &status.conditions);
    let mut claimed =
        conditions.filter(|condition| condition.type_ == condition_type::SITE_CLAIMED);
    let is_refused = claimed.any(|condition| condition.status == "False");
    if seen.witness.reach.answers() || is_refused {
        let text = format!(
            "this cluster has not claimed site {site} at the witness: see SitePair {}",
            desired.volume.spec.site_pair
        );
        return Why::new(reason::CLAIMED_BY_ANOTHER, text);
    }
    let text = format!(
        "the witness has not said yet that this cluster is site {site}: what is attached goes on"
    );
    Why::new(reason::WITNESS_NEEDED, text)
}

pub(crate) fn drained(pair: &SitePair, site: &str) -> bool {
    pair.spec
        .sites
        .iter()
        .any(|known| known.name == site && known.state == SiteState::Drained)
}

/// State of an Attachment.
pub(crate) fn state(attachment: &Attachment) -> AttachmentState {
    attachment
        .status
        .as_ref()
        .map(|status| status.state)
        .unwrap_or_default()
}

/// Whether an Attachment holds the mirror open.
pub(crate) fn is_open(attachment: &Attachment) -> bool {
    matches!(
        state(attachment),
        AttachmentState::Attached | AttachmentState::Suspended
    )
}

pub(crate) fn uid(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    meta.uid.clone().unwrap_or_default()
}

pub(crate) fn name(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

//! What an order to an agent says: the one place where a MirroredVolume becomes an Attachment.
//!
//! The CSI controller orders a Writer, the operator everything else; both know no more than the volume's own object
//! says, so that the peer, the witness and the agents may be away while an order is written. Whether it is carried out,
//! the register decides.
//!
//! ```text
//! spec    capacity, volumeMode, fsType, onNoQuorum, which sites have a copy
//! status  volumeId, group, move, leaving, and per copy: index, portals, target     (the operator fills them)
//! pair    which site is drained
//! ```
//!
//! Invariants: pure. The same volume gives the same order at every call; names are fixed by volume and mode, so that
//! making one is create-if-absent. A copy that the spec no longer names, or that stands at a drained site, is ordered out
//! of the membership and never left out of the order while the status still knows it.
//! Not here: when something is ordered, on which node (operator, CSI controller); what an agent does with it.

use std::fmt;

use kube::ResourceExt as _;

use crate::{
    Attachment, AttachmentLeg, AttachmentMode, AttachmentSpec, BirthOrder, FrontEnd, LegIndex,
    MirroredVolume, MoveMode, MoveOrder, SitePair, SiteState, VERIFY_ANNOTATION,
    VERIFY_REQUEST_MAX, VolumeId, VolumeLegStatus,
};

/// On Attachments and Legs, put there by who makes them; the node's agent removes it once it has detached, or stopped
/// serving. The operator does so for a lost node: after the fence, or at once where the volume is being deleted in this cluster, since no agent
/// of it attaches and fences any more; whoever opens the volume elsewhere fences first.
pub const AGENT_FINALIZER: &str = "twinsite.io/agent";
/// On MirroredVolumes, of the operator.
pub const VOLUME_FINALIZER: &str = "twinsite.io/volume";

/// What is missing before an order can be written. Each goes away by an edit or by the operator's work; the message
/// says which.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    #[error(
        "the volume has no status.volumeId yet: the operator of this cluster has not taken it up"
    )]
    VolumeId,
    #[error("the volume belongs to SitePair {named:?}, not to {given:?}")]
    OtherPair { named: String, given: String },
    #[error(
        "SitePair {pair:?} has no site {site:?}: correct the chart value `site` of this cluster, or the SitePair"
    )]
    UnknownSite { pair: String, site: String },
    #[error(
        "the volume is in MirrorGroup {0:?}, and its operator has not said yet with which volumes it is opened (status.group)"
    )]
    Grouped(String),
    #[error("the leg at {site:?} {lacks} yet (status.legs)")]
    Leg { site: String, lacks: Lacks },
    #[error(
        "sites {0:?} and {1:?} have the same index in status.legs: both clusters are configured as one site"
    )]
    SameIndex(String, String),
    #[error("a birth needs spec.activeSite")]
    ActiveSite,
}

/// What is not known of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    Entry,
    Index,
    Portals,
    Target,
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entry => "is not known",
            Self::Index => "has no index: its site has not claimed its name",
            Self::Portals => "has no portals: it is not served",
            Self::Target => "has no target: it is not served",
        })
    }
}

/// Name of the Attachment of a mode: one per volume, mode and cluster.
#[must_use]
pub fn attachment_name(volume: VolumeId, mode: AttachmentMode) -> String {
    let word = match mode {
        AttachmentMode::Writer => "writer",
        AttachmentMode::Caretaker => "caretaker",
        AttachmentMode::Birth => "birth",
        AttachmentMode::Wipe => "wipe",
        AttachmentMode::Inspect => "inspect",
        AttachmentMode::Reseed => "reseed",
        AttachmentMode::Force => "force",
    };
    format!("{volume}-{word}")
}

/// Name of the Leg of a copy.
#[must_use]
pub fn leg_name(volume: VolumeId, leg: LegIndex) -> String {
    format!("{volume}-{}", leg.letter())
}

/// The order that makes the agent of `node` at `site` do `mode` with the volume.
///
/// A Reseed or Force comes without its details: the caller adds what a person accepted.
///
/// # Errors
/// Something is not known yet, see [`NotYet`].
pub fn attachment(
    volume: &MirroredVolume,
    pair: &SitePair,
    site: &str,
    node: &str,
    mode: AttachmentMode,
) -> Result<AttachmentSpec, NotYet> {
    let spec = &volume.spec;
    let status = volume.status.as_ref();
    let id = status
        .and_then(|status| status.volume_id)
        .ok_or(NotYet::VolumeId)?;
    if spec.site_pair != pair.name_any() {
        return Err(NotYet::OtherPair {
            named: spec.site_pair.clone(),
            given: pair.name_any(),
        });
    }
    if !pair.spec.sites.iter().any(|known| known.name == site) {
        return Err(NotYet::UnknownSite {
            pair: pair.name_any(),
            site: site.to_owned(),
        });
    }
    let group = match &spec.group {
        None => None,
        Some(name) => Some(
            status
                .and_then(|status| status.group.as_ref())
                .ok_or_else(|| NotYet::Grouped(name.clone()))?,
        ),
    };
    let known = status.map_or(&[][..], |status| &status.legs);
    let legs = legs(volume, known, mode)?;
    let opens = matches!(mode, AttachmentMode::Writer | AttachmentMode::Caretaker);
    let leaving = status.and_then(|status| status.leaving.as_ref());
    let birth = match mode {
        AttachmentMode::Birth => Some(BirthOrder {
            active_site: spec.active_site.clone().ok_or(NotYet::ActiveSite)?,
            create_register: true,
        }),
        _ => None,
    };
    Ok(AttachmentSpec {
        volume: id,
        reference: Some(reference(volume)),
        group: group.map(|group| group.id),
        group_volumes: group.map_or_else(Vec::new, |group| group.volumes.clone()),
        site_pair: spec.site_pair.clone(),
        node: node.to_owned(),
        site: site.to_owned(),
        mode,
        drop_legs: if opens {
            dropped(volume, pair, site, &legs)
        } else {
            Vec::new()
        },
        legs,
        size: spec.capacity.clone(),
        block_size: 4096,
        volume_mode: spec.volume_mode,
        fs_type: spec.fs_type.clone(),
        on_no_quorum: group.map_or_else(
            || spec.on_no_quorum.unwrap_or_default(),
            |group| group.on_no_quorum,
        ),
        move_: opens.then(|| move_order(volume)).flatten(),
        release: mode == AttachmentMode::Writer && leaving.is_some_and(|leaving| leaving.down),
        front_end: FrontEnd::Auto,
        verify: opens.then(|| verify(volume)).flatten(),
        max_resync_bytes_per_second: None,
        command_timeout: None,
        lease: None,
        birth,
        reseed: None,
        force: None,
    })
}

/// [`attachment`] as the object to create, with its name and the agent's finalizer.
///
/// # Errors
/// As [`attachment`].
pub fn object(
    volume: &MirroredVolume,
    pair: &SitePair,
    site: &str,
    node: &str,
    mode: AttachmentMode,
) -> Result<Attachment, NotYet> {
    let spec = attachment(volume, pair, site, node, mode)?;
    let mut object = Attachment::new(&attachment_name(spec.volume, mode), spec);
    object.metadata.finalizers = Some(vec![AGENT_FINALIZER.to_owned()]);
    Ok(object)
}

fn reference(volume: &MirroredVolume) -> String {
    format!(
        "{}/{}",
        volume.namespace().unwrap_or_default(),
        volume.name_any()
    )
}

/// What asks for a comparison of the copies; a value too long to be one counts as none. One that has ended is not asked
/// for again: the next node to open the volume knows nothing of it.
fn verify(volume: &MirroredVolume) -> Option<String> {
    let asked = volume.annotations().get(VERIFY_ANNOTATION)?;
    let last = volume
        .status
        .as_ref()
        .and_then(|status| status.verify.as_ref());
    let over = last.is_some_and(|last| last.request == *asked && !last.is_open());
    let fits = (1..=VERIFY_REQUEST_MAX).contains(&asked.len());
    (fits && !over).then(|| asked.clone())
}

fn move_order(volume: &MirroredVolume) -> Option<MoveOrder> {
    let record = volume.status.as_ref()?.move_.as_ref()?;
    Some(MoveOrder {
        mode: record.mode,
        expect_seq: record.expect_seq,
        by_person: record.by_person,
    })
}

/// The copies in the order of their index.
///
/// Which ones must be known: all that the spec names, since a mirror that is opened without one of its members leaves it
/// behind. A failover is the exception, for it is about a site that is away, and so are the orders about single legs.
fn legs(
    volume: &MirroredVolume,
    known: &[VolumeLegStatus],
    mode: AttachmentMode,
) -> Result<Vec<AttachmentLeg>, NotYet> {
    let failover = move_order(volume).is_some_and(|order| order.mode == MoveMode::Failover);
    let all_needed = match mode {
        AttachmentMode::Birth => true,
        AttachmentMode::Writer | AttachmentMode::Caretaker => !failover,
        AttachmentMode::Wipe
        | AttachmentMode::Inspect
        | AttachmentMode::Reseed
        | AttachmentMode::Force => false,
    };
    let wanted = volume.spec.legs.iter().map(|leg| leg.site.as_str());
    let mut sites: Vec<&str> = wanted.collect();
    let leaving = known.iter().map(|leg| leg.site.as_str());
    let leaving: Vec<&str> = leaving.filter(|site| !sites.contains(site)).collect();
    let needed = sites.len();
    sites.extend(leaving);
    let mut legs = Vec::new();
    let mut missing = None;
    for (place, site) in sites.into_iter().enumerate() {
        let entry = known.iter().find(|leg| leg.site == site);
        match leg(site, entry) {
            Ok(leg) => legs.push(leg),
            Err(lacks) if all_needed && place < needed => return Err(lacks),
            Err(lacks) => missing = missing.or(Some(lacks)),
        }
    }
    legs.sort_by_key(|leg| leg.leg);
    match (legs.as_slice(), missing) {
        ([], Some(lacks)) => Err(lacks),
        ([one, other], _) if one.leg == other.leg => {
            Err(NotYet::SameIndex(one.site.clone(), other.site.clone()))
        }
        _ => Ok(legs),
    }
}

fn leg(site: &str, entry: Option<&VolumeLegStatus>) -> Result<AttachmentLeg, NotYet> {
    let lacks = |lacks| NotYet::Leg {
        site: site.to_owned(),
        lacks,
    };
    let entry = entry.ok_or_else(|| lacks(Lacks::Entry))?;
    let leg = entry.leg.ok_or_else(|| lacks(Lacks::Index))?;
    if entry.portals.is_empty() {
        return Err(lacks(Lacks::Portals));
    }
    let target = entry.target.clone().ok_or_else(|| lacks(Lacks::Target))?;
    Ok(AttachmentLeg {
        leg,
        site: site.to_owned(),
        portals: entry.portals.clone(),
        iqn: Some(target.iqn),
        lun: target.lun,
        naa: Some(target.naa),
        chap: target.chap,
        array: target.array,
        cache_protected: target.cache_protected,
        initialize: target.initialize,
    })
}

/// The copy that must leave: at a drained site, or no longer in the spec. Never that of the own site and never the only
/// one.
fn dropped(
    volume: &MirroredVolume,
    pair: &SitePair,
    site: &str,
    legs: &[AttachmentLeg],
) -> Vec<LegIndex> {
    if legs.len() < 2 {
        return Vec::new();
    }
    let named = |leg: &AttachmentLeg| volume.spec.legs.iter().any(|named| named.site == leg.site);
    let drained = |leg: &AttachmentLeg| {
        let state = pair.spec.sites.iter().find(|known| known.name == leg.site);
        leg.site != site && state.is_some_and(|known| known.state == SiteState::Drained)
    };
    let leaving = legs.iter().find(|leg| !named(leg));
    leaving
        .or_else(|| legs.iter().find(|leg| drained(leg)))
        .map(|leg| leg.leg)
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests;

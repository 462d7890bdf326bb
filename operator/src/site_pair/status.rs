//! What is said of a SitePair. Pure.
//!
//! Not here: who opens its parties ([`super::links`]).

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use twinsite_api::{
    LegIndex, SiteClaim, SitePair, SitePairStatus, condition, condition_type, reason, set_condition,
};
use twinsite_register::Site;
use twinsite_witness::Sites;

use crate::{peer, shell::events::Tone, witness::Claim};

/// What was seen of a pair.
#[derive(Clone, Debug)]
pub struct Seen {
    pub site: String,
    pub witness: WitnessSeen,
    pub peer: PeerSeen,
}

/// What was seen of the witness.
#[derive(Clone, Debug)]
pub enum WitnessSeen {
    /// It cannot be opened: why.
    Closed(String),
    Open {
        place: String,
        /// It must never be used: why.
        refused: Option<String>,
        answered: Option<Timestamp>,
        /// For how long it has been silent, and why.
        silent: Option<(Duration, String)>,
        claim: Claim,
        sites: Option<Sites>,
    },
}

/// What was seen of the peer.
#[derive(Clone, Debug)]
pub enum PeerSeen {
    /// None is named.
    None,
    Closed(String),
    Open(peer::Link),
}

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub tone: Tone,
    pub reason: String,
    pub note: String,
}

/// Reason of conditions about a party that does not answer.
const SILENT: &str = "Silent";
/// Reason of conditions about a party that cannot be opened.
const NOT_USABLE: &str = "NotUsable";
const NOT_CONFIGURED: &str = "NotConfigured";
/// Ages in words, so that a status is not written anew each second.
const AGES: [(u64, &str); 6] = [
    (24 * 3600, "more than a day"),
    (3 * 3600, "more than 3 hours"),
    (3600, "more than an hour"),
    (600, "more than 10 minutes"),
    (60, "more than a minute"),
    (10, "more than 10 seconds"),
];

/// The status, and what of it is news.
pub fn status(pair: &SitePair, seen: &Seen, now: Timestamp) -> (SitePairStatus, Vec<News>) {
    let before = pair.status.clone().unwrap_or_default();
    let generation = pair.metadata.generation;
    let mut next = SitePairStatus {
        observed_generation: generation,
        site: Some(seen.site.clone()),
        claims: claims(seen).unwrap_or_else(|| before.claims.clone()),
        peer_seen_at: peer_seen(&before, seen),
        conditions: before.conditions.clone(),
    };
    let ours = pair.spec.sites.iter().any(|site| site.name == seen.site);
    let conditions = [
        claimed(seen, ours, pair),
        witness_reachable(seen),
        peer_reachable(seen),
    ];
    let ready = ready(&conditions);
    let mut news = Vec::new();
    for said in conditions.into_iter().chain([ready]) {
        let old = before.conditions.iter().find(|old| old.type_ == said.type_);
        let word = |status: Option<bool>| match status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let status = word(said.status);
        let changed = old.is_none_or(|old| old.status != status || old.reason != said.reason);
        // The first word is no news if it is a good one or none.
        if changed
            && (old.is_some() || said.status == Some(false))
            && said.type_ != condition_type::READY
        {
            news.push(News {
                tone: if said.status == Some(true) {
                    Tone::Normal
                } else {
                    Tone::Warning
                },
                reason: if said.status == Some(true) {
                    said.type_.to_owned()
                } else {
                    said.reason.to_owned()
                },
                note: format!("{} is {status}: {}", said.type_, said.message),
            });
        }
        set_condition(
            &mut next.conditions,
            condition(
                said.type_,
                said.status,
                said.reason,
                said.message,
                generation,
                Time(now),
            ),
        );
    }
    (next, news)
}

struct Said {
    type_: &'static str,
    status: Option<bool>,
    reason: &'static str,
    message: String,
}

fn claims(seen: &Seen) -> Option<Vec<SiteClaim>> {
    let WitnessSeen::Open { sites, .. } = &seen.witness else {
        return None;
    };
    let claims = &sites.as_ref()?.claims;
    let claim = |claim: &twinsite_witness::Claim| SiteClaim {
        name: claim.name.clone(),
        index: index(claim.index),
        claimant: claim.claimant.clone(),
    };
    Some(claims.iter().map(claim).collect())
}

/// The index of a site as the objects write it.
pub const fn index(site: Site) -> LegIndex {
    match site {
        Site::A => LegIndex::A,
        Site::B => LegIndex::B,
    }
}

/// While the peer answers, its last answer is written once a minute: a status that changes each second helps nobody.
fn peer_seen(before: &SitePairStatus, seen: &Seen) -> Option<Time> {
    const STEP: i64 = 60;
    let old = before.peer_seen_at.clone();
    let PeerSeen::Open(link) = &seen.peer else {
        return old;
    };
    let Some(last) = link.last else {
        return old;
    };
    match old {
        Some(old) if link.answers && last.as_second() - old.0.as_second() < STEP => Some(old),
        _ => Some(Time(last)),
    }
}

fn claimed(seen: &Seen, ours: bool, pair: &SitePair) -> Said {
    let said = |status, reason, message| Said {
        type_: condition_type::SITE_CLAIMED,
        status,
        reason,
        message,
    };
    if !ours {
        let names: Vec<&str> = pair
            .spec
            .sites
            .iter()
            .map(|site| site.name.as_str())
            .collect();
        return said(
            Some(false),
            reason::INVALID_SPEC,
            format!(
                "this cluster is site {}, and the pair is {}: correct the chart value `site`, or the SitePair",
                seen.site,
                names.join(" and ")
            ),
        );
    }
    match &seen.witness {
        WitnessSeen::Closed(why) => said(
            None,
            NOT_USABLE,
            format!("the witness cannot be asked: {why}"),
        ),
        WitnessSeen::Open { claim, .. } => match claim {
            Claim::Ours(site) => said(
                Some(true),
                reason::AS_DESIRED,
                format!("site {} is index {site}", seen.site),
            ),
            Claim::Refused(why) => said(
                Some(false),
                reason::CLAIMED_BY_ANOTHER,
                refused(seen, pair, why),
            ),
            Claim::Unknown => said(
                None,
                reason::PENDING,
                "the witness has not been asked yet".to_owned(),
            ),
        },
    }
}

/// Why the name is not ours, and what a person can say if its owner is gone for good.
fn refused(seen: &Seen, pair: &SitePair, why: &str) -> String {
    let owner = claims(seen).and_then(|claims| {
        let claim = claims.into_iter().find(|claim| claim.name == seen.site)?;
        Some(claim.claimant)
    });
    match owner {
        Some(owner) => format!(
            "{why}. If that cluster is gone for good and this one replaces it: kubectl annotate sitepair {} {}={owner}",
            pair.metadata.name.as_deref().unwrap_or(""),
            super::REPLACES_ANNOTATION,
        ),
        None => why.to_owned(),
    }
}

fn witness_reachable(seen: &Seen) -> Said {
    let said = |status, reason, message| Said {
        type_: condition_type::WITNESS_REACHABLE,
        status,
        reason,
        message,
    };
    match &seen.witness {
        WitnessSeen::Closed(why) => said(Some(false), NOT_USABLE, why.clone()),
        WitnessSeen::Open {
            refused: Some(why), ..
        } => said(Some(false), reason::WITNESS_UNSAFE, why.clone()),
        WitnessSeen::Open {
            silent: Some((age, why)),
            place,
            ..
        } => said(
            Some(false),
            SILENT,
            format!("{place} has not answered for {}: {why}", told_age(*age)),
        ),
        WitnessSeen::Open {
            answered: Some(_),
            place,
            ..
        } => said(Some(true), reason::AS_DESIRED, format!("{place} answers")),
        WitnessSeen::Open { place, .. } => said(
            None,
            reason::PENDING,
            format!("{place} has not answered yet"),
        ),
    }
}

fn peer_reachable(seen: &Seen) -> Said {
    let said = |status, reason, message| Said {
        type_: condition_type::PEER_REACHABLE,
        status,
        reason,
        message,
    };
    match &seen.peer {
        PeerSeen::None => said(
            None,
            NOT_CONFIGURED,
            "peerKubeconfigSecret is not set: no peer is read".to_owned(),
        ),
        PeerSeen::Closed(why) => said(Some(false), NOT_USABLE, why.clone()),
        PeerSeen::Open(link) if link.answers => said(
            Some(true),
            reason::AS_DESIRED,
            "the peer's API server answers".to_owned(),
        ),
        PeerSeen::Open(link) => match (&link.why, link.last) {
            (Some(why), Some(last)) => said(
                Some(false),
                SILENT,
                format!("no answer since {}: {why}", strftime(last)),
            ),
            (Some(why), None) => said(
                Some(false),
                SILENT,
                format!("it has not answered yet: {why}"),
            ),
            (None, _) => said(
                None,
                reason::PENDING,
                "the peer has not been asked yet".to_owned(),
            ),
        },
    }
}

fn strftime(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Ready: this site can do its work. Without the peer it can; without the witness it goes on, but cannot take over.
fn ready(conditions: &[Said; 3]) -> Said {
    let [claim, witness, _peer] = conditions;
    let (status, from) = match (claim.status, witness.status) {
        (Some(true), Some(true)) => (Some(true), claim),
        (Some(true), status) => (status, witness),
        (status, _) => (status, claim),
    };
    Said {
        type_: condition_type::READY,
        status,
        reason: from.reason,
        message: from.message.clone(),
    }
}

/// An age in words that change seldom.
pub fn told_age(age: Duration) -> &'static str {
    AGES.iter()
        .find(|(seconds, _)| age.as_secs() >= *seconds)
        .map_or("a few seconds", |(_, words)| *words)
}

#[cfg(test)]
mod tests;

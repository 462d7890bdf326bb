//! A SitePair: the claim of this site's name, the witness and the peer, and what is said of them.
//!
//! Invariants: of a pair whose site is claimed by another cluster nothing at all is done here (`Desired::index` is `None`
//! for all its volumes); no spec is written.

pub mod links;
pub mod status;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use twinsite_api::{API_VERSION, SitePair};

use crate::{
    shell::{events, operator::Operator, queue::Outcome, watch::within},
    volume::names,
};
pub use links::{Links, Own, Parties, REPLACES_ANNOTATION, Tell, Told, replaces};
use status::Seen;
pub use status::{PeerSeen, WitnessSeen, index};

/// How often ages are looked at while a party is silent.
const SILENT: Duration = Duration::from_secs(10);
const AT_LEAST: Duration = Duration::from_secs(60);

/// One round of one pair.
pub async fn reconcile(operator: &Operator, name: &str) -> Outcome {
    operator.follow_pairs().await;
    let Some(pair) = operator.own.pair(name) else {
        operator.metrics.forget_pair(name);
        return Outcome::Settled;
    };
    let seen = observe(operator, name);
    operator.metrics.see_pair(name, &seen.witness, &seen.peer);
    let (status, news) = status::status(&pair, &seen, Timestamp::now());
    for one in news {
        operator.events.tell(events::News {
            regarding: pair.object_ref(&()),
            tone: one.tone,
            reason: one.reason,
            note: one.note,
        });
    }
    if pair.status.as_ref() != Some(&status) {
        let api: Api<SitePair> = Api::all(operator.client.clone());
        let patch = json!({
            "apiVersion": API_VERSION,
            "kind": SitePair::kind(&()),
            "metadata": { "name": name, "uid": pair.uid() },
            "status": status,
        });
        let params = PatchParams::apply(names::FIELD_MANAGER).force();
        if let Err(error) = within(api.patch_status(name, &params, &Patch::Apply(&patch))).await {
            tracing::warn!(pair = name, %error, "the status could not be written");
            return Outcome::Failed;
        }
    }
    Outcome::Again(if is_calm(&seen) { AT_LEAST } else { SILENT })
}

fn observe(operator: &Operator, name: &str) -> Seen {
    let parties = operator.links.parties(name);
    let witness = match parties.as_ref().map(|parties| &parties.witness) {
        None => WitnessSeen::Closed("it is not open yet".to_owned()),
        Some(Err(why)) => WitnessSeen::Closed(why.clone()),
        Some(Ok(access)) => {
            let link = access.link();
            WitnessSeen::Open {
                place: access.place(),
                refused: link.refused,
                answered: link.answered.map(|(_, at)| at),
                silent: link.silent.map(|(since, why)| (since.elapsed(), why)),
                claim: access.claim(),
                sites: access.sites(),
            }
        }
    };
    let peer = match parties.map(|parties| parties.peer) {
        None | Some(Ok(None)) => PeerSeen::None,
        Some(Err(why)) => PeerSeen::Closed(why),
        Some(Ok(Some(peer))) => PeerSeen::Open(peer.link()),
    };
    Seen {
        site: operator.options.site.clone(),
        witness,
        peer,
    }
}

fn is_calm(seen: &Seen) -> bool {
    let witness = matches!(
        &seen.witness,
        WitnessSeen::Open {
            silent: None,
            answered: Some(_),
            ..
        }
    );
    let peer = match &seen.peer {
        PeerSeen::None => true,
        PeerSeen::Closed(_) => false,
        PeerSeen::Open(link) => link.answers,
    };
    witness && peer
}

//! What is said of a pair: claim, witness, peer.

use super::*;

fn pair() -> SitePair {
    serde_yaml::from_str(
        "apiVersion: twinsite.io/v1alpha1\nkind: SitePair\nmetadata: {name: ctrc, generation: 2}\nspec:\n  sites: [{name: medical}, {name: research}]\n  witness: {directory: {path: /w}}\n",
    )
    .unwrap()
}

fn open(claim: Claim) -> WitnessSeen {
    WitnessSeen::Open {
        place: "directory /w".to_owned(),
        refused: None,
        answered: Some(Timestamp::UNIX_EPOCH),
        silent: None,
        claim,
        sites: None,
    }
}

fn seen(witness: WitnessSeen) -> Seen {
    Seen {
        site: "medical".to_owned(),
        witness,
        peer: PeerSeen::Open(peer::Link {
            answers: true,
            last: Some(Timestamp::UNIX_EPOCH),
            why: None,
        }),
    }
}

fn words(pair: &SitePair, seen: &Seen) -> Vec<String> {
    let (status, _) = status(pair, seen, Timestamp::UNIX_EPOCH);
    let word =
        |one: &twinsite_api::Condition| format!("{}={} {}", one.type_, one.status, one.reason);
    status.conditions.iter().map(word).collect()
}

#[test]
fn a_pair_is_ready_when_its_site_is_ours_and_the_witness_answers() {
    assert_eq!(
        words(&pair(), &seen(open(Claim::Ours(Site::A)))),
        [
            "SiteClaimed=True AsDesired",
            "WitnessReachable=True AsDesired",
            "PeerReachable=True AsDesired",
            "Ready=True AsDesired"
        ]
    );
}

#[test]
fn a_second_claimant_is_told_and_not_ready() {
    let refused = seen(open(Claim::Refused(
        "site medical is claimed by another".to_owned(),
    )));
    let words = words(&pair(), &refused);
    assert_eq!(words[0], "SiteClaimed=False ClaimedByAnother");
    assert_eq!(words[3], "Ready=False ClaimedByAnother");
}

#[test]
fn a_cluster_that_was_made_anew_is_told_how_to_say_so() {
    let mut refused = seen(open(Claim::Refused("claimed by old-uid".to_owned())));
    if let WitnessSeen::Open { sites, .. } = &mut refused.witness {
        *sites = Some(Sites {
            claims: vec![twinsite_witness::Claim {
                index: Site::A,
                name: "medical".to_owned(),
                claimant: "old-uid".to_owned(),
            }],
        });
    }
    let (status, _) = status(&pair(), &refused, Timestamp::UNIX_EPOCH);
    let message = &status.conditions[0].message;
    assert!(
        message.ends_with("kubectl annotate sitepair ctrc twinsite.io/replaces-cluster=old-uid"),
        "{message}"
    );
}

#[test]
fn a_cluster_of_another_site_says_which_field_is_wrong() {
    let mut other = seen(open(Claim::Unknown));
    other.site = "moon".to_owned();
    let (status, news) = status(&pair(), &other, Timestamp::UNIX_EPOCH);
    assert_eq!(status.conditions[0].reason, "InvalidSpec");
    assert!(status.conditions[0].message.contains("chart value `site`"));
    assert_eq!(news.len(), 1);
}

#[test]
fn a_silent_peer_is_said_and_takes_nothing_from_ready() {
    let mut silent = seen(open(Claim::Ours(Site::A)));
    silent.peer = PeerSeen::Open(peer::Link {
        answers: false,
        last: Some(Timestamp::UNIX_EPOCH),
        why: Some("connection refused".to_owned()),
    });
    let words = words(&pair(), &silent);
    assert_eq!(words[2], "PeerReachable=False Silent");
    assert_eq!(words[3], "Ready=True AsDesired");
}

#[test]
fn a_silent_witness_is_news_once_and_its_age_is_told_in_words_that_change_seldom() {
    let mut pair = pair();
    let good = seen(open(Claim::Ours(Site::A)));
    let (first, news) = status(&pair, &good, Timestamp::UNIX_EPOCH);
    assert_eq!(news, [], "that all is well from the start is no news");
    pair.status = Some(first);
    let silent = |seconds| {
        let mut silent = good.clone();
        let WitnessSeen::Open { silent: since, .. } = &mut silent.witness else {
            unreachable!()
        };
        *since = Some((
            Duration::from_secs(seconds),
            "connection refused".to_owned(),
        ));
        silent
    };
    let (second, news) = status(&pair, &silent(5), Timestamp::UNIX_EPOCH);
    assert_eq!(news.len(), 1);
    assert_eq!(
        (news[0].tone, news[0].reason.as_str()),
        (Tone::Warning, "Silent")
    );
    pair.status = Some(second);
    let (third, news) = status(&pair, &silent(61), Timestamp::UNIX_EPOCH);
    assert_eq!(news, []);
    assert!(third.conditions[1].message.contains("more than a minute"));
    pair.status = Some(third.clone());
    assert_eq!(status(&pair, &silent(500), Timestamp::UNIX_EPOCH).0, third);
}

#[test]
fn argo_shows_a_pair_by_its_claim_and_its_witness() {
    let Some(argo) = crate::argo::Argo::new() else {
        return;
    };
    let shown = |witness: WitnessSeen| {
        let mut pair = pair();
        pair.status = Some(status(&pair, &seen(witness), Timestamp::UNIX_EPOCH).0);
        argo.health(&pair)
    };
    assert_eq!(argo.word(&pair()), "Progressing");
    assert_eq!(shown(open(Claim::Ours(Site::A))).0, "Healthy");
    assert_eq!(shown(open(Claim::Unknown)).0, "Progressing");
    let refused = shown(open(Claim::Refused("it is claimed by another".to_owned())));
    assert_eq!(
        refused,
        (
            "Degraded".to_owned(),
            "ClaimedByAnother: it is claimed by another".to_owned()
        )
    );
    let closed = shown(WitnessSeen::Closed("no Secret".to_owned()));
    assert_eq!(closed.0, "Degraded");
    assert!(closed.1.ends_with("no Secret"), "{}", closed.1);
}

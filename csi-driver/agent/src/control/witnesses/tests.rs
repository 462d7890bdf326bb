//! The witness of a pair over a directory: claims, signs of life, what cannot be a witness here.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use tokio::time::sleep;
use twinsite_register::{Create, Gen, Register, RegisterId, TxId, VolumeId};
use twinsite_witness::Swap;

use super::{signs::WAIT_INTERVAL, *};
use crate::objects::{Objects, parse_file};

fn pairs(witness: &str) -> Objects {
    let text = format!(
        "apiVersion: twinsite.io/v1alpha1\nkind: SitePair\nmetadata: {{name: ctrc}}\nspec:\n  sites: [{{name: medical}}, {{name: research}}]\n  witness: {witness}\n"
    );
    let mut objects = Objects::default();
    for (_, object) in parse_file("f", &text).objects {
        objects.add(object).unwrap();
    }
    objects
}

fn witnesses(site: &str, claimant: &str) -> Witnesses {
    observed(site, claimant, Arc::new(|_| {}))
}

fn observed(site: &str, claimant: &str, observer: Observer) -> Witnesses {
    let identity = Identity {
        site: site.to_owned(),
        node: "n".to_owned(),
        claimant: claimant.to_owned(),
        cluster: None,
    };
    Witnesses::new(identity, observer, Arc::new(|| {}), Handle::current())
}

async fn until(witnesses: &Witnesses, holds: impl Fn(&PairState) -> bool) {
    let start = Instant::now();
    while !witnesses.states().get("ctrc").is_some_and(&holds) {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            witnesses.states()
        );
        sleep(Duration::from_millis(20)).await;
    }
}

/// Somebody of the site has given a sign of life.
async fn until_signed(witness: &Witness) {
    let start = Instant::now();
    while witness.liveness("medical").await.unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(20)).await;
    }
}

fn interest(index: Site) -> BTreeMap<String, Interest> {
    BTreeMap::from([(
        "ctrc".to_owned(),
        Interest {
            index: Some(index),
            ..Interest::default()
        },
    )])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_claims_its_name_and_shows_life_and_a_second_claimant_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let objects = pairs(&format!(
        "{{directory: {{path: {}}}}}",
        dir.path().display()
    ));
    let mut first = witnesses("medical", "one");
    first.set(&objects.pairs, &interest(Site::A), &objects.secrets);
    until(&first, |state| {
        state.reachable == Some(true) && state.sites.named("medical").is_some()
    })
    .await;
    let witness = first.handle("ctrc").unwrap();
    until_signed(witness.witness()).await;
    let mut second = witnesses("medical", "two");
    second.set(&objects.pairs, &interest(Site::A), &objects.secrets);
    until(&second, |state| {
        state
            .claim_error
            .as_ref()
            .is_some_and(|error| error.contains("claimed by one"))
    })
    .await;
    let mut wrong = witnesses("research", "three");
    wrong.set(&objects.pairs, &interest(Site::A), &objects.secrets);
    until(&wrong, |state| {
        state
            .claim_error
            .as_ref()
            .is_some_and(|error| error.contains("wrong way round"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_comes_later_is_found_then() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later");
    let objects = pairs(&format!("{{directory: {{path: {}}}}}", path.display()));
    let mut witnesses = witnesses("medical", "one");
    witnesses.set(&objects.pairs, &interest(Site::A), &objects.secrets);
    until(&witnesses, |state| state.reachable == Some(false)).await;
    std::fs::create_dir(&path).unwrap();
    until(&witnesses, |state| state.reachable == Some(true)).await;
}

#[tokio::test]
async fn new_credentials_reach_those_who_hold_the_witness() {
    let secret = |token: &str, server: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: w\nclusters: [{{name: w, cluster: {{server: 'https://{server}:6443'}}}}]\ncontexts: [{{name: w, context: {{cluster: w, user: w}}}}]\nusers: [{{name: w, user: {{token: {token}}}}}]\n"
        );
        let values = BTreeMap::from([("value".to_owned(), text.into_bytes())]);
        let name = "s".to_owned();
        BTreeMap::from([(name.clone(), Secret { name, values })])
    };
    let objects = pairs("{kubernetes: {kubeconfigSecret: s, namespace: n}}");
    let mut witnesses = witnesses("medical", "one");
    let mut place = |token: &str, server: &str| {
        witnesses.set(&objects.pairs, &BTreeMap::new(), &secret(token, server));
        Arc::as_ptr(witnesses.handle("ctrc").unwrap().witness())
    };
    let first = place("old", "192.0.2.9");
    assert_eq!(place("new", "192.0.2.9"), first);
    assert_ne!(
        place("new", "192.0.2.10"),
        first,
        "another place is another witness"
    );
}

#[tokio::test]
async fn what_cannot_be_a_witness_here_says_so() {
    for (spec, word) in [
        (
            "{kubernetes: {kubeconfigSecret: s, namespace: n}}",
            "Secret s is not there",
        ),
        ("{site: medical}", "this agent runs without one"),
        ("{site: research}", "peerKubeconfigSecret"),
        (
            "{objectStore: {url: 'https://h/b', secret: s}}",
            "Secret s is not there",
        ),
    ] {
        let objects = pairs(spec);
        let mut witnesses = witnesses("medical", "one");
        witnesses.set(&objects.pairs, &BTreeMap::new(), &objects.secrets);
        assert!(witnesses.handle("ctrc").unwrap_err().contains(word));
    }
    let objects = pairs("{directory: {path: /w}}");
    let mut witnesses = witnesses("moon", "one");
    witnesses.set(&objects.pairs, &BTreeMap::new(), &objects.secrets);
    assert!(
        witnesses
            .handle("ctrc")
            .unwrap_err()
            .contains("not part of")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_name_was_taken_over_gives_no_more_signs_of_life() {
    let dir = tempfile::tempdir().unwrap();
    let objects = pairs(&format!(
        "{{directory: {{path: {}}}}}",
        dir.path().display()
    ));
    let mut old = witnesses("medical", "old");
    old.set(&objects.pairs, &interest(Site::A), &objects.secrets);
    until(&old, |state| state.sites.named("medical").is_some()).await;
    let handle = old.handle("ctrc").unwrap();
    let witness = handle.witness();
    until_signed(witness).await;
    let signs = async || witness.liveness("medical").await.unwrap();
    let claim = witness
        .claim_after("medical", "new", Some("old"))
        .await
        .unwrap();
    assert_eq!((claim.index, claim.claimant.as_str()), (Site::A, "new"));
    until(&old, |state| state.claim_error.is_some()).await;
    sleep(Duration::from_millis(1500)).await;
    let last = signs().await;
    sleep(Duration::from_millis(2500)).await;
    assert_eq!(signs().await, last, "the old cluster goes on signing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_objects_give_no_index_signs_for_a_name_that_is_ours_and_for_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let objects = pairs(&format!(
        "{{directory: {{path: {}}}}}",
        dir.path().display()
    ));
    let mut bare = witnesses("medical", "one");
    bare.set(&objects.pairs, &BTreeMap::new(), &objects.secrets);
    until(&bare, |state| state.reachable == Some(true)).await;
    let handle = bare.handle("ctrc").unwrap();
    let witness = handle.witness();
    assert_eq!(
        witness.liveness("medical").await.unwrap(),
        None,
        "nobody's name"
    );
    witness.claim_as("medical", "one", Site::A).await.unwrap();
    until_signed(witness).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_register_whose_holder_is_waited_for_is_read_again_and_again_until_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let objects = pairs(&format!(
        "{{directory: {{path: {}}}}}",
        dir.path().display()
    ));
    let group = GroupId([7; 16]);
    let reads = Arc::new(AtomicU32::new(0));
    let mut witnesses = {
        let reads = Arc::clone(&reads);
        observed(
            "medical",
            "one",
            Arc::new(move |_| {
                reads.fetch_add(1, Ordering::Relaxed);
            }),
        )
    };
    let waits = |waited_for: Vec<GroupId>| {
        let interest = Interest {
            waited_for,
            ..Interest::default()
        };
        BTreeMap::from([("ctrc".to_owned(), interest)])
    };
    witnesses.set(&objects.pairs, &waits(Vec::new()), &objects.secrets);
    let register = Register::create(Create {
        register_id: RegisterId([1; 16]),
        group,
        volumes: vec![VolumeId([7; 16])],
        generation: Gen([2; 16]),
        site: Site::A,
        txid: TxId([3; 16]),
    })
    .unwrap();
    let witness = witnesses.handle("ctrc").unwrap();
    assert_eq!(witness.witness().create(&register).await, Swap::Won);
    witnesses.set(&objects.pairs, &waits(vec![group]), &objects.secrets);
    let start = Instant::now();
    while reads.load(Ordering::Relaxed) < 4 {
        assert!(start.elapsed() < Duration::from_secs(8), "it is not read");
        sleep(Duration::from_millis(20)).await;
    }
    witnesses.set(&objects.pairs, &waits(Vec::new()), &objects.secrets);
    // One may still be under way.
    sleep(WAIT_INTERVAL * 2).await;
    let before = reads.load(Ordering::Relaxed);
    sleep(WAIT_INTERVAL * 3).await;
    assert_eq!(reads.load(Ordering::Relaxed), before);
}

//! What every witness must do, whatever store it is in.
#![allow(dead_code, reason = "not every backend runs each part by itself")]

use twinsite_witness::{
    Swap, Witness,
    register::{BeatObject, Epoch, GroupId, Site, VolumeId},
};

use super::{GROUP, register};

const RACERS: u64 = 8;
const ROUNDS: u64 = 15;

/// Everything, in a store that holds nothing yet.
pub(crate) async fn all(witness: &(dyn Fn() -> Witness + Sync)) {
    a_register_is_created_swapped_repeated_and_removed(&witness()).await;
    racing_swaps_have_one_winner_each_time(witness).await;
    beats_only_rise_whoever_writes_them(witness).await;
    two_sites_that_claim_at_once_get_one_index_each_for_ever(witness).await;
}

pub(crate) async fn a_register_is_created_swapped_repeated_and_removed(witness: &Witness) {
    let (first, second, third) = (register(1, 1), register(2, 1), register(3, 1));
    assert_eq!(witness.read(GROUP).await, Ok(None));
    assert_eq!(witness.swap(&first, &second).await, Swap::Conflict(None));
    assert_eq!(witness.create(&first).await, Swap::Won);
    assert_eq!(witness.create(&first).await, Swap::Won);
    assert_eq!(
        witness.create(&second).await,
        Swap::Conflict(Some(Box::new(first.clone())))
    );
    assert_eq!(witness.swap(&first, &second).await, Swap::Won);
    // The same request byte for byte, after a lost answer.
    assert_eq!(witness.swap(&first, &second).await, Swap::Won);
    assert_eq!(
        witness.swap(&first, &third).await,
        Swap::Conflict(Some(Box::new(second.clone())))
    );
    assert_eq!(
        witness.remove(&first).await,
        Swap::Conflict(Some(Box::new(second.clone())))
    );
    assert_eq!(witness.remove(&second).await, Swap::Won);
    assert_eq!(witness.read(GROUP).await, Ok(None));
    // A delayed swap of before the removal finds nothing to swap.
    assert_eq!(witness.swap(&second, &third).await, Swap::Conflict(None));
    assert_eq!(witness.create(&third).await, Swap::Won);
    assert_eq!(witness.read(GROUP).await, Ok(Some(third)));
    assert_eq!(witness.read(GroupId([9; 16])).await, Ok(None));
}

/// The register is there.
pub(crate) async fn racing_swaps_have_one_winner_each_time(witness: &(dyn Fn() -> Witness + Sync)) {
    for _ in 0..ROUNDS {
        let current = witness().read(GROUP).await.unwrap().unwrap();
        let n = current.order.n + 1;
        let mut racers = tokio::task::JoinSet::new();
        for who in 1..=RACERS {
            let (witness, current) = (witness(), current.clone());
            racers.spawn(async move { (who, witness.swap(&current, &register(n, who)).await) });
        }
        let mut winners = Vec::new();
        while let Some(racer) = racers.join_next().await {
            match racer.unwrap() {
                (who, Swap::Won) => winners.push(who),
                (_, Swap::Conflict(Some(other))) => assert_eq!(other.order.n, n),
                (_, Swap::Unknown(_)) => {}
                (who, other) => panic!("{who}: {other:?}"),
            }
        }
        let stored = witness().read(GROUP).await.unwrap().unwrap();
        assert!(winners.len() <= 1, "order {n}: {winners:?}");
        if let [winner] = winners[..] {
            assert_eq!(stored, register(n, winner));
        }
        assert_eq!(stored.order.n, n);
    }
}

pub(crate) async fn beats_only_rise_whoever_writes_them(witness: &(dyn Fn() -> Witness + Sync)) {
    let volume = VolumeId([7; 16]);
    let at = |epoch: u64, beat: u64| BeatObject {
        epoch: Epoch(epoch),
        beat,
    };
    let mut writers = tokio::task::JoinSet::new();
    for start in [0, 1, 2] {
        let witness = witness();
        writers.spawn(async move {
            for beat in (start..60).step_by(3) {
                witness.write_beat(volume, at(1, beat)).await.unwrap();
                let seen = witness.beat(volume).await.unwrap().unwrap();
                assert!(seen.beat >= beat, "wrote {beat}, then read {}", seen.beat);
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    let witness = witness();
    witness.write_beat(volume, at(0, 999)).await.unwrap();
    assert_eq!(witness.beat(volume).await, Ok(Some(at(1, 59))));
}

pub(crate) async fn two_sites_that_claim_at_once_get_one_index_each_for_ever(
    witness: &(dyn Fn() -> Witness + Sync),
) {
    let claim = |name: &'static str| {
        let witness = witness();
        tokio::spawn(async move { witness.claim(name, name).await.unwrap() })
    };
    let (one, two) = (claim("medical"), claim("research"));
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    assert_eq!(one.index, two.index.other());
    let sites = witness().sites().await.unwrap();
    assert_eq!(sites.named("medical"), Some(&one));
    assert_eq!(sites.at(Site::A).unwrap().index, Site::A);
    assert!(witness().claim("medical", "somebody else").await.is_err());
    assert_eq!(witness().claim("medical", "medical").await.unwrap(), one);
}

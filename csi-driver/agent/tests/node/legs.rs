//! Legs: served once their pool is there, never made anew where one was.

use std::fs;

use twinsite_agent::backend::Pool;

use crate::lab::{LEG, Lab, PAIR, POOL};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leg_is_served_once_its_pool_is_there_and_the_site_shows_life() {
    let lab = Lab::new();
    lab.write("pair.yaml", PAIR);
    lab.write("pool.yaml", POOL);
    lab.write("leg.yaml", LEG);
    lab.until_reason("storagepool-m1.yaml", "PoolNotMounted")
        .await;
    lab.until_field("leg-records-a.yaml", "state", "Failed")
        .await;
    assert!(
        !lab.path("pool/legs").exists(),
        "nothing is made in a folder without a marker"
    );
    Pool::init(&lab.path("pool")).unwrap();
    lab.until_field("leg-records-a.yaml", "state", "Serving")
        .await;
    let leg = lab.status("leg-records-a.yaml").unwrap();
    assert_eq!(leg["observedGeneration"], 3);
    assert_eq!(leg["size"], 4 << 20);
    assert_eq!(
        leg["iqn"],
        "iqn.2026-11.io.twinsite:ts-000102030405060708090a0b0c0d0e0f.a"
    );
    let file = lab.path("pool/legs/ts-000102030405060708090a0b0c0d0e0f-a.img");
    assert_eq!(fs::metadata(file).unwrap().len(), (4 << 20) + (128 << 20));
    let sampled = || {
        lab.status("leg-records-a.yaml")
            .is_some_and(|s| s["bootId"].is_string() && s["portals"][0].is_string())
    };
    lab.until("the target says its boot id and address", sampled)
        .await;
    let claimed = || {
        lab.status("sitepair-ctrc.yaml")
            .is_some_and(|s| s["claims"][0]["index"] == "A")
    };
    lab.until("the site is claimed", claimed).await;
    lab.write("leg.yaml", &LEG.replace("4Mi", "8Mi"));
    let grown = || {
        lab.status("leg-records-a.yaml")
            .is_some_and(|s| s["size"] == 8 << 20)
    };
    lab.until("the leg has grown", grown).await;
    lab.remove("leg.yaml");
    lab.until("its status goes", || {
        lab.status("leg-records-a.yaml").is_none()
    })
    .await;
    assert!(lab.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leg_whose_file_went_away_is_not_made_anew() {
    let lab = Lab::new();
    Pool::init(&lab.path("pool")).unwrap();
    lab.write("pair.yaml", PAIR);
    lab.write("pool.yaml", POOL);
    lab.write("leg.yaml", LEG);
    lab.until_field("leg-records-a.yaml", "state", "Serving")
        .await;
    lab.remove("leg.yaml");
    lab.until("its status goes", || {
        lab.status("leg-records-a.yaml").is_none()
    })
    .await;
    let path = lab.path("pool/legs/ts-000102030405060708090a0b0c0d0e0f-a.img");
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    lab.write("leg.yaml", LEG);
    lab.until_reason("leg-records-a.yaml", "LegFileMissing")
        .await;
    assert_eq!(file.metadata().unwrap().len(), 1 << 20, "it is not grown");
    fs::remove_file(path).unwrap();
    lab.until_field("leg-records-a.yaml", "state", "Failed")
        .await;
    lab.remove("leg.yaml");
    lab.until("its status goes", || {
        lab.status("leg-records-a.yaml").is_none()
    })
    .await;
    lab.write(
        "leg.yaml",
        &LEG.replace("size: 4Mi", "size: 4Ei")
            .replace("leg: A", "leg: B"),
    );
    lab.until_reason("leg-records-a.yaml", "PoolFull").await;
    assert!(lab.stop().await);
}

//! A group: what the node uses of it decides when it goes.

use std::time::Duration;

use twinsite_agent::control::{
    requests::Request,
    volumes::{Ending, VolumeEvent},
};
use twinsite_mirror::status::StateName;

use crate::lab::{Lab, PAIR, attachment, shown, status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_of_a_group_that_leaves_is_not_detached_under_one_who_uses_it_again() {
    const VOLUMES: [(&str, &str); 2] = [
        ("d", "ts-000102030405060708090a0b0c0d0e01"),
        ("j", "ts-000102030405060708090a0b0c0d0e02"),
    ];
    let lab = Lab::new();
    lab.write("pair.yaml", PAIR);
    let order = |rest: &str| {
        let all = VOLUMES.map(|(_, volume)| volume).join(", ");
        for (name, volume) in VOLUMES {
            let text = attachment(
                name,
                &format!(
                    "  mode: Writer\n  group: tg-aa0000000000000000000000000000ff\n  groupVolumes: [{all}]\n{rest}"
                ),
            );
            lab.write(
                &format!("{name}.yaml"),
                &text.replace("ts-000102030405060708090a0b0c0d0e0f", volume),
            );
        }
    };
    order("");
    lab.until("both are opened", || lab.stage.count() == 2)
        .await;
    let tell_all = |event: fn() -> VolumeEvent| {
        for act in lab.stage.0.lock().unwrap().iter() {
            (act.report)(event());
        }
    };
    tell_all(|| status(StateName::Synced));
    tell_all(shown);
    for (name, _) in VOLUMES {
        lab.until_field(&format!("attachment-{name}.yaml"), "state", "Attached")
            .await;
    }
    order("  release: true");
    let told = |name: &str, is_used: bool| {
        let name = name.to_owned();
        lab.teller.ask(if is_used {
            Request::Used { name }
        } else {
            Request::Unused { name }
        })
    };
    let detached = || {
        let acts = lab.stage.0.lock().unwrap();
        acts.iter()
            .all(|act| act.orders.lock().unwrap().contains(&"detach".to_owned()))
    };
    // Until the order to release was read, nothing that is told of the use of the device is kept.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(told("j", false).await.ok);
    assert!(told("j", true).await.result == true);
    assert!(told("d", false).await.ok);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!detached(), "j is in use");
    assert!(told("j", false).await.ok);
    lab.until("both are detached", detached).await;
    // Too late: whoever comes now hears that there is no device.
    assert!(told("j", true).await.result == false);
    tell_all(|| VolumeEvent::Ended(Ending::Detached));
    assert!(lab.stop().await);
}

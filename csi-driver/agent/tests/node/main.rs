//! The control plane of a node with a real target and a real folder, and volumes that do as the test says.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod group;
mod lab;
mod legs;

use std::{fs, sync::Arc, time::Duration};

use lab::{Lab, PAIR, Stage, attachment, config, detach_when_told, shown, status};
use twinsite_agent::{
    control::{
        node::{Node, NodeError},
        requests::{Answer, FormatStep, Request},
        socket,
        volumes::{Ending, VolumeEvent},
    },
    metrics::Health,
};
use twinsite_api::{AttachmentMode, InspectReport, LegIndex};
use twinsite_mirror::status::{Refusal, StateName};
use twinsite_register::State;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_opened_shown_ordered_and_detached() {
    let lab = Lab::new();
    let file = "attachment-w.yaml";
    lab.write("pair.yaml", PAIR);
    lab.write(
        "w.yaml",
        &attachment("w", "  mode: Writer\n  move: {mode: Planned, expectSeq: 7}"),
    );
    lab.until("it is opened", || lab.stage.count() == 1).await;
    lab.stage.last(|act| {
        assert_eq!(
            (act.name.as_str(), act.mode, act.seq),
            ("w", AttachmentMode::Writer, Some(7))
        )
    });
    lab.until_field(file, "state", "Attaching").await;
    lab.stage.tell(status(StateName::Synced));
    lab.stage.tell(shown());
    lab.until_field(file, "state", "Attached").await;
    let seen = lab.status(file).unwrap();
    assert_eq!(
        (seen["device"]["path"].as_str(), seen["engine"].as_str()),
        (Some("/dev/null"), Some("Synced"))
    );
    assert!(seen["timings"]["servedAt"].is_string());
    lab.stage.tell(status(StateName::Frozen));
    lab.until_field(file, "state", "Suspended").await;

    let format = Request::Format {
        name: "w".to_owned(),
        state: FormatStep::Started,
        fs_type: "xfs".to_owned(),
    };
    let teller = lab.teller.clone();
    let asked = tokio::spawn(async move { teller.ask(format).await });
    let orders = || {
        let mut all = Vec::new();
        lab.stage
            .last(|act| all.clone_from(&act.orders.lock().unwrap()));
        all
    };
    lab.until("the order is given", || orders() == ["format Started xfs"])
        .await;
    let busy = lab
        .teller
        .ask(Request::DropLeg {
            name: "w".to_owned(),
            leg: LegIndex::B,
        })
        .await;
    assert!(busy.error.unwrap().contains("under way"));
    lab.stage.tell(VolumeEvent::FormatRecorded(Ok(())));
    assert!(asked.await.unwrap().ok);

    lab.write(
        "w.yaml",
        &attachment("w", "  mode: Writer\n  dropLegs: [B]"),
    );
    lab.until("the leg is dropped", || {
        orders().last().is_some_and(|order| order == "drop B")
    })
    .await;
    lab.stage.tell(VolumeEvent::OrderDone(Ok(())));
    lab.remove("w.yaml");
    lab.until("it is told to detach", || {
        orders().last().is_some_and(|order| order == "detach")
    })
    .await;
    lab.until_field(file, "state", "Detaching").await;
    lab.stage.tell(VolumeEvent::Ended(Ending::Detached));
    lab.until("its status goes", || lab.status(file).is_none())
        .await;
    assert!(lab.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_file_takes_no_volume_away_and_says_what_is_wrong() {
    let lab = Lab::new();
    lab.write("pair.yaml", PAIR);
    lab.write("w.yaml", &attachment("w", "  mode: Writer"));
    lab.until("it is opened", || lab.stage.count() == 1).await;
    lab.stage.tell(shown());
    lab.until_field("attachment-w.yaml", "state", "Attached")
        .await;
    lab.write("w.yaml", &attachment("w", "  mode: Wrter"));
    let problems = lab.path("objects/status/problems.yaml");
    let told =
        || fs::read_to_string(&problems).is_ok_and(|text| text.contains("unknown variant `Wrter`"));
    lab.until("it is told", told).await;
    let answer = lab.teller.ask(Request::Problems).await;
    assert_eq!(answer.result[0]["object"], "Attachment/w");
    tokio::time::sleep(Duration::from_millis(700)).await;
    lab.until_field("attachment-w.yaml", "state", "Attached")
        .await;
    lab.stage
        .last(|act| assert!(act.orders.lock().unwrap().is_empty()));
    let ended = detach_when_told(lab.stage.clone());
    assert!(lab.stop().await, "an agent that stops detaches first");
    ended.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_why_and_is_tried_again_unless_it_is_for_ever() {
    let lab = Lab::new();
    let file = "attachment-w.yaml";
    lab.write("pair.yaml", PAIR);
    lab.write("w.yaml", &attachment("w", "  mode: Writer"));
    lab.until("it is opened", || lab.stage.count() == 1).await;
    lab.stage
        .tell(VolumeEvent::Ended(Ending::Refused(Refusal::NotActive)));
    lab.until_field(file, "reason", "NotActive").await;
    lab.write(
        "w.yaml",
        &attachment(
            "w",
            "  mode: Writer\n  move: {mode: Failover, expectSeq: 1}",
        ),
    );
    lab.until("a new order is tried at once", || lab.stage.count() == 2)
        .await;
    lab.stage
        .tell(VolumeEvent::Ended(Ending::Refused(Refusal::OrderStale)));
    lab.until_field(file, "reason", "OrderStale").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(
        lab.stage.count(),
        2,
        "one that is out of date never attaches again"
    );
    lab.until_field(file, "state", "Refused").await;
    assert!(lab.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_birth_makes_the_register_first_and_an_inspection_needs_no_object() {
    let lab = Lab::new();
    lab.write("pair.yaml", PAIR);
    lab.write(
        "b.yaml",
        &attachment("b", "  mode: Birth\n  birth: {activeSite: research}"),
    );
    lab.until("it is opened", || lab.stage.count() == 1).await;
    let store = twinsite_witness::Directory::open(&lab.path("witness")).unwrap();
    let witness = twinsite_witness::Witness::new(Arc::new(store), "ctrc").unwrap();
    let volume: twinsite_api::VolumeId = "ts-000102030405060708090a0b0c0d0e0f".parse().unwrap();
    let register = witness
        .read(twinsite_register::GroupId(volume.bytes()))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (register.state, register.active.site),
        (State::Creating, twinsite_register::Site::B)
    );
    lab.stage.tell(VolumeEvent::Ended(Ending::Done));
    lab.until_field("attachment-b.yaml", "state", "Done").await;

    let path = lab.path("agent.sock");
    let server = tokio::spawn(socket::serve(
        socket::listen(&path).unwrap(),
        lab.teller.clone(),
    ));
    assert!(
        socket::listen(&path).is_err(),
        "the socket of a living agent is not taken"
    );
    let request = Request::Inspect {
        name: "b".to_owned(),
    };
    let asked = tokio::spawn(async move { socket::ask(&path, &request).await.unwrap() });
    lab.until("the legs are inspected", || lab.stage.count() == 2)
        .await;
    lab.stage
        .last(|act| assert_eq!(act.mode, AttachmentMode::Inspect));
    let report = InspectReport {
        token: Some("t".to_owned()),
        ..InspectReport::default()
    };
    lab.stage.tell(VolumeEvent::Inspected(Box::new(report)));
    lab.stage.tell(VolumeEvent::Ended(Ending::Done));
    let answer: Answer = asked.await.unwrap();
    assert_eq!(
        (answer.ok, answer.result["token"].as_str()),
        (true, Some("t"))
    );
    server.abort();
    assert!(lab.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn legs_the_wrong_way_round_are_not_opened() {
    let lab = Lab::new();
    let store = twinsite_witness::Directory::open(&lab.path("witness")).unwrap();
    let witness = twinsite_witness::Witness::new(Arc::new(store), "ctrc").unwrap();
    for (site, claimant) in [("medical", "test"), ("research", "other")] {
        witness.claim(site, claimant).await.unwrap();
    }
    lab.write("pair.yaml", PAIR);
    let swapped = attachment("w", "  mode: Writer")
        .replace("leg: A", "leg: X")
        .replace("leg: B", "leg: A");
    lab.write("w.yaml", &swapped.replace("leg: X", "leg: B"));
    let told = || {
        let status = lab.status("attachment-w.yaml");
        status.is_some_and(|s| {
            s["message"]
                .as_str()
                .is_some_and(|text| text.contains("wrong way round"))
        })
    };
    lab.until("it is told", told).await;
    assert_eq!(lab.stage.count(), 0);
    assert!(lab.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_do_not_share_a_state_folder() {
    let lab = Lab::new();
    let opener = Box::new(Stage::default());
    let second = Node::new(
        config(lab.dir.path()),
        lab.threads.clone(),
        opener,
        Arc::new(Health::default()),
    );
    assert!(matches!(second, Err(NodeError::InUse { .. })));
    assert!(lab.stop().await);
}

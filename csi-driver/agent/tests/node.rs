//! The control plane of a node with a real target and a real folder, and volumes that do as the test says.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_yaml::Value;
use tokio::{sync::watch, task::JoinHandle};
use twinsite_agent::{
    backend::Pool,
    control::{
        node::{Node, NodeConfig, NodeError, Teller},
        requests::{Answer, FormatStep, Request},
        socket,
        volumes::{Ending, LegTarget, Report, VolumeEvent, VolumeHandle, VolumeOrder, Volumes},
    },
    metrics::Health,
    reactor::{Thread, ThreadConfig},
};
use twinsite_api::{AttachmentMode, FrontEnd, InspectReport, LegIndex};
use twinsite_mirror::{
    io::{Format, FsType, Leg, VerifyOrder},
    status::{Refusal, StateName, Status},
};
use twinsite_register::State;

/// Volumes that only write down what they are told.
#[derive(Clone, Default)]
struct Stage(Arc<Mutex<Vec<Act>>>);

struct Act {
    name: String,
    mode: AttachmentMode,
    seq: Option<u64>,
    report: Report,
    orders: Arc<Mutex<Vec<String>>>,
}

struct Actor(Arc<Mutex<Vec<String>>>);

impl VolumeHandle for Actor {
    fn detach(&self) {
        self.0.lock().unwrap().push("detach".to_owned());
    }
    fn drop_leg(&self, leg: Leg) {
        self.0.lock().unwrap().push(format!("drop {leg}"));
    }
    fn expand(&self, size: u64) {
        self.0.lock().unwrap().push(format!("expand {size}"));
    }
    fn verify(&self, order: VerifyOrder) {
        self.0.lock().unwrap().push(format!("{order:?}"));
    }
    fn readdress(&self, legs: [Option<LegTarget>; 2]) {
        let portals = legs.into_iter().flatten().flat_map(|leg| leg.portals);
        let portals: Vec<String> = portals.collect();
        self.0
            .lock()
            .unwrap()
            .push(format!("readdress {}", portals.join(" ")));
    }
    fn set_format(&self, format: Format, fs_type: FsType) {
        let name = String::from_utf8_lossy(&fs_type)
            .trim_end_matches('\0')
            .to_owned();
        self.0
            .lock()
            .unwrap()
            .push(format!("format {format:?} {name}"));
    }
}

impl Volumes for Stage {
    fn open(&mut self, order: VolumeOrder) -> Box<dyn VolumeHandle> {
        let orders = Arc::new(Mutex::new(Vec::new()));
        self.0.lock().unwrap().push(Act {
            name: order.name.clone(),
            mode: order.mode,
            seq: order.attach.mv.map(|mv| mv.expect_seq),
            report: order.report.clone(),
            orders: Arc::clone(&orders),
        });
        Box::new(Actor(orders))
    }

    fn open_group(&mut self, orders: Vec<VolumeOrder>) -> Vec<Box<dyn VolumeHandle>> {
        orders.into_iter().map(|order| self.open(order)).collect()
    }
}

impl Stage {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn last(&self, read: impl FnOnce(&Act)) {
        read(self.0.lock().unwrap().last().unwrap());
    }

    fn tell(&self, event: VolumeEvent) {
        self.last(|act| (act.report)(event));
    }
}

struct Lab {
    dir: tempfile::TempDir,
    stage: Stage,
    teller: Teller,
    stop: watch::Sender<bool>,
    node: Option<JoinHandle<bool>>,
    threads: Vec<Thread>,
}

const PAIR: &str = "apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {name: ctrc}
spec:
  sites: [{name: medical}, {name: research}]
  witness: {directory: {path: WITNESS}}
";

const POOL: &str = "apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {name: m1}
spec:
  site: medical
  node: {name: m1, directory: POOL}
  portals: ['127.0.0.1:3260']
";

const LEG: &str = "apiVersion: twinsite.io/v1alpha1
kind: Leg
metadata: {name: records-a, generation: 3}
spec: {volume: ts-000102030405060708090a0b0c0d0e0f, leg: A, site: medical, sitePair: ctrc, pool: m1, node: m1, size: 4Mi}
";

fn attachment(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: twinsite.io/v1alpha1
kind: Attachment
metadata: {{name: {name}}}
spec:
  volume: ts-000102030405060708090a0b0c0d0e0f
  reference: rv/records
  sitePair: ctrc
  node: m1
  site: medical
  size: 4Mi
  legs:
  - {{leg: A, site: medical, portals: ['127.0.0.1:1']}}
  - {{leg: B, site: research, portals: ['127.0.0.1:2']}}
{rest}
"
    )
}

fn config(root: &Path) -> NodeConfig {
    NodeConfig {
        node: "m1".to_owned(),
        site: "medical".to_owned(),
        claimant: "test".to_owned(),
        objects: root.join("objects"),
        state: root.join("state"),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        cluster: None,
        board: None,
    }
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["objects", "witness", "pool"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let threads = vec![Thread::spawn(ThreadConfig::default()).unwrap()];
        let stage = Stage::default();
        let (stop, stopping) = watch::channel(false);
        let opener = Box::new(stage.clone());
        let node = Node::new(
            config(dir.path()),
            threads.clone(),
            opener,
            Arc::new(Health::default()),
        )
        .unwrap();
        let teller = node.teller();
        let node = tokio::spawn(node.run(stopping));
        Self {
            dir,
            stage,
            teller,
            stop,
            node: Some(node),
            threads,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let text = text.replace("WITNESS", &self.path("witness").display().to_string());
        let text = text.replace("POOL", &self.path("pool").display().to_string());
        let aside = self.path("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.path("objects").join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path("objects").join(name)).unwrap();
    }

    fn status(&self, file: &str) -> Option<Value> {
        let text = fs::read_to_string(self.path("objects/status").join(file)).ok()?;
        let object: Value = serde_yaml::from_str(&text).unwrap();
        object.get("status").cloned()
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            if start.elapsed() > Duration::from_secs(15) {
                let entries = fs::read_dir(self.path("objects/status")).unwrap().flatten();
                let files: Vec<String> = entries
                    .map(|entry| fs::read_to_string(entry.path()).unwrap_or_default())
                    .collect();
                panic!("never: {what}\n{}", files.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_field(&self, file: &str, field: &str, value: &str) {
        let found = || self.status(file)?.get(field)?.as_str().map(str::to_owned);
        self.until(&format!("{file}: {field} is {value}"), || {
            found().as_deref() == Some(value)
        })
        .await;
    }

    /// Until the first condition has this reason.
    async fn until_reason(&self, file: &str, reason: &str) {
        let found = || {
            self.status(file)
                .is_some_and(|status| status["conditions"][0]["reason"] == reason)
        };
        self.until(&format!("{file} says {reason}"), found).await;
    }

    async fn stop(mut self) -> bool {
        self.stop.send_replace(true);
        let clean = self.node.take().unwrap().await.unwrap();
        for thread in &self.threads {
            thread.stop();
            thread.join();
        }
        clean
    }
}

fn shown() -> VolumeEvent {
    VolumeEvent::Shown {
        path: "/dev/null".into(),
        size: 4 << 20,
        front_end: FrontEnd::FuseLoop,
        format: Format::None,
    }
}

fn status(state: StateName) -> VolumeEvent {
    VolumeEvent::Status(Box::new(Status {
        state,
        size: 4 << 20,
        ..Status::off()
    }))
}

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

/// Answers the next order to detach, as an engine does.
fn detach_when_told(stage: Stage) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let mut told = false;
            stage.last(|act| told = act.orders.lock().unwrap().contains(&"detach".to_owned()));
            if told {
                return stage.tell(VolumeEvent::Ended(Ending::Detached));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
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

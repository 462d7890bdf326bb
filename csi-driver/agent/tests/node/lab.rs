//! A node with its folder, pool and witness, and volumes that write down what they are told and say what the test wants.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_yaml::Value;
use tokio::{sync::watch, task::JoinHandle};
use twinsite_agent::{
    control::{
        node::{Node, NodeConfig, Teller},
        volumes::{Ending, LegTarget, Report, VolumeEvent, VolumeHandle, VolumeOrder, Volumes},
    },
    metrics::Health,
    reactor::{Thread, ThreadConfig},
};
use twinsite_api::{AttachmentMode, FrontEnd};
use twinsite_mirror::{
    io::{Format, FsType, Leg, VerifyOrder},
    status::{StateName, Status},
};

/// Volumes that only write down what they are told.
#[derive(Clone, Default)]
pub(crate) struct Stage(pub(crate) Arc<Mutex<Vec<Act>>>);

pub(crate) struct Act {
    pub(crate) name: String,
    pub(crate) mode: AttachmentMode,
    pub(crate) seq: Option<u64>,
    pub(crate) report: Report,
    pub(crate) orders: Arc<Mutex<Vec<String>>>,
}

pub(crate) struct Actor(Arc<Mutex<Vec<String>>>);

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
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn last(&self, read: impl FnOnce(&Act)) {
        read(self.0.lock().unwrap().last().unwrap());
    }

    pub(crate) fn tell(&self, event: VolumeEvent) {
        self.last(|act| (act.report)(event));
    }
}

pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) stage: Stage,
    pub(crate) teller: Teller,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) node: Option<JoinHandle<bool>>,
    pub(crate) threads: Vec<Thread>,
}

pub(crate) const PAIR: &str = "apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {name: ctrc}
spec:
  sites: [{name: medical}, {name: research}]
  witness: {directory: {path: WITNESS}}
";

pub(crate) const POOL: &str = "apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {name: m1}
spec:
  site: medical
  node: {name: m1, directory: POOL}
  portals: ['127.0.0.1:3260']
";

pub(crate) const LEG: &str = "apiVersion: twinsite.io/v1alpha1
kind: Leg
metadata: {name: records-a, generation: 3}
spec: {volume: ts-000102030405060708090a0b0c0d0e0f, leg: A, site: medical, sitePair: ctrc, pool: m1, node: m1, size: 4Mi}
";

pub(crate) fn attachment(name: &str, rest: &str) -> String {
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

pub(crate) fn config(root: &Path) -> NodeConfig {
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
    pub(crate) fn new() -> Self {
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

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let text = text.replace("WITNESS", &self.path("witness").display().to_string());
        let text = text.replace("POOL", &self.path("pool").display().to_string());
        let aside = self.path("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.path("objects").join(name)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.path("objects").join(name)).unwrap();
    }

    pub(crate) fn status(&self, file: &str) -> Option<Value> {
        let text = fs::read_to_string(self.path("objects/status").join(file)).ok()?;
        let object: Value = serde_yaml::from_str(&text).unwrap();
        object.get("status").cloned()
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn() -> bool) {
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

    pub(crate) async fn until_field(&self, file: &str, field: &str, value: &str) {
        let found = || self.status(file)?.get(field)?.as_str().map(str::to_owned);
        self.until(&format!("{file}: {field} is {value}"), || {
            found().as_deref() == Some(value)
        })
        .await;
    }

    /// Until the first condition has this reason.
    pub(crate) async fn until_reason(&self, file: &str, reason: &str) {
        let found = || {
            self.status(file)
                .is_some_and(|status| status["conditions"][0]["reason"] == reason)
        };
        self.until(&format!("{file} says {reason}"), found).await;
    }

    pub(crate) async fn stop(mut self) -> bool {
        self.stop.send_replace(true);
        let clean = self.node.take().unwrap().await.unwrap();
        for thread in &self.threads {
            thread.stop();
            thread.join();
        }
        clean
    }
}

pub(crate) fn shown() -> VolumeEvent {
    VolumeEvent::Shown {
        path: "/dev/null".into(),
        size: 4 << 20,
        front_end: FrontEnd::FuseLoop,
        format: Format::None,
    }
}

pub(crate) fn status(state: StateName) -> VolumeEvent {
    VolumeEvent::Status(Box::new(Status {
        state,
        size: 4 << 20,
        ..Status::off()
    }))
}

/// Answers the next order to detach, as an engine does.
pub(crate) fn detach_when_told(stage: Stage) -> JoinHandle<()> {
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

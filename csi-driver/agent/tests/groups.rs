//! Two volumes of a group, by real agents of two sites from folders of objects: born as one, written to in one order, one site
//! killed in mid-write, both volumes at the other one with everything that was acknowledged, and back in sync together.
//!
//! Passes with one line where no device can be shown.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use std::{
    fs::{self, OpenOptions},
    net::TcpListener,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_yaml::Value;
use twinsite_witness::{
    Directory, Witness,
    register::{GroupId, Members, Register, State},
};

const VOLUMES: [&str; 2] = [
    "ts-000102030405060708090a0b0c0d0e0f",
    "ts-ff0102030405060708090a0b0c0d0e0f",
];
const GROUP: &str = "tg-aa0102030405060708090a0b0c0d0e0f";
const LIMIT: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;
/// Blocks that the records go around in.
const BLOCKS: u64 = 2048;

fn missing() -> Option<&'static str> {
    let opens = |path: &str| OpenOptions::new().read(true).write(true).open(path).is_ok();
    let both = opens("/dev/fuse") && opens("/dev/loop-control");
    (!both).then_some("a device takes root, /dev/fuse and /dev/loop-control")
}

/// One site: an agent and its folder.
struct Place {
    folder: PathBuf,
    name: &'static str,
    node: &'static str,
    port: u16,
    agent: Option<Child>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            // Cleanly if it can: it takes its device down itself.
            let _told = Command::new("kill").arg(agent.id().to_string()).status();
            let start = Instant::now();
            while matches!(agent.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(8) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _gone = agent.kill();
            let _ended = agent.wait();
        }
    }
}

impl Place {
    fn start(&mut self) {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_twinsite-agent"))
            .args(["--node", self.node, "--site", self.name, "--threads", "1"])
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .arg("--objects")
            .arg(self.folder.join("objects"))
            .arg("--state")
            .arg(self.folder.join("state"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    fn put(&self, file: &str, text: &str) {
        let aside = self.folder.join("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.folder.join("objects").join(file)).unwrap();
    }

    fn take(&self, file: &str) {
        fs::remove_file(self.folder.join("objects").join(file)).unwrap();
    }

    fn status(&self, object: &str) -> Value {
        let path = self.folder.join(format!("objects/status/{object}.yaml"));
        let text = fs::read_to_string(path).unwrap_or_default();
        let object: Value = serde_yaml::from_str(&text).unwrap_or_default();
        object.get("status").cloned().unwrap_or_default()
    }
}

struct Lab {
    sites: [Place; 2],
    witness: Witness,
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("witness")).unwrap();
        // Held until both are known, or one could be given twice.
        let ports = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let place = |name, node, index: usize| Place {
            folder: dir.path().join(name),
            name,
            node,
            port: ports[index].local_addr().unwrap().port(),
            agent: None,
        };
        let sites = [place("medical", "m1", 0), place("research", "r1", 1)];
        drop(ports);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = runtime.block_on(async { Directory::open(&dir.path().join("witness")) });
        let witness = Witness::new(Arc::new(store.unwrap()), "ctrc").unwrap();
        let mut lab = Self {
            sites,
            witness,
            runtime,
            dir,
        };
        for site in 0..2 {
            lab.standing_objects(site);
            let place = &mut lab.sites[site];
            let init = Command::new(env!("CARGO_BIN_EXE_twinsite-agent"))
                .args(["pool", "init"])
                .arg(place.folder.join("pool"))
                .stdout(Stdio::null())
                .status();
            assert!(init.unwrap().success());
            place.start();
            for volume in 0..2 {
                let leg = format!("leg-leg-{volume}");
                lab.until(&leg, || lab.sites[site].status(&leg)["state"] == "Serving");
            }
        }
        lab
    }

    fn standing_objects(&self, site: usize) {
        let place = &self.sites[site];
        for folder in ["objects", "pool"] {
            fs::create_dir_all(place.folder.join(folder)).unwrap();
        }
        let Place {
            name, node, port, ..
        } = place;
        let mut text = format!(
            "apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {{name: ctrc}}
spec:
  sites: [{{name: medical}}, {{name: research}}]
  witness: {{directory: {{path: {}}}}}
---
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {{name: p}}
spec:
  site: {name}
  node: {{name: {node}, directory: {}}}
  portals: ['127.0.0.1:{port}']
",
            self.dir.path().join("witness").display(),
            place.folder.join("pool").display()
        );
        for (volume, id) in VOLUMES.iter().enumerate() {
            let leg = ["A", "B"][site];
            text += &format!(
                "---
apiVersion: twinsite.io/v1alpha1
kind: Leg
metadata: {{name: leg-{volume}}}
spec: {{volume: {id}, leg: {leg}, site: {name}, sitePair: ctrc, pool: p, node: {node}, size: {}}}
",
                16 * MIB
            );
        }
        place.put("site.yaml", &text);
    }

    /// Orders this of the agent of a site, for one volume of the group.
    fn order(&self, site: usize, volume: usize, name: &str, mode: &str, rest: &str) {
        let place = &self.sites[site];
        let text = format!(
            "apiVersion: twinsite.io/v1alpha1
kind: Attachment
metadata: {{name: {name}-{volume}}}
spec:
  volume: {}
  group: {GROUP}
  groupVolumes: [{}]
  sitePair: ctrc
  node: {}
  site: {}
  mode: {mode}
  size: 16Mi
  legs:
  - {{leg: A, site: medical, portals: ['127.0.0.1:{}']}}
  - {{leg: B, site: research, portals: ['127.0.0.1:{}']}}
{rest}
",
            VOLUMES[volume],
            VOLUMES.join(", "),
            place.node,
            place.name,
            self.sites[0].port,
            self.sites[1].port
        );
        place.put(&format!("{name}-{volume}.yaml"), &text);
    }

    fn order_all(&self, site: usize, name: &str, mode: &str, rest: &str) {
        for volume in 0..2 {
            self.order(site, volume, name, mode, rest);
        }
    }

    fn status(&self, site: usize, name: &str, volume: usize) -> Value {
        self.sites[site].status(&format!("attachment-{name}-{volume}"))
    }

    /// All volumes are so.
    fn all(&self, site: usize, name: &str, holds: impl Fn(&Value) -> bool) -> bool {
        (0..2).all(|volume| holds(&self.status(site, name, volume)))
    }

    fn device(&self, site: usize, name: &str, volume: usize) -> PathBuf {
        let status = self.status(site, name, volume);
        status["device"]["path"].as_str().unwrap().into()
    }

    fn register(&self) -> Option<Register> {
        let group: twinsite_api::GroupId = GROUP.parse().unwrap();
        self.runtime
            .block_on(self.witness.read(GroupId(group.bytes())))
            .unwrap()
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            if start.elapsed() > LIMIT {
                for place in &self.sites {
                    let log = fs::read_to_string(place.folder.join("log")).unwrap_or_default();
                    let lines: Vec<&str> = log.lines().collect();
                    let last = lines[lines.len().saturating_sub(30)..].join("\n");
                    println!("--- {}\n{last}", place.name);
                    let entries = fs::read_dir(place.folder.join("objects/status")).unwrap();
                    for entry in entries {
                        let path = entry.unwrap().path();
                        println!("{}", fs::read_to_string(path).unwrap_or_default());
                    }
                }
                panic!("never: {what}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn in_sync(status: &Value) -> bool {
    let legs = status["legs"].as_sequence().map_or(&[][..], Vec::as_slice);
    status["state"] == "Attached"
        && legs.len() == 2
        && legs.iter().all(|leg| leg["state"] == "Member")
}

/// Where record n lies, and in which volume: each is written when the one before, on the other volume, is durable.
const fn place_of(n: u64) -> (usize, u64) {
    ((n % 2) as usize, (n / 2 % BLOCKS) * 4096)
}

fn record(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(512)
}

/// Writes records until a device says no; the number of the last one that was acknowledged.
fn write_records(devices: &[PathBuf; 2], acknowledged: &AtomicU64) {
    let files = [0, 1].map(|v: usize| OpenOptions::new().write(true).open(&devices[v]).unwrap());
    let mut n = acknowledged.load(Ordering::SeqCst);
    loop {
        n += 1;
        let (volume, offset) = place_of(n);
        let written = files[volume].write_all_at(&record(n), offset);
        if written.and_then(|()| files[volume].sync_all()).is_err() {
            return;
        }
        acknowledged.store(n, Ordering::SeqCst);
    }
}

/// Every record up to this one is there, unless a later one went over it.
fn check_records(devices: &[PathBuf; 2], acknowledged: u64) {
    let files = [0, 1].map(|v: usize| OpenOptions::new().read(true).open(&devices[v]).unwrap());
    let first = acknowledged.saturating_sub(2 * BLOCKS) + 1;
    for n in first..=acknowledged {
        let (volume, offset) = place_of(n);
        let mut bytes = vec![0; 4096];
        files[volume].read_exact_at(&mut bytes, offset).unwrap();
        let found = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert!(
            found >= n && found % 2 == n % 2,
            "record {n} was acknowledged, volume {volume} has {found} at {offset}"
        );
        assert_eq!(bytes, record(found), "record {n} is torn");
    }
}

#[test]
fn two_volumes_of_a_group_are_born_move_and_come_back_as_one() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let mut lab = Lab::new();

    // One alone is not born, and says why.
    let birth = "  birth: {activeSite: medical}";
    lab.order(0, 0, "birth", "Birth", birth);
    lab.until("it waits for the other one", || {
        let status = serde_yaml::to_string(&lab.status(0, "birth", 0)).unwrap();
        status.contains("has no Attachment on this node")
    });
    assert_eq!(lab.register(), None);
    lab.order(0, 1, "birth", "Birth", birth);
    lab.until("both are born", || {
        lab.all(0, "birth", |status| status["state"] == "Done")
    });
    let register = lab.register().unwrap();
    assert_eq!(
        (register.state, register.members),
        (State::Live, Members::BOTH)
    );
    assert_eq!(register.volumes.len(), 2);
    for volume in 0..2 {
        lab.sites[0].take(&format!("birth-{volume}.yaml"));
    }

    lab.order_all(0, "w", "Writer", "");
    lab.until("both are in sync", || lab.all(0, "w", in_sync));
    assert_eq!(lab.register().unwrap().order.n, 1, "one place for both");
    let devices = [0, 1].map(|volume| lab.device(0, "w", volume));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writer = {
        let acknowledged = Arc::clone(&acknowledged);
        std::thread::spawn(move || write_records(&devices, &acknowledged))
    };
    lab.until("records are written", || {
        acknowledged.load(Ordering::SeqCst) > 500
    });

    // The site dies in mid-write: both volumes move.
    lab.sites[0].kill();
    writer.join().unwrap();
    let last = acknowledged.load(Ordering::SeqCst);
    for volume in 0..2 {
        lab.sites[0].take(&format!("w-{volume}.yaml"));
    }
    lab.order_all(1, "f", "Writer", "  move: {mode: Failover, expectSeq: 1}");
    lab.until("both are at research", || {
        lab.all(1, "f", |status| {
            status["state"] == "Attached" && !status["device"].is_null()
        })
    });
    let register = lab.register().unwrap();
    assert_eq!((register.active.seq, register.active.latched), (2, true));
    assert_eq!(register.order.n, 2);
    let devices = [0, 1].map(|volume| lab.device(1, "f", volume));
    check_records(&devices, last);
    println!("records acknowledged before the kill: {last}, all there");

    // Writing goes on there, and the site that returns is filled again for both together.
    let more = Arc::new(AtomicU64::new(last));
    let writer = {
        let (more, devices) = (Arc::clone(&more), devices.clone());
        std::thread::spawn(move || write_records(&devices, &more))
    };
    lab.until("records go on", || more.load(Ordering::SeqCst) > last + 200);
    let before = lab.register().unwrap().epoch;
    lab.sites[0].start();
    lab.until("both are in sync again", || lab.all(1, "f", in_sync));
    let register = lab.register().unwrap();
    assert_eq!(register.members, Members::BOTH);
    assert_eq!(register.epoch.0, before.0 + 1, "one grow for both");

    // One of the two Attachments goes: nothing happens. The other one too: both are detached.
    lab.sites[1].take("f-0.yaml");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(lab.register().unwrap().holder.is_some());
    assert!(in_sync(&lab.status(1, "f", 1)));
    let written = more.load(Ordering::SeqCst);
    lab.sites[1].take("f-1.yaml");
    lab.until("nobody holds the group", || {
        lab.register().unwrap().holder.is_none()
    });
    writer.join().unwrap();
    assert!(more.load(Ordering::SeqCst) >= written);

    // As planned, back home: every record is there, of both volumes.
    lab.order_all(0, "h", "Writer", "  move: {mode: Planned, expectSeq: 2}");
    lab.until("both are home", || lab.all(0, "h", in_sync));
    let devices = [0, 1].map(|volume| lab.device(0, "h", volume));
    check_records(&devices, more.load(Ordering::SeqCst));
    for volume in 0..2 {
        lab.sites[0].take(&format!("h-{volume}.yaml"));
    }
    lab.until("all is let go", || lab.register().unwrap().holder.is_none());
}

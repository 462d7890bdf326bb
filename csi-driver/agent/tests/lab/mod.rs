//! Two sites on one machine: an agent each, with a folder of objects, a pool and a directory as witness.
#![allow(dead_code, reason = "each test uses what it needs of it")]

use std::{
    fs::{self, File, OpenOptions},
    net::TcpListener,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_yaml::Value;
use twinsite_witness::{
    Directory, Swap, Witness,
    register::{GroupId, Register, TxId},
};

pub(crate) const VOLUME: &str = "ts-000102030405060708090a0b0c0d0e0f";
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn missing() -> Option<&'static str> {
    let opens = |path: &str| OpenOptions::new().read(true).write(true).open(path).is_ok();
    let both = opens("/dev/fuse") && opens("/dev/loop-control");
    (!both).then_some("a device takes root, /dev/fuse and /dev/loop-control")
}

/// One site: an agent and its folder.
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) name: &'static str,
    pub(crate) node: &'static str,
    pub(crate) port: u16,
    pub(crate) agent: Option<Child>,
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
    pub(crate) fn start(&mut self) {
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
            .arg("--socket")
            .arg(self.folder.join("agent.sock"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    pub(crate) fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// `twinsite-agent ctl` of this site.
    pub(crate) fn ctl(&self, args: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_twinsite-agent"))
            .args(["ctl", "--socket"])
            .arg(self.folder.join("agent.sock"))
            .args(args)
            .output()
            .unwrap()
    }

    pub(crate) fn put(&self, file: &str, text: &str) {
        let aside = self.folder.join("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.folder.join("objects").join(file)).unwrap();
    }

    pub(crate) fn take(&self, file: &str) {
        fs::remove_file(self.folder.join("objects").join(file)).unwrap();
    }

    pub(crate) fn status(&self, object: &str) -> Value {
        let path = self.folder.join(format!("objects/status/{object}.yaml"));
        let text = fs::read_to_string(path).unwrap_or_default();
        let object: Value = serde_yaml::from_str(&text).unwrap_or_default();
        object.get("status").cloned().unwrap_or_default()
    }
}

pub(crate) struct Lab {
    pub(crate) medical: Place,
    pub(crate) research: Place,
    pub(crate) witness: Witness,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) txid: u8,
    pub(crate) dir: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
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
        let places = [place("medical", "m1", 0), place("research", "r1", 1)];
        drop(ports);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = runtime.block_on(async { Directory::open(&dir.path().join("witness")) });
        let witness = Witness::new(Arc::new(store.unwrap()), "ctrc").unwrap();
        let [medical, research] = places;
        let mut lab = Self {
            medical,
            research,
            witness,
            runtime,
            txid: 0,
            dir,
        };
        lab.standing_objects(16 * MIB, "Retain");
        for place in [&mut lab.medical, &mut lab.research] {
            let init = Command::new(env!("CARGO_BIN_EXE_twinsite-agent"))
                .args(["pool", "init"])
                .arg(place.folder.join("pool"))
                .stdout(Stdio::null())
                .status();
            assert!(init.unwrap().success());
            place.start();
        }
        lab.serving(16 * MIB);
        lab
    }

    pub(crate) fn standing_objects(&self, size: u64, removal: &str) {
        for (place, leg) in [(&self.medical, "A"), (&self.research, "B")] {
            for folder in ["objects", "pool"] {
                fs::create_dir_all(place.folder.join(folder)).unwrap();
            }
            let Place {
                name, node, port, ..
            } = place;
            place.put(
                "site.yaml",
                &format!(
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
---
apiVersion: twinsite.io/v1alpha1
kind: Leg
metadata: {{name: leg}}
spec: {{volume: {VOLUME}, leg: {leg}, site: {name}, sitePair: ctrc, pool: p, node: {node}, size: {size}, removal: {removal}}}
",
                    self.dir.path().join("witness").display(),
                    place.folder.join("pool").display()
                ),
            );
        }
    }

    pub(crate) fn serving(&self, size: u64) {
        for place in [&self.medical, &self.research] {
            self.until(place.name, || {
                let leg = place.status("leg-leg");
                leg["state"] == "Serving" && leg["size"] == size
            });
        }
    }

    /// Orders something of the agent at medical.
    pub(crate) fn order(&self, name: &str, mode: &str, rest: &str) {
        let legs = format!(
            "  - {{leg: A, site: medical, portals: ['127.0.0.1:{}']}}
  - {{leg: B, site: research, portals: ['127.0.0.1:{}']}}",
            self.medical.port, self.research.port
        );
        self.order_on(name, mode, &legs, rest);
    }

    pub(crate) fn order_on(&self, name: &str, mode: &str, legs: &str, rest: &str) {
        let text = format!(
            "apiVersion: twinsite.io/v1alpha1
kind: Attachment
metadata: {{name: {name}}}
spec:
  volume: {VOLUME}
  sitePair: ctrc
  node: m1
  site: medical
  mode: {mode}
  legs:
{legs}
{rest}
"
        );
        self.medical.put(&format!("{name}.yaml"), &text);
    }

    pub(crate) fn status(&self, name: &str) -> Value {
        self.medical.status(&format!("attachment-{name}"))
    }

    pub(crate) fn until_state(&self, name: &str, state: &str) {
        self.until(&format!("{name} is {state}"), || {
            self.status(name)["state"] == *state
        });
    }

    pub(crate) fn done(&self, name: &str) {
        self.until_state(name, "Done");
    }

    /// Takes an order back and waits until nothing of it is left.
    pub(crate) fn end(&self, name: &str) {
        self.medical.take(&format!("{name}.yaml"));
        self.until(&format!("{name} has ended"), || self.status(name).is_null());
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            if start.elapsed() > LIMIT {
                let tail = |place: &Place| {
                    let log = fs::read_to_string(place.folder.join("log")).unwrap_or_default();
                    let lines: Vec<&str> = log.lines().collect();
                    lines[lines.len().saturating_sub(25)..].join("\n")
                };
                let entries = fs::read_dir(self.medical.folder.join("objects/status"));
                let statuses: Vec<String> = entries
                    .unwrap()
                    .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap_or_default())
                    .collect();
                panic!(
                    "never: {what}\n{}\n--- medical\n{}\n--- research\n{}",
                    statuses.join("\n"),
                    tail(&self.medical),
                    tail(&self.research)
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn group() -> GroupId {
        GroupId(std::array::from_fn(|byte| u8::try_from(byte).unwrap()))
    }

    pub(crate) fn register(&self) -> Option<Register> {
        self.runtime
            .block_on(self.witness.read(Self::group()))
            .unwrap()
    }

    /// Changes the register as the operator or a person would.
    pub(crate) fn change(&mut self, change: impl Fn(&Register, TxId) -> Register) {
        let start = Instant::now();
        loop {
            self.txid += 1;
            let current = self.register().unwrap();
            let new = change(&current, TxId([self.txid; 16]));
            let swap = self.runtime.block_on(self.witness.swap(&current, &new));
            if swap == Swap::Won {
                return;
            }
            assert!(start.elapsed() < LIMIT, "{swap:?}");
        }
    }

    pub(crate) fn file(&self, place: &Place, leg: char) -> PathBuf {
        place.folder.join(format!("pool/legs/{VOLUME}-{leg}.img"))
    }
}

pub(crate) fn device(status: &Value) -> PathBuf {
    status["device"]["path"].as_str().unwrap().into()
}

/// Writes one block and waits until it is on both sites.
pub(crate) fn write(device: &Path, block: u64, byte: u8) {
    let device = OpenOptions::new().write(true).open(device).unwrap();
    device.write_all_at(&[byte; 4096], block * 4096).unwrap();
    device.sync_all().unwrap();
}

/// What a leg's file has of a block.
pub(crate) fn stored(file: &Path, block: u64) -> u8 {
    let mut bytes = [0; 4096];
    let file = File::open(file).unwrap();
    file.read_exact_at(&mut bytes, 128 * MIB + block * 4096)
        .unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}

pub(crate) fn in_sync(status: &Value) -> bool {
    let legs = status["legs"].as_sequence().map_or(&[][..], Vec::as_slice);
    status["state"] == "Attached"
        && legs.len() == 2
        && legs.iter().all(|leg| leg["state"] == "Member")
}

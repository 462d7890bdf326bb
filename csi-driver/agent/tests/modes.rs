//! What an agent can be ordered to do with a volume, by real agents of two sites from folders of objects: birth, inspect,
//! writer, caretaker, dropped legs, growth, reseed and wipe, in the order in which a volume meets them.
//!
//! The test stands in for the operator where the register is concerned. Passes with one line where no device can be shown.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

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
    register::{
        Epoch, Gen, GroupId, Leg, LegSeed, Members, Register, RegisterId, Reseed, SeedMembers,
        Site, State, TxId, VolumeId,
    },
};

const VOLUME: &str = "ts-000102030405060708090a0b0c0d0e0f";
const LIMIT: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;

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
    medical: Place,
    research: Place,
    witness: Witness,
    runtime: tokio::runtime::Runtime,
    txid: u8,
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

    fn standing_objects(&self, size: u64, removal: &str) {
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

    fn serving(&self, size: u64) {
        for place in [&self.medical, &self.research] {
            self.until(place.name, || {
                let leg = place.status("leg-leg");
                leg["state"] == "Serving" && leg["size"] == size
            });
        }
    }

    /// Orders something of the agent at medical.
    fn order(&self, name: &str, mode: &str, rest: &str) {
        let legs = format!(
            "  - {{leg: A, site: medical, portals: ['127.0.0.1:{}']}}
  - {{leg: B, site: research, portals: ['127.0.0.1:{}']}}",
            self.medical.port, self.research.port
        );
        self.order_on(name, mode, &legs, rest);
    }

    fn order_on(&self, name: &str, mode: &str, legs: &str, rest: &str) {
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

    fn status(&self, name: &str) -> Value {
        self.medical.status(&format!("attachment-{name}"))
    }

    fn until_state(&self, name: &str, state: &str) {
        self.until(&format!("{name} is {state}"), || {
            self.status(name)["state"] == *state
        });
    }

    fn done(&self, name: &str) {
        self.until_state(name, "Done");
    }

    /// Takes an order back and waits until nothing of it is left.
    fn end(&self, name: &str) {
        self.medical.take(&format!("{name}.yaml"));
        self.until(&format!("{name} has ended"), || self.status(name).is_null());
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn() -> bool) {
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

    fn group() -> GroupId {
        GroupId(std::array::from_fn(|byte| u8::try_from(byte).unwrap()))
    }

    fn register(&self) -> Option<Register> {
        self.runtime
            .block_on(self.witness.read(Self::group()))
            .unwrap()
    }

    /// Changes the register as the operator or a person would.
    fn change(&mut self, change: impl Fn(&Register, TxId) -> Register) {
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

    fn file(&self, place: &Place, leg: char) -> PathBuf {
        place.folder.join(format!("pool/legs/{VOLUME}-{leg}.img"))
    }
}

fn device(status: &Value) -> PathBuf {
    status["device"]["path"].as_str().unwrap().into()
}

/// Writes one block and waits until it is on both sites.
fn write(device: &Path, block: u64, byte: u8) {
    let device = OpenOptions::new().write(true).open(device).unwrap();
    device.write_all_at(&[byte; 4096], block * 4096).unwrap();
    device.sync_all().unwrap();
}

/// What a leg's file has of a block.
fn stored(file: &Path, block: u64) -> u8 {
    let mut bytes = [0; 4096];
    let file = File::open(file).unwrap();
    file.read_exact_at(&mut bytes, 128 * MIB + block * 4096)
        .unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    bytes[0]
}

fn in_sync(status: &Value) -> bool {
    let legs = status["legs"].as_sequence().map_or(&[][..], Vec::as_slice);
    status["state"] == "Attached"
        && legs.len() == 2
        && legs.iter().all(|leg| leg["state"] == "Member")
}

#[test]
fn a_volume_is_born_used_grown_and_wiped() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let mut lab = Lab::new();

    lab.order(
        "birth",
        "Birth",
        "  birth: {activeSite: medical}\n  size: 16Mi",
    );
    lab.done("birth");
    let register = lab.register().unwrap();
    assert_eq!(
        (register.state, register.epoch, register.members),
        (State::Live, Epoch(1), Members::BOTH)
    );
    lab.end("birth");

    lab.order("inspect", "Inspect", "  size: 16Mi");
    lab.done("inspect");
    for leg in lab.status("inspect")["inspect"]["legs"]
        .as_sequence()
        .unwrap()
    {
        assert_eq!(leg["class"], "Usable", "{leg:?}");
        assert_eq!(
            (&leg["epoch"], &leg["reachable"]),
            (&1.into(), &true.into())
        );
    }
    lab.end("inspect");

    lab.order("w", "Writer", "  size: 16Mi");
    lab.until("w is in sync", || in_sync(&lab.status("w")));
    write(&device(&lab.status("w")), 7, 0xab);
    for (place, leg) in [(&lab.medical, 'a'), (&lab.research, 'b')] {
        assert_eq!(stored(&lab.file(place, leg), 7), 0xab);
    }

    // The node dies; its writer is not wanted any more, and somebody must let the volume go.
    lab.medical.kill();
    lab.medical.take("w.yaml");
    assert!(lab.register().unwrap().holder.is_some());
    lab.order("care", "Caretaker", "  size: 16Mi");
    lab.medical.start();
    lab.until("the caretaker is in sync", || in_sync(&lab.status("care")));
    assert!(lab.status("care")["device"].is_null());
    lab.end("care");
    lab.until("nobody holds it", || {
        lab.register().unwrap().holder.is_none()
    });

    a_leg_is_dropped_and_comes_back(&mut lab);
    the_volume_grows(&mut lab);
    the_volume_is_deleted(&mut lab);
}

fn a_leg_is_dropped_and_comes_back(lab: &mut Lab) {
    // Opened when only one leg is known, it takes the other one in when it learns of it.
    let only = format!(
        "  - {{leg: A, site: medical, portals: ['127.0.0.1:{}']}}",
        lab.medical.port
    );
    lab.order_on("w2", "Writer", &only, "  size: 16Mi");
    lab.until_state("w2", "Attached");
    lab.until("B is left behind", || {
        lab.register().unwrap().members == Members::only(Leg::A)
    });
    write(&device(&lab.status("w2")), 5, 0x55);
    lab.order("w2", "Writer", "  size: 16Mi");
    lab.until("w2 is in sync", || in_sync(&lab.status("w2")));
    assert_eq!(stored(&lab.file(&lab.research, 'b'), 5), 0x55);
    lab.order("w2", "Writer", "  size: 16Mi\n  dropLegs: [B]");
    lab.until("B is out", || {
        lab.register().unwrap().members == Members::only(Leg::A)
    });
    assert_eq!(lab.register().unwrap().no_rejoin, Members::only(Leg::B));
    write(&device(&lab.status("w2")), 9, 0xcd);
    assert_eq!(stored(&lab.file(&lab.medical, 'a'), 9), 0xcd);
    assert_eq!(stored(&lab.file(&lab.research, 'b'), 9), 0);
    // It stays out by itself.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(lab.register().unwrap().members, Members::only(Leg::A));
    // Growing waits for it, and says so.
    lab.standing_objects(24 * MIB, "DeleteWiped");
    lab.serving(24 * MIB);
    lab.order("w2", "Writer", "  size: 24Mi\n  dropLegs: [B]");
    lab.until("growing says what it waits for", || {
        let conditions = lab.status("w2")["conditions"].clone();
        let conditions = conditions.as_sequence().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|it| it["type"] == "WaitingForLeg" && it["status"] == "True")
    });
    assert_eq!(lab.status("w2")["device"]["size"], 16 * MIB);
    // The spec names it again, and the operator lets it back.
    lab.order("w2", "Writer", "  size: 24Mi");
    lab.change(|register, txid| register.rejoin(Members::NONE, txid).unwrap());
    lab.until("B is back", || {
        lab.register().unwrap().members == Members::BOTH
    });
    assert_eq!(stored(&lab.file(&lab.research, 'b'), 9), 0xcd);
}

fn the_volume_grows(lab: &mut Lab) {
    lab.until("the device has grown", || {
        lab.status("w2")["device"]["size"] == 24 * MIB
    });
    let last = 24 * MIB / 4096 - 1;
    write(&device(&lab.status("w2")), last, 0xef);
    for (place, leg) in [(&lab.medical, 'a'), (&lab.research, 'b')] {
        assert_eq!(stored(&lab.file(place, leg), last), 0xef);
    }
    lab.end("w2");
}

fn the_volume_is_deleted(lab: &mut Lab) {
    // Not without a tombstone.
    lab.order("early", "Wipe", "  size: 24Mi");
    lab.until("a wipe without a tombstone is refused", || {
        let status = lab.status("early");
        status["state"] == "Failed" && status["reason"] == "WrongState"
    });
    lab.end("early");
    lab.change(|register, txid| register.tombstone(Gen([9; 16]), txid).unwrap());
    lab.order("wipe", "Wipe", "  size: 24Mi");
    lab.done("wipe");
    lab.end("wipe");
    for leg in Leg::BOTH {
        lab.change(|register, txid| register.wiped(leg, txid).unwrap());
    }
    assert!(lab.register().unwrap().is_buried());
    for (place, leg) in [(&lab.medical, 'a'), (&lab.research, 'b')] {
        assert!(lab.file(place, leg).exists());
        place.take("site.yaml");
        lab.until("the file of the wiped leg is gone", || {
            !lab.file(place, leg).exists()
        });
    }
}

#[test]
fn a_lost_witness_is_replaced_by_a_reseed() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let lab = Lab::new();
    lab.order(
        "birth",
        "Birth",
        "  birth: {activeSite: medical}\n  size: 16Mi",
    );
    lab.done("birth");
    lab.end("birth");
    lab.order("w", "Writer", "  size: 16Mi");
    lab.until("w is in sync", || in_sync(&lab.status("w")));
    write(&device(&lab.status("w")), 3, 0x77);
    lab.end("w");
    let old = lab.register().unwrap();

    let swap = lab.runtime.block_on(lab.witness.remove(&old));
    assert_eq!(swap, Swap::Won);
    lab.order("lost", "Writer", "  size: 16Mi");
    lab.until("nothing opens without the register", || {
        lab.status("lost")["reason"] == "RegisterMissing"
    });
    lab.end("lost");

    let id = "0123456789abcdef0123456789abcdef";
    lab.order(
        "reseed",
        "Reseed",
        &format!("  reseed: {{registerId: {id}, legs: [A, B]}}\n  size: 16Mi"),
    );
    lab.done("reseed");
    lab.end("reseed");
    lab.order("inspect", "Inspect", "  size: 16Mi");
    lab.done("inspect");
    let seen = |index: usize| {
        let leg = &lab.status("inspect")["inspect"]["legs"][index];
        LegSeed {
            epoch: Epoch(leg["epoch"].as_u64().unwrap()),
            generation: leg["generation"].as_str().unwrap().parse().unwrap(),
            sb_seq: leg["sbSeq"].as_u64().unwrap(),
        }
    };
    let register_id: RegisterId = id.parse().unwrap();
    let reseed = Reseed {
        register_id,
        former: vec![old.register_id],
        group: old.group,
        volumes: vec![VolumeId(Lab::group().0)],
        highest_epoch: old.epoch,
        highest_seq: old.active.seq,
        highest_order: old.order.n,
        members: SeedMembers::Pair {
            a: seen(0),
            b: seen(1),
        },
        site: Site::A,
        generation: Gen([5; 16]),
        txid: TxId([6; 16]),
        who: "test".to_owned(),
        why: "the witness was lost".to_owned(),
    };
    lab.end("inspect");
    let new = Register::reseed(&reseed, None).unwrap();
    assert_eq!(lab.runtime.block_on(lab.witness.create(&new)), Swap::Won);
    lab.order("again", "Writer", "  size: 16Mi");
    lab.until("the volume opens again in sync", || {
        in_sync(&lab.status("again"))
    });
    assert_eq!(lab.register().unwrap().register_id, register_id);
    let mut bytes = [0; 4096];
    File::open(device(&lab.status("again")))
        .unwrap()
        .read_exact_at(&mut bytes, 3 * 4096)
        .unwrap();
    assert_eq!(bytes, [0x77; 4096]);
    lab.end("again");
}

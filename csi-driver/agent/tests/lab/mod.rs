//! Two sites on one machine: an agent each, with a folder of objects, a pool and a directory as witness.
#![allow(dead_code, reason = "each test uses what it needs of it")]

pub(crate) mod place;

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

use serde_yaml::Value;
use twinsite_witness::{
    Swap, Witness,
    register::{GroupId, Register, TxId},
};

use place::{Ground, Place, until};
pub(crate) use place::{LIMIT, MIB, missing};

pub(crate) const VOLUME: &str = "ts-000102030405060708090a0b0c0d0e0f";

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
        let Ground {
            dir,
            places: [medical, research],
            witness,
            runtime,
        } = Ground::lay();
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
            place.init_pool();
            place.start();
        }
        lab.serving(16 * MIB);
        lab
    }

    /// With a volume that was born; none where no device can be shown.
    pub(crate) fn born() -> Option<Self> {
        if let Some(why) = missing() {
            println!("skipped: {why}");
            return None;
        }
        let lab = Self::new();
        lab.order(
            "birth",
            "Birth",
            "  birth: {activeSite: medical}\n  size: 16Mi",
        );
        lab.done("birth");
        lab.end("birth");
        Some(lab)
    }

    pub(crate) fn standing_objects(&self, size: u64, removal: &str) {
        for (place, leg) in [(&self.medical, "A"), (&self.research, "B")] {
            let standing = place.standing(self.dir.path());
            let (name, node) = (place.name, place.node);
            place.put(
                "site.yaml",
                &format!(
                    "{standing}---
apiVersion: twinsite.io/v1alpha1
kind: Leg
metadata: {{name: leg}}
spec: {{volume: {VOLUME}, leg: {leg}, site: {name}, sitePair: ctrc, pool: p, node: {node}, size: {size}, removal: {removal}}}
"
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
        until(&[&self.medical, &self.research], what, holds);
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

//! Two volumes of a group, by real agents of two sites from folders of objects: born as one, written to in one order, one site
//! killed in mid-write, both volumes at the other one with everything that was acknowledged, and back in sync together.
//!
//! Passes with one line where no device can be shown.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod lab;

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lab::{
    MIB, in_sync, missing,
    place::{Ground, Place, until},
};
use serde_yaml::Value;
use twinsite_witness::{
    Witness,
    register::{GroupId, Members, Register, State},
};

const VOLUMES: [&str; 2] = [
    "ts-000102030405060708090a0b0c0d0e0f",
    "ts-ff0102030405060708090a0b0c0d0e0f",
];
const GROUP: &str = "tg-aa0102030405060708090a0b0c0d0e0f";
/// Blocks that the records go around in.
const BLOCKS: u64 = 2048;

struct Lab {
    sites: [Place; 2],
    witness: Witness,
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let Ground {
            dir,
            places: sites,
            witness,
            runtime,
        } = Ground::lay();
        let mut lab = Self {
            sites,
            witness,
            runtime,
            dir,
        };
        for site in 0..2 {
            lab.standing_objects(site);
            let place = &mut lab.sites[site];
            place.init_pool();
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
        let mut text = place.standing(self.dir.path());
        let (name, node) = (place.name, place.node);
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
        until(&[&self.sites[0], &self.sites[1]], what, holds);
    }
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

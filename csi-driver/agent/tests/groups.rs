//! Two volumes of a group, by real agents of two sites from folders of objects: born as one, written to in one order, one site
//! killed in mid-write, both volumes at the other one with everything that was acknowledged, and back in sync together.
//!
//! Passes with one line where no device can be shown.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod lab;

use std::{
    fs::{File, OpenOptions},
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
    Swap, Witness,
    register::{
        Epoch, Gen, GroupId, Leg, LegSeed, Members, Register, RegisterId, Reseed, SeedMembers,
        Site, State, TxId, VolumeId,
    },
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
        self.order_to(&[0, 1], (site, volume), name, mode, rest);
    }

    /// With the copies of these sites.
    fn order_to(
        &self,
        sites: &[usize],
        (site, volume): (usize, usize),
        name: &str,
        mode: &str,
        rest: &str,
    ) {
        let place = &self.sites[site];
        let leg = |of: &usize| {
            let (letter, place) = (["A", "B"][*of], &self.sites[*of]);
            let (name, port) = (place.name, place.port);
            format!("  - {{leg: {letter}, site: {name}, portals: ['127.0.0.1:{port}']}}\n")
        };
        let legs: String = sites.iter().map(leg).collect();
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
{legs}{rest}
",
            VOLUMES[volume],
            VOLUMES.join(", "),
            place.node,
            place.name,
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

    /// Takes these orders back and waits until nobody holds the group.
    fn let_go(&self, site: usize, name: &str) {
        for volume in 0..2 {
            self.sites[site].take(&format!("{name}-{volume}.yaml"));
        }
        self.until("it is let go", || self.register().unwrap().holder.is_none());
        self.until("its orders are gone", || {
            self.all(site, name, Value::is_null)
        });
    }

    fn has_superblock(&self, site: usize, volume: usize) -> bool {
        let leg = ["a", "b"][site];
        let name = format!("pool/legs/{}-{leg}.img", VOLUMES[volume]);
        let file = File::open(self.sites[site].folder.join(name)).unwrap();
        let mut slots = [[0; 8]; 2];
        for (slot, at) in slots.iter_mut().zip([64, 128]) {
            file.read_exact_at(slot, at << 10).unwrap();
        }
        slots.contains(b"TWINSB01")
    }

    /// Changes the register as a person would.
    fn change(&self, change: impl Fn(&Register) -> Register) {
        let current = self.register().unwrap();
        let new = change(&current);
        let swap = self.witness.swap(&current, &new);
        assert_eq!(self.runtime.block_on(swap), Swap::Won);
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

/// The number of the last record on these devices.
fn last_record(devices: &[PathBuf; 2]) -> u64 {
    let files = [0, 1].map(|v: usize| File::open(&devices[v]).unwrap());
    let number = |(file, at): (&File, u64)| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at * 4096).unwrap();
        u64::from_le_bytes(bytes)
    };
    let all = files
        .iter()
        .flat_map(|file| (0..BLOCKS).map(move |at| (file, at)));
    all.map(number).max().unwrap()
}

/// What an Inspect of the group says about the copies at research.
fn inspected(lab: &Lab) -> [Value; 2] {
    for volume in 0..2 {
        lab.order_to(&[1], (1, volume), "look", "Inspect", "");
    }
    lab.until("both copies were read", || {
        lab.all(1, "look", |status| status["state"] == "Done")
    });
    let reports = [0, 1].map(|volume| lab.status(1, "look", volume)["inspect"].clone());
    for volume in 0..2 {
        lab.sites[1].take(&format!("look-{volume}.yaml"));
    }
    lab.until("the reports are gone", || {
        lab.all(1, "look", Value::is_null)
    });
    reports
}

/// The copy at research.
fn copy_of(report: &Value) -> &Value {
    let legs = report["legs"].as_sequence().unwrap();
    legs.iter().find(|leg| leg["leg"] == "B").unwrap()
}

fn force_of(report: &Value, who: &str) -> String {
    let (epoch, txid) = report["token"].as_str().unwrap().split_once('-').unwrap();
    let leg = copy_of(report);
    format!(
        "  force: {{expectEpoch: {epoch}, expectTxid: '{txid}', epoch: {}, generation: '{}', sbSeq: {}, who: {who}}}",
        leg["epoch"].as_u64().unwrap(),
        leg["generation"].as_str().unwrap(),
        leg["sbSeq"].as_u64().unwrap(),
    )
}

/// The site with the last good copies burns down: a person takes the older copies of the other one, both of one moment.
#[test]
fn a_group_is_forced_onto_the_older_copies_of_the_other_site_as_a_whole() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let mut lab = Lab::new();
    lab.order_all(0, "birth", "Birth", "  birth: {activeSite: medical}");
    lab.until("both are born", || {
        lab.all(0, "birth", |status| status["state"] == "Done")
    });
    for volume in 0..2 {
        lab.sites[0].take(&format!("birth-{volume}.yaml"));
    }
    lab.order_all(0, "w", "Writer", "");
    lab.until("both are in sync", || lab.all(0, "w", in_sync));
    let devices = [0, 1].map(|volume| lab.device(0, "w", volume));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writer = {
        let acknowledged = Arc::clone(&acknowledged);
        std::thread::spawn(move || write_records(&devices, &acknowledged))
    };
    let written = |n: u64| acknowledged.load(Ordering::SeqCst) >= n;
    lab.until("records are written", || written(300));

    // Research is cut off, medical goes on alone, and then it is gone.
    lab.sites[1].kill();
    let alone = || lab.register().unwrap().members == Members::only(Leg::A);
    lab.until("medical goes on alone", alone);
    let then = acknowledged.load(Ordering::SeqCst);
    lab.until("more is written", || written(then + 200));
    lab.sites[0].kill();
    writer.join().unwrap();
    let last = acknowledged.load(Ordering::SeqCst);
    for volume in 0..2 {
        lab.sites[0].take(&format!("w-{volume}.yaml"));
    }
    lab.sites[1].start();
    let before = lab.register().unwrap();
    let reports = inspected(&lab);
    let moments = [0, 1].map(|volume: usize| copy_of(&reports[volume])["moment"].clone());
    assert!(
        moments[0].is_string() && moments[0] == moments[1],
        "{moments:?}"
    );
    assert_eq!(copy_of(&reports[0])["class"], "Stale");

    // One volume is not forced without the other, nor are orders of two decisions.
    let force = |volume: usize, who: &str| {
        let details = force_of(&reports[volume], who);
        lab.order_to(&[1], (1, volume), "force", "Force", &details);
    };
    force(0, "ann");
    lab.until("it waits for the other one", || {
        let status = serde_yaml::to_string(&lab.status(1, "force", 0)).unwrap();
        status.contains("has no Attachment on this node")
    });
    force(1, "bob");
    lab.until("they differ", || {
        let status = serde_yaml::to_string(&lab.status(1, "force", 1)).unwrap();
        status.contains("differ in spec.force")
    });
    assert_eq!(lab.register().unwrap(), before);
    force(1, "ann");
    lab.until("both are forced", || {
        lab.all(1, "force", |status| status["state"] == "Done")
    });
    let register = lab.register().unwrap();
    assert_eq!(register.members, Members::only(Leg::B));
    assert_eq!(
        (register.granted.len(), register.unconfirmed),
        (2, Members::only(Leg::A))
    );
    for volume in 0..2 {
        lab.sites[1].take(&format!("force-{volume}.yaml"));
    }
    lab.until("the orders are gone", || {
        lab.all(1, "force", Value::is_null)
    });

    // Both run, and no record is there without the one that was acknowledged before it.
    lab.order_all(1, "r", "Writer", "");
    lab.until("both are at research", || {
        lab.all(1, "r", |status| {
            status["state"] == "Attached" && !status["device"].is_null()
        })
    });
    assert_eq!(
        lab.register().unwrap().granted.len(),
        0,
        "the superblocks say it themselves"
    );
    let devices = [0, 1].map(|volume| lab.device(1, "r", volume));
    let kept = last_record(&devices);
    assert!(kept >= 300 && kept < last, "{kept} of {last}");
    check_records(&devices, kept - 1);
    println!(
        "records acknowledged {last}, on the forced copies {kept}, none of them without an earlier one"
    );
    let more = Arc::new(AtomicU64::new(kept));
    let writer = {
        let (more, devices) = (Arc::clone(&more), devices.clone());
        std::thread::spawn(move || write_records(&devices, &more))
    };
    lab.until("records go on", || more.load(Ordering::SeqCst) > kept + 100);

    // Medical is back, with a branch of its own: it is left alone until a person gives it up, and then filled anew.
    lab.sites[0].start();
    lab.until("the lost branch is seen in both", || {
        lab.all(1, "r", |status| {
            let text = serde_yaml::to_string(status).unwrap();
            text.contains("LostBranch: it carries writes")
        })
    });
    assert_eq!(lab.register().unwrap().members, Members::only(Leg::B));
    lab.change(|register| register.confirm(Leg::A, "ann", TxId([0x51; 16])).unwrap());
    lab.until("both are in sync again", || lab.all(1, "r", in_sync));
    for volume in 0..2 {
        lab.sites[1].take(&format!("r-{volume}.yaml"));
    }
    lab.until("nobody holds the group", || {
        lab.register().unwrap().holder.is_none()
    });
    writer.join().unwrap();
    lab.order_all(0, "h", "Writer", "  move: {mode: Planned, expectSeq: 2}");
    lab.until("both are home", || lab.all(0, "h", in_sync));
    let devices = [0, 1].map(|volume| lab.device(0, "h", volume));
    check_records(&devices, more.load(Ordering::SeqCst));
    lab.let_go(0, "h");
    its_register_is_lost_and_made_anew(&lab, more.load(Ordering::SeqCst));
    it_is_deleted(&lab);
}

/// The witness lost it: a person names the equal copies of both sites, of both volumes.
fn its_register_is_lost_and_made_anew(lab: &Lab, last: u64) {
    let old = lab.register().unwrap();
    let removed = lab.runtime.block_on(lab.witness.remove(&old));
    assert_eq!(removed, Swap::Won);
    let register_id = RegisterId([0x61; 16]);
    let details = |legs: &str| format!("  reseed: {{registerId: '{register_id}', legs: {legs}}}");
    lab.order(0, 0, "reseed", "Reseed", &details("[A, B]"));
    lab.order(0, 1, "reseed", "Reseed", &details("[A]"));
    lab.until("two decisions are not carried out", || {
        let status = serde_yaml::to_string(&lab.status(0, "reseed", 1)).unwrap();
        status.contains("differ in spec.reseed")
    });
    lab.order(0, 1, "reseed", "Reseed", &details("[A, B]"));
    lab.until("the copies of both name the new register", || {
        lab.all(0, "reseed", |status| status["state"] == "Done")
    });
    let seed = |leg: &Value| LegSeed {
        epoch: Epoch(leg["epoch"].as_u64().unwrap()),
        generation: leg["generation"].as_str().unwrap().parse().unwrap(),
        sb_seq: leg["sbSeq"].as_u64().unwrap(),
    };
    let pair = |volume: usize| {
        let legs = lab.status(0, "reseed", volume)["inspect"]["legs"].clone();
        SeedMembers::Pair {
            a: seed(&legs[0]),
            b: seed(&legs[1]),
        }
    };
    let of = |volume: usize| {
        let id: twinsite_api::VolumeId = VOLUMES[volume].parse().unwrap();
        (VolumeId(id.bytes()), pair(volume))
    };
    let seen = [of(0), of(1)];
    let reseed = Reseed {
        register_id,
        former: vec![old.register_id],
        group: old.group,
        volumes: old.volumes.clone(),
        highest_epoch: old.epoch,
        highest_seq: old.active.seq,
        highest_order: old.order.n,
        members: seen[0].1,
        site: Site::A,
        generation: Gen([0x62; 16]),
        txid: TxId([0x62; 16]),
        who: "ann".to_owned(),
        why: "the witness was lost".to_owned(),
    };
    let new = Register::reseed_all(&reseed, &seen, None).unwrap();
    assert_eq!(lab.runtime.block_on(lab.witness.create(&new)), Swap::Won);
    for volume in 0..2 {
        lab.sites[0].take(&format!("reseed-{volume}.yaml"));
    }
    lab.order_all(0, "n", "Writer", "");
    lab.until("both are in sync under it", || lab.all(0, "n", in_sync));
    let devices = [0, 1].map(|volume| lab.device(0, "n", volume));
    check_records(&devices, last);
    assert!(lab.register().unwrap().granted.is_empty());
    lab.let_go(0, "n");
}

fn it_is_deleted(lab: &Lab) {
    // Deleted: one volume is not wiped alone; both are, by one order.
    lab.change(|register| {
        register
            .tombstone(Gen([0x52; 16]), TxId([0x52; 16]))
            .unwrap()
    });
    lab.order(0, 0, "wipe", "Wipe", "");
    lab.until("the wipe waits for the other one", || {
        let status = serde_yaml::to_string(&lab.status(0, "wipe", 0)).unwrap();
        status.contains("has no Attachment on this node")
    });
    assert!(lab.has_superblock(0, 0));
    lab.order(0, 1, "wipe", "Wipe", "");
    lab.until("both are wiped", || {
        lab.all(0, "wipe", |status| status["state"] == "Done")
    });
    for (site, volume) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        assert!(!lab.has_superblock(site, volume), "{site} {volume}");
    }
}

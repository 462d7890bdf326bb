//! Comparing the copies of a volume that is used, by real agents of two sites: what is equal, what somebody changed behind
//! the mirror's back, a copy that goes away in the middle, an agent that starts anew.
//!
//! Passes with one line where no device can be shown.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod lab;

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use lab::{Lab, MIB, device, in_sync, stored, write};
use serde_yaml::Value;

/// Of the volume: 16 MiB in blocks.
const BLOCKS: u64 = 4096;
const BAD: u64 = 1234;

/// The order of a writer that compares for this request, at 4 MiB a second.
fn ask(lab: &Lab, request: &str) {
    lab.order(
        "w",
        "Writer",
        &format!("  size: 16Mi\n  maxResyncBytesPerSecond: 4Mi\n  verify: {request}"),
    );
}

fn report(lab: &Lab) -> Value {
    lab.status("w")["verify"].clone()
}

fn until_done(lab: &Lab, request: &str) -> Value {
    lab.until(&format!("{request} is done"), || {
        let told = report(lab);
        told["request"] == *request && told["state"] == "Done"
    });
    report(lab)
}

fn condition(lab: &Lab, type_: &str) -> Option<String> {
    let status = lab.status("w");
    let all = status["conditions"].as_sequence()?;
    let found = all.iter().find(|condition| condition["type"] == *type_)?;
    found["status"].as_str().map(str::to_owned)
}

/// Writes blocks at random places but the one that was changed, until it is told to stop.
fn scribble(device: &Path, seed: u64, stop: &AtomicBool) -> u64 {
    let device = OpenOptions::new().write(true).open(device).unwrap();
    let (mut random, mut written) = (seed | 1, 0);
    while !stop.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let block = random % BLOCKS;
        if block != BAD {
            let bytes = vec![random as u8; 4096];
            device.write_all_at(&bytes, block * 4096).unwrap();
            written += 1;
        }
        if written % 64 == 0 {
            device.sync_data().unwrap();
        }
    }
    device.sync_all().unwrap();
    written
}

#[test]
fn what_differs_is_found_while_the_volume_is_written_and_nothing_else_is() {
    let Some(mut lab) = Lab::born() else {
        return;
    };
    ask(&lab, "monday");
    lab.until("w is in sync", || in_sync(&lab.status("w")));
    let shown = device(&lab.status("w"));
    write(&shown, BAD, 0xab);
    let told = until_done(&lab, "monday");
    assert_eq!(
        (&told["differingBytes"], &told["chunks"]),
        (&0.into(), &64.into())
    );
    assert_eq!(condition(&lab, "LegsDiffer").as_deref(), Some("False"));

    // One bit of one copy changes, by nobody who would tell.
    let file = OpenOptions::new()
        .write(true)
        .open(lab.file(&lab.research, 'b'))
        .unwrap();
    file.write_all_at(&[0xaa; 4096], 128 * MIB + BAD * 4096)
        .unwrap();
    file.sync_all().unwrap();
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let stop = AtomicBool::new(false);
    let (found, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| scribble(&shown, seed, &stop));
        let found = lab.medical.ctl(&["verify", "w", "--wait"]);
        stop.store(true, Ordering::Relaxed);
        (found, writer.join().unwrap())
    });
    assert!(
        !found.status.success() && written > 100,
        "{found:?} {written}"
    );
    let told = report(&lab);
    assert_eq!(told["request"], "by hand");
    assert_eq!(
        told["differing"].as_sequence().unwrap().len(),
        1,
        "{told:?}"
    );
    assert_eq!(told["differing"][0]["offset"], BAD * 4096);
    assert_eq!(told["differingBytes"], 4096);
    assert_eq!(condition(&lab, "LegsDiffer").as_deref(), Some("True"));
    // Nobody knows which is right: both stay.
    assert_eq!(stored(&lab.file(&lab.medical, 'a'), BAD), 0xab);
    assert_eq!(stored(&lab.file(&lab.research, 'b'), BAD), 0xaa);

    write(&shown, BAD, 0xab);
    ask(&lab, "tuesday");
    let told = until_done(&lab, "tuesday");
    assert_eq!(told["differingBytes"], 0, "{told:?}");
    assert_eq!(condition(&lab, "LegsDiffer").as_deref(), Some("False"));

    it_goes_on_when_the_copy_or_the_agent_is_back(&mut lab);
}

fn percent(lab: &Lab) -> u64 {
    report(lab)["percent"].as_u64().unwrap_or(0)
}

fn it_goes_on_when_the_copy_or_the_agent_is_back(lab: &mut Lab) {
    ask(lab, "wednesday");
    let under_way = |lab: &Lab, from: u64| {
        lab.until("it is under way", || {
            let told = report(lab);
            told["request"] == "wednesday"
                && told["state"] == "Running"
                && (from..90).contains(&percent(lab))
        });
    };
    under_way(lab, 10);
    lab.research.kill();
    lab.until("it waits for the copy", || {
        report(lab)["state"] == "Waiting" && report(lab)["reason"] == "MemberLost"
    });
    let from = percent(lab);
    assert!((10..100).contains(&from), "{from}");
    lab.research.start();
    under_way(lab, from);
    lab.medical.kill();
    std::thread::sleep(Duration::from_millis(100));
    lab.medical.start();
    let told = until_done(lab, "wednesday");
    assert_eq!(told["differingBytes"], 0, "{told:?}");
    assert_eq!(told["percent"], 100);
}

//! What an agent can be ordered to do with a volume, by real agents of two sites from folders of objects: birth, inspect,
//! writer, caretaker, dropped legs, growth, reseed and wipe, in the order in which a volume meets them.
//!
//! The test stands in for the operator where the register is concerned. Passes with one line where no device can be shown.
#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod lab;

use std::{fs::File, os::unix::fs::FileExt as _, time::Duration};

use lab::{Lab, MIB, device, in_sync, stored, write};
use twinsite_witness::Swap;
use twinsite_witness::register::{
    Epoch, Gen, Leg, LegSeed, Members, Register, RegisterId, Reseed, SeedMembers, Site, State,
    TxId, VolumeId,
};

#[test]
fn a_volume_is_born_used_grown_and_wiped() {
    let Some(mut lab) = Lab::born() else {
        return;
    };
    let register = lab.register().unwrap();
    assert_eq!(
        (register.state, register.epoch, register.members),
        (State::Live, Epoch(1), Members::BOTH)
    );

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
    let Some(lab) = Lab::born() else {
        return;
    };
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

//! Random histories.

use super::*;

/// Random histories: whatever is proposed and accepted, the invariants hold and the outcome of the winner is Won.
#[test]
fn invariants_hold_over_random_histories() {
    let seed = 0x5eed_0001;
    println!("seed {seed:#x}");
    let mut state: u64 = seed;
    let mut random = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut accepted = [0u32; 17];
    for _ in 0..400 {
        let mut register = creating();
        let mut fresh = 100u64;
        let mut memberships = std::collections::BTreeMap::new();
        for _ in 0..60 {
            fresh += 1;
            let mut id = [0; 16];
            id[..8].copy_from_slice(&fresh.to_le_bytes());
            id[15] = 1;
            let txid = TxId(id);
            let new_gen = Gen(id);
            let leg = Leg::BOTH[random(2) as usize];
            let site = Leg::BOTH[random(2) as usize].site();
            let running = Running::of(&register, register.holder.unwrap_or(key(Site::A, 1)));
            let stamp = Stamp {
                key: key(site, fresh),
                stamp_id: StampId(id),
                order: Order {
                    n: register.order.n + random(2),
                    uid: AttachmentUid(id),
                },
            };
            let membership = match random(3) {
                0 => Membership::Keep,
                1 => Membership::Shrink {
                    to: leg,
                    generation: new_gen,
                },
                _ => Membership::Bump {
                    generation: new_gen,
                },
            };
            let moves = (random(2) == 0).then_some(Move {
                to: site,
                kind: MoveKind::Unplanned,
            });
            let kind = random(17);
            let proposed = match kind {
                0 => register.birth(site, txid),
                1 | 2 => register.attach(
                    &AttachChange {
                        site,
                        stamp,
                        membership,
                        moves,
                    },
                    txid,
                ),
                3 => register.shrink(&running, leg, new_gen, txid),
                4 | 5 => register.grow(&running, new_gen, txid),
                6 => register.bump(&running, new_gen, txid),
                7 => register.drop_leg(&running, leg, new_gen, txid),
                8 => register.land(&running, Members::only(leg), txid),
                9 => register.release(running.key, txid),
                10 => register.thaw(
                    &running,
                    &Stamp {
                        key: running.key,
                        ..stamp
                    },
                    txid,
                ),
                11 => register.rejoin(Members::NONE, txid),
                12 if random(8) == 0 => register.tombstone(new_gen, txid),
                12 => register.unlatch(txid),
                13 if random(4) == 0 => register.force(
                    &Force {
                        expect_epoch: register.epoch,
                        expect_txid: register.txid,
                        leg,
                        generation: new_gen,
                        ..force_b(&register)
                    },
                    txid,
                ),
                13 => register.confirm(leg, "ann", txid),
                14 => register.retire(leg, Naa(id), "ann", txid),
                15 => register.wiped(leg, txid),
                _ => register.late_stamp(
                    &running,
                    &Stamp {
                        key: running.key,
                        ..stamp
                    },
                    txid,
                ),
            };
            let Ok(next) = proposed else { continue };
            accepted[kind as usize] += 1;
            assert_eq!(next.check(), Ok(()), "{register:?} -> {next:?}");
            assert_ne!(next.txid, register.txid);
            assert!(next.epoch >= register.epoch, "I8");
            assert!(next.active.seq >= register.active.seq, "I8");
            assert!(next.order.n >= register.order.n);
            let same = memberships
                .entry(next.epoch)
                .or_insert((next.members, next.generation));
            assert!(
                next.epoch == Epoch(1) && next.parents.is_empty()
                    || *same == (next.members, next.generation),
                "I3"
            );
            if let (Some(from), Some(to)) = (register.members.sole(), next.members.sole()) {
                assert!(
                    from == to || kind == 13,
                    "Solo of the other leg without force"
                );
            }
            assert_eq!(
                outcome(&register, &next, &next),
                Outcome::Won,
                "{register:?} -> {next:?}"
            );
            assert_eq!(outcome(&register, &next, &register), Outcome::Unknown);
            let round_trip = Register::from_json(&next.to_json()).unwrap();
            assert_eq!(round_trip, next);
            register = next;
        }
    }
    println!("accepted by kind: {accepted:?}");
    assert!(
        accepted.iter().all(|&n| n > 0),
        "a transition was never accepted: {accepted:?}"
    );
}

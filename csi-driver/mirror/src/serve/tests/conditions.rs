//! A condition is raised as long as it holds, and not longer.

use std::time::Duration;

use twinsite_register::{Epoch, Members};

use super::bench::{A, B, Bench, ms};
use super::grow;
use super::orders;
use super::rejoin::{self, Far};
use super::setup::{Setup, served};
use crate::engine::Port;
use crate::layout::Superblock;
use crate::serve::Serve;
use crate::status::{Condition, StateName};

fn raised(b: &Bench) -> Vec<Condition> {
    b.engine.status(b.now).conditions
}

/// B is to leave by order, A loses its cache before: B stays.
#[test]
fn a_last_member_that_stays_after_all_is_not_called_lost() {
    let mut b = orders::forgets_beside_a_drop();
    b.settle();
    assert_eq!(b.state(), StateName::Solo);
    assert_eq!(raised(&b), []);
}

/// It was the last member while the request to grow was open.
#[test]
fn a_leg_of_a_pair_is_not_called_the_last_member() {
    let mut b = grow::grow_wait();
    b.down(A);
    b.wait(ms(3_500));
    assert_eq!(raised(&b), [Condition::LegLost]);
    b.win_silently();
    b.read();
    assert_eq!(b.state(), StateName::Frozen);
    assert_eq!(raised(&b), []);
}

#[test]
fn what_a_new_decision_settles_is_not_told_any_more() {
    let now = Duration::from_secs(60);
    let mut serve = Serve::new(Duration::ZERO, served(&Setup::solo(A)), 1, Port::default());
    serve.raise(Condition::LegLost);
    serve.raise(Condition::MembershipUnknown);
    serve.resume(now, served(&Setup::solo(A)));
    assert_eq!(serve.status(now).conditions, []);
}

#[test]
fn a_leg_that_was_put_back_is_called_damaged_until_it_is_a_member_again() {
    let mut b = Bench::served(Setup {
        beats: [9, 7],
        ..Setup::pair()
    });
    assert_eq!(b.state(), StateName::Solo);
    assert_eq!(raised(&b), [Condition::LegDamaged(B)]);
    let far = rejoin::far(&b);
    rejoin::join(&mut b, &far);
    assert_eq!(raised(&b), [Condition::LegDamaged(B)]);
    b.settle();
    assert_eq!(b.state(), StateName::Synced);
    assert_eq!(raised(&b), []);
}

#[test]
fn a_lost_branch_is_told_until_it_is_confirmed_and_not_until_it_is_copied() {
    let mut b = rejoin::solo();
    b.edit(|register| register.unconfirmed = Members::only(B));
    b.up(B);
    assert_eq!(raised(&b), [Condition::LostBranch(B)]);
    b.edit(|register| register.unconfirmed = Members::NONE);
    b.polls = false;
    b.wait(ms(5_500));
    let far = rejoin::far(&b);
    b.seen();
    rejoin::join_read(&mut b, &far);
    assert_eq!(raised(&b), []);
    assert_eq!(b.state(), StateName::Solo, "nothing is copied yet");
}

/// The register is read every ten seconds and answers: that says nothing of the leg.
#[test]
fn a_leg_above_the_register_is_told_of_as_long_as_it_is() {
    let mut b = rejoin::solo();
    let far = rejoin::far(&b);
    let ahead = Far {
        superblock: Superblock {
            epoch: Epoch(9),
            ..far.superblock
        },
        ..far
    };
    b.polls = false;
    b.up(B);
    b.read();
    for name in [
        "B register Data",
        "B read keys",
        "B read reservation",
        "B full status",
        "B register Resync",
    ] {
        b.ok(name);
    }
    let slot = ahead.superblock.emit().to_vec();
    b.reply("B read meta 65536", crate::io::LegReply::Meta(slot));
    b.reply(
        "B read meta 131072",
        crate::io::LegReply::Meta(vec![0; 4096]),
    );
    assert_eq!(raised(&b), [Condition::WitnessRolledBack]);
    b.polls = true;
    b.wait(ms(11_000));
    assert_eq!(raised(&b), [Condition::WitnessRolledBack]);
}

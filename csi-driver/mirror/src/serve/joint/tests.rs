//! When a volume of a group says that only a new decision leads on.

use std::time::Duration;

use super::*;
use crate::engine::Port;
use crate::serve::tests::{Setup, served};

/// A volume of a group, frozen: this leg lost something here, the other one in another volume. The register was asked.
fn frozen(why: LostWhy, recorded: u64) -> Serve {
    let setup = Setup {
        volatile: true,
        boots: [recorded, 200],
        ..Setup::pair()
    };
    let mut serve = Serve::of_group(Duration::ZERO, served(&setup), 1, Port::default());
    serve.state = State::Frozen;
    serve.links[0].lost = Some(why);
    for leg in Leg::BOTH {
        serve.links[leg.index()].link = Link::Ready;
    }
    let joint = serve.joint.as_mut().unwrap();
    joint.asked = true;
    joint.lost = [Some(why), Some(LostWhy::Restarted)];
    serve
}

#[test]
fn a_restart_that_a_superblock_tells_of_is_decided_anew() {
    assert!(frozen(LostWhy::Restarted, 100).is_stuck());
}

/// The attach makes no difference between the legs once it was repaired, and the decision would take either.
#[test]
fn a_leg_that_was_put_back_is_not_decided_anew() {
    assert!(!frozen(LostWhy::RolledBack, 100).is_stuck());
}

#[test]
fn a_leg_that_failed_a_sync_is_not_decided_anew() {
    assert!(!frozen(LostWhy::SyncFailed, 100).is_stuck());
}

/// A boot id that was never recorded is not behind (2.8): the leg that lost its cache would be taken for whole.
#[test]
fn a_restart_that_no_superblock_can_tell_of_is_not_decided_anew() {
    assert!(!frozen(LostWhy::Restarted, 0).is_stuck());
}

#[test]
fn while_a_relogin_may_still_cure_the_loss_nothing_is_decided_anew() {
    let cure = LostWhy::Session(crate::io::LegDown::Unreachable);
    assert!(!frozen(cure, 100).is_stuck());
    let mut away = frozen(LostWhy::Restarted, 100);
    away.links[0].link = Link::Down;
    assert!(!away.is_stuck());
}

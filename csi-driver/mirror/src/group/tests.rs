//! Which orders are those of one group. (Groups that run: `sim::groups`.)

use std::time::Duration;

use twinsite_register::{AttachmentUid, Key, Site, VolumeId};

use super::{Group, GroupError, MAX_VOLUMES};
use crate::config::Config;
use crate::io::{
    AttachOrder, AttachRecord, ControlError, GuestError, GuestOp, Input, Mode, Output, ReqId,
};
use crate::status::StateName;

fn order(volume: u16) -> AttachOrder {
    let mut id = [7; 16];
    id[..2].copy_from_slice(&volume.to_le_bytes());
    AttachOrder {
        volume: VolumeId(id),
        uid: AttachmentUid([9; 16]),
        key: Key::from_u64(0xa1 << 56 | 5 << 8),
        seed: [3; 32],
        site: Site::A,
        node: "n".to_owned(),
        mode: Mode::Writer,
        mv: None,
        record: AttachRecord::new(AttachmentUid([volume as u8; 16])),
        shown: false,
        marks: Vec::new(),
        initialize: [None; 2],
        config: Config::default(),
    }
}

fn attach(orders: Vec<AttachOrder>) -> Result<Group, GroupError> {
    let mut group = Group::new(Duration::ZERO);
    group.attach(Duration::ZERO, orders)?;
    Ok(group)
}

#[test]
fn orders_that_are_not_those_of_one_group_are_refused() {
    let error = |orders| attach(orders).map(drop).unwrap_err();
    assert_eq!(error(Vec::new()), GroupError::Count(0));
    let many = (0..=MAX_VOLUMES as u16).map(order).collect();
    assert_eq!(error(many), GroupError::Count(MAX_VOLUMES + 1));
    assert_eq!(
        error(vec![order(1), order(1)]),
        GroupError::Twice(order(1).volume)
    );
    type Edit = fn(&mut AttachOrder);
    let edits: [Edit; 7] = [
        |o| o.uid = AttachmentUid([1; 16]),
        |o| o.key = Key::from_u64(6 << 8),
        |o| o.seed = [4; 32],
        |o| o.site = Site::B,
        |o| o.node = "other".to_owned(),
        |o| o.mode = Mode::Caretaker,
        |o| o.config.t_cmd = Duration::from_secs(9),
    ];
    for edit in edits {
        let mut other = order(2);
        edit(&mut other);
        assert_eq!(error(vec![order(1), other]), GroupError::Differ);
    }
    assert!(attach((0..MAX_VOLUMES as u16).map(order).collect()).is_ok());
}

#[test]
fn all_legs_are_logged_in_to_and_the_register_is_read_once() {
    let mut group = attach(vec![order(1), order(2), order(3)]).unwrap();
    let mut connects = 0;
    let mut reads = 0;
    let mut beats = Vec::new();
    while let Some((volume, output)) = group.poll() {
        match output {
            Output::Connect { .. } => connects += 1,
            Output::ReadRegister { .. } => reads += 1,
            Output::ReadBeat => beats.push(volume),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((connects, reads, beats), (6, 1, vec![0, 1, 2]));
    assert_eq!(group.status(Duration::ZERO, 2).state, StateName::Check);
}

#[test]
fn what_no_volume_can_take_is_answered() {
    let mut group = attach(vec![order(1), order(2)]).unwrap();
    while group.poll().is_some() {}
    let id = ReqId(4);
    let op = GuestOp::Flush;
    // Not shown, and no such volume.
    for volume in [1, 2] {
        group.handle(Duration::ZERO, volume, Input::Guest { id, op });
        let result = Err(GuestError::NotShown);
        assert_eq!(
            group.poll(),
            Some((volume, Output::GuestDone { id, result }))
        );
    }
    group.handle(Duration::ZERO, 1, Input::Expand { size: 1 << 30 });
    let result = Err(ControlError::NotAttached);
    assert_eq!(group.poll(), Some((1, Output::OrderDone { result })));
}

#[test]
fn a_detach_that_comes_first_is_told_of_every_volume() {
    let mut group = attach(vec![order(1), order(2)]).unwrap();
    while group.poll().is_some() {}
    group.handle(Duration::ZERO, 0, Input::Detach);
    let mut detached = Vec::new();
    while let Some((volume, output)) = group.poll() {
        if output == Output::Detached {
            detached.push(volume);
        }
    }
    assert_eq!(detached, [0, 1]);
    assert_eq!(group.status(Duration::ZERO, 0).state, StateName::Off);
}

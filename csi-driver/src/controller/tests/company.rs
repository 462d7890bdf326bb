//! Publishing volumes of a group: all of them on one node, or none, and nothing left behind.

use std::sync::Arc;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::ResourceExt as _;
use tonic::Code;
use twinsite_api::{Attachment, AttachmentState, GroupId, OnNoQuorum, VolumeGroup};

use super::{Memory, code, identity, published, said, service, soon, unpublished, volume};
use crate::proto::csi::{ListVolumesRequest, controller_server::Controller as _};

/// Two volumes of a group that their operator has made, and their ids.
fn grouped() -> (Arc<Memory>, [String; 2]) {
    let mut volumes = ["journal", "data"].map(volume);
    let mut ids = [identity(&volumes[0]), identity(&volumes[1])];
    let texts = [ids[0].to_string(), ids[1].to_string()];
    ids.sort_unstable();
    for volume in &mut volumes {
        volume.spec.active_site = None;
        volume.spec.group = Some("ledger".to_owned());
        volume.status.as_mut().unwrap().group = Some(VolumeGroup {
            id: GroupId::of_group("ctrc", "rv", "ledger"),
            volumes: ids.to_vec(),
            on_no_quorum: OnNoQuorum::Error,
        });
    }
    let objects = Memory::with(|inner| {
        for volume in volumes {
            let key = (volume.namespace().unwrap(), volume.name_any());
            inner.volumes.insert(key, volume);
        }
    });
    (objects, texts)
}

#[tokio::test]
async fn publishing_one_volume_of_a_group_orders_all_and_the_last_unpublish_removes_all() {
    let (objects, [journal, data]) = grouped();
    let service = service(&objects);
    for _ in 0..2 {
        published(&service, &journal, "m1").await.unwrap();
    }
    let made = objects.now(|inner| inner.attachments.clone());
    assert_eq!(made.len(), 2);
    for one in made.values() {
        assert_eq!(one.spec.group_volumes.len(), 2);
        assert_eq!(one.spec.on_no_quorum, OnNoQuorum::Error);
        assert_eq!(one.spec.node, "m1");
    }
    // The other one is not published, for all that.
    let listed = service.list_volumes(soon(ListVolumesRequest::default()));
    let entries = listed.await.unwrap().into_inner().entries;
    for entry in entries {
        let is_published = !entry.status.unwrap().published_node_ids.is_empty();
        assert_eq!(is_published, entry.volume.unwrap().volume_id == journal);
    }
    let elsewhere = published(&service, &data, "m2").await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::FailedPrecondition);
    assert!(
        elsewhere.message().contains("is published to node m1"),
        "{elsewhere}"
    );
    let uids = |objects: &Arc<Memory>| {
        let uid = |one: &Attachment| one.metadata.uid.clone();
        objects.now(|inner| inner.attachments.values().map(uid).collect::<Vec<_>>())
    };
    let before = uids(&objects);
    for _ in 0..2 {
        published(&service, &data, "m1").await.unwrap();
    }
    for _ in 0..2 {
        unpublished(&service, &journal, "m1").await.unwrap();
    }
    assert_eq!(uids(&objects), before, "the data is still in use");
    published(&service, &journal, "m1").await.unwrap();
    unpublished(&service, &data, "m1").await.unwrap();
    assert_eq!(uids(&objects), before);
    for _ in 0..2 {
        unpublished(&service, &journal, "m1").await.unwrap();
    }
    assert_eq!(uids(&objects), Vec::new());
    published(&service, &data, "m2").await.unwrap();
    assert_eq!(uids(&objects).len(), 2);
}

#[tokio::test]
async fn a_group_is_published_again_only_when_all_of_it_is_gone() {
    let (objects, [journal, data]) = grouped();
    objects.now(|inner| inner.keeps_deleted = true);
    let service = service(&objects);
    published(&service, &journal, "m1").await.unwrap();
    assert_eq!(
        code(unpublished(&service, &journal, "m1").await),
        Code::Aborted
    );
    assert_eq!(code(published(&service, &data, "m1").await), Code::Aborted);
    // What was published itself goes last: the call that is made again waits for all.
    objects.now(|inner| {
        inner
            .attachments
            .retain(|name, _| name.starts_with(&journal))
    });
    assert_eq!(
        code(unpublished(&service, &journal, "m1").await),
        Code::Aborted
    );
    objects.now(|inner| inner.attachments.clear());
    unpublished(&service, &journal, "m1").await.unwrap();
    published(&service, &data, "m1").await.unwrap();
}

#[tokio::test]
async fn a_group_that_is_not_whole_or_not_known_is_not_published() {
    let (objects, [journal, data]) = grouped();
    let service = service(&objects);
    objects.now(|inner| {
        let gone = ("rv".to_owned(), "data".to_owned());
        inner.volumes.remove(&gone);
    });
    let why = published(&service, &journal, "m1").await.unwrap_err();
    assert_eq!(why.code(), Code::Unavailable);
    assert!(why.message().contains(&data), "{why}");
    objects.now(|inner| {
        for volume in inner.volumes.values_mut() {
            volume.status.as_mut().unwrap().group = None;
        }
    });
    let why = published(&service, &journal, "m1").await.unwrap_err();
    assert!(why.message().contains("ledger"), "{why}");
    assert!(objects.now(|inner| inner.attachments.is_empty()));
}

#[tokio::test]
async fn a_group_whose_order_is_spent_is_ordered_anew_as_a_whole() {
    let (objects, [journal, _]) = grouped();
    let service = service(&objects);
    published(&service, &journal, "m1").await.unwrap();
    objects.now(|inner| inner.says = Some(said(AttachmentState::Superseded, None)));
    assert_eq!(
        code(published(&service, &journal, "m1").await),
        Code::Aborted
    );
    assert!(objects.now(|inner| inner.attachments.is_empty()));
}

/// A lost node whose Attachments were being removed came back in between.
#[tokio::test]
async fn what_is_left_of_a_group_without_any_publication_goes() {
    let (objects, [journal, data]) = grouped();
    let service = service(&objects);
    let leave_only_the_other = |gone: &str| {
        objects.now(|inner| inner.attachments.retain(|name, _| !name.starts_with(gone)));
    };
    published(&service, &data, "m1").await.unwrap();
    leave_only_the_other(&data);
    assert_eq!(code(published(&service, &data, "m2").await), Code::Aborted);
    published(&service, &data, "m2").await.unwrap();
    leave_only_the_other(&data);
    unpublished(&service, &data, "m2").await.unwrap();
    assert!(objects.now(|inner| inner.attachments.is_empty()));
    // One that is published is nobody's remains.
    published(&service, &journal, "m1").await.unwrap();
    unpublished(&service, &data, "m2").await.unwrap();
    leave_only_the_other(&data);
    unpublished(&service, &data, "m1").await.unwrap();
    assert_eq!(objects.now(|inner| inner.attachments.len()), 1);
}

#[tokio::test]
async fn a_group_is_published_while_one_of_its_volumes_is_kept_from_its_deletion() {
    let (objects, [journal, _]) = grouped();
    let service = service(&objects);
    let delete = |name: &str| {
        let key = ("rv".to_owned(), name.to_owned());
        objects.now(|inner| {
            let volume = inner.volumes.get_mut(&key).unwrap();
            volume.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        });
    };
    delete("data");
    published(&service, &journal, "m1").await.unwrap();
    unpublished(&service, &journal, "m1").await.unwrap();
    delete("journal");
    let why = published(&service, &journal, "m1").await.unwrap_err();
    assert_eq!(why.code(), Code::FailedPrecondition);
}

/// The other one would stand there for the sake of none, and keep the group from every other node.
#[tokio::test]
async fn a_publication_that_is_cut_short_has_made_what_the_next_unpublish_finds() {
    for at in 0..2 {
        let (objects, ids) = grouped();
        let service = service(&objects);
        objects.now(|inner| inner.makes = Some(1));
        assert_eq!(
            code(published(&service, &ids[at], "m1").await),
            Code::Unavailable
        );
        let made: Vec<String> = objects.now(|inner| inner.attachments.keys().cloned().collect());
        assert_eq!(made.len(), 1);
        assert!(made[0].starts_with(&ids[at]), "{made:?}");
        unpublished(&service, &ids[at], "m1").await.unwrap();
        assert!(objects.now(|inner| inner.attachments.is_empty()));
    }
}

/// The scheduler counts claims of pods: what it has placed must be let in.
#[tokio::test]
async fn a_volume_that_is_opened_for_another_ones_sake_takes_no_place() {
    let (objects, [journal, data]) = grouped();
    let alone = |name: &str| {
        let volume = volume(name);
        let id = identity(&volume).to_string();
        objects.now(|inner| {
            let key = (volume.namespace().unwrap(), volume.name_any());
            inner.volumes.insert(key, volume);
        });
        id
    };
    let (one, other) = (alone("one"), alone("other"));
    // A node takes two.
    let service = service(&objects);
    published(&service, &one, "m1").await.unwrap();
    published(&service, &journal, "m1").await.unwrap();
    published(&service, &journal, "m1").await.unwrap();
    assert_eq!(objects.now(|inner| inner.attachments.len()), 3);
    let full = published(&service, &data, "m1").await;
    assert_eq!(code(full), Code::ResourceExhausted);
    let full = published(&service, &other, "m1").await;
    assert_eq!(code(full), Code::ResourceExhausted);
    unpublished(&service, &one, "m1").await.unwrap();
    published(&service, &data, "m1").await.unwrap();
}

//! Publishing and unpublishing a volume: one node at a time, no more than a node takes, and the agent's answers.

use tonic::Code;
use twinsite_api::{AttachmentState, reason};

use super::{Memory, code, created, publish, published, said, service, soon, unpublished};
use crate::{
    capability::tests::wire,
    controller::keep,
    proto::csi::{
        controller_server::Controller as _, volume_capability::access_mode::Mode as Wire,
    },
};

#[tokio::test]
async fn a_volume_is_published_to_one_node_at_a_time_and_in_one_way() {
    let objects = Memory::with(|_| {});
    let service = service(&objects);
    let id = created(&service, "a").await;
    assert_eq!(code(published(&service, &id, "m9").await), Code::NotFound);
    assert_eq!(
        code(published(&service, "ts-x", "m1").await),
        Code::NotFound
    );
    published(&service, &id, "m1").await.unwrap();
    let elsewhere = published(&service, &id, "m2").await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::FailedPrecondition);
    assert!(elsewhere.message().contains("m1"));
    let mut other = publish(&id, "m1", Wire::SingleNodeWriter);
    other.readonly = true;
    let other = service.controller_publish_volume(soon(other)).await;
    assert_eq!(code(other), Code::AlreadyExists);
    let newer = publish(&id, "m1", Wire::SingleNodeMultiWriter);
    let newer = service.controller_publish_volume(soon(newer)).await;
    newer.unwrap();
    let mut block = publish(&id, "m1", Wire::SingleNodeWriter);
    block.volume_capability = Some(wire(None, Wire::SingleNodeWriter));
    let block = service.controller_publish_volume(soon(block)).await;
    assert_eq!(code(block), Code::InvalidArgument);
    // Not attached there: nothing to do, and nothing is done.
    unpublished(&service, &id, "m2").await.unwrap();
    assert_eq!(objects.now(|inner| inner.attachments.len()), 1);
    unpublished(&service, "unknown", "m1").await.unwrap();
}

/// A call that was delayed, of a replica that leads no more.
#[tokio::test]
async fn an_unpublish_that_comes_late_leaves_the_next_publication_alone() {
    let objects = Memory::with(|_| {});
    let service = service(&objects);
    let id = created(&service, "a").await;
    published(&service, &id, "m1").await.unwrap();
    objects.now(|inner| {
        let mut later = inner.attachments.values().next().unwrap().clone();
        later.metadata.uid = Some("later".to_owned());
        later.spec.node = "m2".to_owned();
        inner.later = Some(later);
    });
    unpublished(&service, &id, "m1").await.unwrap();
    let left = objects.now(|inner| inner.attachments.values().cloned().collect::<Vec<_>>());
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].metadata.uid.as_deref(), Some("later"));
}

#[tokio::test]
async fn orders_are_compared_with_their_volumes_without_asking_for_all_of_them() {
    let objects = Memory::with(|_| {});
    let service = service(&objects);
    let id = created(&service, "a").await;
    published(&service, &id, "m1").await.unwrap();
    objects.now(|inner| {
        let mut volumes = inner.volumes.values_mut();
        let status = volumes.next().unwrap().status.as_mut().unwrap();
        status.legs[1].portals = vec!["127.0.0.9:3260".to_owned()];
        inner.lists = 0;
    });
    keep::turn(&*objects).await.unwrap();
    let (lists, portals) = objects.now(|inner| {
        let mut orders = inner.attachments.values();
        (
            inner.lists,
            orders.next().unwrap().spec.legs[1].portals.clone(),
        )
    });
    assert_eq!((lists, portals), (0, vec!["127.0.0.9:3260".to_owned()]));
}

#[tokio::test]
async fn a_node_takes_as_many_volumes_as_it_may() {
    let objects = Memory::with(|_| {});
    let service = service(&objects);
    for name in ["a", "b"] {
        let id = created(&service, name).await;
        published(&service, &id, "m1").await.unwrap();
    }
    let third = created(&service, "c").await;
    let full = published(&service, &third, "m1").await;
    assert_eq!(code(full), Code::ResourceExhausted);
    published(&service, &third, "m2").await.unwrap();
}

#[tokio::test]
async fn publishing_waits_for_the_agent_and_leaves_the_site_to_the_register() {
    for (says, expected, left) in [
        (None, Code::Aborted, 1),
        (
            Some(said(AttachmentState::Attaching, None)),
            Code::Aborted,
            1,
        ),
        (Some(said(AttachmentState::Suspended, None)), Code::Ok, 1),
        (
            Some(said(AttachmentState::Refused, Some(reason::NOT_ACTIVE))),
            Code::Ok,
            1,
        ),
        (
            Some(said(AttachmentState::Refused, Some(reason::WAIT_MEMBER))),
            Code::Aborted,
            1,
        ),
        (
            Some(said(AttachmentState::Refused, Some(reason::ORDER_STALE))),
            Code::Aborted,
            0,
        ),
        (
            Some(said(AttachmentState::Superseded, None)),
            Code::Aborted,
            0,
        ),
    ] {
        let objects = Memory::with(|inner| inner.says = says.clone());
        let service = service(&objects);
        let id = created(&service, "a").await;
        let answer = published(&service, &id, "m1").await;
        assert_eq!(code(answer), expected, "{says:?}");
        assert_eq!(
            objects.now(|inner| inner.attachments.len()),
            left,
            "{says:?}"
        );
    }
}

#[tokio::test]
async fn unpublishing_is_asked_again_until_the_agent_has_detached() {
    let objects = Memory::with(|inner| inner.keeps_deleted = true);
    let service = service(&objects);
    let id = created(&service, "a").await;
    published(&service, &id, "m1").await.unwrap();
    assert_eq!(code(unpublished(&service, &id, "m1").await), Code::Aborted);
    assert_eq!(code(published(&service, &id, "m2").await), Code::Aborted);
    objects.now(|inner| inner.attachments.clear());
    unpublished(&service, &id, "m1").await.unwrap();
    published(&service, &id, "m2").await.unwrap();
}

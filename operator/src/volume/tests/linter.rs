//! What every plan keeps, whatever the situation.

use twinsite_api::{AttachmentMode, DeletionPolicy, FailoverMode, LegState};
use twinsite_register::{Class, State, classify};

use super::super::{Action, Desired, Observed, Plan, RegisterChange};

pub(super) fn check(desired: &Desired, seen: &Observed, plan: &Plan) {
    let register = seen.witness.current();
    let class = seen
        .witness
        .reach
        .answers()
        .then(|| classify(register, &seen.marks, &[]));
    let live = register.filter(|_| matches!(class, Some(Class::Live)));
    let own = desired.index.unwrap();
    let own_site = [twinsite_register::Site::A, twinsite_register::Site::B][own.number()];
    let is_active = live.is_some_and(|register| register.active.site == own_site);
    let record = plan.move_record.as_ref();
    let may_come = record.is_some_and(|record| {
        live.is_some_and(|register| register.active.seq == record.expect_seq)
    });
    let mut recorded = desired
        .volume
        .status
        .as_ref()
        .and_then(|status| status.move_.as_ref())
        == record;
    for (at, action) in plan.actions.iter().enumerate() {
        let why = |rule: &str| format!("{rule}: {action} in\n{plan}\n{register:?}");
        match action {
            Action::RecordMove(new) => {
                recorded = true;
                assert!(
                    live.is_some_and(|register| register.active.seq == new.expect_seq),
                    "{}",
                    why("a record names the present seq")
                );
                assert!(
                    !is_active,
                    "{}",
                    why("a volume does not move to where it is")
                );
            }
            Action::Scale { replicas, workload } if *replicas > 0 => {
                assert!(
                    is_active || may_come,
                    "{}",
                    why("scaled up where the register does not say so")
                );
                assert!(
                    is_active || recorded,
                    "{}",
                    why("scaled up before the move record is written")
                );
                assert!(
                    desired
                        .volume
                        .spec
                        .workloads
                        .iter()
                        .flatten()
                        .any(|known| known == workload),
                    "{}",
                    why("a stranger")
                );
            }
            Action::Scale { workload, .. } => {
                assert!(
                    desired
                        .volume
                        .spec
                        .workloads
                        .iter()
                        .flatten()
                        .any(|known| known == workload),
                    "{}",
                    why("a stranger")
                );
                assert!(
                    class.is_some(),
                    "{}",
                    why("scaled although the register is not known")
                );
            }
            Action::DeleteLeg { .. } => {
                let ours = |leg: &&std::sync::Arc<twinsite_api::Leg>| {
                    leg.spec.leg == own && leg.spec.volume == desired.id()
                };
                let leg = seen.legs.iter().find(ours).unwrap();
                let register_leg = twinsite_register::Leg::BOTH[own.number()];
                let dropped = live.is_some_and(|register| {
                    !register.members.contains(register_leg)
                        && register.no_rejoin.contains(register_leg)
                });
                let wiped = register.is_some_and(|register| {
                    register.state == State::Tombstone && register.landed.contains(register_leg)
                });
                let nothing = matches!(class, Some(Class::Absent));
                assert!(
                    dropped || wiped || nothing,
                    "{}",
                    why("a Leg goes only by tombstone or drop")
                );
                assert_eq!(leg.spec.volume, desired.id());
            }
            Action::DeletePersistentVolume { .. } => {
                let writer = seen
                    .attachments
                    .iter()
                    .any(|attachment| attachment.spec.mode == AttachmentMode::Writer);
                assert!(
                    !writer && seen.volume_attachments.is_empty(),
                    "{}",
                    why("a PersistentVolume goes only when nothing is attached")
                );
            }
            Action::CreateAttachment(attachment) => {
                let spec = &attachment.spec;
                assert_eq!(
                    spec.site,
                    desired.site,
                    "{}",
                    why("orders are for our own agents")
                );
                if spec.mode == AttachmentMode::Birth {
                    assert!(
                        matches!(class, Some(Class::Absent | Class::Creating)),
                        "{}",
                        why("birth under a register that lives")
                    );
                    let known = desired
                        .volume
                        .status
                        .as_ref()
                        .is_some_and(|status| status.epoch.is_some());
                    let creating = matches!(class, Some(Class::Creating));
                    assert!(
                        creating || (seen.marks.is_empty() && !known),
                        "{}",
                        why("birth of what lived before")
                    );
                    assert!(
                        desired.volume.spec.active_site.as_deref() == Some(&desired.site),
                        "{}",
                        why("birth at activeSite")
                    );
                    assert!(seen.legs.iter().any(|leg| {
                        leg.status
                            .as_ref()
                            .is_some_and(|status| status.state == LegState::Serving)
                    }));
                }
                if spec.mode == AttachmentMode::Wipe {
                    assert!(
                        matches!(class, Some(Class::Tombstone)),
                        "{}",
                        why("wiped without a tombstone")
                    );
                    assert!(
                        spec.legs.iter().all(|leg| leg.leg == own),
                        "{}",
                        why("a cluster wipes its own copy")
                    );
                }
                if spec.mode == AttachmentMode::Force {
                    let looked_at = |volume: &twinsite_api::VolumeId| {
                        seen.attachments.iter().any(|one| {
                            let status = one.status.as_ref();
                            one.spec.mode == AttachmentMode::Inspect
                                && one.spec.volume == *volume
                                && status.is_some_and(|status| status.inspect.is_some())
                        })
                    };
                    assert!(
                        spec.legs.iter().all(|leg| leg.leg == own),
                        "{}",
                        why("a cluster forces its own copy")
                    );
                    assert!(
                        desired.together().iter().all(looked_at),
                        "{}",
                        why("forced before the copies of all volumes were looked at")
                    );
                }
                if let Some(order) = &spec.move_ {
                    assert!(
                        live.is_some_and(|register| register.active.seq == order.expect_seq),
                        "{}",
                        why("an old move order")
                    );
                }
            }
            Action::ReleaseAttachment { uid, .. } => {
                let attachment = seen
                    .attachments
                    .iter()
                    .find(|known| known.metadata.uid.as_ref() == Some(uid))
                    .unwrap();
                let ours = twinsite_api::attachment_uid(uid);
                let last = live.is_some_and(|register| {
                    register.holder.is_some() && register.order.uid.0 == ours
                });
                // No agent of this cluster opens what is being deleted here: nobody is let in by it.
                let is_going = desired.is_going() && seen.kept_by.is_empty();
                assert!(
                    is_going || live.is_some(),
                    "{}",
                    why("released without the register")
                );
                // No pod writes by the others: whoever opens the volume next fences them.
                assert!(
                    is_going || !last || attachment.spec.mode != AttachmentMode::Writer,
                    "{}",
                    why("released before it was fenced")
                );
            }
            Action::DeletePod { .. } => {
                assert!(
                    live.is_some() || desired.is_going(),
                    "{}",
                    why("a pod of a lost node goes only behind a fence")
                );
            }
            Action::ChangeRegister { expect, change } => {
                assert_eq!(
                    Some(*expect),
                    register.map(|register| register.txid),
                    "{}",
                    why("about another value")
                );
                assert!(
                    !matches!(class, Some(Class::Below(_))),
                    "{}",
                    why("the register is below a mark")
                );
                if *change == RegisterChange::Tombstone {
                    assert!(
                        desired.is_going()
                            && desired.volume.spec.deletion_policy == DeletionPolicy::Delete
                    );
                    let peer = &seen.peer;
                    let gone = peer
                        .volume
                        .as_ref()
                        .is_none_or(|volume| volume.metadata.deletion_timestamp.is_some());
                    assert!(
                        peer.reach.answers() && gone && peer.keeps.is_empty(),
                        "{}",
                        why("destroyed while the peer keeps it")
                    );
                    let all = seen
                        .company
                        .iter()
                        .all(|one| one.spec.deletion_policy == DeletionPolicy::Delete);
                    let is_whole =
                        desired.group.is_none() || seen.company.len() == desired.together().len();
                    assert!(
                        all && is_whole,
                        "{}",
                        why("destroyed although a volume of the group is to stay")
                    );
                }
                let after = &plan.actions[at + 1..];
                let again = after
                    .iter()
                    .any(|action| matches!(action, Action::ChangeRegister { .. }));
                assert!(!again, "{}", why("two changes of one value"));
            }
            Action::SeedRegister { .. } => {
                let ordered = seen
                    .failovers
                    .iter()
                    .any(|order| order.object.spec.mode == FailoverMode::Reseed);
                let nobody = seen.pods.is_empty()
                    && seen
                        .attachments
                        .iter()
                        .all(|attachment| attachment.spec.mode.is_one_shot());
                assert!(
                    ordered && nobody && matches!(class, Some(Class::Below(_) | Class::Absent)),
                    "{}",
                    why(
                        "seeded without an order, under a writer, or over a register that is believed"
                    )
                );
            }
            Action::RemoveFinalizer => assert!(desired.is_going(), "{}", why("released too early")),
            _ => {}
        }
    }
}

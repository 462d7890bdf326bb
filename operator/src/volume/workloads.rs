//! Workloads follow the volume: `replicas` at the active site, 0 at the other.
//!
//! Up only where the register says so or under a move record; while the register cannot be read nothing is scaled.

use twinsite_api::{AttachmentMode, reason};
use twinsite_register::Class;

use super::situation::Situation;
use super::{Action, Plan, attachments, birth, reseed};
use crate::moves::Course;

pub(super) fn plan(situation: &Situation<'_>, course: &Course, plan: &mut Plan) {
    let up = match (situation.class, situation.live()) {
        (Some(Class::Live), Some(register)) => match course {
            Course::Leave(_) => Some(false),
            Course::Arrive(_) => Some(true),
            Course::Stay => Some(situation.is_active(register)),
        },
        // Before the volume lives nobody needs it at the standby site. One whose register is lost may be in use here all the same.
        (Some(Class::Absent | Class::Creating), _)
            if situation.active_site_wanted() != situation.site
                && birth::ever_lived(situation).is_none() =>
        {
            Some(false)
        }
        // The new register is made of copies that nobody has open.
        _ if reseed::takes_down(situation) => Some(false),
        _ => None,
    };
    // What ran here before the volume was taken away holds an order that never attaches again, and its pods keep that order
    // alive: they go first, and the new ones get a new order.
    let leftover = matches!(course, Course::Arrive(_))
        && situation
            .attachment(AttachmentMode::Writer)
            .is_some_and(|writer| attachments::is_spent(situation, writer));
    for view in &situation.seen.workloads {
        let named = format!("{} {}", view.workload.kind, view.workload.name);
        match (view.replicas, &view.trouble) {
            (None, Some(trouble)) => plan.wait(reason::PENDING, format!("{named}: {trouble}")),
            (None, None) => plan.wait(reason::PENDING, format!("{named} is not there yet")),
            (Some(replicas), _) => {
                let Some(up) = up else { continue };
                let wanted = if up && !leftover {
                    view.workload.replicas
                } else {
                    0
                };
                if replicas != wanted {
                    plan.act(Action::Scale {
                        workload: view.workload.clone(),
                        replicas: wanted,
                    });
                }
            }
        }
    }
}

/// A workload is there that will, or does, run pods here once it is up.
pub(super) fn expected(situation: &Situation<'_>) -> bool {
    situation
        .seen
        .workloads
        .iter()
        .any(|view| view.replicas.is_some() && view.workload.replicas > 0)
}

//! Status of an Attachment: the engine's snapshot, the register and the device in one account.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use twinsite_api::{
    ActiveSite, AttachmentLegStatus, AttachmentSpec, AttachmentState, AttachmentStatus, Condition,
    Device, FormatState, InspectReport, LegIndex, LegMembership, RegisterView, Timings,
    VerifyReport, VerifyState, condition, condition_type, reason, set_condition,
};
use twinsite_mirror::{
    io::{Format, Leg},
    status::{self, LegRole, StateName, Status},
};
use twinsite_register::{Members, Register, Site, State};

use super::words::words;
use crate::control::{
    order,
    reconcile::{Over, Phase},
    storage::Fault,
    volumes::Ending,
};

/// What is known of a volume.
#[derive(Clone, Debug, Default)]
pub struct VolumeView {
    pub generation: Option<i64>,
    pub phase: Option<Phase>,
    pub engine: Option<Box<Status>>,
    /// Why a leg cannot be reached.
    pub trouble: [Option<String>; 2],
    /// Why the last order to the open volume was not carried out.
    pub order_error: Option<String>,
    /// Whether that was because a leg is away, or not a member.
    pub waits_for_leg: bool,
    pub device: Option<Device>,
    pub format: Option<Format>,
    pub register: Option<(Register, Time)>,
    pub order: Option<u64>,
    pub key: Option<String>,
    pub timings: Timings,
    pub ending: Option<Ending>,
    /// Why it waits, or cannot be tried, before anything was opened.
    pub fault: Option<Fault>,
    pub inspect: Option<InspectReport>,
    /// The comparison of the copies under way, or the last one.
    pub verify: Option<VerifyReport>,
    pub conditions: Vec<Condition>,
}

impl VolumeView {
    /// Of a volume that is closed: one that was refused because the other site holds it does not end with that, but waits.
    pub fn wait_for_the_other_site(&mut self) {
        let fault = self.fault.as_ref();
        if fault.is_some_and(|fault| fault.word == reason::HELD_ELSEWHERE) {
            (self.phase, self.ending) = (None, None);
        }
    }
}

/// Whether an open mirror holds its I/O in this state: the membership is being settled, or the attach
/// is gone through again with the device held.
pub fn io_waits(state: StateName) -> bool {
    match state {
        StateName::Off
        | StateName::Check
        | StateName::Fence
        | StateName::Decide
        | StateName::CasWait
        | StateName::LeaseWait
        | StateName::Frozen
        | StateName::ShrinkWait
        | StateName::ThawWait => true,
        StateName::SbWrite
        | StateName::Reconcile
        | StateName::Synced
        | StateName::Solo
        | StateName::RjTarget
        | StateName::RjBoth
        | StateName::RjNeed
        | StateName::Growing
        | StateName::GrowWait
        | StateName::BumpWait
        | StateName::Expand
        | StateName::Detach
        | StateName::Superseded
        | StateName::Refused
        | StateName::OneShot => false,
    }
}

fn state(view: &VolumeView) -> AttachmentState {
    match view.phase {
        None | Some(Phase::Opening) if view.fault.is_some() => AttachmentState::Pending,
        None => AttachmentState::Pending,
        Some(Phase::Opening) => AttachmentState::Attaching,
        Some(Phase::Closing) => AttachmentState::Detaching,
        Some(Phase::Open)
            if view
                .engine
                .as_ref()
                .is_some_and(|engine| io_waits(engine.state)) =>
        {
            AttachmentState::Suspended
        }
        Some(Phase::Open) => AttachmentState::Attached,
        Some(Phase::Over { how, .. }) => match (how, &view.ending) {
            (Over::Waiting, _) => AttachmentState::Pending,
            (_, Some(Ending::Superseded)) => AttachmentState::Superseded,
            (_, Some(Ending::Refused(_))) => AttachmentState::Refused,
            (_, Some(Ending::Failed { .. })) => AttachmentState::Failed,
            (Over::Detached, _) => AttachmentState::Detached,
            (Over::Done, _) => AttachmentState::Done,
            (Over::Refused, _) => AttachmentState::Refused,
            (Over::Never, _) => AttachmentState::Superseded,
            (Over::Failed, _) => AttachmentState::Failed,
        },
    }
}

fn engine_state(engine: &Status) -> String {
    match (engine.state, engine.members.sole()) {
        (StateName::Solo | StateName::Frozen | StateName::ShrinkWait, Some(leg)) => {
            format!("{:?}({leg})", engine.state)
        }
        (state, _) => format!("{state:?}"),
    }
}

fn indices(members: Members) -> Vec<LegIndex> {
    members.iter().map(order::leg_index).collect()
}

fn register_view(spec: &AttachmentSpec, register: &Register, read_at: &Time) -> RegisterView {
    let index = match register.active.site {
        Site::A => LegIndex::A,
        Site::B => LegIndex::B,
    };
    let own = spec.own_index() == Some(index);
    let there = spec.leg(index).map(|leg| leg.site.clone());
    RegisterView {
        register_id: register.register_id.to_string(),
        state: match register.state {
            State::Creating => "Creating",
            State::Live => "Live",
            State::Tombstone => "Tombstone",
        }
        .to_owned(),
        epoch: register.epoch.0,
        generation: register.generation.to_string(),
        members: indices(register.members),
        active_site: ActiveSite {
            name: there
                .or_else(|| own.then(|| spec.site.clone()))
                .unwrap_or_default(),
            seq: register.active.seq,
            latched: register.active.latched,
        },
        active_index: index,
        holder: register.holder.map(|key| key.to_string()),
        unconfirmed: indices(register.unconfirmed),
        no_rejoin: indices(register.no_rejoin),
        read_at: Some(read_at.clone()),
    }
}

fn leg_statuses(
    spec: &AttachmentSpec,
    engine: &Status,
    trouble: &[Option<String>; 2],
) -> Vec<AttachmentLegStatus> {
    let status = |named: &twinsite_api::AttachmentLeg| {
        let leg = order::leg(named.leg);
        let seen = &engine.legs[leg.index()];
        let state = match seen.role {
            LegRole::Member => LegMembership::Member,
            LegRole::Resyncing => LegMembership::Resyncing,
            LegRole::Outdated => LegMembership::Outdated,
            LegRole::Unreachable => LegMembership::Unreachable,
            LegRole::Unknown => LegMembership::New,
        };
        let wrong = engine
            .conditions
            .iter()
            .find_map(|condition| about_leg(*condition, leg));
        let blocked = engine
            .rejoin_blocked
            .filter(|_| state != LegMembership::Member);
        AttachmentLegStatus {
            leg: named.leg,
            site: named.site.clone(),
            state,
            portal: None,
            message: wrong
                .map(str::to_owned)
                .or_else(|| trouble[leg.index()].clone())
                .or_else(|| blocked.map(|why| no_rejoin(why, engine))),
            dirty_bytes: (state != LegMembership::Member).then_some(engine.dirty_bytes),
        }
    };
    spec.legs.iter().map(status).collect()
}

fn no_rejoin(why: status::RejoinBlock, engine: &Status) -> String {
    let hopeless = why == status::RejoinBlock::SourceUnreadable && engine.rejoin_at.is_none();
    if hopeless {
        "no rejoin: the last member has blocks that cannot be read (see the agent's log for their place); write them anew, or let them be readable again, and it is tried again".to_owned()
    } else {
        format!("no rejoin now: {why:?}")
    }
}

fn about_leg(condition: status::Condition, leg: Leg) -> Option<&'static str> {
    match condition {
        status::Condition::LegDamaged(which) if which == leg => Some(
            "LegDamaged: its metadata cannot be used; it returns by a full resync, after `initialize` names its NAA if it is not readable at all",
        ),
        status::Condition::ForeignData(which) if which == leg => Some(
            "ForeignData: the LUN is blank or carries something else: correct the address, or name its NAA in `initialize`",
        ),
        status::Condition::LostBranch(which) if which == leg => Some(
            "LostBranch: it carries writes that a force gave up; a human must confirm before it is overwritten",
        ),
        _ => None,
    }
}

fn set_conditions(
    view: &mut VolumeView,
    state: AttachmentState,
    words: Option<&(&'static str, String)>,
    now: &Time,
) {
    let generation = view.generation;
    let (engine, verify) = (view.engine.clone(), view.verify.clone());
    let waits_for_leg = view.waits_for_leg && words.is_some();
    let mut set = |type_: &str, status: Option<bool>, word: &str, text: &str| {
        set_condition(
            &mut view.conditions,
            condition(type_, status, word, text, generation, now.clone()),
        );
    };
    let (word, text) = words.map_or((reason::AS_DESIRED, ""), |(word, text)| {
        (*word, text.as_str())
    });
    let attached = matches!(
        state,
        AttachmentState::Attached | AttachmentState::Suspended
    );
    let ready = match state {
        AttachmentState::Attached | AttachmentState::Done => Some(true),
        AttachmentState::Pending | AttachmentState::Attaching => None,
        _ => Some(false),
    };
    set(condition_type::READY, ready, word, text);
    set(condition_type::ATTACHED, Some(attached), word, text);
    if let Some(verify) = &verify
        && (verify.found_difference() || verify.state == VerifyState::Done)
    {
        let differs = verify.found_difference();
        let text = verify.sentence();
        set(
            condition_type::LEGS_DIFFER,
            Some(differs),
            reason::VERIFIED,
            &text,
        );
    }
    let Some(engine) = engine.filter(|_| attached) else {
        return;
    };
    let in_sync = engine.members == Members::BOTH;
    set(
        condition_type::IN_SYNC,
        Some(in_sync),
        reason::AS_DESIRED,
        "",
    );
    set(
        condition_type::DEGRADED,
        Some(!in_sync),
        reason::AS_DESIRED,
        "",
    );
    let raised = |wanted: status::Condition| engine.conditions.contains(&wanted);
    set(
        condition_type::LEG_LOST,
        Some(raised(status::Condition::LegLost)),
        reason::AS_DESIRED,
        "",
    );
    set(
        condition_type::MEMBERSHIP_UNKNOWN,
        Some(raised(status::Condition::MembershipUnknown)),
        reason::AS_DESIRED,
        "",
    );
    set(
        condition_type::WITNESS_REACHABLE,
        Some(!raised(status::Condition::WitnessUnreachable)),
        reason::AS_DESIRED,
        "",
    );
    set(
        condition_type::WAITING_FOR_LEG,
        Some(waits_for_leg),
        word,
        if waits_for_leg { text } else { "" },
    );
    let lost_branch = Leg::BOTH
        .into_iter()
        .any(|leg| raised(status::Condition::LostBranch(leg)));
    set(
        condition_type::SPLIT_BRAIN,
        Some(lost_branch),
        reason::LOST_BRANCH,
        "",
    );
}

/// The whole account. `observedAt` is added where it is written.
pub fn attachment_status(
    spec: &AttachmentSpec,
    view: &mut VolumeView,
    now: &Time,
) -> AttachmentStatus {
    let state = state(view);
    let words = words(spec, view);
    set_conditions(view, state, words.as_ref(), now);
    let engine = view.engine.as_deref();
    let resync = engine.and_then(|engine| engine.resync);
    let (reason, message) = words.map_or((None, None), |(word, text)| {
        (Some(word.to_owned()), Some(text))
    });
    AttachmentStatus {
        observed_generation: view.generation,
        state,
        engine: engine.map(engine_state),
        reason,
        message,
        order: view.order,
        key: view.key.clone(),
        device: view.device.clone(),
        register: view
            .register
            .as_ref()
            .map(|(register, at)| register_view(spec, register, at)),
        legs: engine
            .map(|engine| leg_statuses(spec, engine, &view.trouble))
            .unwrap_or_default(),
        dirty_bytes: engine.map(|engine| engine.dirty_bytes),
        resync_percent: resync.map(|resync| resync.percent()),
        resync: resync.map(|resync| format!("{}%", resync.percent())),
        resync_copied_bytes: engine.map(|engine| engine.counters.copied_bytes),
        resync_bytes_per_second: resync.map(|resync| resync.bytes_per_second),
        eta_seconds: resync
            .and_then(|resync| resync.eta)
            .map(|eta| eta.as_secs()),
        verify: view.verify.clone(),
        format: view.format.map(|format| match format {
            Format::None => FormatState::None,
            Format::Started => FormatState::Started,
            Format::Done => FormatState::Done,
        }),
        size: view.device.as_ref().map(|device| device.size),
        timings: Some(view.timings.clone()).filter(|timings| *timings != Timings::default()),
        inspect: view.inspect.clone(),
        observed_at: None,
        conditions: view.conditions.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use std::time::Duration;
    use twinsite_mirror::status::Refusal;

    fn spec() -> AttachmentSpec {
        serde_yaml::from_str(
            "{volume: ts-000102030405060708090a0b0c0d0e0f, sitePair: ctrc, node: m1, site: medical, mode: Writer, size: 2Gi, legs: [{leg: A, site: medical, portals: ['h:1']}, {leg: B, site: research, portals: ['h:2']}]}",
        )
        .unwrap()
    }

    fn at() -> Time {
        Time(Timestamp::from_second(1_000_000_000).unwrap())
    }

    fn over(how: Over) -> Option<Phase> {
        Some(Phase::Over {
            how,
            at: Duration::ZERO,
        })
    }

    fn check(view: VolumeView, expected: (AttachmentState, Option<&str>)) {
        let mut view = view;
        let status = attachment_status(&spec(), &mut view, &at());
        assert_eq!((status.state, status.reason.as_deref()), expected);
    }

    #[test]
    fn the_state_follows_the_phase_the_engine_and_the_end() {
        use AttachmentState::*;
        let ended = |how, ending| VolumeView {
            phase: over(how),
            ending: Some(ending),
            ..VolumeView::default()
        };
        let open = |state| {
            let engine = Box::new(Status {
                state,
                ..Status::off()
            });
            VolumeView {
                phase: Some(Phase::Open),
                engine: Some(engine),
                ..VolumeView::default()
            }
        };
        check(VolumeView::default(), (Pending, None));
        check(
            VolumeView {
                phase: Some(Phase::Opening),
                ..VolumeView::default()
            },
            (Attaching, None),
        );
        check(open(StateName::Synced), (Attached, None));
        check(open(StateName::Solo), (Attached, None));
        check(open(StateName::Frozen), (Suspended, None));
        check(open(StateName::LeaseWait), (Suspended, None));
        check(
            VolumeView {
                phase: Some(Phase::Closing),
                ..VolumeView::default()
            },
            (Detaching, None),
        );
        check(ended(Over::Detached, Ending::Detached), (Detached, None));
        check(
            ended(Over::Refused, Ending::Refused(Refusal::NotActive)),
            (Refused, Some("NotActive")),
        );
        check(
            ended(Over::Never, Ending::Refused(Refusal::OrderStale)),
            (Refused, Some("OrderStale")),
        );
        check(
            ended(Over::Never, Ending::Superseded),
            (Superseded, Some("Superseded")),
        );
        check(ended(Over::Done, Ending::Done), (Done, None));
        let failed = Ending::Failed {
            word: reason::FOREIGN_DATA,
            text: "x".to_owned(),
        };
        check(ended(Over::Never, failed), (Failed, Some("ForeignData")));
        let not_there = Ending::Failed {
            word: reason::PENDING,
            text: "Secret twinsite-pair is not there".to_owned(),
        };
        check(ended(Over::Waiting, not_there), (Pending, Some("Pending")));
    }

    #[test]
    fn what_was_refused_because_the_other_site_holds_it_waits_and_is_not_over() {
        let refused = |word: &'static str| {
            let mut view = VolumeView {
                phase: over(Over::Refused),
                ending: Some(Ending::Refused(Refusal::HolderActive)),
                fault: Some(Fault {
                    word,
                    text: "it is held".to_owned(),
                }),
                ..VolumeView::default()
            };
            view.wait_for_the_other_site();
            view
        };
        let waits = (AttachmentState::Pending, Some(reason::HELD_ELSEWHERE));
        check(refused(reason::HELD_ELSEWHERE), waits);
        let over = (AttachmentState::Refused, Some(reason::STILL_ACTIVE));
        check(refused(reason::PENDING), over);
    }

    #[test]
    fn a_leg_that_cannot_be_reached_says_why() {
        let mut view = VolumeView {
            phase: over(Over::Refused),
            ending: Some(Ending::Refused(Refusal::NoLeg)),
            engine: Some(Box::new(Status::off())),
            trouble: [None, Some("portal h:2: refused".to_owned())],
            ..VolumeView::default()
        };
        let status = attachment_status(&spec(), &mut view, &at());
        let expected = "no leg answers: see that a target is up and reachable; it is tried again; leg B: portal h:2: refused";
        assert_eq!(status.message.as_deref(), Some(expected));
        assert_eq!(status.legs[0].message, None);
        assert_eq!(
            status.legs[1].message.as_deref(),
            Some("portal h:2: refused")
        );
    }

    #[test]
    fn an_order_that_was_not_carried_out_is_told_as_long_as_it_is_wanted() {
        let told = |size: u64| {
            let engine = Box::new(Status {
                state: StateName::Synced,
                size,
                ..Status::off()
            });
            let mut view = VolumeView {
                phase: Some(Phase::Open),
                engine: Some(engine),
                order_error: Some("too small".to_owned()),
                ..VolumeView::default()
            };
            attachment_status(&spec(), &mut view, &at()).message
        };
        let expected = "an order was not carried out: too small; it is tried again";
        assert_eq!(told(1 << 30).as_deref(), Some(expected));
        assert_eq!(told(2 << 30), None);
    }

    #[test]
    fn a_leg_that_is_rebuilt_says_how_far_it_is() {
        let mut engine = Status {
            state: StateName::RjTarget,
            members: Members::only(Leg::A),
            dirty_bytes: 4096,
            ..Status::off()
        };
        engine.legs[0].role = LegRole::Member;
        engine.legs[1].role = LegRole::Resyncing;
        engine.resync = Some(status::Progress {
            total_bytes: 100,
            left_bytes: 25,
            bytes_per_second: 5,
            eta: Some(Duration::from_secs(5)),
            full: false,
        });
        let mut view = VolumeView {
            phase: Some(Phase::Open),
            engine: Some(Box::new(engine)),
            ..VolumeView::default()
        };
        let status = attachment_status(&spec(), &mut view, &at());
        assert_eq!(
            (
                status.resync_percent,
                status.eta_seconds,
                status.dirty_bytes
            ),
            (Some(75), Some(5), Some(4096))
        );
        assert_eq!(status.legs[0].state, LegMembership::Member);
        assert_eq!(
            (status.legs[1].state, status.legs[1].dirty_bytes),
            (LegMembership::Resyncing, Some(4096))
        );
        let condition = |name: &str| {
            status
                .conditions
                .iter()
                .find(|c| c.type_ == name)
                .map(|c| c.status.clone())
        };
        assert_eq!(condition("InSync").as_deref(), Some("False"));
        assert_eq!(condition("Degraded").as_deref(), Some("True"));
        assert_eq!(condition("Ready").as_deref(), Some("True"));
    }
}

//! What a volume's engine tells, as a line of the log: in words, for people who look for what happened to their volume.

use twinsite_mirror::io::LegDown;
use twinsite_mirror::status::{Condition, Event, LostWhy, RejoinBlock, VerifyStop};

use super::volumes::Ending;
use crate::status::refusal;

pub(super) fn event(name: &str, event: &Event) {
    let text = sentence(event);
    match event {
        Event::State { .. }
        | Event::LegBack { .. }
        | Event::Membership { .. }
        | Event::RejoinStarted { .. }
        | Event::VerifyBegan { .. }
        | Event::VerifyEnded {
            differing: 0,
            unreadable: 0,
            ..
        }
        | Event::Cleared(_) => tracing::info!(attachment = name, "{text}"),
        Event::LegLost { .. }
        | Event::RejoinEnded { .. }
        | Event::Superseded
        | Event::FlushWillFail { .. }
        | Event::ReadRepaired { .. }
        | Event::ReadFailed { .. }
        | Event::LegsDiffer { .. }
        | Event::VerifyUnreadable { .. }
        | Event::VerifyEnded { .. }
        | Event::Raised(_) => tracing::warn!(attachment = name, "{text}"),
        Event::Ignored { .. } => tracing::debug!(attachment = name, "{text}"),
    }
}

pub(super) fn ended(name: &str, ending: &Ending) {
    match ending {
        Ending::Detached => tracing::info!(attachment = name, "detached"),
        Ending::Done => tracing::info!(attachment = name, "done"),
        _ => tracing::warn!(attachment = name, "ended: {}", why(ending)),
    }
}

/// Why an attachment ended.
pub(super) fn why(ending: &Ending) -> String {
    match ending {
        Ending::Detached => "detached".to_owned(),
        Ending::Done => "done".to_owned(),
        Ending::Superseded => "another writer took over".to_owned(),
        Ending::Refused(why) => {
            let (word, text) = refusal(*why);
            format!("{word}: {text}")
        }
        Ending::Failed { word, text } => format!("{word}: {text}"),
    }
}

fn sentence(event: &Event) -> String {
    match event {
        Event::State { from, to } => format!("{from:?} -> {to:?}"),
        Event::LegLost { leg, why } => format!("leg {leg} is lost: {}", lost(*why)),
        Event::LegBack { leg } => format!("leg {leg} answers again"),
        Event::Membership { epoch, members } => {
            format!("epoch {epoch}: the members are {members}")
        }
        Event::RejoinStarted { leg, full: true } => {
            format!("leg {leg} comes back: it is copied in full")
        }
        Event::RejoinStarted { leg, full: false } => {
            format!("leg {leg} comes back: what has changed is copied")
        }
        Event::RejoinEnded { leg, why } => {
            format!("leg {leg} does not come back now: {}", block(*why))
        }
        Event::Superseded => "another writer took over".to_owned(),
        Event::FlushWillFail { leg } => format!(
            "the next flush fails once: leg {leg} was restarted and may have lost what was not flushed"
        ),
        Event::ReadRepaired { leg, offset, len } => format!(
            "leg {leg} could not read {len} bytes at {offset}: answered from the other leg and written anew"
        ),
        Event::ReadFailed { offset, len } => format!("no leg can read {len} bytes at {offset}"),
        Event::VerifyBegan { from: 0 } => "both legs are being compared".to_owned(),
        Event::VerifyBegan { from } => format!("the comparison of both legs goes on at {from}"),
        Event::LegsDiffer { offset, len } => format!("the legs differ in {len} bytes at {offset}"),
        Event::VerifyUnreadable { leg, offset, len } => {
            format!("leg {leg} cannot read {len} bytes at {offset}: not compared")
        }
        Event::VerifyEnded {
            stop,
            position,
            differing,
            unreadable,
        } => {
            let end = match stop {
                None => "to the end".to_owned(),
                Some(stop) => format!("until {position}, {}", stopped(*stop)),
            };
            format!(
                "the legs were compared {end}: {differing} bytes differ, {unreadable} could not be read"
            )
        }
        Event::Raised(condition) => format!("now: {}", holds(*condition)),
        Event::Cleared(condition) => format!("no longer: {}", holds(*condition)),
        Event::Ignored { state, what } => format!("in {state:?} nothing is done about {what}"),
    }
}

fn lost(why: LostWhy) -> &'static str {
    match why {
        LostWhy::Session(LegDown::Unreachable) => "nobody answers at its portals",
        LostWhy::Session(LegDown::SessionLost) => "its session was lost",
        LostWhy::Session(LegDown::Closed) => "its session was closed",
        LostWhy::Session(LegDown::LoginRefused) => "its target refuses the login",
        LostWhy::Session(LegDown::OtherLun) => "another LUN answers there",
        LostWhy::Timeout => "a command had no answer in time",
        LostWhy::WriteError => "a write failed there",
        LostWhy::SyncFailed => "a flush failed there",
        LostWhy::Restarted => "it was restarted with writes in its cache that were not flushed",
        LostWhy::RolledBack => "it has an earlier state than it had: it was put back",
        LostWhy::Dropped => "it was dropped by order",
        LostWhy::NotRegistered => "it does not know this writer any more",
        LostWhy::Slow => "it was much slower than the other one for long",
    }
}

fn block(why: RejoinBlock) -> &'static str {
    match why {
        RejoinBlock::NoRejoin => "it is to stay out, by order",
        RejoinBlock::Retired => "this LUN was given up for good",
        RejoinBlock::LostBranch => "it holds a lost branch that a person must confirm",
        RejoinBlock::ForeignData => "it is blank or carries something else",
        RejoinBlock::TooSmall => "it is too small",
        RejoinBlock::FenceFailed => "it could not be fenced",
        RejoinBlock::LegLost => "it was lost again",
        RejoinBlock::WitnessUnreachable => "the witness does not answer",
        RejoinBlock::WitnessRolledBack => "the register is older than what was seen",
        RejoinBlock::SourceUnreadable => "the source cannot read what must be copied",
        RejoinBlock::LegAhead => "it is of a later epoch than the register",
        RejoinBlock::GivenUp => "another order came first",
    }
}

fn stopped(stop: VerifyStop) -> &'static str {
    match stop {
        VerifyStop::MemberLost => "when a leg was lost",
        VerifyStop::Detached => "when the volume was detached",
        VerifyStop::Superseded => "when another writer took over",
        VerifyStop::Undecided => "when the attach was decided anew",
        VerifyStop::Ordered => "when it was ended by order",
    }
}

fn holds(condition: Condition) -> String {
    match condition {
        Condition::MembershipUnknown => {
            "MembershipUnknown, the register has not answered a request for 5 s".to_owned()
        }
        Condition::LegLost => "LegLost, the last member is away and I/O waits for it".to_owned(),
        Condition::WitnessRolledBack => {
            "WitnessRolledBack, the register is older than what was seen".to_owned()
        }
        Condition::WitnessUnreachable => {
            "WitnessUnreachable, the register has not answered lately".to_owned()
        }
        Condition::LegDamaged(leg) => {
            format!("LegDamaged, leg {leg} is not what the register says")
        }
        Condition::ForeignData(leg) => {
            format!("ForeignData, leg {leg} is blank or carries something else")
        }
        Condition::LostBranch(leg) => {
            format!("LostBranch, leg {leg} holds a branch that waits for a person")
        }
        Condition::SourceUnreadable => {
            "SourceUnreadable, blocks cannot be read that the other leg lacks".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use twinsite_mirror::{io::Leg, status::Refusal};
    use twinsite_register::{Epoch, Members};

    use super::*;

    #[test]
    fn what_happened_is_told_in_words() {
        let text = sentence(&Event::Membership {
            epoch: Epoch(3),
            members: Members::BOTH,
        });
        assert_eq!(text, "epoch 3: the members are {AB}");
        let text = sentence(&Event::VerifyEnded {
            stop: None,
            position: 4096,
            differing: 0,
            unreadable: 0,
        });
        assert_eq!(
            text,
            "the legs were compared to the end: 0 bytes differ, 0 could not be read"
        );
        let text = sentence(&Event::RejoinEnded {
            leg: Leg::B,
            why: RejoinBlock::TooSmall,
        });
        assert_eq!(text, "leg B does not come back now: it is too small");
    }

    #[test]
    fn an_end_is_told_as_the_status_tells_it() {
        let text = why(&Ending::Refused(Refusal::OrderStale));
        assert!(
            text.starts_with("OrderStale: another attachment came after"),
            "{text}"
        );
    }
}

//! Condition types and reasons: the words that `kubectl describe`, alerts and runbooks share.
//!
//! Invariants: a condition's `lastTransitionTime` moves only when its status does.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Condition types.
pub mod condition_type {
    /// This site can do its role now.
    pub const READY: &str = "Ready";
    /// Work towards the spec is under way.
    pub const RECONCILING: &str = "Reconciling";
    /// The spec cannot be reached without a human.
    pub const STALLED: &str = "Stalled";
    /// Both legs are members and have every acknowledged write.
    pub const IN_SYNC: &str = "InSync";
    /// The other site could take over now without losing an acknowledged write.
    pub const FAILOVER_READY: &str = "FailoverReady";
    /// One leg carries the volume alone.
    pub const DEGRADED: &str = "Degraded";
    /// True: by what is seen the volume should move here now, and by the policy only a person moves it. There only while there is something to say.
    pub const AUTOMATIC_FAILOVER: &str = "AutomaticFailover";
    /// Two branches of the data exist since a force; a human must confirm which one goes.
    pub const SPLIT_BRAIN: &str = "SplitBrain";
    /// The peer cluster's API answers.
    pub const PEER_REACHABLE: &str = "PeerReachable";
    /// The witness answers linearizable reads.
    pub const WITNESS_REACHABLE: &str = "WitnessReachable";
    /// This site owns its name at the witness.
    pub const SITE_CLAIMED: &str = "SiteClaimed";
    /// An operation waits until both legs are reachable.
    pub const WAITING_FOR_LEG: &str = "WaitingForLeg";
    /// The last member is unreachable: I/O waits.
    pub const LEG_LOST: &str = "LegLost";
    /// A membership change has had no known outcome for more than 5 s: I/O waits.
    pub const MEMBERSHIP_UNKNOWN: &str = "MembershipUnknown";
    /// A comparison found blocks that are not the same in both copies.
    pub const LEGS_DIFFER: &str = "LegsDiffer";
    /// An annotation of a person asks for what is not done; the message says why, and what to do. There only while one does.
    pub const REQUEST_REFUSED: &str = "RequestRefused";
    /// Every field of the spec is known to this version; there only while one is not.
    pub const SPEC_UNDERSTOOD: &str = "SpecUnderstood";
    /// A pool serves its legs.
    pub const SERVING: &str = "Serving";
    /// The device of an attachment is there.
    pub const ATTACHED: &str = "Attached";
}

/// Reasons of conditions, refusals and events.
pub mod reason {
    pub const AS_DESIRED: &str = "AsDesired";
    pub const PENDING: &str = "Pending";
    /// A comparison of the copies has ended, or is under way.
    pub const VERIFIED: &str = "Verified";
    /// Fields of the spec are not known to this version; the message names them.
    pub const UNKNOWN_FIELDS: &str = "UnknownFields";
    /// The object cannot be read by this version at all: it has a value that came later.
    pub const UNREADABLE: &str = "Unreadable";
    /// A field of the spec cannot be used; the message names it.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// The register is older than something already seen: the witness was restored.
    pub const WITNESS_BEHIND: &str = "WitnessBehind";
    pub const WITNESS_ROLLED_BACK: &str = "WitnessRolledBack";
    /// The register is needed to decide and cannot be read.
    pub const WITNESS_NEEDED: &str = "WitnessNeeded";
    /// The witness store does not keep its conditions.
    pub const WITNESS_UNSAFE: &str = "WitnessUnsafe";
    /// There is no register although a leg carries the volume.
    pub const REGISTER_MISSING: &str = "RegisterMissing";
    /// The volume is being born.
    pub const CREATING: &str = "Creating";
    /// The volume was deleted; its legs are wiped.
    pub const DELETED: &str = "Deleted";
    /// The register names the other site as the active one.
    pub const NOT_ACTIVE: &str = "NotActive";
    /// A member that is needed is not reachable.
    pub const WAIT_MEMBER: &str = "WaitMember";
    /// No leg is reachable.
    pub const NO_LEG: &str = "NoLeg";
    /// Every member is damaged: a human must decide.
    pub const MEMBER_DAMAGED: &str = "MemberDamaged";
    /// A leg's metadata cannot be used; it returns by a full resync.
    pub const LEG_DAMAGED: &str = "LegDamaged";
    /// The LUN carries something that is not this volume.
    pub const FOREIGN_DATA: &str = "ForeignData";
    /// The copies of a group at one site are not of one moment.
    pub const MIXED_COPIES: &str = "MixedCopies";
    /// Nothing was done with this volume because of another one of its group.
    pub const GROUP_HINDERED: &str = "GroupHindered";
    /// Another attachment came later: this one never attaches again.
    pub const ORDER_STALE: &str = "OrderStale";
    /// Another writer took over.
    pub const SUPERSEDED: &str = "Superseded";
    /// The copy is a member: only one that has left can be given up.
    pub const STILL_MEMBER: &str = "StillMember";
    /// A leg of a lost branch waits for `confirm`.
    pub const LOST_BRANCH: &str = "LostBranch";
    /// The holder is still writing: no failover.
    pub const STILL_ACTIVE: &str = "StillActive";
    /// The volume is on its way here, and the other site has not let go of it yet.
    pub const HELD_ELSEWHERE: &str = "HeldElsewhere";
    /// Nothing was heard of the agent that would know.
    pub const AGENT_SILENT: &str = "AgentSilent";
    /// The pool's marker file is not there: its disk is not mounted.
    pub const POOL_NOT_MOUNTED: &str = "PoolNotMounted";
    /// The pool's marker names another pool.
    pub const POOL_MISMATCH: &str = "PoolMismatch";
    /// The pool has no room.
    pub const POOL_FULL: &str = "PoolFull";
    /// A leg that was served before has no file any more.
    pub const LEG_FILE_MISSING: &str = "LegFileMissing";
    /// The site's name is claimed by another cluster.
    pub const CLAIMED_BY_ANOTHER: &str = "ClaimedByAnother";
    /// A second attachment of the volume stands on the same node.
    pub const ALREADY_ATTACHED: &str = "AlreadyAttached";
}

/// A condition as of `now`, which is stamped as the transition time.
pub fn condition(
    type_: &str,
    status: Option<bool>,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
    now: Time,
) -> Condition {
    let status = match status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: now,
    }
}

/// Puts a condition among the others, by type; the transition time stays while the status does.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) {
    match conditions.iter_mut().find(|c| c.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut all = Vec::new();
        set_condition(
            &mut all,
            condition("Ready", None, reason::PENDING, "", Some(1), at(1)),
        );
        set_condition(
            &mut all,
            condition("InSync", Some(true), reason::AS_DESIRED, "", Some(1), at(1)),
        );
        set_condition(
            &mut all,
            condition("Ready", None, reason::PENDING, "still", Some(2), at(2)),
        );
        assert_eq!(
            (all[0].last_transition_time.clone(), all[0].message.as_str()),
            (at(1), "still")
        );
        set_condition(
            &mut all,
            condition("Ready", Some(true), reason::AS_DESIRED, "", Some(2), at(3)),
        );
        assert_eq!(
            (all[0].last_transition_time.clone(), all[0].status.as_str()),
            (at(3), "True")
        );
        assert_eq!(all.len(), 2);
    }
}

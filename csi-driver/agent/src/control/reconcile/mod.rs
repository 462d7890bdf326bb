//! Decides what to do: from what is wanted and what is seen to a list of actions.
//!
//! Pure and total: no clock, no I/O, no failure. An action leaves its executor no choices. Deciding
//! again after the actions were done gives none.
//!
//! Order of the list: pools before legs, legs before attachments; what goes away goes before what
//! comes. An object that has to wait is named with the reason, and holds no other up.
//! Not here: doing it (`apply`), whether a volume may attach (the engine and the register).

mod attachments;
pub mod groups;
mod storage;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use twinsite_api::{AttachmentSpec, LegIndex, LegSpec, NodeBackend};

use crate::objects::Objects;

/// How long after a refusal or a failure the same thing is tried again (protocol 2.15).
pub const RETRY: Duration = Duration::from_secs(5);
/// How long after it was found that something is not there yet, such as a Secret that a watch is about to bring. Nothing but
/// objects and own files is looked at.
pub const AGAIN: Duration = Duration::from_millis(300);

/// What is wanted of this node.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    pub node: String,
    pub site: String,
    pub objects: Objects,
    /// Uid of every Attachment, given by its manifest or by this node.
    pub uids: BTreeMap<String, String>,
    /// Attachments that a person detached by hand, until their object changes or the agent starts again.
    pub held: BTreeSet<String>,
    /// Pairs at whose witness this site has not tried yet to claim its name.
    pub untried: BTreeSet<String>,
    /// Attachments with an order to release whose device the node no longer uses.
    pub unused: BTreeSet<String>,
    /// Attachments that are to take their volume from the other site, which still holds it.
    pub held_elsewhere: BTreeSet<String>,
    /// Whether the agent is on its way out.
    pub stopping: bool,
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub pools: BTreeMap<String, PoolSeen>,
    pub legs: BTreeMap<String, LegSeen>,
    pub volumes: BTreeMap<String, VolumeSeen>,
}

/// A pool of this node.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSeen {
    pub backend: NodeBackend,
    /// When opening it failed last; `None`: it is open.
    pub failed_at: Option<Duration>,
}

/// A leg of this node.
#[derive(Clone, Debug, PartialEq)]
pub struct LegSeen {
    /// By what it is, or should be, served.
    pub spec: LegSpec,
    /// When serving or changing it failed last; `None`: it is served as `spec` says.
    pub failed_at: Option<Duration>,
    /// Whether it is served at all.
    pub served: bool,
}

/// A volume of this node.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeSeen {
    /// The Attachment it was opened for.
    pub uid: String,
    /// As it was when it was opened, with the orders given since.
    pub spec: AttachmentSpec,
    pub phase: Phase,
    /// Bytes that the device shows, once it does.
    pub size: Option<u64>,
    /// An order to it that has no answer yet, or failed lately.
    pub order: OrderSeen,
    /// Legs that are kept out of the membership already.
    pub dropped: Vec<LegIndex>,
    pub verify: VerifySeen,
}

/// How far a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet serving.
    Opening,
    /// The mirror is open.
    Open,
    /// Told to detach.
    Closing,
    /// It has ended.
    Over { how: Over, at: Duration },
}

/// How a volume ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Cleanly.
    Detached,
    /// It could not attach; waiting may help.
    Refused,
    /// It will never attach again: another one came after it, or the volume is deleted.
    Never,
    /// A one-shot order that is done.
    Done,
    /// The data path could not do it; trying again may help.
    Failed,
    /// Something that the order names is not there yet: nothing was begun.
    Waiting,
}

/// An order to an open volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OrderSeen {
    #[default]
    None,
    UnderWay,
    FailedAt(Duration),
}

/// Comparisons of the copies of an open volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifySeen {
    /// The engine would take an order: both legs are members, and none is under way.
    pub ready: bool,
    /// The last order of the object that was begun.
    pub answered: Option<String>,
    /// What ordered the run that waits to go on, if one does.
    pub waits: Option<String>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    OpenPool {
        pool: String,
        backend: NodeBackend,
    },
    ClosePool {
        pool: String,
    },
    StopLeg {
        leg: String,
    },
    ServeLeg {
        leg: String,
        spec: Box<LegSpec>,
    },
    GrowLeg {
        leg: String,
        spec: Box<LegSpec>,
    },
    SetAccess {
        leg: String,
        spec: Box<LegSpec>,
    },
    /// Drain, clean, release, log out.
    Detach {
        attachment: String,
    },
    /// Let go of a volume that has ended.
    Close {
        attachment: String,
    },
    /// Its object is gone and it has ended: its name starts anew.
    Forget {
        attachment: String,
        uid: String,
    },
    Open {
        attachment: String,
        uid: String,
        spec: Box<AttachmentSpec>,
    },
    /// The volumes of a group, which are opened together.
    OpenGroup {
        members: Vec<Member>,
    },
    /// The legs are reached otherwise.
    Readdress {
        attachment: String,
        spec: Box<AttachmentSpec>,
    },
    DropLeg {
        attachment: String,
        leg: LegIndex,
    },
    Expand {
        attachment: String,
        size: u64,
    },
    /// Compare the copies, for this order; `None`: the run that waits goes on.
    Verify {
        attachment: String,
        request: Option<String>,
    },
}

/// One Attachment of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub attachment: String,
    pub uid: String,
    pub spec: Box<AttachmentSpec>,
}

/// Why an object has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub kind: &'static str,
    pub name: String,
    pub reason: &'static str,
    pub message: String,
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub waits: Vec<Wait>,
    /// When to decide again although nothing happens.
    pub wake_at: Option<Duration>,
}

impl Plan {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wait(
        &mut self,
        kind: &'static str,
        name: &str,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.waits.push(Wait {
            kind,
            name: name.to_owned(),
            reason,
            message: message.into(),
        });
    }

    /// Whether what failed then may be tried again now; if not, decides again when it may.
    fn may_retry(&mut self, failed_at: Duration, now: Duration) -> bool {
        self.is_due(failed_at + RETRY, now)
    }

    /// Whether it is time; if not, decides again when it is.
    fn is_due(&mut self, due: Duration, now: Duration) -> bool {
        if now >= due {
            return true;
        }
        self.wake_at = Some(self.wake_at.map_or(due, |at| at.min(due)));
        false
    }
}

/// Decides.
pub fn reconcile(desired: &Desired, observed: &Observed, now: Duration) -> Plan {
    let mut plan = Plan::default();
    attachments::end(desired, observed, &mut plan);
    storage::end(desired, observed, &mut plan);
    if !desired.stopping {
        storage::begin(desired, observed, now, &mut plan);
        attachments::begin(desired, observed, now, &mut plan);
    }
    plan
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenPool { pool, backend } => {
                let place = backend.directory.as_ref().or(backend.device.as_ref());
                write!(
                    f,
                    "open pool {pool} at {}",
                    place.map_or("?", String::as_str)
                )
            }
            Self::ClosePool { pool } => write!(f, "close pool {pool}"),
            Self::StopLeg { leg } => write!(f, "stop leg {leg}"),
            Self::ServeLeg { leg, spec } => {
                write!(f, "serve leg {leg} from {} with {}", spec.pool, spec.size)
            }
            Self::GrowLeg { leg, spec } => write!(f, "grow leg {leg} to {}", spec.size),
            Self::SetAccess { leg, .. } => write!(f, "set access of leg {leg}"),
            Self::Detach { attachment } => write!(f, "detach {attachment}"),
            Self::Close { attachment } => write!(f, "close {attachment}"),
            Self::Forget { attachment, uid } => write!(f, "forget {attachment} ({uid})"),
            Self::Open {
                attachment,
                uid,
                spec,
            } => write!(f, "open {attachment} ({uid}) as {:?}", spec.mode),
            Self::OpenGroup { members } => {
                let names: Vec<&str> = members.iter().map(|m| m.attachment.as_str()).collect();
                let mode = members.first().map(|m| m.spec.mode);
                write!(f, "open {} together", names.join(" and "))?;
                mode.map_or(Ok(()), |mode| write!(f, " as {mode:?}"))
            }
            Self::Readdress { attachment, .. } => write!(f, "readdress the legs of {attachment}"),
            Self::DropLeg { attachment, leg } => write!(f, "drop leg {leg} of {attachment}"),
            Self::Expand { attachment, size } => write!(f, "expand {attachment} to {size}"),
            Self::Verify {
                attachment,
                request: Some(request),
            } => write!(f, "verify {attachment} for {request}"),
            Self::Verify {
                attachment,
                request: None,
            } => write!(f, "go on with the verify of {attachment}"),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} waits: {}: {}",
            self.kind, self.name, self.reason, self.message
        )
    }
}

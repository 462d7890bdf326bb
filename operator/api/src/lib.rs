//! The kinds of `twinsite.io/v1alpha1`, as the API server, the operator and the agents see them.
//!
//! Intent stands in `spec` and only people, Git and (for the internal kinds) the operator write it;
//! what was acted on stands in `status`, with the epoch. A type ignores what it does not know, since the API server may have a newer
//! definition; [`unknown`] says what that is, so that a typing error in a file is an error and not a default.
//!
//! | kind | scope | who makes it |
//! |---|---|---|
//! | [`SitePair`], [`StoragePool`] | cluster | administrators |
//! | [`MirroredVolume`], [`MirrorGroup`] | namespace | users, Git |
//! | [`Failover`] | cluster | a person, once per move |
//! | [`Leg`], [`Attachment`] | cluster, internal | the operator and the CSI controller; people, on bare metal |
//!
//! Invariants: pure types, no client, no clock. A value that parses is well formed on its own;
//! what needs two objects to judge is judged by the reader of both.
//! Not here: the register's value (`twinsite-register`), reconcilers (`twinsite-operator`).
#![forbid(unsafe_code)]
#![allow(
    unreachable_pub,
    reason = "the schema derive repeats each struct inside a private scope"
)]
#![allow(
    clippy::duplicated_attributes,
    reason = "printer columns are repeated attributes by design of the derive"
)]

mod attachment;
mod conditions;
mod credentials;
mod definitions;
mod failover;
mod forced;
mod id;
mod instant;
mod leg;
mod mirror_group;
mod mirrored_volume;
pub mod order;
mod quantity;
mod seen;
mod site_pair;
mod span;
mod storage_pool;
mod told;
pub mod unknown;
mod verify;
mod witness;

pub use attachment::{
    Attachment, AttachmentLeg, AttachmentLegStatus, AttachmentMode, AttachmentSpec,
    AttachmentState, AttachmentStatus, BirthOrder, Device, ExpectedLeg, ForceOrder, FormatState,
    FrontEnd, InspectReport, InspectedLeg, LegMembership, MoveMode, MoveOrder, RegisterView,
    ReseedOrder, Timings,
};
pub use conditions::{Condition, condition, condition_type, reason, set_condition};
pub use credentials::{ChapCredentials, ChapRef, derive_chap};
pub use definitions::definitions;
pub use failover::{
    Failover, FailoverMode, FailoverSpec, FailoverState, FailoverStatus, FailoverVolume,
    ForceToken, ReseedToken, VolumeSelection,
};
pub use forced::{FoundCopy, Unfit, judge_copies};
pub use id::{
    GroupId, IdError, LegIndex, VolumeId, attachment_uid, group_uid, naa_text, parse_naa,
};
pub use leg::{Leg, LegRemoval, LegSpec, LegState, LegStatus};
pub use mirror_group::{GroupVolume, MirrorGroup, MirrorGroupSpec, MirrorGroupStatus};
pub use mirrored_volume::{
    AccessMode, ActiveSite, Attached, Awaited, Claim, DeletionPolicy, Failback, LastMove, Leaving,
    LegTarget, LunRef, MirroredVolume, MirroredVolumeSpec, MirroredVolumeStatus, MoveRecord,
    OnNoQuorum, PodDevice, Role, VolumeGroup, VolumeLeg, VolumeLegState, VolumeLegStatus,
    VolumeMode, Workload,
};
pub use quantity::{Quantity, QuantityError, rounded};
pub use seen::{Seen, Unreadable};
pub use site_pair::{
    FailoverPolicy, FailoverSettings, NodeLoss, NodeLossPolicy, Resync, Site, SiteClaim, SitePair,
    SitePairSpec, SitePairStatus, SiteState,
};
pub use span::{Span, SpanError};
pub use storage_pool::{
    ArrayBackend, NodeBackend, StoragePool, StoragePoolSpec, StoragePoolStatus,
};
pub use told::told;
pub use unknown::UnknownField;
pub use verify::{ByteRange, VERIFY_ANNOTATION, VERIFY_REQUEST_MAX, VerifyReport, VerifyState};
pub use witness::{DirectoryWitness, KubernetesWitness, ObjectStoreWitness, WitnessSpec};

/// API group of every kind here.
pub const GROUP: &str = "twinsite.io";
/// Version of every kind here.
pub const VERSION: &str = "v1alpha1";
/// What `apiVersion` reads in a manifest.
pub const API_VERSION: &str = "twinsite.io/v1alpha1";
/// Bytes at the head of every LUN that belong to the mirror and not to the data (protocol 2.2).
pub const HEAD_BYTES: u64 = 128 << 20;

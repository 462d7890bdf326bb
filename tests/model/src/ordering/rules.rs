//! The rules of protocol 2.13 that the ordering model can switch off, one flag each.
//!
//! A flag is named after the mistake, so `no_abort` means: the fence does not wait for commands that were accepted before.

/// One mistake; the rule it breaks stands beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mistake {
    NoWil,
    AckOne,
    AckBeforeCas,
    GuessCas,
    SbBeforeFence,
    RejoinNoFence,
    NoAbort,
    WeType,
    NoLease,
    NoReconcile,
    CasBeforeCopy,
    NoWithdraw,
    PromoteWithoutR,
    ClearUnflushed,
    NoReinstate,
    ZombieRereg,
    MemberBehind,
    FreeSource,
    UngrowByRead,
    NoStamp,
    CleanBeforeBoth,
    Repair,
    NoActive,
    CasEpochOnly,
    CasBeforeFence,
    ServeBeforeSb,
    CopyNolock,
    DeltaNoUnion,
    SbBeforeMap,
    AdoptHolder,
    LeaseByMembers,
    FenceNotVerified,
    LeaseOnState,
    BootInStep6,
    BehindPair,
    OutcomeByTxid,
    ContinueStale,
}

/// Flag, rule, mistake. The flag is what the command line takes.
pub const MISTAKES: &[(&str, &str, Mistake)] = &[
    ("no_wil", "R1", Mistake::NoWil),
    ("ack_one", "R2", Mistake::AckOne),
    ("ack_before_cas", "R3", Mistake::AckBeforeCas),
    ("serve_before_sb", "R3", Mistake::ServeBeforeSb),
    ("sb_before_map", "R3", Mistake::SbBeforeMap),
    ("guess_cas", "R4", Mistake::GuessCas),
    ("sb_before_fence", "R5", Mistake::SbBeforeFence),
    ("rejoin_no_fence", "R5", Mistake::RejoinNoFence),
    ("no_abort", "R6", Mistake::NoAbort),
    ("we_type", "R7", Mistake::WeType),
    ("no_lease", "R8", Mistake::NoLease),
    ("no_reconcile", "R9", Mistake::NoReconcile),
    ("cas_before_copy", "R10", Mistake::CasBeforeCopy),
    ("no_withdraw", "R11", Mistake::NoWithdraw),
    ("promote_without_r", "R12", Mistake::PromoteWithoutR),
    ("clear_unflushed", "R13", Mistake::ClearUnflushed),
    ("member_behind", "R14 R19", Mistake::MemberBehind),
    ("no_reinstate", "R15", Mistake::NoReinstate),
    ("zombie_rereg", "R16", Mistake::ZombieRereg),
    ("ungrow_by_read", "R20", Mistake::UngrowByRead),
    ("clean_before_both", "R21", Mistake::CleanBeforeBoth),
    ("repair", "R22", Mistake::Repair),
    ("adopt_holder", "R23", Mistake::AdoptHolder),
    ("no_stamp", "R24", Mistake::NoStamp),
    ("cas_epoch_only", "R25", Mistake::CasEpochOnly),
    ("lease_by_members", "R26", Mistake::LeaseByMembers),
    ("fence_not_verified", "R26", Mistake::FenceNotVerified),
    ("lease_on_state", "R27", Mistake::LeaseOnState),
    ("no_active", "R28", Mistake::NoActive),
    ("free_source", "R29", Mistake::FreeSource),
    ("behind_pair", "row L3b", Mistake::BehindPair),
    ("delta_no_union", "R35", Mistake::DeltaNoUnion),
    ("copy_nolock", "R36", Mistake::CopyNolock),
    ("cas_before_fence", "R37", Mistake::CasBeforeFence),
    ("continue_stale", "R38", Mistake::ContinueStale),
    ("boot_in_step6", "R39", Mistake::BootInStep6),
    ("outcome_by_txid", "R41", Mistake::OutcomeByTxid),
];

/// The number of the mistake that a flag stands for.
pub fn number(flag: &str) -> Option<usize> {
    let mut all = MISTAKES.iter();
    let (_, _, mistake) = all.find(|(name, _, _)| *name == flag)?;
    Some(*mistake as usize)
}

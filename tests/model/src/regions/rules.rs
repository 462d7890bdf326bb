//! Mistakes that the regions model can make, one flag each, and the configurations that show them.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mistake {
    NoWil,
    AckBeforeBothPages,
    NoEqualise,
    EarlyBeats,
    AlarmAt1,
    AlarmAt3,
    FreeDirection,
    LocalMapOnly,
    SbBeforeMap,
    BaseTwoBelow,
    DeltaNoNumber,
    FullKeepsBase,
    TargetAfterCopy,
    DeltaNoUnion,
    ClearInSolo,
    ClearWithBase,
    ClearUnflushed,
    FlushPending,
    ShrinkNonSource,
    NoFlushFail,
    FlushSourceOnly,
    EioEnds,
    NoSyncBeforeGrow,
    MapNotCopied,
    BeatObjectSlack,
    DamagedDelta,
    SourceStays,
    BothRestartedHold,
    NoThaw,
}

/// Flag, rule, mistake.
pub const MISTAKES: &[(&str, &str, Mistake)] = &[
    ("no_wil", "R1", Mistake::NoWil),
    (
        "ack_before_both_pages",
        "R1 gate 2",
        Mistake::AckBeforeBothPages,
    ),
    ("sb_before_map", "R3", Mistake::SbBeforeMap),
    ("local_map_only", "R9", Mistake::LocalMapOnly),
    ("no_sync_before_grow", "R10", Mistake::NoSyncBeforeGrow),
    ("clear_unflushed", "R13", Mistake::ClearUnflushed),
    ("target_after_copy", "R18", Mistake::TargetAfterCopy),
    ("full_keeps_base", "R18 step 2b", Mistake::FullKeepsBase),
    ("delta_no_union", "R35", Mistake::DeltaNoUnion),
    ("delta_no_number", "2.6 step 2", Mistake::DeltaNoNumber),
    ("base_two_below", "2.5 step 4", Mistake::BaseTwoBelow),
    ("map_not_copied", "2.6 step 6b", Mistake::MapNotCopied),
    ("clear_in_solo", "2.6", Mistake::ClearInSolo),
    ("clear_with_base", "2.6 step 10", Mistake::ClearWithBase),
    ("alarm_at_1", "2.9", Mistake::AlarmAt1),
    ("alarm_at_3", "2.9", Mistake::AlarmAt3),
    ("free_direction", "2.9", Mistake::FreeDirection),
    ("beat_object_slack", "2.8 Usable", Mistake::BeatObjectSlack),
    ("damaged_delta", "row L5, 2.9", Mistake::DamagedDelta),
    ("flush_pending", "R39", Mistake::FlushPending),
    ("shrink_non_source", "R39", Mistake::ShrinkNonSource),
    ("no_flush_fail", "R40", Mistake::NoFlushFail),
    ("flush_source_only", "R40", Mistake::FlushSourceOnly),
    ("source_stays", "R40", Mistake::SourceStays),
    ("no_equalise", "R42", Mistake::NoEqualise),
    ("early_beats", "R42", Mistake::EarlyBeats),
    ("eio_ends", "R45", Mistake::EioEnds),
    (
        "both_restarted_hold",
        "2.5 both lack",
        Mistake::BothRestartedHold,
    ),
    ("no_thaw", "2.18 Frozen", Mistake::NoThaw),
];

/// The number of the mistake that a flag stands for.
pub fn number(flag: &str) -> Option<usize> {
    let mut all = MISTAKES.iter();
    let (_, _, mistake) = all.find(|(name, _, _)| *name == flag)?;
    Some(*mistake as usize)
}

#[derive(Clone, Debug)]
pub struct Config {
    pub writes: u8,
    pub cuts: u8,
    pub heals: u8,
    pub crashes: u8,
    /// Power cycles; above 0 the caches are volatile.
    pub power: u8,
    pub beats: u8,
    pub snapshots: u8,
    /// The beat object is written (best effort in the protocol: rollback must be found without it too).
    pub beat_object: bool,
    /// EIO answers in Frozen.
    pub errors: u8,
    /// Members at the start: 3, or 1 = Solo(A) that leg B left at epoch 1.
    pub start: u8,
    /// Looks for states that only a human ends, in place of violations.
    pub live: bool,
    pub max: usize,
}

impl Config {
    const PLAIN: Self = Self {
        writes: 2,
        cuts: 0,
        heals: 0,
        crashes: 0,
        power: 0,
        beats: 0,
        snapshots: 0,
        beat_object: false,
        errors: 0,
        start: 3,
        live: false,
        max: 40_000_000,
    };

    pub fn named(name: &str) -> Option<Self> {
        let p = Self::PLAIN;
        Some(match name {
            // Crash after crash: reconcile, numbers and beats.
            "regions-crash" => Self {
                crashes: 2,
                beats: 3,
                ..p
            },
            // Loss, Solo, rejoin, loss again: bases, deltas, step 10.
            "regions-rejoin" => Self {
                cuts: 2,
                heals: 2,
                crashes: 1,
                ..p
            },
            // Volatile caches.
            "regions-power" => Self {
                cuts: 1,
                crashes: 1,
                power: 1,
                ..p
            },
            // Power cycles in Solo and in a rejoin.
            "regions-solo-power" => Self {
                power: 2,
                start: 1,
                ..p
            },
            // An older copy of leg B is put back.
            "regions-rollback" => Self {
                writes: 1,
                crashes: 2,
                beats: 2,
                snapshots: 1,
                ..p
            },
            "regions-object2" => Self {
                writes: 1,
                cuts: 1,
                crashes: 2,
                beats: 2,
                snapshots: 1,
                beat_object: true,
                ..p
            },
            "regions-object" => Self {
                writes: 1,
                crashes: 2,
                beats: 2,
                snapshots: 1,
                beat_object: true,
                ..p
            },
            "regions-rollback-solo" => Self {
                cuts: 1,
                heals: 1,
                snapshots: 1,
                beats: 2,
                ..p
            },
            // Frozen writes answered with EIO.
            "regions-eio" => Self {
                cuts: 1,
                heals: 1,
                crashes: 1,
                errors: 1,
                ..p
            },
            // From every state with both legs in reach the volume can become whole without a human.
            "live-crash" => Self {
                writes: 1,
                cuts: 2,
                heals: 2,
                crashes: 1,
                live: true,
                ..p
            },
            "live-power" => Self {
                writes: 1,
                crashes: 1,
                power: 2,
                live: true,
                ..p
            },
            "live-rollback" => Self {
                writes: 1,
                crashes: 1,
                beats: 2,
                snapshots: 1,
                live: true,
                ..p
            },
            _ => return None,
        })
    }

    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let n: usize = value
            .parse()
            .map_err(|_| format!("{key}: not a number: {value}"))?;
        let small = u8::try_from(n).unwrap_or(u8::MAX);
        match key {
            "writes" => self.writes = small.min(super::state::WRITES as u8),
            "cuts" => self.cuts = small,
            "heals" => self.heals = small,
            "crash" => self.crashes = small,
            "power" => self.power = small,
            "beats" => self.beats = small,
            "snapshots" => self.snapshots = small,
            "object" => self.beat_object = n == 1,
            "errors" => self.errors = small,
            "start" => self.start = small,
            "max" => self.max = n,
            _ => return Err(format!("unknown bound {key}")),
        }
        Ok(())
    }
}

pub const BASE: &[&str] = &[
    "regions-crash",
    "regions-rejoin",
    "regions-power",
    "regions-solo-power",
    "regions-rollback",
    "regions-object",
    "regions-object2",
    "regions-rollback-solo",
    "regions-eio",
    "live-crash",
    "live-power",
    "live-rollback",
];

/// Each flag in the configuration that shows it.
pub const SHOWN: &[(&str, &str)] = &[
    ("regions-crash", "no_wil"),
    ("regions-crash", "local_map_only"),
    ("regions-crash", "no_equalise"),
    ("regions-crash", "alarm_at_1"),
    ("regions-rejoin", "target_after_copy"),
    ("regions-rejoin", "delta_no_union"),
    ("regions-rejoin", "map_not_copied"),
    ("regions-rejoin", "clear_in_solo"),
    ("regions-solo-power", "no_sync_before_grow"),
    ("regions-power", "clear_unflushed"),
    ("regions-solo-power", "no_flush_fail"),
    ("regions-solo-power", "flush_source_only"),
    ("regions-solo-power", "source_stays"),
    ("regions-rollback", "ack_before_both_pages"),
    ("regions-rollback", "alarm_at_3"),
    ("regions-rollback", "free_direction"),
    ("regions-rollback", "early_beats"),
    ("regions-object", "damaged_delta"),
    ("regions-object2", "beat_object_slack"),
    ("regions-rollback-solo", "delta_no_number"),
    ("regions-rollback-solo", "base_two_below"),
    ("regions-eio", "eio_ends"),
    ("live-power", "both_restarted_hold"),
];

/// Flags that this model does not show, with the reason.
pub const NOT_SHOWN: &[(&str, &str)] = &[
    (
        "sb_before_map",
        "the returning leg brings its own bits into the union; needs a torn map beside it",
    ),
    (
        "full_keeps_base",
        "the page numbers refuse the delta too; needs a leg that was replaced by another LUN",
    ),
    (
        "clear_with_base",
        "complete in regions-rejoin: the bits of a Solo are not needed once the grow is won",
    ),
    (
        "flush_pending",
        "row L3b takes the restarted leg out first; needs an attach without R",
    ),
    ("shrink_non_source", "as flush_pending"),
    (
        "no_thaw",
        "complete in live-crash and live-power: the shrink of a leg that is back, or another attach, leads on",
    ),
];

//! Mistakes and configurations of the lifecycle model.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mistake {
    NoMarks,
    BelowLast,
    WipeAnyRegister,
    WipeNoReread,
    BirthIgnoresSb,
    BirthNoReread,
    FormatTwoValued,
    FormatOneLeg,
    RejoinUnconfirmed,
    AloneWithoutR,
    TombstoneWhileHeld,
    ReleaseReservation,
    NoOrder,
    ForceNoFence,
    ReseedRunning,
    ReseedNoFormer,
    ReseedOldEpoch,
    NamedRunsWithoutR,
}

/// Flag, rule, mistake.
pub const MISTAKES: &[(&str, &str, Mistake)] = &[
    ("no_marks", "R17", Mistake::NoMarks),
    ("release_reservation", "R30", Mistake::ReleaseReservation),
    ("format_two_valued", "R34", Mistake::FormatTwoValued),
    ("format_one_leg", "R34", Mistake::FormatOneLeg),
    ("no_order", "R38", Mistake::NoOrder),
    ("below_last", "R43", Mistake::BelowLast),
    ("birth_ignores_sb", "2.17 birth", Mistake::BirthIgnoresSb),
    ("birth_no_reread", "R43", Mistake::BirthNoReread),
    ("wipe_any_register", "R43", Mistake::WipeAnyRegister),
    ("wipe_no_reread", "R43", Mistake::WipeNoReread),
    ("tombstone_while_held", "2.3", Mistake::TombstoneWhileHeld),
    ("rejoin_unconfirmed", "R44", Mistake::RejoinUnconfirmed),
    ("force_no_fence", "2.17 force", Mistake::ForceNoFence),
    ("alone_without_r", "R44 U4", Mistake::AloneWithoutR),
    (
        "reseed_while_attached",
        "2.17 reseed",
        Mistake::ReseedRunning,
    ),
    (
        "reseed_without_former",
        "2.17 reseed",
        Mistake::ReseedNoFormer,
    ),
    (
        "reseed_below_the_legs",
        "2.17 reseed",
        Mistake::ReseedOldEpoch,
    ),
    (
        "named_runs_without_r",
        "R44 reseed",
        Mistake::NamedRunsWithoutR,
    ),
];

/// The number of the mistake that a flag stands for.
pub fn number(flag: &str) -> Option<usize> {
    let mut all = MISTAKES.iter();
    let (_, _, mistake) = all.find(|(name, _, _)| *name == flag)?;
    Some(*mistake as usize)
}

#[derive(Clone, Debug)]
pub struct Config {
    /// 0 = no register, blank legs; 3 = pair in use; 1 = Solo(A) that B left.
    pub start: u8,
    pub writes: u8,
    pub cuts: u8,
    pub heals: u8,
    pub crashes: u8,
    pub moves: u8,
    pub forces: u8,
    pub restores: u8,
    pub deletes: u8,
    /// The register is lost, and a human reseeds.
    pub losses: u8,
    /// Attachment uids beside the first one.
    pub uids: u8,
    pub max: usize,
}

impl Config {
    pub fn named(name: &str) -> Option<Self> {
        let none = Self {
            start: 3,
            writes: 1,
            cuts: 0,
            heals: 0,
            crashes: 0,
            moves: 0,
            forces: 0,
            restores: 0,
            deletes: 0,
            losses: 0,
            uids: 0,
            max: 20_000_000,
        };
        Some(match name {
            // Two birth executors, format, first mount, crashes anywhere.
            "life-birth" => Self {
                start: 0,
                crashes: 1,
                cuts: 1,
                moves: 1,
                ..none
            },
            // The witness is put back to an earlier state, from before the birth on.
            "life-restore" => Self {
                start: 0,
                restores: 1,
                cuts: 1,
                heals: 1,
                crashes: 1,
                ..none
            },
            "life-restore-solo" => Self {
                start: 3,
                restores: 1,
                cuts: 1,
                heals: 1,
                moves: 1,
                crashes: 1,
                writes: 1,
                ..none
            },
            // A human forces the stale leg; the lost branch returns.
            "life-force" => Self {
                start: 1,
                forces: 1,
                cuts: 2,
                heals: 1,
                crashes: 1,
                writes: 2,
                ..none
            },
            // Delete, with legs away and executors that die.
            "life-delete" => Self {
                deletes: 1,
                cuts: 1,
                heals: 1,
                crashes: 1,
                writes: 1,
                restores: 1,
                ..none
            },
            // The witness loses the register; a human makes a new one; the lost branch returns.
            "life-reseed" => Self {
                start: 3,
                losses: 1,
                cuts: 1,
                crashes: 1,
                uids: 2,
                writes: 1,
                ..none
            },
            "life-reseed-solo" => Self {
                start: 1,
                losses: 1,
                crashes: 1,
                uids: 2,
                writes: 2,
                ..none
            },
            // Detach, re-attach, delayed writes, old Attachments.
            "life-order" => Self {
                cuts: 1,
                heals: 0,
                crashes: 2,
                uids: 2,
                writes: 2,
                ..none
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
            "start" => self.start = small,
            "writes" => self.writes = small,
            "cuts" => self.cuts = small,
            "heals" => self.heals = small,
            "crash" => self.crashes = small,
            "moves" => self.moves = small,
            "forces" => self.forces = small,
            "restores" => self.restores = small,
            "deletes" => self.deletes = small,
            "losses" => self.losses = small,
            "uids" => self.uids = small,
            "max" => self.max = n,
            _ => return Err(format!("unknown bound {key}")),
        }
        Ok(())
    }
}

pub const BASE: &[&str] = &[
    "life-birth",
    "life-restore",
    "life-restore-solo",
    "life-force",
    "life-delete",
    "life-order",
    "life-reseed",
    "life-reseed-solo",
];

pub const SHOWN: &[(&str, &str)] = &[
    ("life-birth", "birth_no_reread+birth_ignores_sb"),
    ("life-birth", "format_one_leg"),
    ("life-birth", "format_two_valued"),
    ("life-restore", "below_last+birth_ignores_sb"),
    ("life-restore-solo", "no_marks"),
    ("life-force", "rejoin_unconfirmed"),
    ("life-force", "alone_without_r"),
    ("life-force", "force_no_fence+named_runs_without_r"),
    ("life-delete", "below_last+wipe_any_register"),
    ("life-delete", "tombstone_while_held"),
    ("life-reseed-solo", "reseed_while_attached"),
    ("life-reseed", "named_runs_without_r"),
    ("life-reseed", "reseed_without_former"),
    ("life-reseed-solo", "rejoin_unconfirmed"),
    ("life-order", "no_order"),
    ("life-order", "release_reservation"),
];

pub const NOT_SHOWN: &[(&str, &str)] = &[
    (
        "wipe_no_reread",
        "a Tombstone never turns back into a Live R within these bounds; needs a reseed under the wipe",
    ),
    (
        "reseed_below_the_legs",
        "complete in life-reseed-solo: a superblock of a former register never runs but by a grant, whatever its epoch",
    ),
];

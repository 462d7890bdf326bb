//! Named configurations: which writers contend, and how many faults of each kind may happen.

/// `sites[i]` is the site of writer i; writer 0 runs at the start.
#[derive(Clone, Debug)]
pub struct Config {
    pub sites: Vec<u8>,
    pub writes: u8,
    pub cuts: u8,
    /// Heals and restarts share this budget.
    pub heals: u8,
    pub crashes: u8,
    pub moves: u8,
    /// Power cycles of a target; above 0 the caches are volatile.
    pub power: u8,
    /// Changes of a free field of the register by an operator.
    pub edits: u8,
    /// An agent restarts behind a device that stays shown.
    pub continued: bool,
    pub reads: bool,
    pub local_cut: bool,
    pub rejoin: bool,
    /// A request may be executed and its copy stay under way.
    pub duplicates: bool,
    /// Members at the start: 3 = pair, 1 = Solo(A).
    pub start: u8,
    pub max: usize,
}

impl Config {
    fn of(sites: &[u8]) -> Self {
        Self {
            sites: sites.to_vec(),
            writes: 1,
            cuts: 2,
            heals: 1,
            crashes: 1,
            moves: 1,
            power: 0,
            edits: 0,
            continued: false,
            reads: false,
            local_cut: true,
            rejoin: true,
            duplicates: true,
            start: 3,
            max: 60_000_000,
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            // A and B contend; one crash.
            "cross" => Self::of(&[0, 1]),
            // Two nodes of one site contend for the same leg.
            "same" => Self {
                moves: 0,
                ..Self::of(&[0, 0])
            },
            // Three writers, two of them at A.
            "three" => Self {
                cuts: 1,
                heals: 0,
                ..Self::of(&[0, 1, 0])
            },
            // Stale reads, values that vanish.
            "reads" => Self {
                cuts: 1,
                reads: true,
                ..Self::of(&[0, 1])
            },
            "reads2" => Self {
                cuts: 2,
                heals: 0,
                reads: true,
                ..Self::of(&[0, 1])
            },
            // Guest writes during a rejoin.
            "rejoin" => Self {
                writes: 2,
                cuts: 1,
                heals: 0,
                start: 1,
                ..Self::of(&[0, 1])
            },
            // Two writes in the steady state.
            "two" => Self {
                writes: 2,
                cuts: 1,
                crashes: 0,
                ..Self::of(&[0, 1])
            },
            // Volatile target caches, one power cycle.
            "power" => Self {
                cuts: 1,
                heals: 0,
                power: 1,
                ..Self::of(&[0, 1])
            },
            // Two attaches in turn on volatile targets: the first at A dies half way, the second is at B.
            "power2" => Self {
                cuts: 0,
                heals: 0,
                crashes: 2,
                power: 1,
                rejoin: false,
                ..Self::of(&[0, 0, 1])
            },
            // An operator changes note or latched under outstanding requests.
            "edits" => Self {
                crashes: 0,
                moves: 0,
                edits: 1,
                ..Self::of(&[0, 1])
            },
            // An agent restarts behind a device that stays shown.
            "cont" => Self {
                writes: 2,
                cuts: 1,
                moves: 0,
                continued: true,
                ..Self::of(&[0, 0])
            },
            _ => return None,
        })
    }

    /// Changes one bound, as `key=value` on the command line.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        if key == "sites" {
            self.sites = value.bytes().map(|b| b.wrapping_sub(b'0') & 1).collect();
            return Ok(());
        }
        let n: usize = value
            .parse()
            .map_err(|_| format!("{key}: not a number: {value}"))?;
        let small = u8::try_from(n).unwrap_or(u8::MAX);
        match key {
            "writes" => self.writes = small,
            "cuts" => self.cuts = small,
            "heals" => self.heals = small,
            "crash" => self.crashes = small,
            "moves" => self.moves = small,
            "power" => self.power = small,
            "edits" => self.edits = small,
            "start" => self.start = small,
            "max" => self.max = n,
            "cont" => self.continued = n == 1,
            "reads" => self.reads = n == 1,
            "rejoin" => self.rejoin = n == 1,
            "dup" => self.duplicates = n == 1,
            "local" => self.local_cut = n == 1,
            _ => return Err(format!("unknown bound {key}")),
        }
        Ok(())
    }
}

/// All rules on: complete spaces.
pub const BASE: &[&str] = &[
    "cross", "same", "three", "rejoin", "two", "power", "reads", "reads2", "power2", "edits",
    "cont",
];

/// Each flag in the configuration that shows it. States: bound that suffices to find it (with room), 0 = not demonstrated.
pub const SHOWN: &[(&str, &str)] = &[
    ("cross", "no_wil"),
    ("cross", "ack_one"),
    ("cross", "ack_before_cas"),
    ("cross", "guess_cas"),
    ("cross", "sb_before_fence"),
    ("cross", "rejoin_no_fence"),
    ("cross", "no_abort"),
    ("cross", "cas_before_copy"),
    ("cross", "no_withdraw"),
    ("cross", "promote_without_r"),
    ("cross", "zombie_rereg"),
    ("cross", "ungrow_by_read"),
    ("cross", "clean_before_both"),
    ("cross", "cas_before_fence"),
    ("cross", "serve_before_sb"),
    ("cross", "delta_no_union"),
    ("reads", "we_type"),
    ("reads", "no_lease"),
    ("reads", "no_reconcile"),
    ("reads", "lease_by_members"),
    ("reads", "fence_not_verified"),
    ("reads", "lease_on_state"),
    ("same", "adopt_holder"),
    ("same", "no_stamp"),
    ("same", "cas_epoch_only"),
    ("two", "no_reinstate"),
    ("rejoin", "copy_nolock"),
    ("power", "member_behind"),
    ("power", "free_source+behind_pair"),
    ("power", "clear_unflushed"),
    ("power2", "boot_in_step6+behind_pair"),
    ("edits", "outcome_by_txid"),
    ("cont", "continue_stale"),
];

/// Flags that this model does not show, with the reason; other models of this crate may (see `regions`).
pub const NOT_SHOWN: &[(&str, &str)] = &[
    ("sb_before_map", "one region cannot show it; `regions` does"),
    ("no_active", "guards availability, not data"),
    (
        "repair",
        "the stamp of R24 already makes the two writers exclude each other",
    ),
];

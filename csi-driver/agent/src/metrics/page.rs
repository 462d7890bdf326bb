//! Metrics in the text format of Prometheus 0.0.4.
//!
//! Names are `twinsite_<noun>_<unit>`, counters end in `_total`, a state is one series per value with 1
//! for the present one. Labels that name a volume are the same everywhere: `volume` is `namespace/name`.

use std::fmt::Write;

use crate::status::io_waits;
use twinsite_api::{VerifyReport, VerifyState};
use twinsite_mirror::{
    io::Leg,
    status::{LegRole, StateName, Status},
};

/// Everything the page shows.
#[derive(Clone, Debug, Default)]
pub struct NodeMetrics {
    pub node: String,
    pub site: String,
    pub problems: usize,
    /// By pair: whether its witness answers.
    pub witnesses: Vec<(String, bool)>,
    pub pools: Vec<PoolMetrics>,
    pub legs: Vec<LegMetrics>,
    pub volumes: Vec<VolumeMetrics>,
}

#[derive(Clone, Debug, Default)]
pub struct PoolMetrics {
    pub name: String,
    pub open: bool,
    pub capacity: Option<(u64, u64)>,
}

#[derive(Clone, Debug, Default)]
pub struct LegMetrics {
    pub name: String,
    pub volume: String,
    pub leg: &'static str,
    pub served: bool,
    pub sessions: usize,
    pub commands: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub store_errors: u64,
    pub store_seconds: f64,
    pub store_operations: u64,
    pub last_foreign_seconds: Option<f64>,
}

#[derive(Clone, Debug)]
pub struct VolumeMetrics {
    pub name: String,
    pub volume: String,
    pub attached: bool,
    pub superseded: bool,
    pub engine: Box<Status>,
    pub verify: Option<VerifyReport>,
    pub active_here: bool,
    pub latched: bool,
    pub unconfirmed: bool,
}

/// A page under way: families once each, with their help, in the order written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) -> Family<'_> {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family {
            text: &mut self.text,
            name: name.to_owned(),
        }
    }
}

struct Family<'a> {
    text: &'a mut String,
    name: String,
}

impl Family<'_> {
    fn sample(&mut self, labels: Labels<'_>, value: impl Into<f64>) -> &mut Self {
        self.text.push_str(&self.name);
        for (number, (label, text)) in labels.iter().enumerate() {
            self.text.push(if number == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"{}\"", escaped(text));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {}", value.into());
        self
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[allow(
    clippy::cast_precision_loss,
    reason = "the text format has doubles only"
)]
fn number(value: u64) -> f64 {
    value as f64
}

const STATES: [StateName; 24] = [
    StateName::Off,
    StateName::Check,
    StateName::Fence,
    StateName::Decide,
    StateName::CasWait,
    StateName::SbWrite,
    StateName::LeaseWait,
    StateName::Reconcile,
    StateName::Synced,
    StateName::Frozen,
    StateName::ShrinkWait,
    StateName::ThawWait,
    StateName::Solo,
    StateName::RjTarget,
    StateName::RjBoth,
    StateName::RjNeed,
    StateName::Growing,
    StateName::GrowWait,
    StateName::BumpWait,
    StateName::Expand,
    StateName::Detach,
    StateName::Superseded,
    StateName::Refused,
    StateName::OneShot,
];
const ROLES: [LegRole; 5] = [
    LegRole::Member,
    LegRole::Resyncing,
    LegRole::Outdated,
    LegRole::Unreachable,
    LegRole::Unknown,
];

/// The whole page.
pub fn render(node: &NodeMetrics) -> String {
    let mut page = Page::default();
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("node", &node.node),
        ("site", &node.site),
    ];
    page.family("twinsite_agent_info", "gauge", "The agent and where it is.")
        .sample(&build, 1);
    page.family(
        "twinsite_object_problems",
        "gauge",
        "Things that are wrong with the objects' files.",
    )
    .sample(&[], number(node.problems as u64));
    let mut family = page.family(
        "twinsite_witness_reachable",
        "gauge",
        "Whether the witness took the last sign of life.",
    );
    for (pair, reachable) in &node.witnesses {
        family.sample(&[("pair", pair)], *reachable);
    }
    pools(&mut page, &node.pools);
    legs(&mut page, &node.legs);
    volumes(&mut page, &node.volumes);
    page.text
}

fn pools(page: &mut Page, pools: &[PoolMetrics]) {
    let mut family = page.family(
        "twinsite_pool_open",
        "gauge",
        "Whether the pool's disk is there.",
    );
    for pool in pools {
        family.sample(&[("pool", &pool.name)], pool.open);
    }
    let mut family = page.family(
        "twinsite_pool_capacity_bytes",
        "gauge",
        "Size of the pool's file system.",
    );
    for pool in pools {
        if let Some((total, _)) = pool.capacity {
            family.sample(&[("pool", &pool.name)], number(total));
        }
    }
    let mut family = page.family("twinsite_pool_free_bytes", "gauge", "What is free there.");
    for pool in pools {
        if let Some((_, free)) = pool.capacity {
            family.sample(&[("pool", &pool.name)], number(free));
        }
    }
}

fn legs(page: &mut Page, legs: &[LegMetrics]) {
    type Value = fn(&LegMetrics) -> Option<f64>;
    let families: [(&str, &str, &str, Value); 9] = [
        (
            "twinsite_leg_served",
            "gauge",
            "Whether the leg is served.",
            |leg| Some(leg.served.into()),
        ),
        (
            "twinsite_leg_sessions",
            "gauge",
            "Initiators logged in.",
            |leg| Some(number(leg.sessions as u64)),
        ),
        (
            "twinsite_leg_commands_total",
            "counter",
            "SCSI commands.",
            |leg| Some(number(leg.commands)),
        ),
        (
            "twinsite_leg_read_bytes_total",
            "counter",
            "Bytes read from the leg.",
            |leg| Some(number(leg.read_bytes)),
        ),
        (
            "twinsite_leg_written_bytes_total",
            "counter",
            "Bytes written to the leg.",
            |leg| Some(number(leg.written_bytes)),
        ),
        (
            "twinsite_leg_store_errors_total",
            "counter",
            "Store operations that failed.",
            |leg| Some(number(leg.store_errors)),
        ),
        (
            "twinsite_leg_store_seconds_total",
            "counter",
            "Time of all store operations.",
            |leg| Some(leg.store_seconds),
        ),
        (
            "twinsite_leg_store_operations_total",
            "counter",
            "Store operations.",
            |leg| Some(number(leg.store_operations)),
        ),
        (
            "twinsite_leg_last_foreign_command_seconds",
            "gauge",
            "Age of the last command of another site's writer.",
            |leg| leg.last_foreign_seconds,
        ),
    ];
    for (name, kind, help, value) in families {
        let mut family = page.family(name, kind, help);
        for leg in legs {
            if let Some(value) = value(leg) {
                family.sample(
                    &[
                        ("leg", &leg.name),
                        ("volume", &leg.volume),
                        ("index", leg.leg),
                    ],
                    value,
                );
            }
        }
    }
}

fn volumes(page: &mut Page, volumes: &[VolumeMetrics]) {
    let mut family = page.family(
        "twinsite_mirror_state",
        "gauge",
        "State of the engine: 1 for the present one.",
    );
    for volume in volumes {
        for state in STATES {
            let labels = [
                ("volume", volume.volume.as_str()),
                ("attachment", &volume.name),
                ("state", &format!("{state:?}")),
            ];
            family.sample(&labels, volume.engine.state == state);
        }
    }
    let mut family = page.family(
        "twinsite_mirror_leg_state",
        "gauge",
        "What a copy is good for: 1 for the present state.",
    );
    for volume in volumes {
        for leg in Leg::BOTH {
            for role in ROLES {
                let labels = [
                    ("volume", volume.volume.as_str()),
                    ("attachment", &volume.name),
                    ("leg", &leg.to_string()),
                    ("state", &format!("{role:?}")),
                ];
                family.sample(&labels, volume.engine.legs[leg.index()].role == role);
            }
        }
    }
    type Value = fn(&VolumeMetrics) -> Option<f64>;
    let families: [(&str, &str, &str, Value); 30] = [
        (
            "twinsite_mirror_attached",
            "gauge",
            "Whether the mirror is open here.",
            |v| Some(v.attached.into()),
        ),
        (
            "twinsite_mirror_superseded",
            "gauge",
            "Whether another writer took over.",
            |v| Some(v.superseded.into()),
        ),
        (
            "twinsite_mirror_device_shown",
            "gauge",
            "Whether its device is there.",
            |v| Some(v.engine.device_shown.into()),
        ),
        (
            "twinsite_mirror_io_suspended",
            "gauge",
            "Whether I/O waits for a membership.",
            |v| Some((v.attached && io_waits(v.engine.state)).into()),
        ),
        (
            "twinsite_mirror_active_here",
            "gauge",
            "Whether the register names this site as the active one.",
            |v| Some(v.active_here.into()),
        ),
        (
            "twinsite_mirror_latched",
            "gauge",
            "An unplanned move that the spec has not accepted.",
            |v| Some(v.latched.into()),
        ),
        (
            "twinsite_mirror_split_brain",
            "gauge",
            "A lost branch waits for a human.",
            |v| Some(v.unconfirmed.into()),
        ),
        (
            "twinsite_mirror_epoch",
            "gauge",
            "Epoch of the membership.",
            |v| Some(number(v.engine.epoch.0)),
        ),
        (
            "twinsite_mirror_size_bytes",
            "gauge",
            "Size of the volume.",
            |v| Some(number(v.engine.size)),
        ),
        (
            "twinsite_mirror_dirty_bytes",
            "gauge",
            "Bytes in which the copies may differ.",
            |v| Some(number(v.engine.dirty_bytes)),
        ),
        (
            "twinsite_mirror_pending_bytes",
            "gauge",
            "Bytes to be equalised since the attach.",
            |v| Some(number(v.engine.pending_bytes)),
        ),
        (
            "twinsite_mirror_resync_total_bytes",
            "gauge",
            "Bytes of the resync under way.",
            |v| v.engine.resync.map(|r| number(r.total_bytes)),
        ),
        (
            "twinsite_mirror_resync_left_bytes",
            "gauge",
            "Bytes of it that are left.",
            |v| v.engine.resync.map(|r| number(r.left_bytes)),
        ),
        (
            "twinsite_mirror_resync_bytes_per_second",
            "gauge",
            "Its speed.",
            |v| v.engine.resync.map(|r| number(r.bytes_per_second)),
        ),
        (
            "twinsite_mirror_verify_running",
            "gauge",
            "Whether the copies are being compared.",
            |v| {
                let running = |report: &VerifyReport| report.state == VerifyState::Running;
                Some(v.verify.as_ref().is_some_and(running).into())
            },
        ),
        (
            "twinsite_mirror_verify_compared_bytes",
            "gauge",
            "How far the comparison under way is, or the last one came.",
            |v| v.verify.as_ref().map(|r| number(r.compared_bytes)),
        ),
        (
            "twinsite_mirror_verify_bytes_per_second",
            "gauge",
            "Speed of the comparison under way.",
            |v| v.verify.as_ref()?.bytes_per_second.map(number),
        ),
        (
            "twinsite_mirror_verify_differing_bytes",
            "gauge",
            "Bytes that the comparison under way, or the last one, found to differ.",
            |v| v.verify.as_ref().map(|r| number(r.differing_bytes)),
        ),
        (
            "twinsite_mirror_verify_unreadable_bytes",
            "gauge",
            "Bytes that it could not compare, because a copy cannot be read there.",
            |v| v.verify.as_ref().map(|r| number(r.unreadable_bytes)),
        ),
        (
            "twinsite_mirror_reads_total",
            "counter",
            "Guest reads.",
            |v| Some(number(v.engine.counters.reads)),
        ),
        (
            "twinsite_mirror_writes_total",
            "counter",
            "Guest writes.",
            |v| Some(number(v.engine.counters.writes)),
        ),
        (
            "twinsite_mirror_flushes_total",
            "counter",
            "Guest flushes.",
            |v| Some(number(v.engine.counters.flushes)),
        ),
        (
            "twinsite_mirror_read_bytes_total",
            "counter",
            "Bytes read by the guest.",
            |v| Some(number(v.engine.counters.read_bytes)),
        ),
        (
            "twinsite_mirror_written_bytes_total",
            "counter",
            "Bytes written by the guest.",
            |v| Some(number(v.engine.counters.written_bytes)),
        ),
        (
            "twinsite_mirror_cold_writes_total",
            "counter",
            "Writes that waited for a page of the dirty map.",
            |v| Some(number(v.engine.counters.cold_writes)),
        ),
        (
            "twinsite_mirror_page_transactions_total",
            "counter",
            "Transactions of the dirty map.",
            |v| Some(number(v.engine.counters.page_transactions)),
        ),
        (
            "twinsite_mirror_copied_bytes_total",
            "counter",
            "Bytes copied between the legs.",
            |v| Some(number(v.engine.counters.copied_bytes)),
        ),
        (
            "twinsite_mirror_read_repairs_total",
            "counter",
            "Reads that another leg had to answer.",
            |v| Some(number(v.engine.counters.read_repairs)),
        ),
        (
            "twinsite_mirror_lease_holds_total",
            "counter",
            "Reads held because the lease had run out.",
            |v| Some(number(v.engine.counters.lease_holds)),
        ),
        (
            "twinsite_mirror_flush_failures_total",
            "counter",
            "Flushes that failed after a restart lost writes.",
            |v| Some(number(v.engine.counters.flush_failures)),
        ),
    ];
    for (name, kind, help, value) in families {
        let mut family = page.family(name, kind, help);
        for volume in volumes {
            if let Some(value) = value(volume) {
                family.sample(
                    &[("volume", &volume.volume), ("attachment", &volume.name)],
                    value,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;

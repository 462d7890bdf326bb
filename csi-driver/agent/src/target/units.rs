//! The logical units of one target with their stores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use slab::Slab;
use twinsite_iscsi::scsi::{
    Expected, LogicalUnit, Lun, NexusId, OpId, PrState, StoreOp, TransportId, UnitConfig,
    UnitOutput,
};
use twinsite_iscsi::session::{Acl, TargetCommand};

use super::counters::LunStats;
use super::server::ServerError;
use super::{Export, ExportLun};
use crate::backend::{Access, Store, StoreResult};
use crate::reactor::{Context, Event, Token, boottime};

/// Largest transfer of one command.
pub(super) const MAX_TRANSFER: u32 = 4 << 20;
/// Commands a unit holds over all its sessions.
const TASK_LIMIT: usize = 4096;

/// A unit that is ready to move to its thread.
pub(super) struct Prepared {
    number: u16,
    unit: LogicalUnit,
    store: Store,
    acl: Acl,
    stats: LunStats,
}

/// Opens what an export needs; everything that can fail fails here.
pub(super) fn prepare(
    export: Export,
    group: u16,
    one_disk: &Arc<AtomicBool>,
) -> Result<Vec<Prepared>, ServerError> {
    let luns: Vec<Lun> = export
        .luns
        .iter()
        .map(|lun| Lun::from_number(lun.number))
        .collect();
    let mut prepared: Vec<Prepared> = Vec::new();
    for lun in export.luns {
        if prepared.iter().any(|other| other.number == lun.number) {
            return Err(ServerError::LunTwice(export.iqn, lun.number));
        }
        prepared.push(prepare_unit(
            &export.iqn,
            group,
            lun,
            luns.clone(),
            one_disk,
        )?);
    }
    Ok(prepared)
}

fn prepare_unit(
    iqn: &str,
    group: u16,
    lun: ExportLun,
    luns: Vec<Lun>,
    one_disk: &Arc<AtomicBool>,
) -> Result<Prepared, ServerError> {
    let saved = lun
        .backing
        .saved_reservations()
        .map_err(|error| ServerError::Store(iqn.into(), error))?;
    let pr =
        PrState::restore(&saved).map_err(|error| ServerError::Reservations(iqn.into(), error))?;
    let (size, boot_id) = (lun.backing.size(), lun.backing.boot_id());
    let unit = LogicalUnit::new(UnitConfig {
        size,
        block_size: lun.block_size,
        naa: lun.naa,
        serial: lun.serial,
        vendor: "TWINSITE".into(),
        product: "LEG".into(),
        revision: "1".into(),
        target_name: iqn.into(),
        portal_group: group,
        relative_port: 1,
        luns,
        read_only: lun.backing.access() == Access::ReadOnly,
        removable: lun.removable,
        write_cache: lun.write_cache,
        thin: true,
        discard_zeroes: true,
        atomic_writes: lun.backing.keeps_writes_whole(),
        boot_id,
        started: boottime(),
        max_transfer: MAX_TRANSFER,
        task_limit: TASK_LIMIT,
        pr,
    });
    let mut store =
        Store::new(lun.backing).map_err(|error| ServerError::Serve(iqn.into(), error))?;
    store.set_rate(lun.rate);
    if lun.write_at_once {
        store.write_at_once();
    }
    if lun.sync_at_once {
        store.sync_at_once(one_disk.clone());
    }
    if !lun.write_cache {
        store.all_is_stable();
    }
    let stats = LunStats {
        number: lun.number,
        size,
        boot_id,
        ..LunStats::default()
    };
    Ok(Prepared {
        number: lun.number,
        unit,
        store,
        acl: lun.acl,
        stats,
    })
}

/// A store operation under way.
struct Operation {
    lun: u16,
    op: OpId,
    started: Duration,
    /// Bytes that its result will hold.
    reads: usize,
}

/// What a unit wants of its sessions.
pub(super) type UnitWish = UnitOutput;

/// All units of a target and the store operations under way.
pub(super) struct Units {
    units: BTreeMap<u16, Served>,
    operations: Slab<Operation>,
    /// Bytes that reads under way will bring.
    reading: usize,
}

struct Served {
    unit: LogicalUnit,
    store: Store,
    acl: Acl,
    stats: LunStats,
}

impl Units {
    pub(super) fn new(prepared: Vec<Prepared>) -> Self {
        let serve = |Prepared {
                         number,
                         unit,
                         store,
                         acl,
                         stats,
                     }| {
            let served = Served {
                unit,
                store,
                acl,
                stats,
            };
            (number, served)
        };
        Self {
            units: prepared.into_iter().map(serve).collect(),
            operations: Slab::new(),
            reading: 0,
        }
    }

    pub(super) fn numbers(&self) -> Vec<u16> {
        self.units.keys().copied().collect()
    }

    /// The units that this initiator may use, in order.
    pub(super) fn open_to(&self, initiator: &str) -> Vec<u16> {
        let open = |acl: &Acl| match acl {
            Acl::Any => true,
            Acl::Only(names) => names.contains(initiator),
        };
        let units = self.units.iter().filter(|(_, served)| open(&served.acl));
        units.map(|(number, _)| *number).collect()
    }

    /// A nexus of an initiator that may use these units.
    pub(super) fn nexus_added(
        &mut self,
        now: Duration,
        nexus: NexusId,
        transport_id: &TransportId,
        open: &[u16],
    ) {
        let hidden = open.len() < self.units.len();
        for number in open {
            let Some(served) = self.units.get_mut(number) else {
                continue;
            };
            served.unit.nexus_added(now, nexus, transport_id.clone());
            if hidden {
                let luns = open.iter().map(|number| Lun::from_number(*number));
                served.unit.report_only(nexus, luns.collect());
            }
        }
    }

    pub(super) fn unit(&mut self, number: u16) -> Option<&mut LogicalUnit> {
        self.units.get_mut(&number).map(|served| &mut served.unit)
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut LogicalUnit> {
        self.units.values_mut().map(|served| &mut served.unit)
    }

    pub(super) fn count(&mut self, number: u16, command: &TargetCommand) {
        let Some(served) = self.units.get_mut(&number) else {
            return;
        };
        let stats = &mut served.stats;
        stats.commands += 1;
        match command.expected {
            Expected::None => {}
            Expected::In(length) => {
                stats.reads += 1;
                stats.read_bytes += u64::from(length);
            }
            Expected::Out(length) => {
                stats.writes += 1;
                stats.written_bytes += u64::from(length);
            }
        }
    }

    /// The next thing that a unit wants of a session; store operations are begun on the way.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        number: u16,
        token: impl Fn(usize) -> Token,
    ) -> Option<UnitWish> {
        let served = self.units.get_mut(&number)?;
        loop {
            let (op, request) = match served.unit.poll()? {
                UnitOutput::Store { op, request } => (op, request),
                wish => return Some(wish),
            };
            let reads = match &request {
                StoreOp::Read { len, .. } => usize::try_from(*len).unwrap_or(usize::MAX),
                StoreOp::Flush => {
                    served.stats.flushes += 1;
                    0
                }
                StoreOp::Discard { .. } => {
                    served.stats.discards += 1;
                    0
                }
                _ => 0,
            };
            let started = cx.now();
            let key = self.operations.insert(Operation {
                lun: number,
                op,
                started,
                reads,
            });
            self.reading += reads;
            if let Some(result) = served.store.submit(cx, token(key), request) {
                self.reading -= reads;
                self.operations.remove(key);
                served.finish(cx.now(), op, started, result);
            }
        }
    }

    /// An event of a store operation. `Some(number)`: it has ended and this unit is to be polled.
    pub(super) fn handle(
        &mut self,
        cx: &mut Context<'_>,
        key: usize,
        token: Token,
        event: Event,
    ) -> Option<u16> {
        let lun = self.operations.get(key)?.lun;
        let served = self.units.get_mut(&lun)?;
        let result = served.store.handle(cx, token, event)?;
        let operation = self.operations.remove(key);
        self.reading -= operation.reads;
        served.finish(cx.now(), operation.op, operation.started, result);
        Some(lun)
    }

    /// Numbers of the operations under way.
    pub(super) fn under_way(&self) -> impl Iterator<Item = usize> {
        self.operations.iter().map(|(key, _)| key)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.operations.is_empty()
    }

    pub(super) fn reading(&self) -> usize {
        self.reading
    }

    pub(super) fn set_size(&mut self, number: u16, size: u64) -> bool {
        let Some(served) = self.units.get_mut(&number) else {
            return false;
        };
        served.store.set_size(size);
        served.unit.set_size(size);
        served.stats.size = size;
        true
    }

    pub(super) fn stats(&self) -> Vec<LunStats> {
        let under_way = |number: u16| {
            self.operations
                .iter()
                .filter(|(_, operation)| operation.lun == number)
                .count()
        };
        self.units
            .iter()
            .map(|(number, served)| LunStats {
                under_way: under_way(*number),
                ..served.stats.clone()
            })
            .collect()
    }

    #[cfg(feature = "test-hooks")]
    pub(super) fn set_faults(
        &mut self,
        cx: &mut Context<'_>,
        number: u16,
        faults: crate::backend::faults::Faults,
    ) -> bool {
        let Some(served) = self.units.get_mut(&number) else {
            return false;
        };
        served.store.faults().set(cx, faults);
        true
    }
}

impl Served {
    fn finish(&mut self, now: Duration, op: OpId, started: Duration, result: StoreResult) {
        self.stats.store_operations += 1;
        // The time of the turn does not hold what the thread has waited for in it.
        self.stats.store_time += boottime().saturating_sub(started);
        if result.is_err() {
            self.stats.store_errors += 1;
        }
        self.unit.handle_store(now, op, result);
    }
}

#[cfg(test)]
mod tests {
    use twinsite_iscsi::session::Auth;

    use super::*;
    use crate::backend::Backing;

    #[test]
    fn the_thread_syncs_only_for_a_unit_that_says_so() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let luns = [(false, false), (true, false), (true, true)];
        let lun = |(number, (write, sync)): (u16, (bool, bool))| {
            let path = folder.path().join(number.to_string());
            let backing = Backing::open(&path, Some(1 << 20), Access::ReadWrite).expect("made");
            let mut lun = ExportLun::new("iqn.2026-01.io.twinsite:test", number, backing);
            assert!(!lun.write_at_once && !lun.sync_at_once, "not by itself");
            (lun.write_at_once, lun.sync_at_once) = (write, sync);
            lun
        };
        let export = Export {
            iqn: "iqn.2026-01.io.twinsite:test".into(),
            alias: None,
            auth: Auth::None,
            acl: Acl::Any,
            redirect: None,
            luns: (0..).zip(luns).map(lun).collect(),
        };
        let prepared = prepare(export, 1, &Arc::new(AtomicBool::new(true))).expect("opens");
        let sync = prepared.iter().map(|unit| unit.store.syncs_at_once());
        assert_eq!(sync.collect::<Vec<_>>(), [false, false, true]);
    }
}

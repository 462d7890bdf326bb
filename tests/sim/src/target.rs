//! One site's target: the real sessions and the real logical unit over a simulated disk.
//!
//! The server's duties are the shipped target's: an older session of the same port ends before the login is answered, and a
//! login waits for every store operation that was under way when it came.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::scsi::{
    BlockSize, LogicalUnit, Lun, NexusId, OpId, PrState, StoreOp, TaskKey, TransportId, UnitConfig,
    UnitOutput,
};
use twinsite_iscsi::session::{
    ConnectionSeed, LoginInfo, Portal, TargetConfig, TargetEntry, TargetEvent, TargetSession,
};

use crate::disk::Disk;
use crate::network::ConnId;
use crate::random::Random;

pub const LUN: Lun = Lun(0);

pub fn target_name(leg: usize) -> String {
    format!("iqn.2026-01.io.twinsite:leg-{}", ["a", "b"][leg])
}

pub fn naa(leg: usize) -> [u8; 16] {
    let mut naa = [0x60; 16];
    naa[15] = leg as u8 + 1;
    naa
}

struct Nexus {
    session: TargetSession,
    nexus: NexusId,
    info: Option<LoginInfo>,
    accepted: bool,
}

/// Bytes for a connection, or the end of it.
pub enum Outgoing {
    Bytes(ConnId, Bytes),
    Close(ConnId),
    /// A store operation to be completed after its service time.
    Store(OpId, Duration),
}

pub struct Target {
    leg: usize,
    pub disk: Disk,
    size: u64,
    config: Arc<TargetConfig>,
    /// Off while the power is out.
    unit: Option<LogicalUnit>,
    pub boot_id: u64,
    nexuses: BTreeMap<ConnId, Nexus>,
    under_way: BTreeMap<OpId, StoreOp>,
    waiting: Vec<(ConnId, BTreeSet<OpId>)>,
    next_nexus: u64,
    pub out: VecDeque<Outgoing>,
    /// The whole host is off: nobody says so to those who send.
    pub silent: bool,
    /// Grows with every power cut: completions of an earlier life are stale.
    pub life: u64,
}

impl Target {
    pub fn new(leg: usize, size: u64, volatile: bool) -> Self {
        let mut config = TargetConfig::default();
        config
            .targets
            .insert(target_name(leg), TargetEntry::default());
        Self {
            leg,
            disk: Disk::new(volatile),
            size,
            config: Arc::new(config),
            unit: None,
            boot_id: 0,
            nexuses: BTreeMap::new(),
            under_way: BTreeMap::new(),
            waiting: vec![],
            next_nexus: 1,
            out: VecDeque::new(),
            silent: false,
            life: 0,
        }
    }

    pub fn is_up(&self) -> bool {
        self.unit.is_some()
    }

    pub fn power_on(&mut self, now: Duration, random: &mut Random) {
        self.boot_id = random.word() | 1;
        self.silent = false;
        let pr = PrState::restore(&self.disk.reservations).expect("reservations are saved whole");
        self.unit = Some(LogicalUnit::new(UnitConfig {
            size: self.size,
            block_size: BlockSize::B4096,
            naa: naa(self.leg),
            serial: format!("SIM{}", self.leg),
            vendor: "TWINSITE".into(),
            product: "LEG".into(),
            revision: "1".into(),
            target_name: target_name(self.leg),
            portal_group: 1,
            relative_port: 1,
            luns: vec![LUN],
            read_only: false,
            removable: false,
            write_cache: self.disk.volatile,
            thin: true,
            discard_zeroes: true,
            atomic_writes: false,
            boot_id: self.boot_id,
            started: now,
            max_transfer: 4 << 20,
            task_limit: 1024,
            pr,
        }));
    }

    /// Power cut: sessions vanish without a word, the cache is lost, writes under way are torn. Returns the connections.
    pub fn power_off(&mut self, random: &mut Random) -> Vec<ConnId> {
        self.unit = None;
        self.life += 1;
        let under_way: Vec<StoreOp> = std::mem::take(&mut self.under_way).into_values().collect();
        self.disk.power_cut(&under_way, random);
        self.waiting.clear();
        self.out.clear();
        std::mem::take(&mut self.nexuses).into_keys().collect()
    }

    pub fn open(&mut self, now: Duration, conn: ConnId, random: &mut Random) {
        let seed = ConnectionSeed {
            random: random.bytes(),
            tsih: (self.next_nexus % 65_000) as u16 + 1,
            portal: Portal {
                address: format!("leg{}:3260", self.leg),
                group: 1,
            },
        };
        let nexus = NexusId(self.next_nexus);
        self.next_nexus += 1;
        let session = TargetSession::new(Arc::clone(&self.config), seed, now);
        self.nexuses.insert(
            conn,
            Nexus {
                session,
                nexus,
                info: None,
                accepted: false,
            },
        );
    }

    pub fn bytes(&mut self, now: Duration, conn: ConnId, bytes: Bytes, random: &mut Random) {
        if let Some(n) = self.nexuses.get_mut(&conn) {
            // A protocol error closes the session, which its events tell.
            let _ = n.session.handle_bytes(now, bytes);
        }
        self.settle(now, random);
    }

    /// The connection is gone.
    pub fn closed(&mut self, now: Duration, conn: ConnId, random: &mut Random) {
        self.remove(now, conn);
        self.settle(now, random);
    }

    fn remove(&mut self, now: Duration, conn: ConnId) {
        self.waiting.retain(|(c, _)| *c != conn);
        if let Some(n) = self.nexuses.remove(&conn)
            && n.accepted
            && let Some(unit) = &mut self.unit
        {
            unit.nexus_removed(now, n.nexus);
        }
    }

    pub fn completed(&mut self, now: Duration, op: OpId, random: &mut Random) {
        let Some(request) = self.under_way.remove(&op) else {
            return;
        };
        let result = self.disk.complete(now, &request);
        if let Some(unit) = &mut self.unit {
            unit.handle_store(now, op, result);
        }
        for (_, ops) in &mut self.waiting {
            ops.remove(&op);
        }
        self.settle(now, random);
    }

    pub fn tick(&mut self, now: Duration, random: &mut Random) {
        for n in self.nexuses.values_mut() {
            if n.session.deadline().is_some_and(|d| d <= now) {
                n.session.handle_timeout(now);
            }
        }
        self.settle(now, random);
    }

    pub fn deadline(&self) -> Option<Duration> {
        self.nexuses
            .values()
            .filter_map(|n| n.session.deadline())
            .min()
    }

    /// Carries events between sessions and unit until nothing moves.
    fn settle(&mut self, now: Duration, random: &mut Random) {
        loop {
            let mut moved = self.admit(now);
            let conns: Vec<ConnId> = self.nexuses.keys().copied().collect();
            for conn in conns {
                while let Some(event) = self
                    .nexuses
                    .get_mut(&conn)
                    .and_then(|n| n.session.poll_event())
                {
                    moved = true;
                    self.event(now, conn, event);
                }
            }
            while let Some(output) = self.unit.as_mut().and_then(LogicalUnit::poll) {
                moved = true;
                self.output(now, output, random);
            }
            if !moved {
                break;
            }
        }
        for (conn, n) in &mut self.nexuses {
            while let Some(t) = n.session.poll_transmit() {
                let bytes = if t.pieces.len() == 1 {
                    t.pieces[0].clone()
                } else {
                    t.pieces.concat().into()
                };
                self.out.push_back(Outgoing::Bytes(*conn, bytes));
            }
        }
    }

    fn event(&mut self, now: Duration, conn: ConnId, event: TargetEvent) {
        match event {
            TargetEvent::LoginReady(info) => {
                let same = |n: &Nexus| {
                    n.info
                        .as_ref()
                        .is_some_and(|i| (&i.initiator, i.isid) == (&info.initiator, info.isid))
                };
                let old: Vec<ConnId> = self
                    .nexuses
                    .iter()
                    .filter(|(_, n)| same(n))
                    .map(|(c, _)| *c)
                    .collect();
                for c in old {
                    self.remove(now, c);
                    self.out.push_back(Outgoing::Close(c));
                }
                if let Some(n) = self.nexuses.get_mut(&conn) {
                    n.info = Some(info);
                }
                self.waiting
                    .push((conn, self.under_way.keys().copied().collect()));
            }
            TargetEvent::Command(c) => {
                let (Some(n), Some(unit)) = (self.nexuses.get(&conn), &mut self.unit) else {
                    return;
                };
                let task = TaskKey {
                    nexus: n.nexus,
                    tag: c.task,
                };
                unit.handle_command(now, task, c.attr, c.cdb, c.data_out, c.expected);
            }
            TargetEvent::TaskManagement {
                request, function, ..
            } => {
                let (Some(n), Some(unit)) = (self.nexuses.get(&conn), &mut self.unit) else {
                    return;
                };
                unit.handle_task_management(now, n.nexus, request, function);
            }
            TargetEvent::Closed(_) => {
                let last: Vec<Bytes> = self
                    .nexuses
                    .get_mut(&conn)
                    .map(|n| {
                        std::iter::from_fn(|| n.session.poll_transmit())
                            .flat_map(|t| t.pieces)
                            .collect()
                    })
                    .unwrap_or_default();
                self.out
                    .extend(last.into_iter().map(|b| Outgoing::Bytes(conn, b)));
                self.remove(now, conn);
                self.out.push_back(Outgoing::Close(conn));
            }
        }
    }

    fn admit(&mut self, now: Duration) -> bool {
        let Some(at) = self.waiting.iter().position(|(_, ops)| ops.is_empty()) else {
            return false;
        };
        let (conn, _) = self.waiting.remove(at);
        if let (Some(n), Some(unit)) = (self.nexuses.get_mut(&conn), &mut self.unit)
            && let Some(info) = &n.info
        {
            unit.nexus_added(
                now,
                n.nexus,
                TransportId {
                    name: info.initiator.clone(),
                    isid: Some(info.isid),
                },
            );
            n.session.accept_login(now);
            n.accepted = true;
        }
        true
    }

    fn output(&mut self, now: Duration, output: UnitOutput, random: &mut Random) {
        let find = |nexuses: &mut BTreeMap<ConnId, Nexus>, id: NexusId| {
            nexuses.iter().find(|(_, n)| n.nexus == id).map(|(c, _)| *c)
        };
        match output {
            UnitOutput::Store { op, request } => {
                let service = self.disk.service(now, random);
                self.under_way.insert(op, request);
                self.out.push_back(Outgoing::Store(op, now + service));
            }
            UnitOutput::Complete { task, outcome } => {
                if let Some(n) =
                    find(&mut self.nexuses, task.nexus).and_then(|c| self.nexuses.get_mut(&c))
                {
                    n.session.respond(task.tag, outcome);
                }
            }
            UnitOutput::AbortData { task } => {
                if let Some(n) =
                    find(&mut self.nexuses, task.nexus).and_then(|c| self.nexuses.get_mut(&c))
                {
                    n.session.discard(task.tag);
                }
            }
            UnitOutput::AbortGathering { nexus } => {
                if let Some(n) =
                    find(&mut self.nexuses, nexus).and_then(|c| self.nexuses.get_mut(&c))
                {
                    n.session.abort_gathering(LUN);
                }
            }
            UnitOutput::TaskManagementDone {
                nexus,
                tag,
                response,
            } => {
                if let Some(n) =
                    find(&mut self.nexuses, nexus).and_then(|c| self.nexuses.get_mut(&c))
                {
                    n.session.respond_task_management(tag, response);
                }
            }
        }
    }

    pub fn operations(&self) -> usize {
        self.under_way.len()
    }
}

//! One session of the qualification over a blocking socket.
//!
//! Not here: what is asked (`passive`, `active`, `drain`).

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use twinsite_iscsi::scsi::{
    Attribute, Cdb, Lun, PrOut, ScsiOutcome, SenseKey, Status, TaskFunction, TaskResponse,
};
use twinsite_iscsi::session::{
    Command, DataDir, Initiator, InitiatorConfig, InitiatorEvent, InitiatorLimits, Offer,
    SessionKind, TaskManagement,
};

use super::Place;

/// The longest wait for one answer; as long as a fence waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Unit attentions are told once each; more than this are a broken LUN.
const MAX_REPEATS: u32 = 16;
/// The names of the two initiators, as those of the nodes of two sites differ. LIO lets a second session of one name share no
/// reservation for registrants.
const NAMES: [&str; 2] = [
    "iqn.2026-01.io.twinsite:qualify",
    "iqn.2026-01.io.twinsite:qualify-other",
];

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    #[error("the session ended: {0}")]
    Ended(String),
    #[error("no answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    #[error("{0}")]
    Unfit(String),
}

/// The end of a command and when it was seen.
pub(super) struct Done {
    pub outcome: ScsiOutcome,
    pub at: Instant,
}

pub(super) struct Nexus {
    socket: TcpStream,
    session: Initiator,
    started: Instant,
    lun: Lun,
    next_tag: u64,
    done: BTreeMap<u64, Done>,
    managed: BTreeMap<u64, TaskResponse>,
    up: bool,
    patience: Duration,
    buffer: Vec<u8>,
}

impl Nexus {
    /// The ISID is fixed per number: a later run is the same nexus and can take back what an interrupted one left.
    pub(super) fn login(place: &Place, number: u8) -> Result<Self, ProbeError> {
        let socket = TcpStream::connect(&place.portal)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let config = InitiatorConfig {
            initiator_name: NAMES[usize::from(number) % 2].into(),
            initiator_alias: None,
            kind: SessionKind::Normal {
                target: place.iqn.clone(),
            },
            isid: [0x80, 0x51, 0, 0, 0, number],
            chap: place.chap.clone(),
            offer: Offer::default(),
            limits: InitiatorLimits {
                ping_interval: None,
                ..InitiatorLimits::default()
            },
            random: random()?,
        };
        let mut nexus = Self {
            socket,
            session: Initiator::new(config, Duration::ZERO),
            started: Instant::now(),
            lun: place.lun,
            next_tag: 1,
            done: BTreeMap::new(),
            managed: BTreeMap::new(),
            up: false,
            patience: PATIENCE,
            buffer: vec![0; 256 << 10],
        };
        nexus.until(|nexus| nexus.up.then_some(()))?;
        nexus.ask(
            twinsite_iscsi::scsi::client::test_unit_ready(),
            DataDir::None,
        )?;
        Ok(nexus)
    }

    /// How long it waits for each answer from now on.
    pub(super) fn wait_for(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Sends, then takes what comes within this time.
    pub(super) fn turn(&mut self, wait: Duration) -> Result<(), ProbeError> {
        self.send()?;
        self.socket.set_read_timeout(Some(wait))?;
        match self.socket.read(&mut self.buffer) {
            Ok(0) => return Err(ProbeError::Ended("the target closed it".into())),
            Ok(count) => {
                let bytes = Bytes::copy_from_slice(&self.buffer[..count]);
                let now = self.started.elapsed();
                self.session
                    .handle_bytes(now, bytes)
                    .map_err(|error| ProbeError::Ended(error.to_string()))?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        self.session.handle_timeout(self.started.elapsed());
        while let Some(event) = self.session.poll_event() {
            match event {
                InitiatorEvent::LoggedIn { .. } => self.up = true,
                InitiatorEvent::Done { tag, outcome } => {
                    let at = Instant::now();
                    self.done.insert(tag, Done { outcome, at });
                }
                InitiatorEvent::TmfDone { tag, response } => {
                    self.managed.insert(tag, response);
                }
                InitiatorEvent::Dropped(why) => {
                    return Err(ProbeError::Ended(format!("{why:?}")));
                }
                _ => {}
            }
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), ProbeError> {
        while let Some(transmit) = self.session.poll_transmit() {
            for piece in transmit.pieces {
                self.socket.write_all(&piece)?;
            }
        }
        Ok(())
    }

    fn until<T>(&mut self, mut ready: impl FnMut(&mut Self) -> Option<T>) -> Result<T, ProbeError> {
        let start = Instant::now();
        loop {
            if let Some(found) = ready(self) {
                return Ok(found);
            }
            if start.elapsed() > self.patience {
                return Err(ProbeError::NoAnswer(self.patience));
            }
            self.turn(Duration::from_millis(50))?;
        }
    }

    pub(super) fn start(&mut self, cdb: Cdb, data: DataDir) -> Result<u64, ProbeError> {
        let tag = self.next_tag;
        self.next_tag += 1;
        let command = Command {
            lun: self.lun,
            cdb,
            data,
            attr: Attribute::Simple,
        };
        self.session
            .submit(self.started.elapsed(), tag, command)
            .map_err(|_| ProbeError::Ended("it takes no command".into()))?;
        Ok(tag)
    }

    pub(super) fn take_done(&mut self, tag: u64) -> Option<Done> {
        self.done.remove(&tag)
    }

    pub(super) fn wait(&mut self, tag: u64) -> Result<ScsiOutcome, ProbeError> {
        self.until(|nexus| nexus.done.remove(&tag))
            .map(|done| done.outcome)
    }

    pub(super) fn once(&mut self, cdb: Cdb, data: DataDir) -> Result<ScsiOutcome, ProbeError> {
        let tag = self.start(cdb, data)?;
        self.wait(tag)
    }

    /// One command, repeated after unit attentions and while the LUN is busy.
    pub(super) fn ask(&mut self, cdb: Cdb, data: DataDir) -> Result<ScsiOutcome, ProbeError> {
        let mut outcome = self.once(cdb, data.clone())?;
        for _ in 0..MAX_REPEATS {
            if !passes(&outcome) {
                break;
            }
            outcome = self.once(cdb, data.clone())?;
        }
        Ok(outcome)
    }

    /// The data of a command that must be GOOD.
    pub(super) fn data(&mut self, cdb: Cdb, length: u32) -> Result<Vec<u8>, ProbeError> {
        let outcome = self.ask(cdb, DataDir::In(length))?;
        match outcome.status {
            Status::Good => Ok(outcome.data_in.concat()),
            _ => Err(ProbeError::Unfit(said(&outcome))),
        }
    }

    pub(super) fn reserve(&mut self, order: &PrOut) -> Result<ScsiOutcome, ProbeError> {
        let (cdb, list) = order.emit();
        self.ask(cdb, DataDir::Out(vec![list]))
    }

    pub(super) fn manage(&mut self, function: TaskFunction) -> Result<TaskResponse, ProbeError> {
        let tag = self.next_tag;
        self.next_tag += 1;
        let request = TaskManagement {
            lun: self.lun,
            function,
        };
        let now = self.started.elapsed();
        self.session.submit_task_management(now, tag, request);
        self.until(|nexus| nexus.managed.remove(&tag))
    }
}

/// Random bytes from the kernel.
pub(super) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn passes(outcome: &ScsiOutcome) -> bool {
    is_attention(outcome) || matches!(outcome.status, Status::Busy | Status::TaskSetFull)
}

pub(super) fn is_attention(outcome: &ScsiOutcome) -> bool {
    outcome
        .sense
        .is_some_and(|sense| sense.key == SenseKey::UnitAttention)
}

/// The status as a person reads it.
pub(super) fn said(outcome: &ScsiOutcome) -> String {
    match outcome.sense {
        Some(sense) => format!(
            "{:?} {:?} {:02X}/{:02X}",
            outcome.status, sense.key, sense.code.asc, sense.code.ascq
        ),
        None => format!("{:?}", outcome.status),
    }
}

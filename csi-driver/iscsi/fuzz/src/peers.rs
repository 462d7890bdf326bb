//! Two honest ends with a line between them: how a session comes to the stage in which strange bytes arrive.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::chap::{Algorithm, Secret};
use twinsite_iscsi::scsi::{
    Attribute, Cdb, Lun, Residual, ScsiOutcome, Status, TaskFunction, TaskResponse,
};
use twinsite_iscsi::session::{
    Account, Auth, ChapInitiator, Command, ConnectionSeed, DataDir, DigestOffer, Initiator,
    InitiatorConfig, InitiatorLimits, Offer, Portal, SessionKind, TargetConfig, TargetEntry,
    TargetEvent, TargetLimits, TargetSession, TaskManagement,
};

const TARGET: &str = "iqn.2026-01.example:disk";
pub(crate) const START: Duration = Duration::from_secs(100);
/// The window, the room for immediate commands, and a few that wait for their answer.
pub(crate) const MAX_TASKS: usize = 16 + 16;
pub(crate) const MAX_BACKLOG: usize = 1 << 20;
const BLOCK: usize = 512;

/// Which kind of session; the bits of the first byte of an input.
#[derive(Clone, Copy, Debug)]
pub struct Mode(pub u8);

impl Mode {
    fn chap(self) -> bool {
        self.0 & 1 != 0
    }

    fn digests(self) -> bool {
        self.0 & 2 != 0
    }

    fn discovery(self) -> bool {
        self.0 & 4 != 0
    }

    fn initial_r2t(self) -> bool {
        self.0 & 8 != 0
    }

    fn offer(self) -> Offer {
        let digest = if self.digests() {
            DigestOffer::Prefer
        } else {
            DigestOffer::Never
        };
        Offer {
            header_digest: digest,
            data_digest: digest,
            max_recv_segment: 1024,
            max_burst: 4096,
            first_burst: 2048,
            initial_r2t: self.initial_r2t(),
            max_outstanding_r2t: 2,
            ..Offer::default()
        }
    }

    fn initiator(self) -> InitiatorConfig {
        let chap = self.chap().then(|| {
            ChapInitiator::mutual("host".to_owned(), secret(b"host"), secret(b"disk"))
                .expect("secrets differ")
                .with_algorithms(&[Algorithm::Md5])
        });
        InitiatorConfig {
            initiator_name: "iqn.2026-01.example:host".to_owned(),
            initiator_alias: None,
            kind: if self.discovery() {
                SessionKind::Discovery
            } else {
                SessionKind::Normal {
                    target: TARGET.to_owned(),
                }
            },
            isid: [0x80, 1, 2, 3, 4, 5],
            chap,
            offer: self.offer(),
            limits: InitiatorLimits::default(),
            random: [0xA5; 32],
        }
    }

    fn target(self) -> TargetConfig {
        let auth = if self.chap() {
            let account = Account {
                secret: secret(b"host"),
                initiator: None,
            };
            let accounts = [("host".to_owned(), account)].into();
            Auth::chap(accounts, Some(("disk".to_owned(), secret(b"disk"))))
                .expect("secrets differ")
        } else {
            Auth::None
        };
        let entry = TargetEntry {
            auth: auth.clone(),
            ..TargetEntry::default()
        };
        TargetConfig {
            targets: [(TARGET.to_owned(), entry)].into(),
            discovery_auth: auth,
            offer: self.offer(),
            limits: TargetLimits {
                queue_depth: 16,
                max_write: 64 * 1024,
                max_solicited: 32 * 1024,
                max_backlog: MAX_BACKLOG,
                ..TargetLimits::default()
            },
        }
    }
}

fn secret(name: &[u8]) -> Secret {
    Secret::new(&[b"the secret of ", name].concat()).expect("long enough")
}

pub struct Pair {
    pub initiator: Initiator,
    pub target: TargetSession,
    pub now: Duration,
    /// What has gone each way.
    pub to_target: Vec<u8>,
    pub to_initiator: Vec<u8>,
}

impl Pair {
    pub fn new(mode: Mode) -> Self {
        let seed = ConnectionSeed {
            random: [0x5A; 32],
            tsih: 7,
            portal: Portal {
                address: "192.0.2.1:3260".to_owned(),
                group: 3,
            },
        };
        Self {
            initiator: Initiator::new(mode.initiator(), START),
            target: TargetSession::new(Arc::new(mode.target()), seed, START),
            now: START,
            to_target: Vec::new(),
            to_initiator: Vec::new(),
        }
    }

    /// A pair after so many honest exchanges; 15 exchanges are more than any login needs.
    pub fn after(mode: Mode, steps: u8) -> Self {
        let mut pair = Self::new(mode);
        for _ in 0..steps {
            if !pair.step() {
                break;
            }
        }
        pair
    }

    pub fn run(&mut self) {
        while self.step() {}
    }

    /// Everything that waits goes once each way. `false`: nothing moved.
    pub fn step(&mut self) -> bool {
        let mut to_target = Vec::new();
        while let Some(transmit) = self.initiator.poll_transmit() {
            to_target.extend(transmit.pieces.concat());
        }
        let _ = self
            .target
            .handle_bytes(self.now, Bytes::from(to_target.clone()));
        serve(&mut self.target, self.now);
        let mut to_initiator = Vec::new();
        while let Some(transmit) = self.target.poll_transmit() {
            to_initiator.extend(transmit.pieces.concat());
        }
        let _ = self
            .initiator
            .handle_bytes(self.now, Bytes::from(to_initiator.clone()));
        while self.initiator.poll_event().is_some() {}
        let moved = !to_target.is_empty() || !to_initiator.is_empty();
        self.to_target.extend(to_target);
        self.to_initiator.extend(to_initiator);
        moved
    }

    /// Work of every kind for the initiator, numbered from `tag`.
    pub fn submit(&mut self, tag: u64) {
        let command = |cdb: [u8; 10], data| Command {
            lun: Lun(0),
            cdb: Cdb::new(&cdb),
            data,
            attr: Attribute::Simple,
        };
        let write = command(
            [0x2A, 0, 0, 0, 0, 1, 0, 0, 16, 0],
            DataDir::Out(vec![Bytes::from(vec![0x77; 16 * BLOCK])]),
        );
        let read = command(
            [0x28, 0, 0, 0, 0, 1, 0, 0, 4, 0],
            DataDir::In(4 * BLOCK as u32),
        );
        let ready = command([0; 10], DataDir::None);
        for (number, command) in [write, read, ready].into_iter().enumerate() {
            let _ = self
                .initiator
                .submit(self.now, tag + number as u64, command);
        }
    }

    pub fn abort(&mut self, tag: u64) {
        let request = TaskManagement {
            lun: Lun(0),
            function: TaskFunction::AbortTask { tag },
        };
        self.initiator
            .submit_task_management(self.now, 1000 + tag, request);
    }
}

/// Answers what the target session gives out. Writes of odd tasks are left open, so that aborts find something.
pub(crate) fn serve(target: &mut TargetSession, now: Duration) {
    while let Some(event) = target.poll_event() {
        match event {
            TargetEvent::LoginReady(_) => target.accept_login(now),
            TargetEvent::Command(command) => {
                let length = command.expected.length();
                let given: usize = command.data_out.iter().map(Bytes::len).sum();
                assert!(given <= length as usize, "more data than was announced");
                assert!(given <= 64 * 1024, "longer than the longest write");
                if command.cdb.as_bytes().last() == Some(&1) {
                    continue;
                }
                let reads = command.data_out.is_empty() && length <= 32 * 1024;
                let data_in = if reads {
                    vec![Bytes::from(vec![0x11; length as usize])]
                } else {
                    Vec::new()
                };
                let outcome = ScsiOutcome {
                    status: Status::Good,
                    sense: None,
                    data_in,
                    residual: Residual::None,
                };
                target.respond(command.task, outcome);
            }
            TargetEvent::TaskManagement { request, .. } => {
                target.respond_task_management(request, TaskResponse::Complete);
            }
            TargetEvent::Closed(_) => {
                assert_eq!(target.poll_event(), None, "an event after the last one");
            }
        }
    }
}

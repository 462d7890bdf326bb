//! A blocking initiator for tests: our session end over a std socket.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use twinsite_iscsi::scsi::{Attribute, Cdb, Lun, ScsiOutcome, Status, TaskFunction, TaskResponse};
use twinsite_iscsi::session::{
    Command, DataDir, DropReason, Initiator, InitiatorConfig, InitiatorEvent, InitiatorLimits,
    Offer, SessionKind, TaskManagement,
};

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Client {
    socket: TcpStream,
    session: Initiator,
    started: Instant,
    next_tag: u64,
    done: BTreeMap<u64, ScsiOutcome>,
    managed: BTreeMap<u64, TaskResponse>,
    others: Vec<InitiatorEvent>,
    closed: bool,
}

impl Client {
    fn connect(address: SocketAddr, kind: SessionKind, isid: u8) -> Self {
        Self::connect_as("iqn.2026-01.io.twinsite:client", address, kind, isid)
    }

    fn connect_as(name: &str, address: SocketAddr, kind: SessionKind, isid: u8) -> Self {
        let socket = TcpStream::connect(address).expect("connects");
        socket.set_nodelay(true).expect("set");
        let config = InitiatorConfig {
            initiator_name: name.into(),
            initiator_alias: None,
            kind,
            isid: [0x80, 0, 0, 0, 0, isid],
            chap: None,
            offer: Offer::default(),
            limits: InitiatorLimits::default(),
            random: [7; 32],
        };
        Self {
            socket,
            session: Initiator::new(config, Duration::ZERO),
            started: Instant::now(),
            next_tag: 1,
            done: BTreeMap::new(),
            managed: BTreeMap::new(),
            others: Vec::new(),
            closed: false,
        }
    }

    pub(super) fn login(address: SocketAddr, iqn: &str, isid: u8) -> Result<Self, DropReason> {
        Self::connect(address, SessionKind::Normal { target: iqn.into() }, isid).logged_in()
    }

    /// As another initiator.
    pub(super) fn login_as(name: &str, address: SocketAddr, iqn: &str) -> Result<Self, DropReason> {
        let kind = SessionKind::Normal { target: iqn.into() };
        Self::connect_as(name, address, kind, 1).logged_in()
    }

    fn logged_in(mut self) -> Result<Self, DropReason> {
        let client = &mut self;
        let event = client.wait_for(|event| {
            matches!(
                event,
                InitiatorEvent::LoggedIn { .. } | InitiatorEvent::Dropped(_)
            )
        });
        match event {
            InitiatorEvent::Dropped(reason) => Err(reason),
            _ => Ok(self),
        }
    }

    pub(super) fn discover(address: SocketAddr) -> Vec<(String, Vec<String>)> {
        let mut client = Self::connect(address, SessionKind::Discovery, 9);
        client.session.discover(client.started.elapsed());
        let event = client.wait_for(|event| matches!(event, InitiatorEvent::Discovered(_)));
        let InitiatorEvent::Discovered(targets) = event else {
            unreachable!("waited for it")
        };
        let portals = |target: twinsite_iscsi::session::DiscoveredTarget| {
            let addresses = target.portals.into_iter().map(|portal| portal.address);
            (target.name, addresses.collect())
        };
        targets.into_iter().map(portals).collect()
    }

    /// Sends what there is to send.
    pub(super) fn send(&mut self) {
        while let Some(transmit) = self.session.poll_transmit() {
            // A closed connection shows when it is read.
            let _ = self.socket.write_all(&transmit.pieces.concat());
        }
    }

    fn turn(&mut self) {
        self.send();
        self.socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("set");
        let mut buffer = vec![0; 256 << 10];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.closed = true,
            Ok(count) => {
                buffer.truncate(count);
                let now = self.started.elapsed();
                self.session
                    .handle_bytes(now, buffer.into())
                    .expect("the target keeps to the protocol");
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.closed = true,
        }
        self.session.handle_timeout(self.started.elapsed());
        while let Some(event) = self.session.poll_event() {
            match event {
                InitiatorEvent::Done { tag, outcome } => drop(self.done.insert(tag, outcome)),
                InitiatorEvent::TmfDone { tag, response } => {
                    self.managed.insert(tag, response);
                }
                other => self.others.push(other),
            }
        }
        self.send();
    }

    fn until<T>(&mut self, mut ready: impl FnMut(&mut Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = ready(self) {
                return found;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "waited too long; so far: {:?}",
                self.others
            );
            self.turn();
        }
    }

    fn wait_for(&mut self, wanted: impl Fn(&InitiatorEvent) -> bool) -> InitiatorEvent {
        self.until(|client| {
            let at = client.others.iter().position(&wanted)?;
            Some(client.others.remove(at))
        })
    }

    fn submit(&mut self, lun: u16, cdb: &[u8], data: DataDir) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        let command = Command {
            lun: Lun::from_number(lun),
            cdb: Cdb::new(cdb),
            data,
            attr: Attribute::Simple,
        };
        self.session
            .submit(self.started.elapsed(), tag, command)
            .expect("there is room");
        tag
    }

    pub(super) fn wait(&mut self, tag: u64) -> ScsiOutcome {
        self.until(|client| client.done.remove(&tag))
    }

    /// A command that reads at most `length` bytes.
    pub(super) fn on_lun(&mut self, lun: u16, cdb: &[u8], length: u32) -> ScsiOutcome {
        let data = if length == 0 {
            DataDir::None
        } else {
            DataDir::In(length)
        };
        let tag = self.submit(lun, cdb, data);
        self.wait(tag)
    }

    /// Takes what the unit has to say to a new nexus.
    pub(super) fn settle_attentions(&mut self) {
        while self.on_lun(0, &[0; 6], 0).status != Status::Good {}
    }

    pub(super) fn start_write(&mut self, block: u32, data: Bytes) -> u64 {
        let blocks = u16::try_from(data.len() / 512).expect("a short write");
        let mut cdb = [0x2A, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        cdb[2..6].copy_from_slice(&block.to_be_bytes());
        cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
        self.submit(0, &cdb, DataDir::Out(vec![data]))
    }

    pub(super) fn write(&mut self, block: u32, data: Bytes) -> ScsiOutcome {
        let tag = self.start_write(block, data);
        self.wait(tag)
    }

    pub(super) fn read(&mut self, block: u32, blocks: u16) -> ScsiOutcome {
        let mut cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        cdb[2..6].copy_from_slice(&block.to_be_bytes());
        cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
        self.on_lun(0, &cdb, u32::from(blocks) * 512)
    }

    pub(super) fn flush(&mut self) -> ScsiOutcome {
        self.on_lun(0, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0)
    }

    pub(super) fn last_block(&mut self) -> u32 {
        let outcome = self.on_lun(0, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8);
        let bytes = outcome.data_in.concat();
        u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
    }

    /// REPORT LUNS, asked of this one.
    pub(super) fn luns(&mut self, lun: u16) -> Vec<u16> {
        let outcome = self.on_lun(lun, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 256);
        assert_eq!(outcome.status, Status::Good);
        let bytes = outcome.data_in.concat();
        let number = |entry: &[u8]| u16::from_be_bytes([entry[0] & 0x3F, entry[1]]);
        bytes[8..].chunks(8).map(number).collect()
    }

    /// PERSISTENT RESERVE OUT, REGISTER.
    pub(super) fn register(&mut self, old: u64, new: u64, persist: bool) -> ScsiOutcome {
        let mut list = [0; 24];
        list[..8].copy_from_slice(&old.to_be_bytes());
        list[8..16].copy_from_slice(&new.to_be_bytes());
        list[20] = u8::from(persist);
        let cdb = [0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        let tag = self.submit(0, &cdb, DataDir::Out(vec![Bytes::copy_from_slice(&list)]));
        self.wait(tag)
    }

    /// PERSISTENT RESERVE IN, READ KEYS.
    pub(super) fn registered_keys(&mut self) -> Vec<u64> {
        let outcome = self.on_lun(0, &[0x5E, 0, 0, 0, 0, 0, 0, 1, 0, 0], 256);
        let bytes = outcome.data_in.concat();
        let length = u32::from_be_bytes(bytes[4..8].try_into().expect("four bytes")) as usize;
        let key = |chunk: &[u8]| u64::from_be_bytes(chunk.try_into().expect("eight bytes"));
        bytes[8..8 + length].chunks(8).map(key).collect()
    }

    pub(super) fn manage(&mut self, lun: u16, function: TaskFunction) -> TaskResponse {
        let tag = self.next_tag;
        self.next_tag += 1;
        let request = TaskManagement {
            lun: Lun::from_number(lun),
            function,
        };
        self.session
            .submit_task_management(self.started.elapsed(), tag, request);
        self.until(|client| client.managed.remove(&tag))
    }

    pub(super) fn logout(&mut self) {
        self.session.logout(self.started.elapsed());
        self.wait_for(|event| *event == InitiatorEvent::LoggedOut);
    }

    pub(super) fn logout_when_asked(&mut self) {
        self.wait_for(|event| matches!(event, InitiatorEvent::LogoutRequested { .. }));
        self.logout();
    }

    /// Whether the target ends the connection within a while.
    pub(super) fn is_closed_soon(&mut self) -> bool {
        let start = Instant::now();
        while !self.closed && start.elapsed() < PATIENCE {
            self.turn();
        }
        self.closed
    }
}

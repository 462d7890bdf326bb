//! Whole servers on loopback, spoken to by our own initiator session over a plain blocking socket.

mod client;
mod hanging;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use twinsite_iscsi::scsi::{SenseKey, Status, TaskFunction, TaskResponse};
use twinsite_iscsi::session::{Acl, Auth, DropReason};

use super::{Export, ExportLun, PortalConfig, Server, ServerConfig, ServerError, ServerHandle};
use crate::backend::{Access, BackendError, Backing};
use crate::reactor::{Thread, ThreadConfig};
use client::Client;

const IQN: &str = "iqn.2026-01.io.twinsite:test";
const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// A server on two threads and its folder.
struct Site {
    folder: tempfile::TempDir,
    threads: Vec<Thread>,
    server: ServerHandle,
}

impl Site {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let thread = || Thread::spawn(ThreadConfig::default()).expect("io_uring is there");
        let threads = vec![thread(), thread()];
        let portal = PortalConfig::new((Ipv4Addr::LOCALHOST, 0).into());
        let mut config = ServerConfig::new(vec![portal.clone(), portal]);
        change(&mut config);
        let server = Server::start(config, threads.clone()).expect("starts");
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            threads,
            server,
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("disk")
    }

    fn address(&self) -> SocketAddr {
        self.server.addresses()[0]
    }

    fn export(&self, iqn: &str) -> Result<(), ServerError> {
        self.server.add_export(export(iqn, &self.path()))
    }

    fn login(&self, isid: u8) -> Client {
        Client::login(self.address(), IQN, isid).expect("logs in")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.shutdown(Duration::ZERO);
        for thread in &self.threads {
            thread.stop();
            thread.join();
        }
    }
}

fn open(path: &Path) -> Result<Backing, BackendError> {
    Backing::open(path, Some(4 * MIB), Access::ReadWrite)
}

fn export(iqn: &str, path: &Path) -> Export {
    Export {
        iqn: iqn.into(),
        alias: None,
        auth: Auth::None,
        acl: Acl::Any,
        redirect: None,
        luns: vec![ExportLun::new(iqn, 0, open(path).expect("opens"))],
    }
}

#[test]
fn what_one_session_writes_another_reads_after_a_restart() {
    let data = Bytes::from((0..1 << 20u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let site = Site::new();
    site.export(IQN).expect("added");
    let mut client = site.login(1);
    client.settle_attentions();
    assert_eq!(client.write(16, data.clone()).status, Status::Good);
    assert_eq!(client.flush().status, Status::Good);
    client.logout();
    let folder = &site.folder;
    let path = site.path();
    site.server.remove_export(IQN).expect("removed");
    site.export(IQN).expect("added again");
    let mut client = site.login(2);
    client.settle_attentions();
    let read = client.read(16, 2048);
    assert_eq!(read.status, Status::Good);
    assert!(read.data_in.concat() == data, "the bytes differ");
    assert!(std::fs::read(&path).expect("a file")[8192..][..1 << 20] == data);
    assert!(folder.path().exists());
    let stats = site.server.stats(IQN).expect("answers");
    assert_eq!((stats.logins, stats.sessions.len()), (1, 1));
    assert_eq!(
        (stats.luns[0].reads, stats.luns[0].read_bytes),
        (1, 1 << 20)
    );
}

#[test]
fn many_commands_at_once_all_come_back() {
    let site = Site::new();
    site.export(IQN).expect("added");
    let mut client = site.login(1);
    client.settle_attentions();
    let tags: Vec<u64> = (0..500u32)
        .map(|n| {
            let data = Bytes::from(vec![n as u8; 4096]);
            client.start_write(n % 64 * 8, data)
        })
        .collect();
    for tag in tags {
        assert_eq!(client.wait(tag).status, Status::Good);
    }
}

#[test]
fn the_same_port_logging_in_again_ends_its_old_session_and_keeps_the_others() {
    let site = Site::new();
    site.export(IQN).expect("added");
    let mut old = site.login(1);
    let mut other = site.login(2);
    // Through the other portal: it is the same target port.
    let mut new = Client::login(site.server.addresses()[1], IQN, 1).expect("logs in");
    assert!(old.is_closed_soon(), "the old connection ends");
    new.settle_attentions();
    other.settle_attentions();
    assert_eq!(new.read(0, 8).status, Status::Good);
    assert_eq!(other.read(0, 8).status, Status::Good);
    let stats = site.server.stats(IQN).expect("answers");
    assert_eq!(
        (stats.logins, stats.reinstated, stats.sessions.len()),
        (3, 1, 2)
    );
}

#[test]
fn a_store_is_served_once_and_free_after_removal() {
    let site = Site::new();
    site.export(IQN).expect("added");
    assert!(matches!(open(&site.path()), Err(BackendError::Locked(_))));
    let second = site.folder.path().join("second");
    assert!(matches!(
        site.server.add_export(export(IQN, &second)),
        Err(ServerError::Exists(_))
    ));
    let mut client = site.login(1);
    site.server.remove_export(IQN).expect("removed");
    assert!(client.is_closed_soon());
    open(&site.path()).expect("free");
    assert!(matches!(
        site.server.stats(IQN),
        Err(ServerError::NoTarget(_))
    ));
    assert_eq!(
        Client::login(site.address(), IQN, 1).err(),
        Some(DropReason::LoginRefused {
            class: 2,
            detail: 3
        })
    );
}

#[test]
fn a_registration_survives_a_restart() {
    let site = Site::new();
    site.export(IQN).expect("added");
    let mut client = site.login(1);
    client.settle_attentions();
    let registered = client.register(0, 0xAB, true);
    assert_eq!(registered.status, Status::Good);
    client.logout();
    site.server.remove_export(IQN).expect("removed");
    site.export(IQN).expect("added again");
    let mut client = site.login(1);
    client.settle_attentions();
    assert_eq!(client.registered_keys(), [0xAB]);
}

#[test]
fn task_management_is_answered_and_unknown_luns_say_so() {
    let site = Site::new();
    site.export(IQN).expect("added");
    let mut client = site.login(1);
    client.settle_attentions();
    assert_eq!(
        client.manage(0, TaskFunction::LunReset),
        TaskResponse::Complete
    );
    assert_eq!(
        client.manage(7, TaskFunction::LunReset),
        TaskResponse::LunNotFound
    );
    let outcome = client.on_lun(7, &[0; 6], 0);
    assert_eq!(
        outcome.sense.map(|sense| sense.key),
        Some(SenseKey::IllegalRequest)
    );
}

#[test]
fn a_unit_that_is_not_for_an_initiator_does_not_exist_for_it() {
    let site = Site::new();
    let path = |name: &str| site.folder.path().join(name);
    let mut open_to_all = export(IQN, &site.path());
    let mut hidden = ExportLun::new(IQN, 5, open(&path("hidden")).expect("opens"));
    hidden.acl = Acl::Only(["iqn.2026-01.io.twinsite:owner".to_owned()].into());
    open_to_all.luns.push(hidden);
    site.server.add_export(open_to_all).expect("added");
    let login = |name| Client::login_as(name, site.address(), IQN).expect("logs in");
    let mut owner = login("iqn.2026-01.io.twinsite:owner");
    let mut other = login("iqn.2026-01.io.twinsite:other");
    owner.settle_attentions();
    other.settle_attentions();
    while owner.on_lun(5, &[0; 6], 0).status != Status::Good {}
    assert_eq!((owner.luns(0), owner.luns(5)), (vec![0, 5], vec![0, 5]));
    // Whatever it asks, and of whatever LUN, it is told of unit 0 only.
    assert_eq!((other.luns(0), other.luns(5)), (vec![0], vec![0]));
    let inquiry = other.on_lun(5, &[0x12, 0, 0, 0, 36, 0], 36);
    assert_eq!(inquiry.data_in.concat()[0], 0x7F, "no unit there");
    let not_supported = Some((SenseKey::IllegalRequest, (0x25, 0)));
    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let refused = other.on_lun(5, &read, 512).sense;
    let why = refused.map(|sense| (sense.key, (sense.code.asc, sense.code.ascq)));
    assert_eq!(why, not_supported);
    assert_eq!(
        other.manage(5, TaskFunction::LunReset),
        TaskResponse::LunNotFound
    );
    // Resets of the whole target do not reach it either.
    assert_eq!(
        other.manage(0, TaskFunction::TargetColdReset),
        TaskResponse::Rejected
    );
    assert_eq!(
        other.manage(0, TaskFunction::TargetWarmReset),
        TaskResponse::Complete
    );
    assert_eq!(owner.on_lun(5, &read, 512).status, Status::Good);
    let reset = owner.on_lun(0, &read, 512).sense;
    assert_eq!(reset.map(|sense| sense.key), Some(SenseKey::UnitAttention));
}

#[test]
fn a_grown_store_is_announced() {
    let site = Site::new();
    site.export(IQN).expect("added");
    let mut client = site.login(1);
    client.settle_attentions();
    assert_eq!(client.last_block(), 8191);
    std::fs::File::options()
        .write(true)
        .open(site.path())
        .expect("opens")
        .set_len(8 * MIB)
        .expect("grown");
    site.server.set_size(IQN, 0, 8 * MIB).expect("known");
    let attention = client.on_lun(0, &[0; 6], 0);
    assert_eq!(
        attention.sense.map(|sense| sense.key),
        Some(SenseKey::UnitAttention)
    );
    assert_eq!(client.last_block(), 16383);
    assert!(matches!(
        site.server.set_size(IQN, 9, MIB),
        Err(ServerError::NoLun(_, 9))
    ));
}

#[test]
fn discovery_lists_every_target_with_every_portal() {
    let site = Site::new();
    site.export(IQN).expect("added");
    let other = "iqn.2026-01.io.twinsite:other";
    site.server
        .add_export(export(other, &site.folder.path().join("other")))
        .expect("added");
    let portals: Vec<String> = site
        .server
        .addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut found = Client::discover(site.address());
    found.sort();
    assert_eq!(
        found,
        [
            (other.to_owned(), portals.clone()),
            (IQN.to_owned(), portals)
        ]
    );
}

#[test]
fn one_address_can_not_take_all_connections() {
    let site = Site::with(|config| {
        config.connections.guests_per_address = 3;
        config.limits.login_timeout = Duration::from_millis(300);
    });
    site.export(IQN).expect("added");
    let connect = || {
        let socket = TcpStream::connect(site.address()).expect("connects");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        socket
    };
    let mut idle: Vec<TcpStream> = (0..3).map(|_| connect()).collect();
    // The fourth is shut at once, the first three when their time is over; then there is room again.
    let started = Instant::now();
    assert_eq!(connect().read(&mut [0; 1]).unwrap_or(0), 0);
    assert!(started.elapsed() < Duration::from_millis(200));
    for socket in &mut idle {
        assert_eq!(socket.read(&mut [0; 1]).unwrap_or(0), 0);
    }
    site.login(1);
}

/// A login request that says: more text follows.
fn endless_login(number: u8) -> Vec<u8> {
    const TEXT: usize = 8188;
    let mut pdu = vec![0; 48 + TEXT];
    pdu[0] = 0x43;
    // Continue; current stage: security.
    pdu[1] = 0x40;
    pdu[5..8].copy_from_slice(&(TEXT as u32).to_be_bytes()[1..]);
    pdu[8..14].copy_from_slice(&[0x80, 0, 0, 0, 0, number]);
    pdu[48..].fill(b'x');
    pdu
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number") * 4096
}

#[test]
fn a_peer_that_never_logs_in_holds_little_and_not_for_long() {
    const PEERS: usize = 200;
    use std::io::Write;
    let limits = twinsite_iscsi::session::TargetLimits::default();
    assert_eq!(limits.login_timeout, Duration::from_secs(15));
    let patience = Duration::from_millis(1500);
    let site = Site::with(|config| {
        config.connections.guests_per_address = 2 * PEERS;
        config.limits.login_timeout = patience;
    });
    site.export(IQN).expect("added");
    let before = resident();
    let started = Instant::now();
    // Each sends all that is taken of it, and reads nothing.
    let mut peers: Vec<TcpStream> = Vec::new();
    let mut sent = 0;
    for number in 0..PEERS {
        let mut socket = TcpStream::connect(site.address()).expect("connects");
        socket.set_nonblocking(true).expect("set");
        let pdu = endless_login(number as u8);
        for _ in 0..256 {
            match socket.write(&pdu) {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        peers.push(socket);
    }
    std::thread::sleep(patience / 2);
    let held = resident().saturating_sub(before);
    assert!(sent > PEERS * 16384, "they said something: {sent}");
    assert!(held < PEERS << 20, "{held} bytes for {PEERS} peers");
    // Every slot is free again when the time for a login is over, whether its holder reads or not.
    std::thread::sleep((patience + Duration::from_millis(500)).saturating_sub(started.elapsed()));
    for socket in &mut peers {
        socket.set_nonblocking(false).expect("set");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut answers = Vec::new();
        // The end of the connection, or its reset; not a time-out.
        if let Err(error) = socket.read_to_end(&mut answers) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock);
        }
    }
    site.login(1);
}

/// Logs in to session `tsih`, by connection `cid`: class and detail of the answer, and its TSIH.
fn join(site: &Site, isid: u8, tsih: u16, cid: u16) -> (TcpStream, [u8; 2], u16) {
    use std::io::Write;
    use twinsite_iscsi::wire::login::{LoginRequest, Stage, Transit, VERSION};
    let text = format!(
        "InitiatorName=iqn.2026-01.io.twinsite:client\0TargetName={IQN}\0SessionType=Normal\0"
    );
    let request = LoginRequest {
        transit: Transit {
            more: false,
            current: Stage::Operational,
            next: Some(Stage::FullFeature),
        },
        version_max: VERSION,
        version_min: VERSION,
        isid: [0x80, 0, 0, 0, 0, isid],
        tsih,
        itt: 0,
        cid,
        cmd_sn: 1,
        exp_stat_sn: 0,
    };
    let mut pdu = request.emit(text.len() as u32).to_vec();
    pdu.extend(text.as_bytes());
    pdu.resize(pdu.len().next_multiple_of(4), 0);
    let mut socket = TcpStream::connect(site.address()).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.write_all(&pdu).expect("sent");
    let mut answer = [0; 48];
    socket.read_exact(&mut answer).expect("an answer");
    let handle = u16::from_be_bytes([answer[14], answer[15]]);
    (socket, [answer[36], answer[37]], handle)
}

#[test]
fn a_login_that_names_a_session_takes_its_connection_or_is_told_why_not() {
    let site = Site::new();
    site.export(IQN).expect("added");
    let (mut first, status, handle) = join(&site, 1, 0, 0);
    assert_eq!(status, [0, 0]);
    assert_ne!(handle, 0);
    // There is no such session, of this port or at all; one connection is all that a session has.
    assert_eq!(join(&site, 1, handle + 1, 0).1, [2, 0x0A]);
    assert_eq!(join(&site, 2, handle, 0).1, [2, 0x0A]);
    assert_eq!(join(&site, 1, handle, 1).1, [2, 6]);
    let (_second, status, same) = join(&site, 1, handle, 0);
    assert_eq!((status, same), ([0, 0], handle));
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).expect("its connection ends");
    let stats = site.server.stats(IQN).expect("answers");
    assert_eq!((stats.sessions.len(), stats.reinstated), (1, 1));
}

#[test]
fn a_drain_asks_initiators_to_go() {
    let site = Site::new();
    site.export(IQN).expect("added");
    let mut client = site.login(1);
    let server = site.server.clone();
    let shutdown = std::thread::spawn(move || server.shutdown(PATIENCE));
    client.logout_when_asked();
    let started = Instant::now();
    shutdown.join().expect("ends");
    assert!(
        started.elapsed() < PATIENCE,
        "nobody is waited for who has gone"
    );
    assert!(
        TcpStream::connect(site.address()).is_err(),
        "no new connections"
    );
}

#[cfg(feature = "test-hooks")]
mod hooks {
    use twinsite_iscsi::scsi::StoreError;

    use super::*;
    use crate::backend::faults::{Effect, FaultOn, FaultRange, Faults};

    #[test]
    fn a_login_waits_for_the_writes_of_the_session_before_it() {
        let site = Site::new();
        site.export(IQN).expect("added");
        let mut old = site.login(1);
        old.settle_attentions();
        let slow = Faults {
            service_time: Duration::from_millis(300),
            ..Faults::default()
        };
        site.server.set_faults(IQN, 0, slow).expect("set");
        let started = Instant::now();
        old.start_write(0, Bytes::from(vec![1; 4096]));
        old.send();
        std::thread::sleep(Duration::from_millis(50));
        drop(old);
        let mut new = site.login(1);
        assert!(
            started.elapsed() >= Duration::from_millis(300),
            "{:?}",
            started.elapsed()
        );
        site.server
            .set_faults(IQN, 0, Faults::default())
            .expect("set");
        new.settle_attentions();
        assert_eq!(
            new.read(0, 8).data_in.concat(),
            vec![1; 4096],
            "it was not undone either"
        );
    }

    #[test]
    fn a_broken_store_is_a_medium_error() {
        let site = Site::new();
        site.export(IQN).expect("added");
        let mut client = site.login(1);
        client.settle_attentions();
        let range = FaultRange {
            offset: 4096,
            len: 4096,
            on: FaultOn::Reads,
            effect: Effect::Fail(StoreError::Medium),
        };
        let faults = Faults {
            ranges: vec![range],
            ..Faults::default()
        };
        site.server.set_faults(IQN, 0, faults).expect("set");
        assert_eq!(client.read(0, 8).status, Status::Good);
        let broken = client.read(8, 8);
        assert_eq!(
            broken.sense.map(|sense| sense.key),
            Some(SenseKey::MediumError)
        );
        assert_eq!(
            site.server.stats(IQN).expect("answers").luns[0].store_errors,
            1
        );
    }
}

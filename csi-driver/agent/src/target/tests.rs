//! Whole servers on loopback, spoken to by our own initiator session over a plain blocking socket.

mod client;

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

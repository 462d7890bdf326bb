//! Two sites on loopback, each with a target over a file, a witness in a directory, and a data thread of the writer.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use twinsite_api::{AttachmentMode, FrontEnd, InspectReport};
use twinsite_iscsi::session::{Acl, Auth, Offer};
use twinsite_mirror::config::Config;
use twinsite_mirror::io::{
    AttachOrder, AttachmentUid, DATA_START, Format, Key, Leg, Mode, MoveMode, MoveOrder, Naa,
    Register, Site, VolumeId,
};
use twinsite_mirror::status::{StateName, Status};
use twinsite_register::{Create, Gen, GroupId, KeyTag, RegisterId, TxId};
use twinsite_witness::{Directory, Swap, Witness, WitnessHandle};

use crate::backend::{Access, Backing};
use crate::control::records::Records;
use crate::control::volumes::{Ending, LegTarget, VolumeEvent, VolumeHandle, VolumeOrder};
use crate::initiator::{LegSpec, Times, random};
use crate::reactor::{Thread, ThreadConfig};
use crate::target::{
    Export, ExportLun, PortalConfig, Server, ServerConfig, ServerHandle, derived_naa,
};
use crate::volume::drive::{LegAlone, Run, Workload};
use crate::volume::{DataPath, DeviceChoice, Guest, OpenVolume};

pub(super) const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
const PATIENCE: Duration = Duration::from_secs(30);
const VOLUME: VolumeId = VolumeId([0x56; 16]);
const GROUP: GroupId = GroupId([0x56; 16]);

pub(super) struct World {
    folder: tempfile::TempDir,
    runtime: Runtime,
    witness: WitnessHandle,
    data: Thread,
    path: DataPath,
    sites: [Option<Served>; 2],
    addresses: [SocketAddr; 2],
}

/// A site that is up.
struct Served {
    thread: Thread,
    server: ServerHandle,
}

fn iqn(leg: Leg) -> String {
    format!("iqn.2026-01.io.twinsite:leg-{leg}").to_lowercase()
}

fn serve(folder: &Path, leg: Leg, listen: SocketAddr) -> (Served, SocketAddr) {
    let file = folder.join(format!("leg-{leg}"));
    let thread = Thread::spawn(ThreadConfig::default()).expect("io_uring");
    let end = Instant::now() + PATIENCE;
    let server = loop {
        let config = ServerConfig::new(vec![PortalConfig::new(listen)]);
        match Server::start(config, vec![thread.clone()]) {
            Ok(server) => break server,
            Err(error) if Instant::now() > end => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let backing = loop {
        match Backing::open(&file, Some(DATA_START + SIZE), Access::ReadWrite) {
            Ok(backing) => break backing,
            Err(error) if Instant::now() > end => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let backing = backing
        .with_reservations(folder.join(format!("leg-{leg}.pr")))
        .expect("a place for reservations");
    let export = Export {
        iqn: iqn(leg),
        alias: None,
        auth: Auth::None,
        acl: Acl::Any,
        redirect: None,
        luns: vec![ExportLun::new(&iqn(leg), 0, backing)],
    };
    server.add_export(export).expect("exports");
    let address = server.addresses()[0];
    (Served { thread, server }, address)
}

impl Served {
    fn kill(self) {
        self.server.shutdown(Duration::ZERO);
        self.thread.stop();
        self.thread.join();
    }
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (a, address_a) = serve(folder.path(), Leg::A, any);
        let (b, address_b) = serve(folder.path(), Leg::B, any);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let witness_dir = folder.path().join("witness");
        std::fs::create_dir(&witness_dir).expect("a folder");
        let store = Arc::new(Directory::open(&witness_dir).expect("a witness"));
        let witness = Arc::new(Witness::new(store, "pair").expect("a good name"));
        let witness = WitnessHandle::new(witness, runtime.handle().clone());
        let data = Thread::spawn(ThreadConfig::default()).expect("io_uring");
        let run = folder.path().join("run");
        let (path, _) = DataPath::start(vec![data.clone()], &run).expect("a data path");
        Self {
            folder,
            runtime,
            witness,
            data,
            path,
            sites: [Some(a), Some(b)],
            addresses: [address_a, address_b],
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn kill(&mut self, leg: Leg) {
        if let Some(site) = self.sites[leg.index()].take() {
            site.kill();
        }
    }

    pub(super) fn start(&mut self, leg: Leg) {
        let address = self.addresses[leg.index()];
        self.sites[leg.index()] = Some(serve(self.folder.path(), leg, address).0);
    }

    /// The target goes and comes back at once.
    pub(super) fn cut(&mut self, leg: Leg) {
        self.kill(leg);
        self.start(leg);
    }

    pub(super) fn on_disk(&self, leg: Leg, offset: u64, len: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::open(self.path(&format!("leg-{leg}"))).expect("a file");
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, DATA_START + offset)
            .expect("reads");
        bytes
    }

    pub(super) fn register(&self) -> Register {
        let witness = self.witness.witness().clone();
        let read = self
            .runtime
            .block_on(async move { witness.read(GROUP).await });
        read.expect("a witness").expect("a register")
    }

    /// Makes the register and both legs.
    pub(super) fn birth(&self) {
        let new = Register::create(Create {
            register_id: RegisterId(random().expect("random")),
            group: GROUP,
            volumes: vec![VOLUME],
            generation: Gen(random().expect("random")),
            site: Site::A,
            txid: TxId(random().expect("random")),
        })
        .expect("a register");
        let witness = self.witness.witness().clone();
        let created = self
            .runtime
            .block_on(async move { witness.create(&new).await });
        assert_eq!(created, Swap::Won);
        let birth = self.open("birth", AttachmentMode::Birth, |_| {}, DeviceChoice::None);
        assert_eq!(birth.wait_end(), Ending::Done);
    }

    pub(super) fn inspect(&self) -> InspectReport {
        let change = |order: &mut VolumeOrder| {
            order.attach.key = Key::new(
                KeyTag::Inspect,
                u64::from_le_bytes(random().expect("random")),
            );
        };
        let open = self.open("n1", AttachmentMode::Inspect, change, DeviceChoice::None);
        assert_eq!(open.wait_end(), Ending::Done);
        let report = open.events().into_iter().find_map(|event| match event {
            VolumeEvent::Inspected(report) => Some(*report),
            _ => None,
        });
        report.expect("a report")
    }

    /// An inspection; with what its data thread had worked, as counted by the kernel, when it ended.
    pub(super) fn inspect_counting(&self) -> (Ending, Duration) {
        let (tell, told) = std::sync::mpsc::channel();
        let change = |order: &mut VolumeOrder| {
            order.report = Arc::new(move |event| {
                if let VolumeEvent::Ended(ending) = event {
                    let _ = tell.send((ending, worked()));
                }
            });
        };
        let _open = self.open("n1", AttachmentMode::Inspect, change, DeviceChoice::None);
        told.recv_timeout(PATIENCE).expect("it ends")
    }

    /// Takes connections in the place of a target that is gone, and says nothing.
    pub(super) fn hang(&self, leg: Leg) -> std::net::TcpListener {
        std::net::TcpListener::bind(self.addresses[leg.index()]).expect("the port is free")
    }

    pub(super) fn attach(&self, uid: u8) -> Open {
        self.attach_at("n1", uid)
    }

    /// Leg B is reached by these ways, in this order.
    pub(super) fn attach_by(&self, uid: u8, portals: [SocketAddr; 2]) -> Open {
        let change = |order: &mut VolumeOrder| {
            set_uid(order, uid);
            if let Some(leg) = &mut order.legs[Leg::B.index()] {
                leg.portals = portals.iter().map(ToString::to_string).collect();
            }
        };
        self.open("n1", AttachmentMode::Writer, change, DeviceChoice::None)
    }

    pub(super) fn address(&self, leg: Leg) -> SocketAddr {
        self.addresses[leg.index()]
    }

    /// An order that expects another LUN where leg B is.
    pub(super) fn attach_elsewhere(&self, uid: u8) -> Open {
        let change = |order: &mut VolumeOrder| {
            set_uid(order, uid);
            if let Some(leg) = &mut order.legs[Leg::B.index()] {
                leg.naa = Naa([0x61; 16]);
            }
        };
        self.open("n1", AttachmentMode::Writer, change, DeviceChoice::None)
    }

    pub(super) fn attach_at(&self, node: &str, uid: u8) -> Open {
        let change = |order: &mut VolumeOrder| set_uid(order, uid);
        self.open(node, AttachmentMode::Writer, change, DeviceChoice::None)
    }

    fn fuse(&self) -> DeviceChoice {
        DeviceChoice::FuseLoop {
            run_dir: self.path("run"),
        }
    }

    pub(super) fn attach_shown(&self, uid: u8) -> Open {
        let change = |order: &mut VolumeOrder| set_uid(order, uid);
        self.open("n1", AttachmentMode::Writer, change, self.fuse())
    }

    /// Attached from site B by a human's order.
    pub(super) fn failover(&self, uid: u8) -> Open {
        let expect_seq = self.register().active.seq;
        let change = |order: &mut VolumeOrder| {
            set_uid(order, uid);
            order.attach.site = Site::B;
            order.attach.key = Key::new(
                KeyTag::Writer(Site::B),
                u64::from_le_bytes(random().expect("random")),
            );
            order.attach.mv = Some(MoveOrder {
                mode: MoveMode::Failover,
                expect_seq,
            });
        };
        self.open("n2", AttachmentMode::Writer, change, self.fuse())
    }

    /// A third LUN at site A, which no mirror has reserved.
    pub(super) fn leg_alone(&self) -> LegAlone {
        let (iqn, file) = ("iqn.2026-01.io.twinsite:alone", self.path("alone"));
        let backing = Backing::open(&file, Some(SIZE), Access::ReadWrite).expect("a file");
        let site = self.sites[Leg::A.index()].as_ref().expect("site A is up");
        let export = Export {
            iqn: iqn.into(),
            alias: None,
            auth: Auth::None,
            acl: Acl::Any,
            redirect: None,
            luns: vec![ExportLun::new(iqn, 0, backing)],
        };
        site.server.add_export(export).expect("exports");
        let spec = LegSpec {
            portals: vec![self.addresses[Leg::A.index()]],
            iqn: iqn.into(),
            lun: 0,
            naa: None,
            chap: None,
            cache_protected: false,
            initiator_name: "iqn.2026-01.io.twinsite:driver".into(),
            isid: [0x80, 0, 0, 0, 0, 1],
            offer: Offer::default(),
            times: Times::default(),
        };
        LegAlone::open(&self.data, spec)
    }

    fn leg(&self, leg: Leg) -> LegTarget {
        LegTarget {
            portals: vec![self.addresses[leg.index()].to_string()],
            iqn: iqn(leg),
            lun: 0,
            naa: Naa(derived_naa(&iqn(leg), 0)),
            chap: None,
            array: false,
            cache_protected: false,
        }
    }

    fn open(
        &self,
        node: &str,
        mode: AttachmentMode,
        change: impl FnOnce(&mut VolumeOrder),
        device: DeviceChoice,
    ) -> Open {
        let state = self.path(&format!("state-{node}"));
        let records = Records::open(&state).expect("records");
        let log = Arc::new(Log::default());
        let heard = log.clone();
        let attach = AttachOrder {
            volume: VOLUME,
            uid: AttachmentUid([0; 16]),
            key: Key::new(
                KeyTag::Writer(Site::A),
                u64::from_le_bytes(random().expect("random")),
            ),
            seed: random().expect("random"),
            site: Site::A,
            node: node.to_owned(),
            mode: Mode::Writer,
            mv: None,
            record: records.load(AttachmentUid([0; 16])).expect("a record"),
            shown: false,
            marks: Vec::new(),
            initialize: [None, None],
            config: config(),
        };
        let mut order = VolumeOrder {
            name: format!("vol-{node}"),
            reference: "rv/records".into(),
            mode,
            volume: VOLUME,
            group: GROUP,
            legs: Leg::BOTH.map(|leg| Some(self.leg(leg))),
            attach: Box::new(attach),
            size: SIZE,
            front_end: FrontEnd::None,
            reseed: None,
            force: None,
            witness: self.witness.clone(),
            records: records.clone(),
            runtime: self.runtime.handle().clone(),
            report: Arc::new(move |event| heard.push(event)),
        };
        change(&mut order);
        order.attach.record = records.load(order.attach.uid).expect("a record");
        let open = self.path.open_with(order, device);
        Open { open, log }
    }
}

/// CPU time of the calling thread.
fn worked() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a count");
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

fn set_uid(order: &mut VolumeOrder, uid: u8) {
    order.attach.uid = AttachmentUid([uid; 16]);
}

/// The protocol's waits, shorter where a test would sleep.
fn config() -> Config {
    Config {
        t_cmd: Duration::from_secs(2),
        t_lease: Duration::from_secs(1),
        lease_renew: Duration::from_millis(300),
        rejoin_backoff: (Duration::from_millis(200), Duration::from_secs(1)),
        ..Config::default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.data.stop();
        self.data.join();
        self.kill(Leg::A);
        self.kill(Leg::B);
    }
}

#[derive(Default)]
struct Log {
    events: Mutex<Vec<VolumeEvent>>,
    news: Condvar,
}

impl Log {
    fn push(&self, event: VolumeEvent) {
        // Poisoned when a wait gave up: the test has failed already, the volume must not.
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
        self.news.notify_all();
    }

    fn wait<T>(&self, what: &str, mut find: impl FnMut(&[VolumeEvent]) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut events = self.events.lock().unwrap();
        loop {
            if let Some(found) = find(&events) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what}: {}", tail(&events));
            events = self.news.wait_timeout(events, left).unwrap().0;
        }
    }
}

fn tail(events: &[VolumeEvent]) -> String {
    let told = events
        .iter()
        .filter(|event| !matches!(event, VolumeEvent::Status(_)));
    let last = events
        .iter()
        .rev()
        .find(|event| matches!(event, VolumeEvent::Status(_)));
    let told: Vec<_> = told
        .chain(last)
        .map(|event| format!("{event:?}\n"))
        .collect();
    told[told.len().saturating_sub(40)..].concat()
}

/// A volume that was opened.
pub(super) struct Open {
    open: OpenVolume,
    log: Arc<Log>,
}

impl Open {
    pub(super) fn guest(&self) -> Guest {
        self.open.guest()
    }

    pub(super) fn events(&self) -> Vec<VolumeEvent> {
        self.log.events.lock().unwrap().clone()
    }

    pub(super) fn status(&self) -> Status {
        self.log.wait("status", |events| {
            events.iter().rev().find_map(|event| match event {
                VolumeEvent::Status(status) => Some((**status).clone()),
                _ => None,
            })
        })
    }

    /// The last state told is this one.
    pub(super) fn wait_state(&self, state: StateName) {
        self.log.wait(&format!("{state:?}"), |events| {
            let last = events.iter().rev().find_map(|event| match event {
                VolumeEvent::Status(status) => Some(status.state),
                VolumeEvent::Ended(ending) => panic!("ended: {ending:?}\n{}", tail(events)),
                _ => None,
            });
            (last == Some(state)).then_some(())
        });
    }

    pub(super) fn wait_end(&self) -> Ending {
        self.log.wait("end", |events| match events.last() {
            Some(VolumeEvent::Ended(ending)) => Some(ending.clone()),
            _ => None,
        })
    }

    pub(super) fn wait_device(&self) -> String {
        self.log.wait("device", |events| {
            events.iter().find_map(|event| match event {
                VolumeEvent::Shown { path, .. } => Some(path.display().to_string()),
                VolumeEvent::Ended(ending) => panic!("ended: {ending:?}\n{}", tail(events)),
                _ => None,
            })
        })
    }

    pub(super) fn set_format_done(&self) {
        let mut fs_type = [0; 15];
        fs_type[..4].copy_from_slice(b"ext4");
        for (n, format) in [Format::Started, Format::Done].into_iter().enumerate() {
            self.open.set_format(format, fs_type);
            let recorded = self.log.wait("recorded format", |events| {
                let mut recorded = events.iter().filter_map(|event| match event {
                    VolumeEvent::FormatRecorded(result) => Some(*result),
                    _ => None,
                });
                recorded.nth(n)
            });
            recorded.expect("recorded");
        }
    }

    pub(super) fn drive(&self, work: Workload) -> Run {
        self.open.drive(work)
    }

    pub(super) fn detach(&self) {
        self.open.detach();
        assert_eq!(
            self.wait_end(),
            Ending::Detached,
            "{}",
            tail(&self.events())
        );
    }
}

/// Why nothing can be shown here, if so.
pub(super) fn no_devices() -> Option<&'static str> {
    let present = |path| std::fs::File::open(path).is_ok();
    match () {
        () if !present("/dev/fuse") => Some("no /dev/fuse"),
        () if !present("/dev/loop-control") => Some("no /dev/loop-control"),
        () => None,
    }
}

/// Runs a script in a process of its own.
pub(super) fn sh(line: &str) {
    let output = Command::new("timeout")
        .args(["60", "sh", "-ec", line])
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}\n{text}");
}

//! Two sites on loopback in this process: a target with its own thread at each, legs in memory, a witness in a folder,
//! and the data thread on which the volume and the legs alone are driven.
//!
//! Every site also serves a third unit that no mirror has reserved: the leg alone, under the same store, thread, rate and
//! service time as the leg of the mirror.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::Runtime;
use twinsite_agent::backend::faults::Faults;
use twinsite_agent::backend::{Access, Backing};
use twinsite_agent::control::records::Records;
use twinsite_agent::control::volumes::{Ending, LegTarget, VolumeEvent, VolumeHandle, VolumeOrder};
use twinsite_agent::initiator::{LegSpec, Times};
use twinsite_agent::reactor::{Thread, ThreadConfig};
use twinsite_agent::target::{
    Export, ExportLun, PortalConfig, Server, ServerConfig, ServerHandle, derived_naa,
};
use twinsite_agent::volume::drive::{LegAlone, Run, Workload};
use twinsite_agent::volume::{DataPath, DeviceChoice, OpenVolume};
use twinsite_api::{AttachmentMode, FrontEnd};
use twinsite_iscsi::session::{Acl, Auth, Offer};
use twinsite_mirror::config::Config;
use twinsite_mirror::io::{
    AttachOrder, AttachmentUid, DATA_START, Key, Leg, Mode, Naa, Register, Site, VolumeId,
};
use twinsite_mirror::status::StateName;
use twinsite_register::{Create, Gen, GroupId, KeyTag, RegisterId, TxId};
use twinsite_witness::{Directory, Swap, Witness, WitnessHandle};

const PATIENCE: Duration = Duration::from_secs(30);
const VOLUME: VolumeId = VolumeId([0xBE; 16]);
const GROUP: GroupId = GroupId([0xBE; 16]);
const NODE: &str = "bench";

/// What differs between worlds.
pub(crate) struct Plan {
    /// Bytes of the volume.
    pub(crate) size: u64,
    /// Bytes in a second of each site's stores.
    pub(crate) rate: [Option<u64>; 2],
    pub(crate) config: Config,
}

pub(crate) struct World {
    // In the order in which they have to end.
    alone: [Option<LegAlone>; 2],
    volume: Option<Open>,
    data: Thread,
    sites: [Served; 2],
    runtime: Runtime,
    folder: tempfile::TempDir,
}

struct Served {
    thread: Thread,
    server: ServerHandle,
    address: SocketAddr,
}

fn iqn(what: &str, leg: Leg) -> String {
    format!("iqn.2026-01.io.twinsite:{what}-{leg}").to_lowercase()
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn thread(name: String) -> Result<Thread> {
    let config = ThreadConfig {
        name,
        ..ThreadConfig::default()
    };
    Thread::spawn(config).context("a thread with io_uring")
}

impl Served {
    fn start(folder: &Path, leg: Leg, plan: &Plan) -> Result<Self> {
        let thread = thread(format!("target-{leg}"))?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = ServerConfig::new(vec![PortalConfig::new(any)]);
        let server = Server::start(config, vec![thread.clone()])?;
        for (what, size) in [("leg", DATA_START + plan.size), ("alone", plan.size)] {
            let iqn = iqn(what, leg);
            let path = folder.join(format!("{what}-{leg}"));
            let backing = Backing::open(&path, Some(size), Access::ReadWrite)?;
            let mut lun = ExportLun::new(&iqn, 0, backing);
            lun.rate = plan.rate[leg.index()];
            server.add_export(Export {
                iqn,
                alias: None,
                auth: Auth::None,
                acl: Acl::Any,
                redirect: None,
                luns: vec![lun],
            })?;
        }
        let address = server.addresses()[0];
        Ok(Self {
            thread,
            server,
            address,
        })
    }

    fn alone(&self, leg: Leg, data: &Thread) -> LegAlone {
        let spec = LegSpec {
            portals: vec![self.address],
            iqn: iqn("alone", leg),
            lun: 0,
            naa: None,
            chap: None,
            cache_protected: false,
            initiator_name: "iqn.2026-01.io.twinsite:bench".into(),
            isid: [0x80, 0, 0, 0, leg.index() as u8, 1],
            offer: Offer::default(),
            times: Times::default(),
        };
        LegAlone::open(data, spec)
    }

    fn target(&self, leg: Leg) -> LegTarget {
        let iqn = iqn("leg", leg);
        LegTarget {
            portals: vec![self.address.to_string()],
            naa: Naa(derived_naa(&iqn, 0)),
            iqn,
            lun: 0,
            chap: None,
            array: false,
            cache_protected: false,
        }
    }
}

impl World {
    /// Makes everything, up to a volume whose both legs are members. `folder` is in memory.
    pub(crate) fn new(folder: &Path, plan: &Plan) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("twinsite-bench-")
            .tempdir_in(folder)?;
        let at = folder.path();
        let sites = [
            Served::start(at, Leg::A, plan)?,
            Served::start(at, Leg::B, plan)?,
        ];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let data = thread("data".into())?;
        let alone = [
            Some(sites[0].alone(Leg::A, &data)),
            Some(sites[1].alone(Leg::B, &data)),
        ];
        let mut world = Self {
            alone,
            volume: None,
            data,
            sites,
            runtime,
            folder,
        };
        world.volume = Some(world.attach(plan)?);
        Ok(world)
    }

    fn attach(&self, plan: &Plan) -> Result<Open> {
        let at = self.folder.path();
        let runtime = &self.runtime;
        let directory = at.join("witness");
        std::fs::create_dir(&directory)?;
        let witness = Arc::new(Witness::new(
            Arc::new(Directory::open(&directory)?),
            "bench",
        )?);
        let new = Register::create(Create {
            register_id: RegisterId(random()?),
            group: GROUP,
            volumes: vec![VOLUME],
            generation: Gen(random()?),
            site: Site::A,
            txid: TxId(random()?),
        })
        .context("a register")?;
        let created = runtime.block_on(async { witness.create(&new).await });
        ensure!(created == Swap::Won, "the witness says {created:?}");
        let witness = WitnessHandle::new(witness, runtime.handle().clone());
        let (path, _) = DataPath::start(vec![self.data.clone()], &at.join("run"))?;
        let records = Records::open(&at.join("state"))?;
        let open = |mode, uid: u8| -> Result<Open> {
            let log = Arc::new(Log::default());
            let heard = log.clone();
            let attach = AttachOrder {
                volume: VOLUME,
                uid: AttachmentUid([uid; 16]),
                key: Key::new(KeyTag::Writer(Site::A), u64::from_le_bytes(random()?)),
                seed: random()?,
                site: Site::A,
                node: NODE.into(),
                mode: Mode::Writer,
                mv: None,
                record: records.load(AttachmentUid([uid; 16]))?,
                shown: false,
                marks: Vec::new(),
                initialize: [None, None],
                config: plan.config,
            };
            let order = VolumeOrder {
                name: format!("bench-{uid}"),
                reference: "bench/bench".into(),
                mode,
                volume: VOLUME,
                group: GROUP,
                legs: Leg::BOTH.map(|leg| Some(self.sites[leg.index()].target(leg))),
                attach: Box::new(attach),
                size: plan.size,
                front_end: FrontEnd::None,
                reseed: None,
                force: None,
                witness: witness.clone(),
                records: records.clone(),
                runtime: runtime.handle().clone(),
                report: Arc::new(move |event| heard.push(event)),
            };
            let volume = path.open_with(order, DeviceChoice::None);
            Ok(Open { volume, log })
        };
        open(AttachmentMode::Birth, 0)?.wait_ended(&Ending::Done)?;
        let open = open(AttachmentMode::Writer, 1)?;
        open.wait_synced()?;
        Ok(open)
    }

    /// Drives the unit of one site that no mirror uses.
    pub(crate) fn drive_alone(&self, leg: Leg, work: Workload) -> Run {
        self.alone[leg.index()]
            .as_ref()
            .map(|alone| alone.drive(work))
            .unwrap_or_default()
    }

    pub(crate) fn drive_mirror(&self, work: Workload) -> Run {
        self.volume
            .as_ref()
            .map(|open| open.volume.drive(work))
            .unwrap_or_default()
    }

    /// Bytes in regions that the dirty map names, as last reported.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.volume.as_ref().map_or(0, Open::dirty_bytes)
    }

    /// Still on both legs: otherwise nothing that was measured was a mirror.
    pub(crate) fn check_synced(&self) -> Result<()> {
        match &self.volume {
            Some(open) => open.wait_synced(),
            None => bail!("no volume"),
        }
    }

    /// Every operation of every store takes this much longer from now on.
    pub(crate) fn set_service_time(&self, service_time: Duration) -> Result<()> {
        let faults = Faults {
            service_time,
            ..Faults::default()
        };
        for leg in Leg::BOTH {
            for what in ["leg", "alone"] {
                let server = &self.sites[leg.index()].server;
                server.set_faults(&iqn(what, leg), 0, faults.clone())?;
            }
        }
        Ok(())
    }

    /// Lets the volume go in order.
    pub(crate) fn end(mut self) -> Result<()> {
        self.alone = [None, None];
        match self.volume.take() {
            Some(open) => {
                open.volume.detach();
                open.wait_ended(&Ending::Detached)
            }
            None => Ok(()),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.data.stop();
        self.data.join();
        for site in &self.sites {
            site.server.shutdown(Duration::ZERO);
            site.thread.stop();
            site.thread.join();
        }
    }
}

/// A volume and what it told.
struct Open {
    volume: OpenVolume,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    heard: Mutex<Heard>,
    news: Condvar,
}

#[derive(Default, Clone, Debug)]
struct Heard {
    state: Option<StateName>,
    dirty_bytes: u64,
    ended: Option<Ending>,
}

impl Log {
    fn push(&self, event: VolumeEvent) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            VolumeEvent::Status(status) => {
                heard.state = Some(status.state);
                heard.dirty_bytes = status.dirty_bytes;
            }
            VolumeEvent::Ended(ending) => heard.ended = Some(ending),
            _ => return,
        }
        self.news.notify_all();
    }

    fn wait(&self, what: &str, found: impl Fn(&Heard) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        while !found(&heard) {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero() && heard.ended.is_none(),
                "not {what}: {heard:?}"
            );
            let waited = self.news.wait_timeout(heard, left);
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Open {
    fn wait_ended(&self, ending: &Ending) -> Result<()> {
        let what = format!("{ending:?}");
        self.log
            .wait(&what, |heard| heard.ended.as_ref() == Some(ending))
    }

    fn wait_synced(&self) -> Result<()> {
        let synced = |heard: &Heard| heard.state == Some(StateName::Synced);
        self.log.wait("on both legs", synced)
    }

    fn dirty_bytes(&self) -> u64 {
        let heard = self.log.heard.lock();
        heard.unwrap_or_else(PoisonError::into_inner).dirty_bytes
    }
}

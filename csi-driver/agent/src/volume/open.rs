//! Opens volumes on the data threads: names become addresses, credentials become secrets, an order becomes an actor.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use bytes::Bytes;
use tokio::runtime::Handle;
use twinsite_api::{AttachmentMode, ChapCredentials, FrontEnd};
use twinsite_iscsi::chap::{Secret, SecretError};
use twinsite_iscsi::session::{ChapInitiator, Offer};
use twinsite_mirror::io::{Format, FsType, Leg, VerifyOrder, VolumeId};

use super::DeviceChoice;
use super::actor::{Letter, Parts, Volume, link_of};
use super::drive::{Run, Workload};
use super::machine::Machine;
use super::together::Share;
use crate::control::volumes::{
    Ending, LegTarget, Report, VolumeEvent, VolumeHandle, VolumeOrder, Volumes,
};
use crate::frontend::{
    Cleared, FrontendError, GuestErrno, GuestOp, GuestReply, clear_leftovers, ublk_available,
};
use crate::initiator::{LegSpec, Purpose, Times, initiator_name, isid};
use crate::reactor::{ActorId, Inlet, Mailbox, Thread};

/// Letters to one volume that wait: answers of the witness, orders, requests of callers in this process.
const LETTERS: usize = 4096;

/// The data threads and what volumes on them share.
#[derive(Clone)]
pub struct DataPath {
    threads: Vec<Thread>,
    run_dir: PathBuf,
    next: std::sync::Arc<AtomicUsize>,
}

#[derive(Debug, thiserror::Error)]
pub enum DataPathError {
    #[error("cannot make the folder {path} for devices")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot clear what an earlier run left in {path}")]
    Leftovers {
        path: PathBuf,
        source: FrontendError,
    },
}

impl DataPath {
    /// Takes `run_dir` for device files and clears what an earlier run left there. `threads` has at least one.
    pub fn start(threads: Vec<Thread>, run_dir: &Path) -> Result<(Self, Cleared), DataPathError> {
        let path = run_dir.to_owned();
        std::fs::create_dir_all(run_dir).map_err(|source| DataPathError::Folder {
            path: path.clone(),
            source,
        })?;
        let cleared = clear_leftovers(run_dir).map_err(|source| DataPathError::Leftovers {
            path: path.clone(),
            source,
        })?;
        let this = Self {
            threads,
            run_dir: path,
            next: std::sync::Arc::default(),
        };
        Ok((this, cleared))
    }

    /// Opens a volume and says how it is shown.
    pub fn open_with(&self, order: VolumeOrder, device: DeviceChoice) -> OpenVolume {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let thread = self.threads[n % self.threads.len()].clone();
        let actor = thread.reserve();
        let (mailbox, inlet) = thread.mailbox(actor, LETTERS);
        let runtime = order.runtime.clone();
        let open = OpenVolume {
            mailbox: mailbox.clone(),
            caller: Caller::of(&order),
            runtime: runtime.clone(),
        };
        // Names are looked up where waiting harms nobody.
        runtime.spawn_blocking(move || {
            let report = order.report.clone();
            let machine = Machine::of(&order);
            let parts = machine.and_then(|machine| parts(order, machine, device, mailbox, inlet));
            match parts {
                Ok(parts) => {
                    thread.start(actor, move |cx| Box::new(Volume::new(cx, parts)));
                }
                Err(text) => {
                    let word = "InvalidSpec";
                    report(VolumeEvent::Ended(Ending::Failed { word, text }));
                }
            }
        });
        open
    }

    /// Opens the volumes of a group, on one thread.
    pub fn open_together(
        &self,
        orders: Vec<VolumeOrder>,
        devices: Vec<DeviceChoice>,
    ) -> Vec<OpenVolume> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let thread = self.threads[n % self.threads.len()].clone();
        let mut open = Vec::new();
        let mut places = Vec::new();
        for order in &orders {
            let actor = thread.reserve();
            let (mailbox, inlet) = thread.mailbox(actor, LETTERS);
            open.push(OpenVolume {
                mailbox: mailbox.clone(),
                caller: Caller::of(order),
                runtime: order.runtime.clone(),
            });
            places.push(Place {
                actor,
                mailbox,
                inlet,
            });
        }
        let Some(runtime) = orders.first().map(|order| order.runtime.clone()) else {
            return open;
        };
        // Names are looked up where waiting harms nobody.
        runtime.spawn_blocking(move || {
            let reports: Vec<Report> = orders.iter().map(|order| order.report.clone()).collect();
            if let Err(text) = start_together(&thread, orders, devices, places) {
                for report in reports {
                    let word = "InvalidSpec";
                    let text = text.clone();
                    report(VolumeEvent::Ended(Ending::Failed { word, text }));
                }
            }
        });
        open
    }

    fn device(&self, order: &VolumeOrder) -> DeviceChoice {
        let run_dir = self.run_dir.clone();
        match (order.mode, order.front_end) {
            (AttachmentMode::Writer, FrontEnd::Auto) if ublk_available() => {
                DeviceChoice::Ublk { run_dir }
            }
            (AttachmentMode::Writer, FrontEnd::Auto | FrontEnd::FuseLoop) => {
                DeviceChoice::FuseLoop { run_dir }
            }
            (AttachmentMode::Writer, FrontEnd::Ublk) => DeviceChoice::Ublk { run_dir },
            _ => DeviceChoice::None,
        }
    }
}

impl Volumes for DataPath {
    fn open(&mut self, order: VolumeOrder) -> Box<dyn VolumeHandle> {
        let device = self.device(&order);
        Box::new(self.open_with(order, device))
    }

    fn open_group(&mut self, orders: Vec<VolumeOrder>) -> Vec<Box<dyn VolumeHandle>> {
        let devices = orders.iter().map(|order| self.device(order)).collect();
        let open = self.open_together(orders, devices).into_iter();
        open.map(|volume| Box::new(volume) as Box<dyn VolumeHandle>)
            .collect()
    }
}

/// Reserved for a volume before it is known whether it can be opened.
struct Place {
    actor: ActorId,
    mailbox: Mailbox<Letter>,
    inlet: Inlet<Letter>,
}

/// All of them, or none: their actors come to life together.
fn start_together(
    thread: &Thread,
    orders: Vec<VolumeOrder>,
    devices: Vec<DeviceChoice>,
    places: Vec<Place>,
) -> Result<(), String> {
    let begin = Machine::of_group(&orders)?;
    let mailboxes = places.iter().map(|place| place.mailbox.clone()).collect();
    let shares = Share::of_all(begin, mailboxes);
    let mut all = Vec::new();
    let each = orders.into_iter().zip(devices).zip(places).zip(shares);
    for (((order, device), place), share) in each {
        let machine = Machine::Member(share);
        let parts = parts(order, machine, device, place.mailbox, place.inlet)?;
        all.push((place.actor, parts));
    }
    for (actor, parts) in all {
        thread.start(actor, move |cx| Box::new(Volume::new(cx, parts)));
    }
    Ok(())
}

fn parts(
    order: VolumeOrder,
    machine: Machine,
    device: DeviceChoice,
    mailbox: Mailbox<Letter>,
    inlet: Inlet<Letter>,
) -> Result<Parts, String> {
    let caller = Caller::of(&order);
    let mut links = [None, None];
    for leg in Leg::BOTH {
        if let Some(target) = &order.legs[leg.index()] {
            links[leg.index()] = Some(link_of(leg, leg_spec(target, &caller, leg)?));
        }
    }
    Ok(Parts {
        machine,
        name: order.name,
        volume: order.volume,
        group: order.group,
        links,
        device,
        witness: order.witness,
        records: order.records,
        runtime: order.runtime,
        report: order.report,
        mailbox,
        inlet,
    })
}

/// Who logs in to the legs, and what for.
#[derive(Clone)]
struct Caller {
    volume: VolumeId,
    node: String,
    purpose: Purpose,
}

impl Caller {
    fn of(order: &VolumeOrder) -> Self {
        let purpose = match order.mode {
            AttachmentMode::Writer | AttachmentMode::Caretaker => Purpose::Attach,
            AttachmentMode::Inspect => Purpose::Inspect,
            AttachmentMode::Birth
            | AttachmentMode::Wipe
            | AttachmentMode::Reseed
            | AttachmentMode::Force => Purpose::Change,
        };
        Self {
            volume: order.volume,
            node: order.attach.node.clone(),
            purpose,
        }
    }
}

fn leg_spec(target: &LegTarget, caller: &Caller, leg: Leg) -> Result<LegSpec, String> {
    let chap = target.chap.as_ref().map(chap).transpose();
    Ok(LegSpec {
        portals: addresses(&target.portals)?,
        iqn: target.iqn.clone(),
        lun: target.lun,
        naa: Some(target.naa),
        chap: chap.map_err(|error| format!("credentials of leg {leg}: {error}"))?,
        cache_protected: target.cache_protected,
        initiator_name: initiator_name(&caller.node),
        isid: isid(caller.volume, leg, caller.purpose),
        offer: Offer::default(),
        times: Times::default(),
    })
}

/// Every address of every portal, in the order given. A name that is not known now leaves its portal out.
fn addresses(portals: &[String]) -> Result<Vec<SocketAddr>, String> {
    let mut all = Vec::new();
    let mut last = String::new();
    for portal in portals {
        match portal.to_socket_addrs() {
            Ok(found) => all.extend(found),
            Err(error) => {
                last = format!("portal {portal:?}: {error}");
                tracing::warn!(portal, %error, "portal without an address");
            }
        }
    }
    if all.is_empty() { Err(last) } else { Ok(all) }
}

fn chap(credentials: &ChapCredentials) -> Result<ChapInitiator, SecretError> {
    let user = credentials.username.clone();
    let secret = Secret::new(credentials.password.as_bytes())?;
    match &credentials.mutual {
        Some((_, password)) => {
            ChapInitiator::mutual(user, secret, Secret::new(password.as_bytes())?)
        }
        None => Ok(ChapInitiator::new(user, secret)),
    }
}

/// Orders to an open volume.
#[derive(Clone)]
pub struct OpenVolume {
    mailbox: Mailbox<Letter>,
    caller: Caller,
    runtime: Handle,
}

impl OpenVolume {
    fn post(&self, letter: Letter) {
        if self.mailbox.post(letter).is_err() {
            tracing::debug!("an order to a volume that has ended");
        }
    }

    /// Runs a load on the volume's own thread; one at a time.
    pub fn drive(&self, work: Workload) -> Run {
        let (send, receive) = mpsc::sync_channel(1);
        self.post(Letter::Drive(
            work,
            Box::new(move |run| drop(send.send(run))),
        ));
        receive.recv().unwrap_or_default()
    }

    /// Requests without a device.
    pub fn guest(&self) -> Guest {
        Guest {
            mailbox: self.mailbox.clone(),
        }
    }
}

impl VolumeHandle for OpenVolume {
    fn detach(&self) {
        self.post(Letter::Detach);
    }

    fn drop_leg(&self, leg: Leg) {
        self.post(Letter::DropLeg(leg));
    }

    fn expand(&self, size: u64) {
        self.post(Letter::Expand { size });
    }

    fn set_format(&self, format: Format, fs_type: FsType) {
        self.post(Letter::SetFormat { format, fs_type });
    }

    fn verify(&self, order: VerifyOrder) {
        self.post(Letter::Verify(order));
    }

    fn readdress(&self, legs: [Option<LegTarget>; 2]) {
        let this = self.clone();
        // Names are looked up where waiting harms nobody.
        self.runtime.spawn_blocking(move || {
            for (leg, target) in Leg::BOTH.into_iter().zip(legs) {
                let Some(target) = target else { continue };
                match leg_spec(&target, &this.caller, leg) {
                    Ok(spec) => this.post(Letter::Readdress {
                        leg,
                        spec: Box::new(spec),
                    }),
                    Err(error) => tracing::warn!(%leg, error, "the leg keeps its address"),
                }
            }
        });
    }
}

/// Reads and writes a volume from a thread of this process, without a device: for tests and drivers.
#[derive(Clone)]
pub struct Guest {
    mailbox: Mailbox<Letter>,
}

impl Guest {
    /// Asks; the answer comes on the volume's thread.
    pub fn submit(
        &self,
        op: GuestOp,
        answer: impl FnOnce(Result<GuestReply, GuestErrno>) + Send + 'static,
    ) {
        let answer = Box::new(answer);
        if let Err(refused) = self.mailbox.post(Letter::Guest { op, answer }) {
            use crate::reactor::PostError;
            let (PostError::Full(letter) | PostError::Gone(letter)) = refused;
            if let Letter::Guest { answer, .. } = letter {
                answer(Err(GuestErrno::Io));
            }
        }
    }

    /// Asks and waits, for as long as the volume holds the request.
    pub fn call(&self, op: GuestOp) -> Result<GuestReply, GuestErrno> {
        let (send, receive) = mpsc::sync_channel(1);
        self.submit(op, move |reply| drop(send.send(reply)));
        receive.recv().unwrap_or(Err(GuestErrno::Io))
    }

    pub fn read(&self, offset: u64, len: u32) -> Result<Vec<u8>, GuestErrno> {
        match self.call(GuestOp::Read { offset, len })? {
            GuestReply::Data(pieces) => Ok(pieces.concat()),
            GuestReply::Done | GuestReply::Wrote(_) => Err(GuestErrno::Io),
        }
    }

    pub fn write(&self, offset: u64, data: impl Into<Bytes>) -> Result<(), GuestErrno> {
        let (data, fua) = (data.into(), false);
        self.call(GuestOp::Write { offset, data, fua }).map(drop)
    }

    pub fn flush(&self) -> Result<(), GuestErrno> {
        self.call(GuestOp::Flush).map(drop)
    }
}

//! The server as other threads see it: start, add and remove exports, numbers, stop.
//!
//! The list of targets lives here, under a lock that no data path takes; gates get a new immutable copy with every change.
//!
//! Invariant: no call here waits for a data thread without a limit. One whose disk hangs takes no mail, and who controls the server
//! has others to see to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use twinsite_iscsi::session::{Acl, Auth, Portal, TargetConfig, TargetEntry};

use super::actor::TargetActor;
use super::connection::TargetMail;
use super::counters::TargetStats;
use super::gate::{Gate, GateMail, GateParts, Published};
use super::units::prepare;
use super::{ConnectionLimits, Export, PortalConfig, ServerConfig};
use crate::backend::BackendError;
use crate::reactor::{Mailbox, PostError, Thread, listen};

/// Messages that may wait for a target; logins are most of them.
const TARGET_MAILBOX: usize = 256;
const GATE_MAILBOX: usize = 64;
/// How long an order to a target or a gate may take. A target whose store hangs does not answer in time.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an order is tried that was not taken in time.
const LATER: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("can not listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("can not read random bytes")]
    Random(#[source] io::Error),
    #[error("{0} is served already")]
    Exists(String),
    #[error("{0} is not served")]
    NoTarget(String),
    #[error("{0} has no LUN {1}")]
    NoLun(String, u16),
    #[error("{0} has LUN {1} twice")]
    LunTwice(String, u16),
    #[error(
        "{0:?} is no iSCSI name: write iqn.YEAR-MONTH.DOMAIN:NAME, such as iqn.2026-01.org.example:disk"
    )]
    Name(String),
    #[error("the reservations of {0} can not be read")]
    Reservations(String, #[source] twinsite_iscsi::scsi::PrStateError),
    #[error("the store of {0} can not be opened")]
    Store(String, #[source] BackendError),
    #[error("the store of {0} can not be served")]
    Serve(String, #[source] io::Error),
    #[error("{0} does not answer")]
    Busy(String),
}

/// Sessions of a server: their number is bounded and each has a session handle of its own.
#[derive(Debug)]
pub(super) struct Sessions {
    limits: ConnectionLimits,
    handles: Mutex<(u16, BTreeSet<u16>)>,
}

/// A session handle (TSIH), free again when this is dropped.
#[derive(Debug)]
pub(super) struct Tsih {
    number: u16,
    sessions: Arc<Sessions>,
}

impl Sessions {
    fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            handles: Mutex::new((0, BTreeSet::new())),
        }
    }

    pub(super) fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    /// `None`: there are as many sessions as are allowed.
    pub(super) fn take(self: &Arc<Self>) -> Option<Tsih> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, used) = &mut *handles;
        let most = self.limits.sessions + self.limits.guests;
        if used.len() >= most.min(usize::from(u16::MAX) - 1) {
            return None;
        }
        loop {
            *last = last.wrapping_add(1);
            if *last != 0 && used.insert(*last) {
                return Some(Tsih {
                    number: *last,
                    sessions: self.clone(),
                });
            }
        }
    }
}

impl Tsih {
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Tsih {
    fn drop(&mut self) {
        let mut handles = self
            .sessions
            .handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        handles.1.remove(&self.number);
    }
}

/// Starts servers.
pub struct Server;

/// A running server. Clones are the same server. Calls that wait for a data thread say so: not for async code.
#[derive(Clone)]
pub struct ServerHandle(Arc<Inner>);

struct Inner {
    threads: Vec<Thread>,
    gates: Vec<Mailbox<GateMail>>,
    addresses: Vec<SocketAddr>,
    portals: Vec<PortalConfig>,
    sessions: Arc<Sessions>,
    published: Arc<Published>,
    order_timeout: Duration,
    /// Whether all that was ever served lies on one disk.
    one_disk: Arc<AtomicBool>,
    state: Mutex<State>,
}

struct State {
    config: TargetConfig,
    targets: BTreeMap<String, Mailbox<TargetMail>>,
    next_thread: usize,
    /// That of the first unit which has one.
    disk: Option<u64>,
}

impl Server {
    /// Opens the portals and serves them on these data threads.
    pub fn start(config: ServerConfig, threads: Vec<Thread>) -> Result<ServerHandle, ServerError> {
        assert!(!threads.is_empty(), "a server needs a data thread");
        let ServerConfig {
            portals,
            offer,
            limits,
            discovery_auth,
            socket,
            connections,
        } = config;
        let sessions = Arc::new(Sessions::new(connections));
        let config = TargetConfig {
            targets: BTreeMap::new(),
            discovery_auth,
            offer,
            limits,
        };
        let published = Arc::new(Published::new(config.clone()));
        let mut gates = Vec::new();
        let mut addresses = Vec::new();
        // All listen before any is served, so that a failure leaves nothing running.
        let mut listeners = Vec::new();
        for portal in &portals {
            let failed = |source| ServerError::Listen {
                address: portal.listen,
                source,
            };
            let (listener, address) = listen(portal.listen).map_err(failed)?;
            let random = File::open("/dev/urandom").map_err(ServerError::Random)?;
            addresses.push(address);
            listeners.push((portal.clone(), listener, random));
        }
        for (number, (portal, listener, random)) in listeners.into_iter().enumerate() {
            let thread = &threads[number % threads.len()];
            let id = thread.reserve();
            let (mailbox, inlet) = thread.mailbox(id, GATE_MAILBOX);
            let parts = GateParts {
                portal,
                listener,
                options: socket.clone(),
                sessions: sessions.clone(),
                published: published.clone(),
                inlet,
                random,
            };
            thread.start(id, move |cx| Box::new(Gate::new(cx, parts)));
            gates.push(mailbox);
        }
        let state = State {
            config,
            targets: BTreeMap::new(),
            next_thread: 0,
            disk: None,
        };
        Ok(ServerHandle(Arc::new(Inner {
            threads,
            gates,
            addresses,
            portals,
            sessions,
            published,
            order_timeout: ORDER_TIMEOUT,
            one_disk: Arc::new(AtomicBool::new(true)),
            state: Mutex::new(state),
        })))
    }
}

impl ServerHandle {
    /// The addresses listened on, in the order of the portals (port 0 was replaced by the kernel's choice).
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0.addresses
    }

    /// Serves a target from now on. Fails, changing nothing, if there is one of this name.
    pub fn add_export(&self, export: Export) -> Result<(), ServerError> {
        let mut state = self.state();
        let iqn = export.iqn.clone();
        check_name(&iqn)?;
        if state.targets.contains_key(&iqn) {
            return Err(ServerError::Exists(iqn));
        }
        let entry = TargetEntry {
            alias: export.alias.clone(),
            portals: self.reported_portals(),
            auth: export.auth.clone(),
            acl: export.acl.clone(),
            redirect: export.redirect.clone(),
        };
        let group = self.0.portals.first().map_or(1, |portal| portal.group);
        for lun in &export.luns {
            let failed = |source| ServerError::Serve(iqn.clone(), source);
            if let Some(disk) = lun.backing.disk().map_err(failed)?
                && *state.disk.get_or_insert(disk) != disk
            {
                self.0.one_disk.store(false, Ordering::Relaxed);
            }
        }
        let units = prepare(export, group, &self.0.one_disk)?;
        let number = state.next_thread % self.0.threads.len();
        state.next_thread += 1;
        let thread = &self.0.threads[number];
        let id = thread.reserve();
        let (mailbox, inlet) = thread.mailbox(id, TARGET_MAILBOX);
        let (name, limit) = (iqn.clone(), self.0.sessions.limits().sessions);
        thread.start(id, move |cx| {
            Box::new(TargetActor::new(cx, name, units, inlet, limit))
        });
        state.targets.insert(iqn.clone(), mailbox);
        state.config.targets.insert(iqn, entry);
        self.publish(&state);
        Ok(())
    }

    /// Replaces who may log in to a target and how; sessions that exist go on.
    pub fn set_access(&self, iqn: &str, auth: Auth, acl: Acl) -> Result<(), ServerError> {
        let mut state = self.state();
        let no_target = || ServerError::NoTarget(iqn.into());
        let entry = state.config.targets.get_mut(iqn).ok_or_else(no_target)?;
        entry.auth = auth;
        entry.acl = acl;
        self.publish(&state);
        Ok(())
    }

    /// Ends the sessions of a target and gives its stores free; waits until that is done. When it gives `Busy`, the target
    /// takes no more logins, and the stores are free as soon as its thread has heard of it and their last operation has ended.
    pub fn remove_export(&self, iqn: &str) -> Result<(), ServerError> {
        let mailbox = {
            let mut state = self.state();
            let no_target = || ServerError::NoTarget(iqn.into());
            let mailbox = state.targets.remove(iqn).ok_or_else(no_target)?;
            state.config.targets.remove(iqn);
            self.publish(&state);
            mailbox
        };
        let (done, gone) = sync_channel(1);
        // A target that is gone already has nothing to remove.
        let until = Instant::now() + self.0.order_timeout;
        if let Err(order) = post_patiently(&mailbox, TargetMail::Remove(done), until) {
            post_later(mailbox, order);
            return Err(ServerError::Busy(iqn.into()));
        }
        match gone.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
            Err(RecvTimeoutError::Timeout) => Err(ServerError::Busy(iqn.into())),
        }
    }

    /// The store of a LUN was grown: initiators are told. Waits for the data thread.
    pub fn set_size(&self, iqn: &str, lun: u16, size: u64) -> Result<(), ServerError> {
        let found = self.order(iqn, |reply| TargetMail::SetSize { lun, size, reply })?;
        if found {
            Ok(())
        } else {
            Err(ServerError::NoLun(iqn.into(), lun))
        }
    }

    /// Numbers of one target. Waits for the data thread.
    pub fn stats(&self, iqn: &str) -> Result<TargetStats, ServerError> {
        self.order(iqn, TargetMail::Stats)
    }

    /// Age of the last command that a registered initiator other than the one of this key sent to a LUN; `None`: no such command
    /// since the target was added. Waits for the data thread.
    pub fn foreign_command_age(
        &self,
        iqn: &str,
        lun: u16,
        own_key: u64,
    ) -> Result<Option<Duration>, ServerError> {
        let age = self.order(iqn, |reply| TargetMail::ForeignAge {
            lun,
            own_key,
            reply,
        })?;
        age.ok_or_else(|| ServerError::NoLun(iqn.into(), lun))
    }

    /// Breaks a store on purpose. Waits for the data thread.
    #[cfg(feature = "test-hooks")]
    pub fn set_faults(
        &self,
        iqn: &str,
        lun: u16,
        faults: crate::backend::faults::Faults,
    ) -> Result<(), ServerError> {
        let found = self.order(iqn, |reply| TargetMail::SetFaults { lun, faults, reply })?;
        if found {
            Ok(())
        } else {
            Err(ServerError::NoLun(iqn.into(), lun))
        }
    }

    pub fn targets(&self) -> Vec<String> {
        self.state().targets.keys().cloned().collect()
    }

    /// Takes no more connections, asks initiators to log out, ends what is left after `grace` and waits for it; not for those
    /// whose thread hangs.
    pub fn shutdown(&self, grace: Duration) {
        let until = Instant::now() + self.0.order_timeout;
        for gate in &self.0.gates {
            let _ = post_patiently(gate, GateMail::Close, until);
        }
        let targets = std::mem::take(&mut self.state().targets);
        let waiting: Vec<Receiver<()>> = targets
            .values()
            .filter_map(|mailbox| {
                let (done, gone) = sync_channel(1);
                let told = post_patiently(mailbox, TargetMail::Drain { grace, done }, until);
                told.is_ok().then_some(gone)
            })
            .collect();
        let until = Instant::now() + grace + self.0.order_timeout;
        for gone in waiting {
            let _ = gone.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
    }

    /// Orders may take so long.
    #[cfg(test)]
    pub(super) fn set_order_timeout(&mut self, limit: Duration) {
        let inner = Arc::get_mut(&mut self.0).expect("a server that nobody else has");
        inner.order_timeout = limit;
    }

    fn order<T>(
        &self,
        iqn: &str,
        mail: impl FnOnce(SyncSender<T>) -> TargetMail,
    ) -> Result<T, ServerError> {
        let mailbox = self.state().targets.get(iqn).cloned();
        let mailbox = mailbox.ok_or_else(|| ServerError::NoTarget(iqn.into()))?;
        let (reply, answer) = sync_channel(1);
        mailbox
            .post(mail(reply))
            .map_err(|_| ServerError::Busy(iqn.into()))?;
        answer
            .recv_timeout(self.0.order_timeout)
            .map_err(|_| ServerError::Busy(iqn.into()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What SendTargets reports. With a portal on a wildcard address: the address an initiator came in by.
    fn reported_portals(&self) -> Vec<Portal> {
        let mut reported = Vec::new();
        for (portal, address) in self.0.portals.iter().zip(&self.0.addresses) {
            let address = match &portal.advertise {
                Some(address) => address.clone(),
                None if address.ip().is_unspecified() => return Vec::new(),
                None => address.to_string(),
            };
            reported.push(Portal {
                address,
                group: portal.group,
            });
        }
        reported
    }

    fn publish(&self, state: &State) {
        self.0
            .published
            .set(state.config.clone(), state.targets.clone());
        for gate in &self.0.gates {
            // One whose mailbox is full has a word of this kind in it already, and one that is gone needs none.
            let _ = gate.post(GateMail::Published);
        }
    }
}

/// Posts although the mailbox may be full for a moment: a data thread empties it every turn. Gives the message back if it does not;
/// one for somebody who is gone is as good as posted.
fn post_patiently<T>(mailbox: &Mailbox<T>, message: T, until: Instant) -> Result<(), T> {
    let mut message = message;
    while let Err(PostError::Full(back)) = mailbox.post(message) {
        if Instant::now() >= until {
            return Err(back);
        }
        message = back;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Leaves an order with a thread of its own, which ends when it is posted, or its target gone. Of those there is one for a target at
/// the most: it is removed once.
fn post_later(mailbox: Mailbox<TargetMail>, order: TargetMail) {
    let keep_on = move || {
        let mut order = order;
        while let Err(back) = post_patiently(&mailbox, order, Instant::now()) {
            order = back;
            std::thread::sleep(LATER);
        }
    };
    let name = "removal".to_owned();
    if let Err(error) = std::thread::Builder::new().name(name).spawn(keep_on) {
        tracing::error!(%error, "a target is served on: it takes no orders, and nobody is left to try again");
    }
}

/// RFC 7143 4.2.7: what a name may look like.
fn check_name(name: &str) -> Result<(), ServerError> {
    let kind = ["iqn.", "eui.", "naa."]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    let plain =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | ':');
    if kind && name.len() <= 223 && name.chars().all(plain) {
        Ok(())
    } else {
        Err(ServerError::Name(name.into()))
    }
}

//! A reactor thread: its handle for the outside, its loop, and the [`Context`] its actors work through.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::gather::Gather;
use super::inbox::{self, Inbox, Inlet, Letter, Mailbox};
use super::memory;
use super::operation::{Kind, SyncScope};
use super::ring::Ring;
use super::timers::Timers;
use super::{Actor, ActorId, Clear, Descriptor, Durability, Event, OpId, Open, Token, boottime};

/// How long buffers of operations that do not end are waited for when a thread stops.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Whether a thread looks for work for a while before it sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spin {
    Off,
    /// Trades a core for the time of a wake-up.
    For(Duration),
}

#[derive(Debug, Clone)]
pub struct ThreadConfig {
    pub name: String,
    /// Submission queue entries.
    pub entries: u32,
    pub spin: Spin,
    /// How long actors may take to finish after [`Thread::stop`].
    pub stop_grace: Duration,
}

impl Default for ThreadConfig {
    fn default() -> Self {
        Self {
            name: "data".into(),
            entries: 256,
            spin: Spin::Off,
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// The handle of a reactor thread. Clones are the same thread.
#[derive(Clone)]
pub struct Thread {
    inbox: Arc<Inbox>,
    join: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Thread {
    /// Starts the thread; fails when the kernel gives no io_uring.
    pub fn spawn(config: ThreadConfig) -> io::Result<Self> {
        memory::keep();
        let inbox = Arc::new(Inbox::new()?);
        let join = Arc::new(Mutex::new(None));
        let thread = Self { inbox, join };
        let (ready, started) = mpsc::sync_channel(1);
        let inside = thread.clone();
        let handle = std::thread::Builder::new()
            .name(config.name.clone())
            .spawn(move || {
                // The ring is made here: it accepts submissions from the thread that made it only.
                match Ring::new(config.entries, inside.inbox.bell_descriptor.clone()) {
                    Ok(ring) => {
                        let _ = ready.send(Ok(()));
                        let _guard = AbortOnPanic;
                        Loop::new(ring, inside, config).run();
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })?;
        *thread.join.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        started.recv().map_err(io::Error::other)??;
        Ok(thread)
    }

    /// A number for an actor that will be started, so that its mailboxes can be made first.
    pub fn reserve(&self) -> ActorId {
        ActorId(self.inbox.next_actor.fetch_add(1, Ordering::Relaxed))
    }

    /// A mailbox of an actor of this thread for at most `bound` messages.
    pub fn mailbox<T>(&self, actor: ActorId, bound: usize) -> (Mailbox<T>, Inlet<T>) {
        inbox::mailbox(self.inbox.clone(), actor, bound)
    }

    /// Makes the actor on the thread; it then lives there until [`Context::finish`].
    pub fn start(
        &self,
        actor: ActorId,
        make: impl FnOnce(&mut Context<'_>) -> Box<dyn Actor> + Send + 'static,
    ) {
        self.inbox.push(Letter::Start(actor, Box::new(make)));
    }

    /// Tells all actors to finish; returns at once.
    pub fn stop(&self) {
        self.inbox.push(Letter::Stop);
    }

    /// Waits for the end of the thread. The first caller waits, others return at once.
    pub fn join(&self) {
        let handle = self
            .join
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(handle) = handle {
            // A panic on the thread has aborted the process already.
            let _ = handle.join();
        }
    }
}

/// A broken invariant on the data path must not leave volumes half served, nor free what the kernel still writes to.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a data thread panicked, the process ends");
            std::process::abort();
        }
    }
}

/// What an actor works through during a call.
pub struct Context<'a> {
    shared: &'a mut Shared,
    actor: ActorId,
    finished: bool,
}

struct Shared {
    ring: Ring,
    timers: Timers,
    now: Duration,
    /// How long the thread waited for this turn.
    rested: Duration,
    thread: Thread,
    born: Vec<(ActorId, Box<dyn Actor>)>,
}

impl Context<'_> {
    /// The time of this turn (`CLOCK_BOOTTIME`).
    pub fn now(&self) -> Duration {
        self.shared.now
    }

    /// How long the thread had nothing to do before this turn. Next to nothing: something had been waiting for it.
    pub fn rested(&self) -> Duration {
        self.shared.rested
    }

    pub fn actor(&self) -> ActorId {
        self.actor
    }

    pub fn thread(&self) -> Thread {
        self.shared.thread.clone()
    }

    /// Adds an actor to this thread; its first call is [`Actor::settle`].
    pub fn start(&mut self, actor: Box<dyn Actor>) -> ActorId {
        let id = self.shared.thread.reserve();
        self.shared.born.push((id, actor));
        id
    }

    /// This actor is dropped after the current call. Results of its operations under way are dropped when they come.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Accepts one connection: [`Event::Accepted`].
    pub fn accept(&mut self, listener: &Descriptor, token: Token) -> OpId {
        self.begin(token, Kind::accept(listener.clone()))
    }

    /// [`Event::Connected`]. The kernel's own time-out is minutes: set an alarm and cancel.
    pub fn connect(&mut self, socket: &Descriptor, peer: SocketAddr, token: Token) -> OpId {
        self.begin(token, Kind::connect(socket.clone(), &peer))
    }

    /// Receives into the spare capacity of `buffer` (give it some): [`Event::Received`].
    pub fn receive(&mut self, socket: &Descriptor, buffer: BytesMut, token: Token) -> OpId {
        debug_assert!(buffer.capacity() > buffer.len(), "a receive needs room");
        self.begin(
            token,
            Kind::Receive {
                socket: socket.clone(),
                buffer,
            },
        )
    }

    /// Sends all pieces in order: [`Event::Sent`]. Start the next one on a socket only after that ([`super::Stream`] does).
    pub fn send(&mut self, socket: &Descriptor, pieces: Vec<Bytes>, token: Token) -> OpId {
        self.begin(token, Kind::send(socket.clone(), pieces))
    }

    /// [`Event::Read`].
    pub fn read(&mut self, file: &Descriptor, offset: u64, len: usize, token: Token) -> OpId {
        self.begin(token, Kind::read(file.clone(), offset, len))
    }

    /// [`Event::Written`]. Writes under way at the same time may reach the file in any order.
    pub fn write(
        &mut self,
        file: &Descriptor,
        offset: u64,
        pieces: Vec<Bytes>,
        durability: Durability,
        token: Token,
    ) -> OpId {
        self.begin(
            token,
            Kind::Write {
                file: file.clone(),
                offset,
                gather: Gather::new(pieces),
                durability,
            },
        )
    }

    /// Makes stable the data of all writes that have completed before: [`Event::Done`].
    pub fn sync(&mut self, file: &Descriptor, token: Token) -> OpId {
        let kind = Kind::Sync {
            file: file.clone(),
            scope: SyncScope::Data,
        };
        self.begin(token, kind)
    }

    /// As [`Self::sync`], for these bytes only.
    pub fn sync_range(&mut self, file: &Descriptor, offset: u64, len: u32, token: Token) -> OpId {
        let kind = Kind::Sync {
            file: file.clone(),
            scope: SyncScope::Range { offset, len },
        };
        self.begin(token, kind)
    }

    /// As [`Self::sync`], and for a directory the names in it.
    pub fn sync_names(&mut self, directory: &Descriptor, token: Token) -> OpId {
        let kind = Kind::Sync {
            file: directory.clone(),
            scope: SyncScope::Everything,
        };
        self.begin(token, kind)
    }

    /// Makes a range read as zeroes: [`Event::Done`].
    pub fn clear(
        &mut self,
        file: &Descriptor,
        offset: u64,
        len: u64,
        how: Clear,
        token: Token,
    ) -> OpId {
        self.begin(
            token,
            Kind::Clear {
                file: file.clone(),
                offset,
                len,
                how,
            },
        )
    }

    /// [`Event::Opened`].
    pub fn open(&mut self, path: CString, how: Open, token: Token) -> OpId {
        let flags = match how {
            Open::Write => libc::O_WRONLY | libc::O_CREAT,
            Open::Directory => libc::O_RDONLY | libc::O_DIRECTORY,
        };
        self.begin(token, Kind::Open { path, flags })
    }

    /// Gives a file another name, replacing what had it: [`Event::Done`]. Durable once the directory is synced.
    pub fn rename(&mut self, from: CString, to: CString, token: Token) -> OpId {
        let exchange = false;
        self.begin(token, Kind::Rename { from, to, exchange })
    }

    /// Gives two files each the name of the other, at one stroke: [`Event::Done`]. Durable once the directory is synced.
    pub fn exchange(&mut self, one: CString, other: CString, token: Token) -> OpId {
        let kind = Kind::Rename {
            from: one,
            to: other,
            exchange: true,
        };
        self.begin(token, kind)
    }

    /// [`Event::Done`] once the descriptor has something to read.
    pub fn readable(&mut self, fd: &Descriptor, token: Token) -> OpId {
        self.begin(token, Kind::Readable { fd: fd.clone() })
    }

    /// Asks for an early end. The operation still completes once: with `ECANCELED`, or as usual when it was too late (a file
    /// operation that has begun can not be stopped). Nothing happens if it has completed.
    pub fn cancel(&mut self, op: OpId) {
        self.shared.ring.cancel(op);
    }

    /// [`Event::Alarm`] with this token at `at` or soon after it. Alarms can not be taken back: see [`super::Alarm`].
    pub fn alarm(&mut self, at: Duration, token: Token) {
        self.shared.timers.add(at, self.actor, token);
    }

    fn begin(&mut self, token: Token, kind: Kind) -> OpId {
        self.shared.ring.start(self.actor, token, kind)
    }
}

#[derive(Default)]
struct Slot {
    actor: Option<Box<dyn Actor>>,
    touched: bool,
}

struct Loop {
    shared: Shared,
    inbox: Arc<Inbox>,
    slots: Vec<Slot>,
    touched: VecDeque<ActorId>,
    config: ThreadConfig,
    stop_at: Option<Duration>,
}

impl Loop {
    fn new(ring: Ring, thread: Thread, config: ThreadConfig) -> Self {
        let inbox = thread.inbox.clone();
        let shared = Shared {
            ring,
            timers: Timers::default(),
            now: boottime(),
            rested: Duration::ZERO,
            thread,
            born: Vec::new(),
        };
        Self {
            shared,
            inbox,
            slots: Vec::new(),
            touched: VecDeque::new(),
            config,
            stop_at: None,
        }
    }

    fn run(mut self) {
        let mut letters = Vec::new();
        loop {
            self.inbox.take(&mut letters);
            for letter in letters.drain(..) {
                self.open(letter);
            }
            while let Some((actor, token, event)) = self.shared.ring.next() {
                self.call(actor, |actor, cx| actor.handle(cx, token, event));
            }
            while let Some((actor, token)) = self.shared.timers.due(self.shared.now) {
                self.call(actor, |actor, cx| actor.handle(cx, token, Event::Alarm));
            }
            while let Some(id) = self.touched.pop_front() {
                self.slots[id.0 as usize].touched = false;
                self.call_quietly(id, |actor, cx| actor.settle(cx));
            }
            if self.is_over() {
                break;
            }
            let from = boottime();
            self.sleep(from);
            let now = boottime();
            self.shared.rested = now.saturating_sub(from);
            self.shared.now = self.shared.now.max(now);
        }
        let Self { shared, slots, .. } = self;
        drop(slots);
        shared.ring.close(CLOSE_LIMIT);
    }

    fn open(&mut self, letter: Letter) {
        match letter {
            Letter::Start(id, make) => {
                let mut cx = Context {
                    shared: &mut self.shared,
                    actor: id,
                    finished: false,
                };
                let actor = make(&mut cx);
                let lives = !cx.finished;
                if lives {
                    self.insert(id, actor);
                }
                self.adopt();
                // Mail that was posted before its actor was there rang for nobody, and its mailbox does not ring again before
                // it is emptied.
                if lives {
                    self.call(id, |actor, cx| actor.mail(cx));
                }
            }
            Letter::Mail(id) => self.call(id, |actor, cx| actor.mail(cx)),
            Letter::Stop => {
                if self.stop_at.is_none() {
                    self.stop_at = Some(self.shared.now + self.config.stop_grace);
                    for id in 0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX) {
                        self.call(ActorId(id), |actor, cx| actor.stop(cx));
                    }
                }
            }
        }
    }

    fn insert(&mut self, id: ActorId, actor: Box<dyn Actor>) {
        let index = id.0 as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::default);
        }
        self.slots[index].actor = Some(actor);
        self.touch(id);
    }

    fn adopt(&mut self) {
        for (id, actor) in std::mem::take(&mut self.shared.born) {
            self.insert(id, actor);
        }
    }

    fn touch(&mut self, id: ActorId) {
        let slot = &mut self.slots[id.0 as usize];
        if !slot.touched {
            slot.touched = true;
            self.touched.push_back(id);
        }
    }

    fn call(&mut self, id: ActorId, what: impl FnOnce(&mut dyn Actor, &mut Context<'_>)) {
        if self.call_quietly(id, what) {
            self.touch(id);
        }
    }

    /// `false`: there is no such actor (any more).
    fn call_quietly(
        &mut self,
        id: ActorId,
        what: impl FnOnce(&mut dyn Actor, &mut Context<'_>),
    ) -> bool {
        let Some(mut actor) = self
            .slots
            .get_mut(id.0 as usize)
            .and_then(|slot| slot.actor.take())
        else {
            return false;
        };
        let mut cx = Context {
            shared: &mut self.shared,
            actor: id,
            finished: false,
        };
        what(&mut *actor, &mut cx);
        let finished = cx.finished;
        if !finished {
            self.slots[id.0 as usize].actor = Some(actor);
        }
        if !self.shared.born.is_empty() {
            self.adopt();
        }
        !finished
    }

    fn is_over(&self) -> bool {
        self.stop_at.is_some_and(|at| {
            self.shared.now >= at || self.slots.iter().all(|slot| slot.actor.is_none())
        })
    }

    fn sleep(&mut self, now: Duration) {
        if let Spin::For(time) = self.config.spin {
            let end = now + time;
            while boottime() < end {
                entered(self.shared.ring.look());
                if self.shared.ring.has_completions() {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let next = [self.shared.timers.next(), self.stop_at]
            .into_iter()
            .flatten()
            .min();
        if next.is_none_or(|at| at > now) && self.inbox.may_sleep() {
            entered(self.shared.ring.sleep(next));
            self.inbox.awake();
        } else {
            entered(self.shared.ring.look());
        }
    }
}

fn entered(result: io::Result<()>) {
    if let Err(error) = result {
        panic!("io_uring_enter failed: {error}");
    }
}

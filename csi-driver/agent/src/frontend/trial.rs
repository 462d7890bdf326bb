//! A volume in memory behind a front end, on a data thread of its own, for the tests of all front ends; and the running of
//! the machine's own mkfs, mount and dd.
//!
//! Whatever touches the device runs in processes of its own: this one answers the requests, and must be killable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    DeviceSpec, Events, Frontend, FrontendEvent, GuestErrno, GuestOp, GuestReply, GuestRequest,
    Removal,
};
use crate::reactor::{Actor, Context, Event, Inlet, Mailbox, Thread, ThreadConfig, Token};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const SIZE: u64 = 64 * MIB;
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Shows a device; called on the thread that will serve it.
pub(super) type Make = fn(&DeviceSpec, &Path, Events) -> Box<dyn Frontend>;

/// A volume in memory behind a front end, on a data thread of its own.
pub(super) struct Shown {
    pub path: PathBuf,
    pub orders: Mailbox<Order>,
    pub done: Receiver<Memory>,
    pub run: tempfile::TempDir,
    _take_down: TakeDown,
}

/// A test that fails takes its device down all the same.
struct TakeDown(Mailbox<Order>);

impl Drop for TakeDown {
    fn drop(&mut self) {
        if thread::panicking() && self.0.post(Order::Remove(Removal::Abort)).is_ok() {
            thread::sleep(Duration::from_millis(500));
        }
    }
}

#[derive(Debug)]
pub(super) enum Order {
    Event(FrontendEvent),
    FailEverything,
    Resize(u64),
    Remove(Removal),
}

#[derive(Default)]
pub(super) struct Memory {
    pub bytes: Vec<u8>,
    pub counts: BTreeMap<&'static str, u32>,
    failing: bool,
}

impl Memory {
    fn answer(&mut self, op: GuestOp) -> Result<GuestReply, GuestErrno> {
        *self.counts.entry(name_of(&op)).or_default() += 1;
        if self.failing {
            return Err(GuestErrno::Io);
        }
        let range = |offset: u64, len: u64| {
            usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap()
        };
        match op {
            GuestOp::Read { offset, len } => {
                let whole = Bytes::copy_from_slice(&self.bytes[range(offset, len.into())]);
                // In two pieces, as it may come from the network.
                let half = whole.len() / 2;
                Ok(GuestReply::Data(vec![
                    whole.slice(..half),
                    whole.slice(half..),
                ]))
            }
            GuestOp::Write { offset, data, .. } => {
                self.bytes[range(offset, data.len() as u64)].copy_from_slice(&data);
                Ok(GuestReply::Wrote(u32::try_from(data.len()).unwrap()))
            }
            GuestOp::Flush => Ok(GuestReply::Done),
            GuestOp::Discard { offset, len } | GuestOp::Zero { offset, len } => {
                self.bytes[range(offset, len)].fill(0);
                Ok(GuestReply::Done)
            }
        }
    }
}

fn name_of(op: &GuestOp) -> &'static str {
    match op {
        GuestOp::Read { .. } => "read",
        GuestOp::Write { .. } => "write",
        GuestOp::Flush => "flush",
        GuestOp::Discard { .. } => "discard",
        GuestOp::Zero { .. } => "zero",
    }
}

pub(super) fn show(make: Make, name: &str) -> Shown {
    show_in(make, name, tempfile::tempdir().unwrap(), 65536)
}

pub(super) fn show_in(
    make: Make,
    name: &str,
    run: tempfile::TempDir,
    discard_granularity: u32,
) -> Shown {
    let (orders, path, done) = serve(make, name, run.path(), discard_granularity);
    let path = path.recv_timeout(PATIENCE).expect("the device is shown");
    Shown {
        path,
        _take_down: TakeDown(orders.clone()),
        orders,
        done,
        run,
    }
}

pub(super) fn serve(
    make: Make,
    name: &str,
    run: &Path,
    discard_granularity: u32,
) -> (Mailbox<Order>, Receiver<PathBuf>, Receiver<Memory>) {
    let reactor = Thread::spawn(ThreadConfig::default()).unwrap();
    let actor = reactor.reserve();
    let (orders, inlet) = reactor.mailbox(actor, 64);
    let (shown, path) = mpsc::channel();
    let (finished, done) = mpsc::channel();
    let events = orders.clone();
    let spec = DeviceSpec {
        name: name.to_owned(),
        size: SIZE,
        discard_granularity,
    };
    let events: Events = Arc::new(move |event| drop(events.post(Order::Event(event))));
    let stop = reactor.clone();
    let run = run.to_owned();
    reactor.start(actor, move |cx| {
        let front = make(&spec, &run, events);
        cx.readable(&front.descriptor().unwrap(), Token(0));
        Box::new(Server {
            front,
            inlet,
            shown,
            finished,
            stop,
            memory: Memory {
                bytes: vec![0; usize::try_from(4 * SIZE).unwrap()],
                ..Memory::default()
            },
        })
    });
    (orders, path, done)
}

struct Server {
    front: Box<dyn Frontend>,
    inlet: Inlet<Order>,
    shown: mpsc::Sender<PathBuf>,
    finished: mpsc::Sender<Memory>,
    stop: Thread,
    memory: Memory,
}

impl Server {
    fn finish(&mut self, cx: &mut Context<'_>) {
        let _ = self.finished.send(std::mem::take(&mut self.memory));
        cx.finish();
        self.stop.stop();
    }
}

impl Actor for Server {
    fn handle(&mut self, cx: &mut Context<'_>, _token: Token, _event: Event) {
        let mut requests = Vec::new();
        if self.front.take(16, &mut requests).is_err() {
            return self.finish(cx);
        }
        for GuestRequest { id, op } in requests {
            let answer = self.memory.answer(op);
            self.front.complete(id, answer);
        }
        if let Some(descriptor) = self.front.descriptor() {
            cx.readable(&descriptor, Token(0));
        }
    }

    fn mail(&mut self, cx: &mut Context<'_>) {
        while let Some(order) = self.inlet.take() {
            match order {
                Order::Event(FrontendEvent::Shown { path }) => self.shown.send(path).unwrap(),
                Order::Event(FrontendEvent::Resized { .. }) => {}
                Order::Event(FrontendEvent::Gone) => self.finish(cx),
                Order::Event(event) => panic!("unexpected: {event:?}"),
                Order::FailEverything => self.memory.failing = true,
                Order::Resize(size) => self.front.resize(size),
                Order::Remove(how) => self.front.remove(how),
            }
        }
    }
}

impl Shown {
    pub(super) fn remove(self, how: Removal) -> (Memory, tempfile::TempDir) {
        self.orders.post(Order::Remove(how)).unwrap();
        let memory = self.done.recv_timeout(PATIENCE).expect("the device goes");
        (memory, self.run)
    }
}

/// Runs a program to its end; `Err` with what it printed if it fails.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    }
}

pub(super) fn sh(line: &str) -> Result<String, String> {
    run("sh", &["-ec", line])
}

pub(super) fn soon(mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !so() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

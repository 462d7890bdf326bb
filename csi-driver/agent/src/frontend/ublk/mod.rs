//! The front end for kernels with ublk: one block device, one queue, no loop device and no file in between.
//!
//! ```text
//!   file system -> /dev/ublkbN -> owner of the volume
//! ```
//! A write costs one copy out of the request (pread) and one submission for its answer; a read one copy into it.
//! Threads of its own exist only while a device starts or stops.
//!
//! Invariants: the queue is served by the thread that showed the device; after [`Removal::Abort`], and after the death of
//! the agent, the kernel answers everything with EIO by itself; a device carries the mark of the agent's folder, by which
//! the leftovers of a killed agent are known.
//! Not here: a device that outlives its agent (ublk's user recovery).

mod abi;
mod control;
mod queue;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use twinsite_api::FrontEnd;

use super::{
    DeviceSpec, Ended, Events, Frontend, FrontendError, FrontendEvent, GuestErrno, GuestId,
    GuestOp, GuestReply, GuestRequest, Removal, beside,
};
use crate::reactor::Descriptor;
use abi::Op;
use control::Control;
use queue::{DEPTH, Queue, Turn};

/// Whether this machine can show devices this way.
pub fn available() -> bool {
    Path::new(control::NODE).exists()
        && Control::open()
            .and_then(|mut control| control.is_sufficient())
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "the ublk driver cannot be used");
                false
            })
}

/// A volume shown by ublk.
pub struct Ublk {
    queue: Option<Queue>,
    readable: Option<Descriptor>,
    /// Per tag: the open request, and what is asked for.
    open: Vec<Option<Open>>,
    ended_tags: u16,
    requests: u64,
    shared: Arc<Shared>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    id: GuestId,
    op: Op,
    len: u64,
}

struct Shared {
    device: u32,
    removing: AtomicBool,
    events: Events,
}

impl Ublk {
    /// Adds the device and begins to start it; [`FrontendEvent::Shown`] or [`FrontendEvent::ShowFailed`] follows. To be
    /// called on the thread that will serve it.
    pub fn show(spec: &DeviceSpec, run_dir: &Path, events: Events) -> Result<Self, FrontendError> {
        let step = |step| move |source| FrontendError::Ublk { step, source };
        let mut control = Control::open().map_err(step("open ublk-control"))?;
        let mark = mark(run_dir);
        let device = control.add(DEPTH, mark).map_err(step("add a device"))?;
        // From here on a drop takes the device away again.
        let mut this = Self {
            queue: None,
            readable: None,
            open: vec![None; DEPTH.into()],
            ended_tags: 0,
            requests: 0,
            shared: Arc::new(Shared {
                device,
                removing: AtomicBool::new(false),
                events,
            }),
        };
        let params = control.set_params(device, spec.size, spec.discard_granularity);
        params.map_err(step("set its size"))?;
        let path = control::char_node(device).map_err(step("find its character device"))?;
        let queue = Queue::open(&path).map_err(step("open its queue"))?;
        let readable = queue.descriptor().map_err(step("watch its queue"))?;
        this.readable = Some(readable.into());
        this.queue = Some(queue);
        let shared = this.shared.clone();
        beside("frontend-setup", move || shared.start(control))?;
        Ok(this)
    }

    fn request(&mut self, tag: u16, descriptor: abi::Descriptor) -> Option<GuestRequest> {
        let queue = self.queue.as_mut()?;
        let abi::Descriptor { op, offset, len } = descriptor;
        let asked = match op {
            Op::Read => u32::try_from(len)
                .map(|len| GuestOp::Read { offset, len })
                .ok(),
            Op::Write { fua } => match queue.data(tag, len) {
                Ok(data) => Some(GuestOp::Write { offset, data, fua }),
                Err(error) => {
                    tracing::error!(%error, "cannot copy the bytes of a write");
                    None
                }
            },
            Op::Flush => Some(GuestOp::Flush),
            Op::Discard => Some(GuestOp::Discard { offset, len }),
            Op::Zero => Some(GuestOp::Zero { offset, len }),
            Op::Unknown(number) => {
                tracing::error!(number, "the kernel asks for something unknown");
                None
            }
        };
        let Some(asked) = asked else {
            let error = if matches!(op, Op::Unknown(_)) {
                libc::EOPNOTSUPP
            } else {
                libc::EIO
            };
            report(queue.answer(tag, -error));
            return None;
        };
        self.requests += 1;
        let id = GuestId((self.requests << 16) | u64::from(tag));
        self.open[usize::from(tag)] = Some(Open { id, op, len });
        Some(GuestRequest { id, op: asked })
    }
}

fn report(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "cannot answer the ublk driver");
    }
}

impl Frontend for Ublk {
    fn kind(&self) -> FrontEnd {
        FrontEnd::Ublk
    }

    fn descriptor(&self) -> Option<Descriptor> {
        self.readable.clone()
    }

    fn take(&mut self, limit: usize, into: &mut Vec<GuestRequest>) -> Result<(), Ended> {
        for _ in 0..limit {
            match self.queue.as_mut().and_then(Queue::next) {
                Some(Turn::Request(tag, descriptor)) => {
                    let request = self.request(tag, descriptor);
                    into.extend(request);
                }
                Some(Turn::Ended) => self.ended_tags += 1,
                None => break,
            }
        }
        if self.ended_tags < DEPTH || self.queue.is_none() {
            return Ok(());
        }
        self.queue = None;
        self.readable = None;
        if self.shared.removing.load(Ordering::Acquire) {
            return Ok(());
        }
        tracing::error!(
            device = self.shared.device,
            "the ublk device was taken away"
        );
        Err(Ended)
    }

    fn complete(&mut self, id: GuestId, result: Result<GuestReply, GuestErrno>) {
        let tag = (id.0 & 0xFFFF) as u16;
        let Some(place) = self.open.get_mut(usize::from(tag)) else {
            return;
        };
        let Some(open) = place.take_if(|open| open.id == id) else {
            return;
        };
        let Some(queue) = &mut self.queue else { return };
        let result = result.and_then(|reply| done(queue, tag, open, &reply));
        let result = match result {
            Ok(bytes) => i32::try_from(bytes).unwrap_or(-libc::EIO),
            Err(errno) => -errno.raw(),
        };
        report(queue.answer(tag, result));
    }

    fn resize(&mut self, size: u64) {
        let shared = self.shared.clone();
        let begun = beside("frontend-resize", move || {
            let outcome =
                Control::open().and_then(|mut control| control.resize(shared.device, size));
            (shared.events)(match outcome {
                Ok(()) => FrontendEvent::Resized { size },
                Err(source) => FrontendEvent::ResizeFailed(FrontendError::Ublk {
                    step: "grow the device (Linux 6.16 and later; otherwise it grows when it is attached anew)",
                    source,
                }),
            });
        });
        if let Err(error) = begun {
            (self.shared.events)(FrontendEvent::ResizeFailed(error));
        }
    }

    fn remove(&mut self, how: Removal) {
        if how == Removal::Abort {
            self.readable = None;
            self.queue = None;
        }
        if self.shared.removing.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = self.shared.clone();
        if let Err(error) = beside("frontend-remove", move || shared.take_down()) {
            // The device stays for `clear_leftovers`; it gives EIO.
            tracing::error!(%error, "cannot take the device down");
            self.readable = None;
            self.queue = None;
        }
    }
}

/// Gives a good answer to the driver: the number of bytes done.
fn done(queue: &Queue, tag: u16, open: Open, reply: &GuestReply) -> Result<u64, GuestErrno> {
    match (open.op, reply) {
        (Op::Read, GuestReply::Data(pieces)) => {
            let len: usize = pieces.iter().map(Bytes::len).sum();
            if len as u64 != open.len {
                tracing::error!(len, wanted = open.len, "an answer of another length");
                return Err(GuestErrno::Io);
            }
            queue.give(tag, pieces).map_err(|error| {
                tracing::error!(%error, "cannot hand over the bytes of a read");
                GuestErrno::Io
            })
        }
        (Op::Write { .. }, GuestReply::Wrote(len)) => Ok(u64::from(*len)),
        (Op::Flush | Op::Discard | Op::Zero, GuestReply::Done) => Ok(0),
        (op, reply) => {
            tracing::error!(?op, ?reply, "an answer of another kind");
            Err(GuestErrno::Io)
        }
    }
}

impl Drop for Ublk {
    fn drop(&mut self) {
        self.remove(Removal::Abort);
    }
}

impl Shared {
    fn start(&self, mut control: Control) {
        let shown = control
            .start(self.device)
            .and_then(|()| control::block_node(self.device));
        if self.removing.load(Ordering::Acquire) {
            return;
        }
        (self.events)(match shown {
            Ok(path) => FrontendEvent::Shown { path },
            Err(source) => FrontendEvent::ShowFailed(FrontendError::Ublk {
                step: "start the device",
                source,
            }),
        });
    }

    fn take_down(&self) {
        if let Err(error) =
            Control::open().and_then(|mut control| take_down(&mut control, self.device))
        {
            tracing::warn!(device = self.device, %error, "cannot take the ublk device down");
        }
        (self.events)(FrontendEvent::Gone);
    }
}

fn take_down(control: &mut Control, device: u32) -> io::Result<()> {
    match control.stop(device) {
        // Never started, or stopped by itself.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => {}
        other => other?,
    }
    control.remove(device)
}

/// Takes away the devices that an agent with this folder left behind; their nodes.
pub(super) fn clear(run_dir: &Path) -> Vec<PathBuf> {
    let mut cleared = Vec::new();
    let devices = control::devices();
    if devices.is_empty() {
        return cleared;
    }
    let mut control = match Control::open() {
        Ok(control) => control,
        Err(error) => {
            tracing::warn!(%error, "cannot look for stale ublk devices");
            return cleared;
        }
    };
    let ours = mark(run_dir);
    for device in devices {
        if control.ours(device).ok() != Some(ours) {
            continue;
        }
        match take_down(&mut control, device) {
            Ok(()) => cleared.push(PathBuf::from(format!("/dev/ublkb{device}"))),
            Err(error) => tracing::warn!(device, %error, "cannot take a stale ublk device down"),
        }
    }
    cleared
}

/// What the devices of one agent's folder carry: FNV-1a of its path, the same in every version of the agent.
fn mark(run_dir: &Path) -> u64 {
    let bytes = run_dir.as_os_str().as_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;

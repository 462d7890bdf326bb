//! The workload on a shown device, and what its answers prove.

use std::time::Duration;

use bytes::Bytes;
use twinsite_mirror::io::{GuestError, GuestOp, ReqId};

use crate::agent::Request;
use crate::oracle::{BLOCK, Oracle, RUN, blocks_of, offset};
use crate::world::{Event, Mix, World};

/// Requests a guest keeps under way.
const DEPTH: usize = 6;

impl World {
    pub fn guest(&mut self, i: usize) {
        let pause = self
            .random
            .between(Duration::from_millis(2), Duration::from_millis(150));
        let burst = if self.random.chance(1, 40) {
            Duration::from_secs(12)
        } else {
            pause
        };
        self.after(if self.quiet { pause } else { burst }, Event::Guest(i));
        if !self.agents[i].ready || self.agents[i].requests.len() >= DEPTH || self.quiet {
            return;
        }
        let blocks = blocks_of(self.agents[i].size) as u64;
        let first = self.random.below(blocks) as usize;
        let most = RUN - first % RUN;
        let count = 1 + self.random.below(most as u64) as usize;
        match self.random.below(10) {
            0..6 if self.plan.mix == Mix::All && self.random.chance(1, 12) => {
                self.discard(i, first, count)
            }
            0..6 => self.write(i, first, count),
            6..9 => self.send_read(i, first, count),
            _ => self.send(i, self.flush_request()),
        }
    }

    fn flush_request(&self) -> Request {
        Request::Flush {
            acked: self.oracle.blocks.iter().map(|b| b.acked).collect(),
        }
    }

    fn write(&mut self, i: usize, first: usize, count: usize) {
        if self.is_written(i, first, count) {
            return;
        }
        let fua = self.random.chance(1, 8);
        let values = (first..first + count)
            .map(|b| self.oracle.issue(b))
            .collect();
        self.send(i, Request::Write { first, values, fua });
    }

    fn discard(&mut self, i: usize, first: usize, count: usize) {
        if self.is_written(i, first, count) {
            return;
        }
        let values = (first..first + count)
            .map(|b| self.oracle.issue_zeros(b))
            .collect();
        self.coverage.seen("a discard");
        self.send(i, Request::Discard { first, values });
    }

    /// A file system never has two writes of one block under way.
    fn is_written(&self, i: usize, first: usize, count: usize) -> bool {
        let overlaps = |r: &Request| match r {
            Request::Write {
                first: f, values, ..
            }
            | Request::Discard { first: f, values } => {
                first < f + values.len() && *f < first + count
            }
            Request::Read { .. } | Request::Flush { .. } => false,
        };
        self.agents[i].requests.values().any(overlaps)
    }

    pub fn send_read(&mut self, i: usize, first: usize, count: usize) {
        let floors = (first..first + count)
            .map(|b| self.oracle.floor(b))
            .collect();
        self.send(i, Request::Read { first, floors });
    }

    fn send(&mut self, i: usize, request: Request) {
        let a = &mut self.agents[i];
        let id = ReqId(a.life << 32 | a.next_request);
        a.next_request += 1;
        let (op, at, data) = match &request {
            Request::Write { first, values, fua } => {
                let data: Vec<Bytes> = values
                    .iter()
                    .enumerate()
                    .map(|(k, v)| Oracle::content(first + k, *v))
                    .collect();
                let len = (values.len() as u64 * BLOCK) as u32;
                (
                    GuestOp::Write {
                        offset: offset(*first),
                        len,
                        fua: *fua,
                    },
                    offset(*first),
                    data,
                )
            }
            Request::Read { first, floors } => {
                let len = (floors.len() as u64 * BLOCK) as u32;
                (
                    GuestOp::Read {
                        offset: offset(*first),
                        len,
                    },
                    offset(*first),
                    vec![],
                )
            }
            Request::Discard { first, values } => {
                let len = values.len() as u64 * BLOCK;
                // Zeroes that must be written take the same way but for the last command.
                let op = if values[0] % 3 == 0 {
                    GuestOp::WriteZeros {
                        offset: offset(*first),
                        len,
                    }
                } else {
                    GuestOp::Discard {
                        offset: offset(*first),
                        len,
                    }
                };
                (op, offset(*first), vec![])
            }
            Request::Flush { .. } => (GuestOp::Flush, 0, vec![]),
        };
        a.requests.insert(id, request);
        let now = self.now;
        if let Some(shell) = &mut self.agents[i].shell {
            shell.guest(now, id, op, at, data);
        }
        self.agent_out(i);
    }

    pub fn device_shown(&mut self, i: usize, continued: bool, size: u64) {
        self.device_resized(i, size);
        let a = &mut self.agents[i];
        (a.shown, a.ready) = (true, true);
        if continued {
            self.coverage.seen("a device went on behind a new agent");
        }
        let orphans = std::mem::take(&mut self.agents[i].orphans);
        if !continued {
            // A flush speaks for the writes of this guest; what an earlier one did not flush may be gone.
            self.oracle
                .blocks
                .iter_mut()
                .for_each(|b| b.durable_claim = b.flushed);
        }
        if continued {
            for request in orphans {
                let again = match request {
                    Request::Read { first, floors } => Request::Read {
                        first,
                        floors: (first..first + floors.len())
                            .map(|b| self.oracle.floor(b))
                            .collect(),
                    },
                    other => other,
                };
                self.send(i, again);
            }
        }
    }

    /// A device never shrinks, whichever site shows it.
    pub fn device_resized(&mut self, i: usize, size: u64) {
        if size < self.promised_size {
            self.fail(format!(
                "the device has {size} bytes, {} were told before",
                self.promised_size
            ));
        }
        if size > self.promised_size && self.promised_size != 0 {
            self.coverage.seen("the volume grew");
        }
        self.promised_size = self.promised_size.max(size);
        self.agents[i].size = size;
    }

    /// The device goes away: what was not answered was not promised.
    pub fn device_gone(&mut self, i: usize) {
        let a = &mut self.agents[i];
        (a.shown, a.ready) = (false, false);
        a.orphans.clear();
    }

    pub fn request_done(&mut self, i: usize, id: ReqId, result: Result<(), GuestError>) {
        let Some(request) = self.agents[i].requests.remove(&id) else {
            if id.0 >> 32 == self.agents[i].life {
                self.fail("a guest request was answered twice (I11)");
            }
            return;
        };
        let buffer = self.agents[i]
            .shell
            .as_mut()
            .and_then(|s| s.take_buffer(id));
        match (request, result) {
            (Request::Write { first, values, fua }, Ok(())) => {
                for (k, value) in values.iter().enumerate() {
                    self.oracle.acknowledged(first + k, *value);
                    if fua {
                        let b = &mut self.oracle.blocks[first + k];
                        b.flushed = b.flushed.max(*value);
                    }
                }
                self.check_acknowledged(first, values.len());
            }
            (Request::Discard { first, values }, Ok(())) => {
                for (k, value) in values.iter().enumerate() {
                    self.oracle.acknowledged(first + k, *value);
                }
                self.check_acknowledged(first, values.len());
            }
            (Request::Read { first, floors }, Ok(())) => {
                let Some(buffer) = buffer else { return };
                let mut bytes = vec![0u8; floors.len() * BLOCK as usize];
                for (at, piece) in &buffer.answer {
                    let at = *at as usize;
                    bytes[at..at + piece.len()].copy_from_slice(piece);
                }
                for (k, floor) in floors.iter().enumerate() {
                    let block = first + k;
                    let piece = &bytes[k * BLOCK as usize..(k + 1) * BLOCK as usize];
                    let checked = Oracle::value(block, piece)
                        .and_then(|v| self.oracle.read(block, *floor, v));
                    if let Err(why) = checked {
                        self.fail(format!("agent {i}: {why}"));
                    }
                }
            }
            (Request::Flush { acked }, Ok(())) => {
                for (b, value) in self.oracle.blocks.iter_mut().zip(acked) {
                    b.flushed = b.flushed.max(value.min(b.durable_claim));
                }
            }
            (Request::Flush { .. }, Err(_)) => {
                // What was acknowledged and not flushed may be gone: the guest was told.
                self.coverage.seen("a flush failed as owed");
                for b in &mut self.oracle.blocks {
                    b.durable_claim = b.flushed;
                }
            }
            (Request::Write { .. } | Request::Discard { .. } | Request::Read { .. }, Err(_)) => {}
        }
    }
}

//! The guest's requests while the mirror works on them, with the bytes that belong to them, and the buffers of copies.
//!
//! Bytes of a write are handed to both legs by reference: one buffer, whatever the number of sends. Bytes of a read
//! are the slices that came off the network; they are put in order when the mirror says that the read is done.
//!
//! Invariants: a request id is never given twice, so that a late answer to an old command finds nothing; bytes that a
//! command of a leg still needs are kept by that command itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use slab::Slab;
use twinsite_mirror::io::{self, CopyId, DATA_START, GuestError, LegOp, ReqId};

use crate::frontend::{GuestErrno, GuestId, GuestOp, GuestReply};
use crate::initiator::{Arrived, Destination};

/// Takes the answer to a request of a caller in this process.
pub type Answer = Box<dyn FnOnce(Result<GuestReply, GuestErrno>) + Send>;

/// Who asked.
pub(super) enum Origin {
    Device(GuestId),
    Caller(Answer),
    /// A slot of the load that is being driven.
    Drive(u32),
}

struct Open {
    serial: u32,
    origin: Origin,
    bytes: Payload,
}

enum Payload {
    None,
    Write(Bytes),
    Read {
        offset: u64,
        len: u32,
        arrived: Vec<(u64, Vec<Bytes>)>,
    },
}

struct Copy {
    offset: u64,
    pieces: Vec<Bytes>,
}

/// Everything that is open.
#[derive(Default)]
pub(super) struct Requests {
    open: Slab<Open>,
    serial: u32,
    copies: BTreeMap<CopyId, Copy>,
}

impl Requests {
    /// Takes a request in; gives what the mirror is asked.
    pub(super) fn begin(&mut self, origin: Origin, op: GuestOp) -> (ReqId, io::GuestOp) {
        let (bytes, op) = match op {
            GuestOp::Read { offset, len } => {
                let arrived = Vec::new();
                let bytes = Payload::Read {
                    offset,
                    len,
                    arrived,
                };
                (bytes, io::GuestOp::Read { offset, len })
            }
            GuestOp::Write { offset, data, fua } => {
                // Longer than any device takes: the mirror refuses it as too long.
                let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
                (
                    Payload::Write(data),
                    io::GuestOp::Write { offset, len, fua },
                )
            }
            GuestOp::Flush => (Payload::None, io::GuestOp::Flush),
            GuestOp::Discard { offset, len } => {
                (Payload::None, io::GuestOp::Discard { offset, len })
            }
            GuestOp::Zero { offset, len } => {
                (Payload::None, io::GuestOp::WriteZeros { offset, len })
            }
        };
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let index = self.open.insert(Open {
            serial,
            origin,
            bytes,
        });
        (ReqId(u64::from(serial) << 32 | index as u64), op)
    }

    fn index(&self, id: ReqId) -> Option<usize> {
        let index = id.0 as u32 as usize;
        let open = self.open.get(index)?;
        (u64::from(open.serial) == id.0 >> 32).then_some(index)
    }

    /// The mirror is done with it: who asked, and the answer.
    pub(super) fn end(
        &mut self,
        id: ReqId,
        result: Result<(), GuestError>,
    ) -> Option<(Origin, Result<GuestReply, GuestErrno>)> {
        let index = self.index(id)?;
        let open = self.open.remove(index);
        let reply = result.map_err(errno).and_then(|()| match open.bytes {
            Payload::None => Ok(GuestReply::Done),
            Payload::Write(data) => Ok(GuestReply::Wrote(data.len() as u32)),
            Payload::Read {
                offset,
                len,
                arrived,
            } => in_order(offset, len, arrived)
                .map(GuestReply::Data)
                .ok_or_else(|| {
                    tracing::error!(offset, len, "a read was answered without all of its bytes");
                    GuestErrno::Io
                }),
        });
        Some((open.origin, reply))
    }

    /// What a command of a leg writes; `None`: nobody has these bytes.
    pub(super) fn payload(&self, op: &LegOp) -> Option<Vec<Bytes>> {
        match *op {
            LegOp::WriteData { req, skip, len, .. } => match &self.open[self.index(req)?].bytes {
                Payload::Write(data) => {
                    let from = skip as usize;
                    let to = from.checked_add(len as usize)?;
                    (to <= data.len()).then(|| vec![data.slice(from..to)])
                }
                Payload::None | Payload::Read { .. } => None,
            },
            LegOp::CopyWrite { copy, offset, len } => {
                let copy = self.copies.get(&copy)?;
                cut(&copy.pieces, offset.checked_sub(copy.offset)?, len.into())
            }
            _ => Some(Vec::new()),
        }
    }

    /// Keeps what a read of a leg brought.
    pub(super) fn arrived(&mut self, arrived: Arrived) {
        let Arrived {
            destination,
            offset,
            pieces,
        } = arrived;
        match destination {
            Destination::Copy(copy) => {
                self.copies.insert(copy, Copy { offset, pieces });
            }
            Destination::Request(req) => {
                let Some(index) = self.index(req) else { return };
                if let Payload::Read { arrived, .. } = &mut self.open[index].bytes {
                    // The other leg was read since, for the same place.
                    arrived.retain(|(at, _)| *at != offset);
                    arrived.push((offset, pieces));
                }
            }
        }
    }

    pub(super) fn free(&mut self, copy: CopyId) {
        self.copies.remove(&copy);
    }

    /// Everybody who still waits, when the volume ends without an answer.
    pub(super) fn drain(&mut self) -> Vec<Origin> {
        self.open.drain().map(|open| open.origin).collect()
    }
}

fn errno(error: GuestError) -> GuestErrno {
    match error {
        GuestError::Invalid => GuestErrno::Invalid,
        GuestError::NoSpace => GuestErrno::NoSpace,
        GuestError::Io | GuestError::Superseded | GuestError::QueueFull | GuestError::NotShown => {
            GuestErrno::Io
        }
    }
}

/// The bytes of a read, `None` if they do not cover it.
fn in_order(offset: u64, len: u32, mut arrived: Vec<(u64, Vec<Bytes>)>) -> Option<Vec<Bytes>> {
    let mut at = DATA_START + offset;
    let end = at + u64::from(len);
    let mut all = Vec::new();
    if arrived.len() > 1 {
        arrived.sort_by_key(|(at, _)| *at);
    }
    for (begin, pieces) in arrived {
        if begin != at {
            return None;
        }
        at += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        if all.is_empty() {
            all = pieces;
        } else {
            all.extend(pieces);
        }
    }
    (at == end).then_some(all)
}

/// `len` bytes of the pieces from `skip` on.
fn cut(pieces: &[Bytes], skip: u64, len: u64) -> Option<Vec<Bytes>> {
    let (mut skip, mut left) = (usize::try_from(skip).ok()?, usize::try_from(len).ok()?);
    let mut taken = Vec::new();
    for piece in pieces {
        if left == 0 {
            break;
        }
        if skip >= piece.len() {
            skip -= piece.len();
            continue;
        }
        let end = piece.len().min(skip + left);
        left -= end - skip;
        taken.push(piece.slice(skip..end));
        skip = 0;
    }
    (left == 0).then_some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Origin {
        Origin::Device(GuestId(9))
    }

    fn bytes(text: &'static str) -> Vec<Bytes> {
        vec![Bytes::from_static(text.as_bytes())]
    }

    fn read_of(requests: &mut Requests) -> ReqId {
        requests
            .begin(
                caller(),
                GuestOp::Read {
                    offset: 100,
                    len: 6,
                },
            )
            .0
    }

    fn bring(requests: &mut Requests, req: ReqId, offset: u64, text: &'static str) {
        requests.arrived(Arrived {
            destination: Destination::Request(req),
            offset: DATA_START + offset,
            pieces: bytes(text),
        });
    }

    #[test]
    fn a_read_in_parts_is_put_in_order() {
        let mut requests = Requests::default();
        let req = read_of(&mut requests);
        bring(&mut requests, req, 104, "ef");
        bring(&mut requests, req, 100, "abcd");
        let (_, reply) = requests.end(req, Ok(())).unwrap();
        let GuestReply::Data(pieces) = reply.unwrap() else {
            panic!("data")
        };
        assert_eq!(pieces.concat(), b"abcdef");
    }

    #[test]
    fn a_read_with_a_hole_is_an_error_never_wrong_bytes() {
        for parts in [
            &[][..],
            &[(100, "abcd")],
            &[(100, "ab"), (103, "def")],
            &[(100, "abcdefg")],
        ] {
            let mut requests = Requests::default();
            let req = read_of(&mut requests);
            for (offset, text) in parts {
                bring(&mut requests, req, *offset, text);
            }
            let (_, reply) = requests.end(req, Ok(())).unwrap();
            assert_eq!(reply, Err(GuestErrno::Io), "{parts:?}");
        }
    }

    #[test]
    fn the_second_leg_read_for_the_same_place_counts() {
        let mut requests = Requests::default();
        let req = read_of(&mut requests);
        bring(&mut requests, req, 100, "xxxxxx");
        bring(&mut requests, req, 100, "abcdef");
        let (_, reply) = requests.end(req, Ok(())).unwrap();
        assert_eq!(reply, Ok(GuestReply::Data(bytes("abcdef"))));
    }

    #[test]
    fn a_late_answer_finds_nothing() {
        let mut requests = Requests::default();
        let old = read_of(&mut requests);
        assert!(requests.end(old, Err(GuestError::Io)).is_some());
        let new = read_of(&mut requests);
        assert_ne!(old, new);
        bring(&mut requests, old, 100, "old...");
        bring(&mut requests, new, 100, "abcdef");
        assert!(requests.end(old, Ok(())).is_none());
        let (_, reply) = requests.end(new, Ok(())).unwrap();
        assert_eq!(reply, Ok(GuestReply::Data(bytes("abcdef"))));
    }

    #[test]
    fn both_legs_are_given_the_same_buffer() {
        let mut requests = Requests::default();
        let data = Bytes::from(vec![7; 8192]);
        let write = GuestOp::Write {
            offset: 0,
            data: data.clone(),
            fua: false,
        };
        let (req, _) = requests.begin(caller(), write);
        let op = LegOp::WriteData {
            req,
            skip: 4096,
            offset: DATA_START + 4096,
            len: 4096,
            fua: false,
        };
        let payload = requests.payload(&op).unwrap();
        assert_eq!(payload[0].as_ptr(), data[4096..].as_ptr());
        let beyond = LegOp::WriteData {
            req,
            skip: 4096,
            offset: DATA_START,
            len: 4097,
            fua: false,
        };
        assert_eq!(requests.payload(&beyond), None);
    }

    #[test]
    fn a_copy_is_cut_where_it_is_written() {
        let mut requests = Requests::default();
        requests.arrived(Arrived {
            destination: Destination::Copy(CopyId(3)),
            offset: 1000,
            pieces: vec![Bytes::from_static(b"abc"), Bytes::from_static(b"defg")],
        });
        let op = |offset, len| LegOp::CopyWrite {
            copy: CopyId(3),
            offset,
            len,
        };
        assert_eq!(requests.payload(&op(1002, 3)).unwrap().concat(), b"cde");
        assert_eq!(requests.payload(&op(1000, 7)).unwrap().concat(), b"abcdefg");
        assert_eq!(requests.payload(&op(1000, 8)), None);
        assert_eq!(requests.payload(&op(999, 1)), None);
        requests.free(CopyId(3));
        assert_eq!(requests.payload(&op(1000, 1)), None);
    }
}

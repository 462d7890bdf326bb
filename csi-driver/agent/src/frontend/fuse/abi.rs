//! The kernel's FUSE messages, protocol 7.31 and later, as far as one file in one folder needs them.
//!
//! Numbers are in the byte order of the machine. Offsets are those of `linux/fuse.h`.
//! Not here: reading and writing the descriptor (`device`).

use std::ffi::CStr;

pub const IN_HEADER: usize = 40;
pub const OUT_HEADER: usize = 16;
/// The header and the fixed part of a WRITE request: its data begins behind them.
pub const WRITE_HEAD: usize = IN_HEADER + 40;
/// The largest payload of one READ or WRITE: 256 pages, what every kernel since 4.20 allows.
pub const MAX_IO: u32 = 1 << 20;
/// Requests that the kernel may have open at once.
pub const MAX_BACKGROUND: u16 = 512;

pub const FILE_NODE: u64 = 2;
pub const FILE_NAME: &CStr = c"dev";

const MAJOR: u32 = 7;
const MINOR: u32 = 38;
/// The oldest minor version that has everything asked for below.
const OLDEST_MINOR: u32 = 31;

const ASYNC_READ: u32 = 1 << 0;
const BIG_WRITES: u32 = 1 << 5;
const ASYNC_DIO: u32 = 1 << 15;
const MAX_PAGES: u32 = 1 << 22;

const FOPEN_DIRECT_IO: u32 = 1 << 0;
/// A close has nothing to flush, and must not wait for us: it may be a dying child of ours that closes.
const FOPEN_NOFLUSH: u32 = 1 << 5;
const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

const KEEP_SIZE: u32 = 0x1;
const PUNCH_HOLE: u32 = 0x2;
const ZERO_RANGE: u32 = 0x10;

/// One request of the kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub unique: u64,
    pub node: u64,
    pub op: Op<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Op<'a> {
    Init {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u32,
    },
    Lookup {
        name: &'a [u8],
    },
    GetAttributes,
    SetAttributes,
    Open,
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        data: &'a [u8],
    },
    Fsync,
    /// fallocate with PUNCH_HOLE.
    Punch {
        offset: u64,
        len: u64,
    },
    /// fallocate with ZERO_RANGE.
    Zero {
        offset: u64,
        len: u64,
    },
    StatFs,
    /// RELEASE, FLUSH and ACCESS: answered with plain success.
    Acknowledge,
    /// Not answered at all: FORGET, BATCH_FORGET, INTERRUPT, DESTROY.
    Silent,
    Unsupported {
        opcode: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AbiError {
    #[error("a request of {len} bytes is shorter than its header")]
    Short { len: usize },
    #[error("a request of {len} bytes names the length {named}")]
    Length { len: usize, named: u32 },
}

/// Reads one request, exactly as it came from one read of the descriptor.
pub fn parse(bytes: &[u8]) -> Result<Request<'_>, AbiError> {
    let short = AbiError::Short { len: bytes.len() };
    let named = u32_at(bytes, 0).ok_or(short)?;
    if usize::try_from(named) != Ok(bytes.len()) {
        return Err(AbiError::Length {
            len: bytes.len(),
            named,
        });
    }
    let opcode = u32_at(bytes, 4).ok_or(short)?;
    let unique = u64_at(bytes, 8).ok_or(short)?;
    let node = u64_at(bytes, 16).ok_or(short)?;
    let body = bytes.get(IN_HEADER..).ok_or(short)?;
    let op = parse_op(opcode, body).ok_or(short)?;
    Ok(Request { unique, node, op })
}

fn parse_op(opcode: u32, body: &[u8]) -> Option<Op<'_>> {
    Some(match opcode {
        1 => Op::Lookup {
            name: body.split(|byte| *byte == 0).next()?,
        },
        3 => Op::GetAttributes,
        4 => Op::SetAttributes,
        14 => Op::Open,
        15 => Op::Read {
            offset: u64_at(body, 8)?,
            len: u32_at(body, 16)?,
        },
        16 => {
            let len = usize::try_from(u32_at(body, 16)?).ok()?;
            Op::Write {
                offset: u64_at(body, 8)?,
                data: body.get(40..40 + len)?,
            }
        }
        17 => Op::StatFs,
        18 | 25 | 34 => Op::Acknowledge,
        20 => Op::Fsync,
        2 | 36 | 38 | 42 => Op::Silent,
        26 => Op::Init {
            major: u32_at(body, 0)?,
            minor: u32_at(body, 4)?,
            max_readahead: u32_at(body, 8)?,
            flags: u32_at(body, 12)?,
        },
        43 => fallocate(body)?,
        opcode => Op::Unsupported { opcode },
    })
}

fn fallocate(body: &[u8]) -> Option<Op<'_>> {
    let (offset, len, mode) = (u64_at(body, 8)?, u64_at(body, 16)?, u32_at(body, 24)?);
    Some(match mode & !KEEP_SIZE {
        PUNCH_HOLE => Op::Punch { offset, len },
        ZERO_RANGE => Op::Zero { offset, len },
        _ => Op::Unsupported { opcode: 43 },
    })
}

/// An answer without its data: the header and a fixed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    bytes: [u8; Self::ROOM],
    len: usize,
}

impl Answer {
    const ROOM: usize = OUT_HEADER + 128;

    fn new(unique: u64, error: i32) -> Self {
        let mut answer = Self {
            bytes: [0; Self::ROOM],
            len: 0,
        };
        answer.put(&[0; 4]);
        answer.put(&(-error).to_ne_bytes());
        answer.put(&unique.to_ne_bytes());
        answer
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        let total = u32::try_from(self.len).expect("an answer head is small");
        self.bytes[..4].copy_from_slice(&total.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.put(&value.to_ne_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_ne_bytes());
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_ne_bytes());
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub fn error(unique: u64, errno: i32) -> Self {
        Self::new(unique, errno)
    }

    pub fn done(unique: u64) -> Self {
        Self::new(unique, 0)
    }

    pub fn wrote(unique: u64, len: u32) -> Self {
        let mut answer = Self::new(unique, 0);
        answer.u32(len);
        answer.u32(0);
        answer
    }

    /// The head of a READ answer; `len` bytes of data follow it in the same write.
    pub fn data(unique: u64, len: u32) -> Self {
        let mut answer = Self::new(unique, 0);
        let total = u32::try_from(OUT_HEADER).expect("16") + len;
        answer.bytes[..4].copy_from_slice(&total.to_ne_bytes());
        answer
    }

    /// Agrees on a version and on direct, parallel I/O of up to [`MAX_IO`]; refuses kernels that are too old.
    pub fn init(unique: u64, major: u32, minor: u32, max_readahead: u32, offered: u32) -> Self {
        if major != MAJOR || minor < OLDEST_MINOR {
            return Self::error(unique, libc::EPROTO);
        }
        let mut answer = Self::new(unique, 0);
        answer.u32(MAJOR);
        answer.u32(MINOR.min(minor));
        answer.u32(max_readahead);
        answer.u32((ASYNC_READ | BIG_WRITES | ASYNC_DIO | MAX_PAGES) & offered);
        answer.u16(MAX_BACKGROUND);
        answer.u16(MAX_BACKGROUND);
        answer.u32(MAX_IO);
        answer.u32(1);
        answer.u16(u16::try_from(MAX_IO / 4096).expect("256 pages"));
        answer.u16(0);
        answer.u32(0);
        answer.put(&[0; 28]);
        answer
    }

    pub fn entry(unique: u64, size: u64) -> Self {
        let mut answer = Self::new(unique, 0);
        answer.u64(FILE_NODE);
        answer.put(&[0; 32]);
        answer.attributes_of(FILE_NODE, size);
        answer
    }

    /// Never cached, so that a resize is seen by the next look.
    pub fn attributes(unique: u64, node: u64, size: u64) -> Self {
        let mut answer = Self::new(unique, 0);
        answer.put(&[0; 16]);
        answer.attributes_of(node, size);
        answer
    }

    fn attributes_of(&mut self, node: u64, size: u64) {
        let (mode, size) = if node == FILE_NODE {
            (libc::S_IFREG | 0o600, size)
        } else {
            (libc::S_IFDIR | 0o700, 0)
        };
        self.u64(node);
        self.u64(size);
        self.u64(size / 512);
        self.put(&[0; 36]);
        self.u32(mode);
        self.u32(1);
        self.put(&[0; 12]);
        self.u32(4096);
        self.u32(0);
    }

    pub fn opened(unique: u64) -> Self {
        let mut answer = Self::new(unique, 0);
        answer.u64(0);
        answer.u32(FOPEN_DIRECT_IO | FOPEN_NOFLUSH | FOPEN_PARALLEL_DIRECT_WRITES);
        answer.u32(0);
        answer
    }

    /// The block size named here becomes the discard granularity of a loop device above the file.
    pub fn statfs(unique: u64, size: u64, block: u32) -> Self {
        let mut answer = Self::new(unique, 0);
        answer.u64(size / u64::from(block));
        answer.put(&[0; 32]);
        answer.u32(block);
        answer.u32(255);
        answer.u32(block);
        answer.put(&[0; 28]);
        answer
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;

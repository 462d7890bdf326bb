//! Numbers and layouts of the ublk driver (Linux `include/uapi/linux/ublk_cmd.h`, `Documentation/block/ublk.rst`).
//! Everything is little endian here as it is in memory on the machines we run on.

/// `_IOR` or `_IOWR` of type 'u', as the driver names its commands.
const fn command(direction: u32, number: u32, size: u32) -> u32 {
    (direction << 30) | (size << 16) | ((b'u' as u32) << 8) | number
}

const READ: u32 = 2;
const READ_WRITE: u32 = 3;
const CONTROL_SIZE: u32 = 32;
const IO_SIZE: u32 = 16;

pub(super) const GET_DEV_INFO: u32 = command(READ, 0x02, CONTROL_SIZE);
pub(super) const ADD_DEV: u32 = command(READ_WRITE, 0x04, CONTROL_SIZE);
pub(super) const START_DEV: u32 = command(READ_WRITE, 0x06, CONTROL_SIZE);
pub(super) const STOP_DEV: u32 = command(READ_WRITE, 0x07, CONTROL_SIZE);
pub(super) const SET_PARAMS: u32 = command(READ_WRITE, 0x08, CONTROL_SIZE);
pub(super) const GET_FEATURES: u32 = command(READ, 0x13, CONTROL_SIZE);
pub(super) const DEL_DEV_ASYNC: u32 = command(READ, 0x14, CONTROL_SIZE);
pub(super) const UPDATE_SIZE: u32 = command(READ_WRITE, 0x15, CONTROL_SIZE);
pub(super) const FETCH: u32 = command(READ_WRITE, 0x20, IO_SIZE);
pub(super) const COMMIT_AND_FETCH: u32 = command(READ_WRITE, 0x21, IO_SIZE);

/// Command numbers carry their size and direction.
const FLAG_IOCTL_ENCODE: u64 = 1 << 6;
/// Data is copied by pread and pwrite on the character device.
pub(super) const FLAG_USER_COPY: u64 = 1 << 7;

/// A request that the driver gave up: the device stops.
pub(super) const ABORTED: i32 = -libc::ENODEV;

pub(super) const SECTOR: u64 = 512;
/// Most bytes of one read or write.
pub(super) const MAX_IO: u32 = 1 << 20;
/// Most bytes of one discard or zeroing.
const MAX_CLEAR_SECTORS: u32 = 1 << 21;
const MAX_QUEUE_DEPTH: u64 = 4096;
pub(super) const DESCRIPTOR_SIZE: usize = 24;

/// Where the descriptors of queue `queue` begin in the mapping of the character device.
pub(super) const fn descriptors_at(queue: u64) -> u64 {
    // Each queue has room for the largest depth, in whole pages.
    let room = (MAX_QUEUE_DEPTH * DESCRIPTOR_SIZE as u64).next_multiple_of(4096);
    queue * room
}

/// Where the data of a request of queue 0 is read and written on the character device.
pub(super) const fn data_at(tag: u16) -> u64 {
    0x8000_0000 + ((tag as u64) << 25)
}

/// `struct ublksrv_ctrl_cmd`, at the head of the 80 bytes of a long submission entry.
pub(super) fn control(device: u32, buffer: Option<(u64, u16)>, data: u64) -> [u8; 80] {
    let mut bytes = [0; 80];
    bytes[..4].copy_from_slice(&device.to_le_bytes());
    // No queue.
    bytes[4..6].copy_from_slice(&u16::MAX.to_le_bytes());
    if let Some((address, len)) = buffer {
        bytes[6..8].copy_from_slice(&len.to_le_bytes());
        bytes[8..16].copy_from_slice(&address.to_le_bytes());
    }
    bytes[16..24].copy_from_slice(&data.to_le_bytes());
    bytes
}

/// `struct ublksrv_io_cmd` of queue 0.
pub(super) fn io(tag: u16, result: i32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[2..4].copy_from_slice(&tag.to_le_bytes());
    bytes[4..8].copy_from_slice(&result.to_le_bytes());
    bytes
}

/// `struct ublksrv_ctrl_dev_info`.
pub(super) const INFO_SIZE: usize = 64;
const INFO_DEVICE: usize = 12;
const INFO_FLAGS: usize = 24;
const INFO_OURS: usize = 32;

/// A device to be added: one queue, its number chosen by the driver; `ours` is kept for us as it is.
pub(super) fn info(depth: u16, ours: u64) -> [u8; INFO_SIZE] {
    let mut bytes = [0; INFO_SIZE];
    bytes[..2].copy_from_slice(&1u16.to_le_bytes());
    bytes[2..4].copy_from_slice(&depth.to_le_bytes());
    bytes[8..12].copy_from_slice(&MAX_IO.to_le_bytes());
    bytes[INFO_DEVICE..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let flags = FLAG_IOCTL_ENCODE | FLAG_USER_COPY;
    bytes[INFO_FLAGS..32].copy_from_slice(&flags.to_le_bytes());
    bytes[INFO_OURS..40].copy_from_slice(&ours.to_le_bytes());
    bytes
}

/// The number that the driver gave.
pub(super) fn info_device(bytes: &[u8; INFO_SIZE]) -> u32 {
    u32::from_le_bytes([
        bytes[INFO_DEVICE],
        bytes[INFO_DEVICE + 1],
        bytes[INFO_DEVICE + 2],
        bytes[INFO_DEVICE + 3],
    ])
}

pub(super) fn info_ours(bytes: &[u8; INFO_SIZE]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[INFO_OURS..INFO_OURS + 8]);
    u64::from_le_bytes(word)
}

/// `struct ublk_params` with its basic and its discard part.
pub(super) const PARAMS_SIZE: usize = 60;

/// 4096-byte blocks, a volatile cache with FUA, zeroing always, discard if it has a granularity (bytes).
pub(super) fn params(size: u64, discard_granularity: u32) -> [u8; PARAMS_SIZE] {
    const TYPES: u32 = 0b11;
    const VOLATILE_CACHE_AND_FUA: u32 = 0b1100;
    const BLOCK_SHIFT: u8 = 12;
    let mut bytes = [0; PARAMS_SIZE];
    let mut at = 0;
    let mut put = |part: &[u8]| {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    };
    put(&(PARAMS_SIZE as u32).to_le_bytes());
    put(&TYPES.to_le_bytes());
    put(&VOLATILE_CACHE_AND_FUA.to_le_bytes());
    put(&[BLOCK_SHIFT; 4]);
    put(&(MAX_IO / SECTOR as u32).to_le_bytes());
    put(&0u32.to_le_bytes());
    put(&(size / SECTOR).to_le_bytes());
    put(&0u64.to_le_bytes());
    let discard = if discard_granularity == 0 {
        0
    } else {
        MAX_CLEAR_SECTORS
    };
    put(&0u32.to_le_bytes());
    put(&discard_granularity
        .max(super::super::BLOCK_SIZE)
        .to_le_bytes());
    put(&discard.to_le_bytes());
    put(&MAX_CLEAR_SECTORS.to_le_bytes());
    put(&1u16.to_le_bytes());
    put(&0u16.to_le_bytes());
    bytes
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Read,
    Write { fua: bool },
    Flush,
    Discard,
    Zero,
    Unknown(u8),
}

/// `struct ublksrv_io_desc`, offsets and lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub op: Op,
    pub offset: u64,
    pub len: u64,
}

impl Descriptor {
    pub(super) fn parse(bytes: &[u8; DESCRIPTOR_SIZE]) -> Self {
        const FUA: u32 = 1 << 13;
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let flags = word(0);
        let start = u64::from(word(8)) | (u64::from(word(12)) << 32);
        let op = match bytes[0] {
            0 => Op::Read,
            1 => Op::Write {
                fua: flags & FUA != 0,
            },
            2 => Op::Flush,
            3 => Op::Discard,
            5 => Op::Zero,
            other => Op::Unknown(other),
        };
        Self {
            op,
            offset: start.saturating_mul(SECTOR),
            len: u64::from(word(4)) * SECTOR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_numbers_of_the_driver() {
        assert_eq!(ADD_DEV, 0xC020_7504);
        assert_eq!(START_DEV, 0xC020_7506);
        assert_eq!(GET_DEV_INFO, 0x8020_7502);
        assert_eq!(DEL_DEV_ASYNC, 0x8020_7514);
        assert_eq!(FETCH, 0xC010_7520);
        assert_eq!(COMMIT_AND_FETCH, 0xC010_7521);
    }

    #[test]
    fn a_request_is_read_in_bytes_of_the_volume() {
        let mut bytes = [0; DESCRIPTOR_SIZE];
        bytes[..4].copy_from_slice(&(1u32 | 1 << 13).to_le_bytes());
        bytes[4..8].copy_from_slice(&8u32.to_le_bytes());
        bytes[8..16].copy_from_slice(&(1u64 << 33).to_le_bytes());
        assert_eq!(
            Descriptor::parse(&bytes),
            Descriptor {
                op: Op::Write { fua: true },
                offset: 1 << 42,
                len: 4096
            }
        );
        bytes[0] = 99;
        assert_eq!(Descriptor::parse(&bytes).op, Op::Unknown(99));
    }

    #[test]
    fn a_device_carries_its_mark_and_its_number() {
        let mut bytes = info(128, 0xAB);
        assert_eq!((info_ours(&bytes), info_device(&bytes)), (0xAB, u32::MAX));
        bytes[12..16].copy_from_slice(&7u32.to_le_bytes());
        assert_eq!(info_device(&bytes), 7);
    }

    #[test]
    fn parameters_say_blocks_of_4096_bytes_and_the_size_in_sectors() {
        let bytes = params(1 << 30, 65536);
        assert_eq!(bytes[12..16], [12; 4]);
        assert_eq!(bytes[24..32], (2u64 << 20).to_le_bytes());
        assert_eq!(bytes[44..48], 65536u32.to_le_bytes());
        let without = params(1 << 30, 0);
        assert_eq!(without[48..52], [0; 4], "no discard");
        assert_ne!(without[52..56], [0; 4], "zeroing all the same");
    }
}

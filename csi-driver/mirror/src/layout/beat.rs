//! The beat block: rewritten every two seconds on every member while a writer serves.
//!
//! Its epoch also says that somebody served in that epoch, because the first beat of an attach is written after the lease
//! wait (R26).

use twinsite_register::{Epoch, Key, VolumeId};

use super::bytes::{array, blank, open, put, seal, u32_at, u64_at};
use super::{Block, BlockError};

const MAGIC: &[u8; 8] = b"TWINBT01";
const CRC: usize = 8;
const VERSION: usize = 12;
const VOLUME_ID: usize = 16;
const EPOCH: usize = 32;
const ATTACH_KEY: usize = 40;
const BEAT: usize = 48;
const FLUSHED: usize = 56;
const BEAT_VERSION: u32 = 1;

/// One beat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beat {
    /// Which volume.
    pub volume: VolumeId,
    /// In which epoch it was written.
    pub epoch: Epoch,
    /// By which attach; `None` at birth.
    pub attach_key: Option<Key>,
    /// Grows by one when the last one is durable on every member.
    pub beat: u64,
    /// How many guest flushes were answered.
    pub flushed: u64,
}

impl Beat {
    /// The block, with its checksum.
    pub fn emit(&self) -> Block {
        let mut block = blank();
        let b = &mut *block;
        put(b, 0, MAGIC);
        put(b, VERSION, &BEAT_VERSION.to_le_bytes());
        put(b, VOLUME_ID, &self.volume.0);
        put(b, EPOCH, &self.epoch.0.to_le_bytes());
        put(
            b,
            ATTACH_KEY,
            &self
                .attach_key
                .map_or(0, |key| key.attach().to_u64())
                .to_le_bytes(),
        );
        put(b, BEAT, &self.beat.to_le_bytes());
        put(b, FLUSHED, &self.flushed.to_le_bytes());
        seal(b, CRC);
        block
    }

    /// A beat from the bytes of its block.
    pub fn parse(bytes: &[u8]) -> Result<Self, BlockError> {
        let b = open(bytes, MAGIC, CRC)?;
        let version = u32_at(b, VERSION);
        if version != BEAT_VERSION {
            return Err(BlockError::Version(version));
        }
        let key = u64_at(b, ATTACH_KEY);
        Ok(Self {
            volume: VolumeId(array(b, VOLUME_ID)),
            epoch: Epoch(u64_at(b, EPOCH)),
            attach_key: Some(Key::from_u64(key).attach()).filter(|key| key.to_u64() != 0),
            beat: u64_at(b, BEAT),
            flushed: u64_at(b, FLUSHED),
        })
    }
}

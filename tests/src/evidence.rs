//! The evidence of a site's death, as the operator's automatic policy reads it at the witness.
//!
//! A site counts as dead when its liveness object **and** the beat object of its volume have both stood still for
//! `detectAfter`, by the reader's own clock since the last change seen. One that moves is enough to call it alive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use twinsite_witness::register::{BeatObject, GroupId, Register, VolumeId};
use twinsite_witness::{Directory, Liveness, Witness};

use crate::pair::{PAIR, Pair};

/// A reader of a pair's witness, with a thread of its own to wait on.
#[derive(Debug)]
pub struct Reader {
    witness: Witness,
    runtime: tokio::runtime::Runtime,
}

impl Reader {
    /// Opens the directory witness.
    ///
    /// # Errors
    /// The folder is not there.
    pub fn open(pair: &Pair) -> Result<Self> {
        let directory = Directory::open(&pair.witness())?;
        Ok(Self {
            witness: Witness::new(Arc::new(directory), PAIR)?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()?,
        })
    }

    /// The register of the pair's volume.
    ///
    /// # Errors
    /// It cannot be read, or there is none.
    pub fn register(&self, volume: twinsite_api::VolumeId) -> Result<Register> {
        let group = GroupId(volume.bytes());
        self.runtime
            .block_on(self.witness.read(group))
            .context("cannot read the register")?
            .context("there is no register")
    }

    fn beat(&self, volume: twinsite_api::VolumeId) -> Option<BeatObject> {
        self.runtime
            .block_on(self.witness.beat(VolumeId(volume.bytes())))
            .ok()
            .flatten()
    }

    fn liveness(&self, site: &str) -> Option<Liveness> {
        self.runtime
            .block_on(self.witness.liveness(site))
            .ok()
            .flatten()
    }
}

/// What was last seen of a site, and since when it stands still.
#[derive(Debug)]
pub struct Evidence {
    reader: Reader,
    site: usize,
    seen: (Option<Liveness>, Option<BeatObject>),
    still_since: (Instant, Instant),
}

impl Evidence {
    /// Begins to watch a site.
    ///
    /// # Errors
    /// The witness cannot be opened.
    pub fn new(pair: &Pair, site: usize) -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            reader: Reader::open(pair)?,
            site,
            seen: (None, None),
            still_since: (now, now),
        })
    }

    /// Looks once; whether everything has stood still for `detect_after`.
    pub fn complete(&mut self, pair: &Pair, detect_after: Duration) -> bool {
        let now = Instant::now();
        let liveness = self.reader.liveness(&pair.sites[self.site].name);
        let beat = self.reader.beat(pair.volume);
        if liveness != self.seen.0 {
            self.seen.0 = liveness;
            self.still_since.0 = now;
        }
        if beat != self.seen.1 {
            self.seen.1 = beat;
            self.still_since.1 = now;
        }
        now - self.still_since.0.max(self.still_since.1) >= detect_after
    }
}

//! A witness for threads that are not tokio's: the request goes to the control runtime, the answer
//! to a callback there, which hands it to the thread's inbox.
//!
//! Requests of one caller may be answered in any order, and a dropped callback is never called:
//! both are as if the network had done it.

use std::sync::Arc;

use tokio::runtime::Handle;
use twinsite_register::{BeatObject, GroupId, Register, VolumeId};

use crate::witness::{ReadError, Swap, Witness};

/// A witness and the runtime on which its requests run.
#[derive(Clone, Debug)]
pub struct WitnessHandle {
    witness: Arc<Witness>,
    runtime: Handle,
}

impl WitnessHandle {
    pub fn new(witness: Arc<Witness>, runtime: Handle) -> Self {
        Self { witness, runtime }
    }

    pub fn witness(&self) -> &Arc<Witness> {
        &self.witness
    }

    /// Reads a register, linearizably.
    pub fn read(
        &self,
        group: GroupId,
        reply: impl FnOnce(Result<Option<Register>, ReadError>) + Send + 'static,
    ) {
        let witness = Arc::clone(&self.witness);
        self.runtime
            .spawn(async move { reply(witness.read(group).await) });
    }

    /// Compare-and-swap of a whole register.
    pub fn swap(
        &self,
        expected: Register,
        new: Register,
        reply: impl FnOnce(Swap) + Send + 'static,
    ) {
        let witness = Arc::clone(&self.witness);
        self.runtime
            .spawn(async move { reply(witness.swap(&expected, &new).await) });
    }

    /// Create-if-absent of a register.
    pub fn create(&self, new: Register, reply: impl FnOnce(Swap) + Send + 'static) {
        let witness = Arc::clone(&self.witness);
        self.runtime
            .spawn(async move { reply(witness.create(&new).await) });
    }

    /// Reads the beat object of a volume.
    pub fn beat(
        &self,
        volume: VolumeId,
        reply: impl FnOnce(Result<Option<BeatObject>, ReadError>) + Send + 'static,
    ) {
        let witness = Arc::clone(&self.witness);
        self.runtime
            .spawn(async move { reply(witness.beat(volume).await) });
    }

    /// Writes a beat as a maximum, with best effort.
    pub fn write_beat(&self, volume: VolumeId, beat: BeatObject) {
        let witness = Arc::clone(&self.witness);
        self.runtime.spawn(async move {
            if let Err(error) = witness.write_beat(volume, beat).await {
                tracing::debug!(%volume, %error, "beat not written");
            }
        });
    }
}

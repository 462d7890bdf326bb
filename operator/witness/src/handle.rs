//! A witness for threads that are not tokio's: the request goes to the control runtime, the answer
//! to a callback there, which hands it to the thread's inbox.
//!
//! Requests of one caller may be answered in any order, and a dropped callback is never called:
//! both are as if the network had done it.

use std::sync::Arc;

use tokio::runtime::Handle;
use twinsite_register::{BeatObject, GroupId, Register, VolumeId};

use crate::witness::{ReadError, Swap, Witness};

/// Called with every register that was read or written, before the answer is given.
pub type Observer = Arc<dyn Fn(&Register) + Send + Sync>;

/// A witness and the runtime on which its requests run.
#[derive(Clone)]
pub struct WitnessHandle {
    witness: Arc<Witness>,
    runtime: Handle,
    observer: Option<Observer>,
}

impl WitnessHandle {
    pub fn new(witness: Arc<Witness>, runtime: Handle) -> Self {
        Self {
            witness,
            runtime,
            observer: None,
        }
    }

    /// The same, and somebody watches what is read and written. It may block.
    #[must_use]
    pub fn observed_by(self, observer: Observer) -> Self {
        Self {
            observer: Some(observer),
            ..self
        }
    }

    async fn observe(observer: Option<Observer>, register: &Register) {
        if let Some(observer) = observer {
            let register = register.clone();
            // A panic of the observer has been printed; the answer is good without it.
            let _ended = tokio::task::spawn_blocking(move || observer(&register)).await;
        }
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
        let observer = self.observer.clone();
        self.runtime.spawn(async move {
            let read = witness.read(group).await;
            if let Ok(Some(register)) = &read {
                Self::observe(observer, register).await;
            }
            reply(read);
        });
    }

    /// Compare-and-swap of a whole register.
    pub fn swap(
        &self,
        expected: Register,
        new: Register,
        reply: impl FnOnce(Swap) + Send + 'static,
    ) {
        let witness = Arc::clone(&self.witness);
        let observer = self.observer.clone();
        self.runtime.spawn(async move {
            let swap = witness.swap(&expected, &new).await;
            if swap == Swap::Won {
                Self::observe(observer, &new).await;
            }
            reply(swap);
        });
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

impl std::fmt::Debug for WitnessHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.witness.fmt(f)
    }
}

//! Does a store keep its conditions? Asked at start, before a register is trusted to it.
//!
//! Stores that call themselves S3-compatible have ignored conditional puts, let a swap of an absent
//! key succeed, or answered two racing puts with success. Each would give two sites one volume.
//! The probe does what the register will do, on objects of its own, and looks at the result.

use std::{collections::hash_map::RandomState, hash::BuildHasher, sync::Arc};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::store::{Care, Condition, ObjectName, Store, StoreError, Version, Versioned, Written};

const RACERS: usize = 8;
const ROUNDS: usize = 4;

/// Why a store is not used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Try again later.
    #[error("the witness store {place} cannot be probed now: {what}")]
    Unreachable { place: String, what: String },
    /// Never use it.
    #[error(
        "the witness store {place} does not keep its conditions ({what}): a register there could give two sites the same volume; use another store or a newer version of it"
    )]
    Unsafe { place: String, what: &'static str },
}

/// Tries every condition that the register needs; leaves nothing behind.
pub async fn probe(store: Arc<dyn Store>) -> Result<(), ProbeError> {
    let nonce = RandomState::new().hash_one(std::process::id());
    let name = |part: &str| {
        ObjectName::new(&["probe", &format!("{nonce:016x}-{part}")]).expect("hex and a fixed word")
    };
    let (swapped, absent) = (name("swapped"), name("absent"));
    let run = Run {
        store: Arc::clone(&store),
    };
    let verdict = run.all(&swapped, &absent).await;
    store.remove(&swapped).await;
    store.remove(&absent).await;
    verdict
}

struct Run {
    store: Arc<dyn Store>,
}

impl Run {
    async fn all(&self, swapped: &ObjectName, absent: &ObjectName) -> Result<(), ProbeError> {
        self.must_be_done(swapped, "first", Condition::Absent, "a create failed")
            .await?;
        self.must_be_refused(
            swapped,
            "second",
            Condition::Absent,
            "a second create was not refused",
        )
        .await?;
        let first = self
            .must_hold(swapped, "first", "a refused create changed the object")
            .await?;
        let good = Condition::Unchanged(first.version.clone());
        self.must_be_done(
            swapped,
            "third",
            good.clone(),
            "a swap on the current version was refused",
        )
        .await?;
        self.must_be_refused(
            swapped,
            "fourth",
            good.clone(),
            "a swap on an old version was not refused",
        )
        .await?;
        self.must_hold(swapped, "third", "a refused swap changed the object")
            .await?;
        self.must_be_refused(
            absent,
            "fifth",
            good,
            "a swap of an absent object was not refused",
        )
        .await?;
        if self.read(absent).await?.is_some() {
            return Err(self.unsafe_("a refused swap made an object"));
        }
        for _ in 0..ROUNDS {
            self.race(swapped).await?;
        }
        Ok(())
    }

    /// Several swaps on one version at once: exactly one wins, and the object is the winner's.
    async fn race(&self, name: &ObjectName) -> Result<(), ProbeError> {
        let Some(Versioned {
            version: Version(version),
            ..
        }) = self.read(name).await?
        else {
            return Err(self.unsafe_("an object went away"));
        };
        let mut racers = JoinSet::new();
        for racer in 0..RACERS {
            let (store, name) = (Arc::clone(&self.store), name.clone());
            let condition = Condition::Unchanged(Version(version.clone()));
            racers.spawn(async move {
                let bytes = Bytes::from(format!(
                    "racer {racer} after {}",
                    condition_text(&condition)
                ));
                (
                    bytes.clone(),
                    store.write(&name, bytes, condition, Care::Durable).await,
                )
            });
        }
        let mut winners = Vec::new();
        let mut unknown = None;
        while let Some(joined) = racers.join_next().await {
            match joined {
                Ok((bytes, Written::Done)) => winners.push(bytes),
                Ok((_, Written::Refused)) => {}
                Ok((_, Written::Unknown(what))) => unknown = Some(what),
                Err(error) => unknown = Some(error.to_string()),
            }
        }
        let stored = self.read(name).await?.map(|stored| stored.bytes);
        match (winners.as_slice(), unknown) {
            ([_, _, ..], _) => Err(self.unsafe_("two racing swaps of one version both succeeded")),
            ([winner], _) if Some(winner) == stored.as_ref() => Ok(()),
            ([_], None) => Err(self.unsafe_("the object is not what the winner of a race wrote")),
            // 409 for all of them: no harm, but also no proof; an unknown one may have won unseen.
            ([] | [_], Some(what)) => Err(self.unreachable(what)),
            ([], None) => Ok(()),
        }
    }

    async fn must_be_done(
        &self,
        name: &ObjectName,
        text: &'static str,
        condition: Condition,
        what: &'static str,
    ) -> Result<(), ProbeError> {
        match self.write(name, text, condition).await {
            Written::Done => Ok(()),
            Written::Refused => Err(self.unsafe_(what)),
            Written::Unknown(what) => Err(self.unreachable(what)),
        }
    }

    async fn must_be_refused(
        &self,
        name: &ObjectName,
        text: &'static str,
        condition: Condition,
        what: &'static str,
    ) -> Result<(), ProbeError> {
        match self.write(name, text, condition).await {
            Written::Refused => Ok(()),
            Written::Done => Err(self.unsafe_(what)),
            Written::Unknown(what) => Err(self.unreachable(what)),
        }
    }

    async fn must_hold(
        &self,
        name: &ObjectName,
        text: &'static str,
        what: &'static str,
    ) -> Result<Versioned, ProbeError> {
        match self.read(name).await? {
            Some(stored) if stored.bytes == text.as_bytes() => Ok(stored),
            Some(_) | None => Err(self.unsafe_(what)),
        }
    }

    async fn read(&self, name: &ObjectName) -> Result<Option<Versioned>, ProbeError> {
        self.store
            .read(name, Care::Durable)
            .await
            .map_err(|error: StoreError| self.unreachable(error.to_string()))
    }

    async fn write(&self, name: &ObjectName, text: &'static str, condition: Condition) -> Written {
        self.store
            .write(
                name,
                Bytes::from_static(text.as_bytes()),
                condition,
                Care::Durable,
            )
            .await
    }

    fn unsafe_(&self, what: &'static str) -> ProbeError {
        ProbeError::Unsafe {
            place: self.store.place(),
            what,
        }
    }

    fn unreachable(&self, what: String) -> ProbeError {
        ProbeError::Unreachable {
            place: self.store.place(),
            what,
        }
    }
}

fn condition_text(condition: &Condition) -> &str {
    match condition {
        Condition::Unchanged(Version(version)) => version,
        Condition::Absent | Condition::Any => "",
    }
}

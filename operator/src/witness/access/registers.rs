//! What the leader reads: registers, each judged by its mark, and beats.

use std::sync::{Arc, Mutex};

use futures::{StreamExt as _, stream::FuturesUnordered};
use k8s_openapi::jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};
use twinsite_register::{GroupId, Register, VolumeId};
use twinsite_witness::ReadError;

use super::{
    super::marks::{MarkStore, Marks, held},
    Content, HASTE, PULSE, RETRY, Reading, SUSPICION, Share, Told,
};

/// Reads of registers, and of beats, at the same time.
const CONCURRENT: usize = 8;
/// Beats that are read per second while the other site shows life.
const BEATS_PER_SECOND: usize = 200;

impl Share {
    pub(super) async fn read_for_ever(self, store: MarkStore) {
        self.admission().await;
        let marks = loop {
            match store.load().await {
                Ok(marks) => break Arc::new(Mutex::new(marks)),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the marks cannot be read: no register is believed until they are"
                    );
                    sleep(RETRY).await;
                }
            }
        };
        self.inner().marks = Some(Arc::clone(&marks));
        let mut reads = FuturesUnordered::new();
        let mut flush = Instant::now() + PULSE;
        loop {
            let now = Instant::now();
            if now >= flush {
                flush_marks(&store, &marks).await;
                flush = Instant::now() + PULSE;
                continue;
            }
            let silent = self.inner().link.silent.is_some();
            if reads.len() < CONCURRENT
                && !silent
                && self.is_ours()
                && let Some(group) = self.take(now)
            {
                let witness = self.witness.clone();
                reads.push(async move { (group, witness.read(group).await) });
                continue;
            }
            let next = if silent || reads.len() >= CONCURRENT {
                flush
            } else {
                self.inner().schedule.next().unwrap_or(flush).min(flush)
            };
            tokio::select! {
                Some((group, read)) = reads.next() => {
                    if let Err(ReadError::Unreachable(why)) = &read {
                        self.silence(why.clone());
                    }
                    self.learn(group, read);
                    self.inner().schedule.read(Instant::now(), group);
                }
                () = sleep_until(next) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    pub(super) fn take(&self, now: Instant) -> Option<GroupId> {
        self.inner().schedule.take(now)
    }

    /// Remembers what a read brought.
    pub(super) fn learn(&self, group: GroupId, read: Result<Option<Register>, ReadError>) {
        let changed = {
            let mut inner = self.inner();
            let inner = &mut *inner;
            let (content, class) = match read {
                Ok(register) => {
                    let Some(marks) = &inner.marks else {
                        return;
                    };
                    let class = held(marks).see(group, register.as_ref());
                    let content = register.map_or(Content::Absent, |register| {
                        Content::Register(Box::new(register))
                    });
                    (content, Some(class))
                }
                Err(ReadError::Corrupt { what, .. }) => (Content::Unusable(what), None),
                Err(ReadError::Unreachable(_)) => return,
            };
            let reading = Reading {
                content,
                class,
                at: Instant::now(),
                read_at: Timestamp::now(),
            };
            let before = inner.readings.insert(group, reading.clone());
            before.is_none_or(|before| {
                (before.content, before.class) != (reading.content, reading.class)
            })
        };
        if changed {
            (self.tell)(Told::Group(group));
        }
    }

    /// Beats of attached volumes: some each second while the other site lives, all while it stands still.
    pub(super) async fn beats_for_ever(self) {
        self.admission().await;
        let mut last: Option<VolumeId> = None;
        loop {
            let started = Instant::now();
            let (volumes, all) = {
                let inner = self.inner();
                let still = inner
                    .liveness
                    .age(started)
                    .is_some_and(|age| age >= SUSPICION);
                let after = inner
                    .beats
                    .keys()
                    .filter(|id| last.is_none_or(|last| **id > last));
                let before = inner
                    .beats
                    .keys()
                    .filter(|id| last.is_some_and(|last| **id <= last));
                let all: Vec<VolumeId> = after.chain(before).copied().collect();
                (all, still)
            };
            let share = if all {
                volumes.len()
            } else {
                volumes.len().min(BEATS_PER_SECOND)
            };
            last = volumes.get(share.saturating_sub(1)).copied();
            let reads = futures::stream::iter(volumes.into_iter().take(share)).map(|volume| {
                let witness = self.witness.clone();
                async move {
                    let asked = Instant::now();
                    (volume, asked, witness.beat(volume).await)
                }
            });
            let mut reads = std::pin::pin!(reads.buffer_unordered(CONCURRENT));
            while let Some((volume, asked, read)) = reads.next().await {
                let failed = matches!(read, Err(ReadError::Unreachable(_)));
                if let Some(still) = self.inner().beats.get_mut(&volume) {
                    match read {
                        Ok(beat) => still.saw(asked, Instant::now(), beat),
                        Err(_) => still.blind(),
                    }
                }
                if failed {
                    break;
                }
            }
            let pulse = if all { HASTE } else { PULSE };
            sleep(pulse.saturating_sub(started.elapsed())).await;
        }
    }
}

async fn flush_marks(store: &MarkStore, marks: &Mutex<Marks>) {
    if held(marks).is_dirty()
        && let Err(error) = store.flush(marks).await
    {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the marks could not be written: trying again"
        );
    }
}

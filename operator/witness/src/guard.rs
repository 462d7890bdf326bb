//! A store that may not be used before it was probed.
//!
//! An agent must come up while its witness is away, and must not trust a store that it has not yet
//! seen keep its conditions: until then the store counts as unreachable. Its credentials may be renewed
//! under those who use it: an open mirror keeps its witness for months, a token does not live so long.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use crate::{
    probe::{ProbeError, probe},
    store::{Care, Condition, ObjectName, Pending, Store, StoreError, Versioned, Written},
};

/// A store behind its probe.
pub struct Guard {
    store: RwLock<Arc<dyn Store>>,
    /// Why it may not be used; `None`: it may.
    closed: RwLock<Option<String>>,
}

impl Guard {
    pub fn new(store: Arc<dyn Store>) -> Self {
        let closed = RwLock::new(Some("the store has not been probed yet".to_owned()));
        Self {
            store: RwLock::new(store),
            closed,
        }
    }

    /// The same place by other credentials. Requests under way end as they began.
    pub fn renew(&self, store: Arc<dyn Store>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Probes the store and opens it if it passes. `Unreachable`: try again later.
    pub async fn admit(&self) -> Result<(), ProbeError> {
        let verdict = probe(self.store()).await;
        let closed = verdict.as_ref().err().map(ToString::to_string);
        *self.closed.write().unwrap_or_else(PoisonError::into_inner) = closed;
        verdict
    }

    fn closed(&self) -> Option<String> {
        self.closed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Store for Guard {
    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        care: Care,
    ) -> Pending<'a, Result<Option<Versioned>, StoreError>> {
        match self.closed() {
            Some(why) => Box::pin(async { Err(StoreError::Unreachable(why)) }),
            None => {
                let store = self.store();
                Box::pin(async move { store.read(name, care).await })
            }
        }
    }

    fn write<'a>(
        &'a self,
        name: &'a ObjectName,
        bytes: Bytes,
        condition: Condition,
        care: Care,
    ) -> Pending<'a, Written> {
        match self.closed() {
            Some(why) => Box::pin(async { Written::Unknown(why) }),
            None => {
                let store = self.store();
                Box::pin(async move { store.write(name, bytes, condition, care).await })
            }
        }
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> Pending<'a, ()> {
        let store = self.store();
        Box::pin(async move { store.remove(name).await })
    }

    fn place(&self) -> String {
        self.store().place()
    }
}

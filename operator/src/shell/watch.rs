//! Keeps a copy of objects of one kind, and says what changed.
//!
//! A copy comes up when the API server answers and stays when it goes away: the watch is repeated with a bounded wait for
//! ever, and [`Freshness`] says since when it has failed. After a failure the list is read anew: a watch that is merely taken up
//! again says nothing until something changes, and a quiet kind would count as failing for ever. An object that cannot be read stands
//! as it was when it could be, and is told of in [`Copy::odd`]. Managed fields are dropped from every copy: they are half of its size.

use std::{
    fmt,
    future::ready,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Api, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _, reflector,
        reflector::{ObjectRef, Store},
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use twinsite_api::Seen;

use super::{odd::Odd, patience::Patience};

/// First and longest wait before a failed watch is repeated.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// The server ends a watch after this time, in seconds; a dead connection is found 5 s later.
const WATCH_SECONDS: u32 = 60;
/// Objects per answer of a list.
const PAGE: u32 = 500;

/// How a copy is doing.
#[derive(Clone, Debug, Default)]
pub struct Freshness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    complete: bool,
    failing: Option<(Instant, String)>,
}

impl Freshness {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the copy was complete once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.with(|state| state.complete)
    }

    /// Since when the watch fails, and why.
    #[must_use]
    pub fn failing(&self) -> Option<(Duration, String)> {
        self.with(|state| {
            let (since, why) = state.failing.as_ref()?;
            Some((since.elapsed(), why.clone()))
        })
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there, new or other than before.
    Applied,
    /// It is gone.
    Deleted,
    /// The copy was made anew; what is there and what is gone is told next, one by one.
    Listed,
}

/// A copy of the objects of one kind, for as long as it lives.
pub struct Copy<K: 'static + Resource<DynamicType = ()>> {
    pub store: Store<K>,
    pub sync: Freshness,
    /// Objects of which not everything can be read.
    pub odd: Odd,
    task: JoinHandle<()>,
}

impl<K: 'static + Resource<DynamicType = ()>> Copy<K> {
    /// Ends the watch; what was seen stays.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl<K: 'static + Resource<DynamicType = ()>> Drop for Copy<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K: Resource<DynamicType = ()>> fmt::Debug for Copy<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Copy({})", K::kind(&()))
    }
}

/// Starts a copy. `tell` hears of every change, after the copy has it; of [`Change::Listed`] without an object.
pub fn copy<K>(
    api: Api<Seen<K>>,
    config: watcher::Config,
    tell: impl Fn(Change, Option<&K>, &Store<K>) + Send + 'static,
) -> Copy<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static,
{
    copy_thinned(api, config, |_| {}, tell)
}

/// The same, of thinned objects.
pub fn copy_thinned<K>(
    api: Api<Seen<K>>,
    config: watcher::Config,
    thin: impl Fn(&mut K) + Send + 'static,
    tell: impl Fn(Change, Option<&K>, &Store<K>) + Send + 'static,
) -> Copy<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let sync = Freshness::default();
    let (told, seen) = (sync.clone(), store.clone());
    let config = config.timeout(WATCH_SECONDS).page_size(PAGE);
    let odd = Odd::default();
    let (sorter, last) = (odd.clone(), store.clone());
    let stream = anew_after_failure(move || watcher::watcher(api.clone(), config.clone()))
        .filter_map(move |event| {
            let event = match event {
                Ok(event) => sorter.sort(event, |seen| found(&last, seen)).map(Ok),
                Err(error) => Some(Err(error)),
            };
            ready(event)
        })
        .modify(move |object: &mut K| {
            object.managed_fields_mut().clear();
            thin(object);
        })
        .backoff(Patience::new(BACKOFF.0, BACKOFF.1));
    let mut before = Vec::new();
    let task = tokio::spawn(reflector(writer, stream).for_each(move |event| {
        match event {
            Ok(event) => {
                // The first event of a new try comes before its first answer.
                let is_answer = !matches!(event, Event::Init);
                let recovered = told.with(|state| is_answer.then(|| state.failing.take()).flatten());
                if let Some((since, _)) = recovered {
                    tracing::info!(kind = %K::kind(&()), seconds = since.elapsed().as_secs(), "the API server answers again");
                }
                match event {
                    Event::Apply(object) => tell(Change::Applied, Some(&object), &seen),
                    Event::Delete(object) => tell(Change::Deleted, Some(&object), &seen),
                    Event::Init => before = seen.state(),
                    // The copy has it only once the list is complete.
                    Event::InitApply(_) => {}
                    Event::InitDone => {
                        told.with(|state| state.complete = true);
                        listed(&std::mem::take(&mut before), &seen, &tell);
                    }
                }
            }
            Err(error) => {
                let first = told.with(|state| {
                    let first = state.failing.is_none();
                    let since = state.failing.take().map_or_else(Instant::now, |(since, _)| since);
                    state.failing = Some((since, plain(&error)));
                    first
                });
                if first {
                    let error = plain(&error);
                    tracing::warn!(kind = %K::kind(&()), error, "the API server cannot be watched: trying again for ever");
                }
            }
        }
        ready(())
    }));
    Copy {
        store,
        sync,
        odd,
        task,
    }
}

/// Why a watch ended. What an API server answers is told in its sentence, without the whole of its answer.
fn plain(error: &watcher::Error) -> String {
    let cause = match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => cause,
        watcher::Error::WatchError(status) => return status.message.clone(),
        watcher::Error::NoResourceVersion => return error.to_string(),
    };
    match cause {
        kube::Error::Api(status) => status.message.clone(),
        other => twinsite_api::told(other),
    }
}

/// The object as the copy has it.
fn found<K>(store: &Store<K>, seen: &Seen<K>) -> Option<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut wanted = ObjectRef::<K>::new(&seen.name_any());
    if let Some(namespace) = seen.namespace() {
        wanted = wanted.within(&namespace);
    }
    store.get(&wanted).map(|found| (*found).clone())
}

/// What `make` gives, made anew after each failure that it tells. What failed is not asked again: it might stay silent.
fn anew_after_failure<S, T, E>(make: impl FnMut() -> S) -> impl Stream<Item = Result<T, E>>
where
    S: Stream<Item = Result<T, E>>,
{
    stream::repeat_with(make).flat_map(|one| {
        stream::unfold(Some(Box::pin(one)), |one| async {
            let mut one = one?;
            let item = one.next().await?;
            let goes_on = item.is_ok().then_some(one);
            Some((item, goes_on))
        })
    })
}

/// What a complete list changed: every object may be another one, and some are gone.
fn listed<K>(before: &[Arc<K>], store: &Store<K>, tell: &impl Fn(Change, Option<&K>, &Store<K>))
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    tell(Change::Listed, None, store);
    for object in store.state() {
        tell(Change::Applied, Some(&object), store);
    }
    for object in before {
        if store.get(&ObjectRef::from_obj(&**object)).is_none() {
            tell(Change::Deleted, Some(object), store);
        }
    }
}

/// Why a request to an API server brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer in {} s", .0.as_secs())]
    Timeout(Duration),
}

impl RequestError {
    /// The HTTP status that the server gave.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            Self::Api(_) | Self::Timeout(_) => None,
        }
    }
}

/// The limit of one request to an API server.
pub const REQUEST: Duration = Duration::from_secs(10);

/// A request with its deadline.
///
/// # Errors
/// The server refuses, or does not answer in [`REQUEST`].
pub async fn within<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, RequestError> {
    match timeout(REQUEST, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RequestError::Timeout(REQUEST)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn after_a_failure_everything_is_read_anew() {
        let mut made = 0;
        let told = anew_after_failure(|| {
            made += 1;
            // A quiet kind: taken up again, the watch would say nothing until something changes.
            stream::iter([Ok((made, "list")), Err("gone")]).chain(stream::pending())
        });
        let told: Vec<_> = told.take(4).collect().await;
        let list = |made| Ok((made, "list"));
        assert_eq!(told, [list(1), Err("gone"), list(2), Err("gone")]);
    }
}

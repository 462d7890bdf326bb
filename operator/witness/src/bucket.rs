//! The witness in a bucket of an S3-compatible store, by conditional puts.
//!
//! The library's own retries are off: a put that is sent twice could be refused the second time
//! because the first one won. What a store answers to a conditional put is only a hint here (412,
//! 404 or 409, depending on the make): [`crate::Witness`] reads after every refusal.
//! Not here: whether the store keeps its conditions ([`crate::probe`]).

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use object_store::{
    ClientOptions, Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    RetryConfig, UpdateVersion,
    aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut},
    path::Path,
};

use crate::{
    store::{Care, Condition, ObjectName, Pending, Store, StoreError, Version, Versioned, Written},
    witness::REQUEST_TIMEOUT,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A store in a bucket.
pub struct Bucket {
    store: Arc<AmazonS3>,
    prefix: String,
    place: String,
}

/// What the store's Secret holds.
#[derive(Clone)]
pub struct BucketCredentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    /// `us-east-1` if the store does not care.
    pub region: Option<String>,
}

impl fmt::Debug for BucketCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BucketCredentials({})", self.access_key_id)
    }
}

/// Why a bucket cannot be a witness.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("{0:?} is no bucket: write https://host/bucket/prefix, or s3://bucket/prefix for AWS")]
    Url(String),
    #[error("the bucket cannot be used")]
    Store(#[source] Error),
}

struct Address {
    endpoint: Option<String>,
    bucket: String,
    prefix: String,
}

fn address(url: &str) -> Option<Address> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.trim_end_matches('/');
    let (endpoint, rest) = match scheme {
        "s3" => (None, rest),
        "http" | "https" => {
            let (host, rest) = rest.split_once('/')?;
            if host.is_empty() || host.contains('@') {
                return None;
            }
            (Some(format!("{scheme}://{host}")), rest)
        }
        _ => return None,
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let clean = |text: &str| !text.contains(['?', '#', ' ']);
    (!bucket.is_empty() && clean(bucket) && clean(prefix)).then(|| Address {
        endpoint,
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    })
}

impl Bucket {
    /// `https://host/bucket/prefix`, or `s3://bucket/prefix` for AWS.
    pub fn open(url: &str, credentials: &BucketCredentials) -> Result<Self, BucketError> {
        let Address {
            endpoint,
            bucket,
            prefix,
        } = address(url).ok_or_else(|| BucketError::Url(url.to_owned()))?;
        // The HTTP client is built without a crypto library of its own; a second call changes nothing.
        let _already_set = rustls::crypto::ring::default_provider().install_default();
        let http = endpoint
            .as_deref()
            .is_some_and(|endpoint| endpoint.starts_with("http://"));
        let client = ClientOptions::new()
            .with_allow_http(http)
            .with_timeout(REQUEST_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT);
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&bucket)
            .with_access_key_id(&credentials.access_key_id)
            .with_secret_access_key(&credentials.secret_access_key)
            .with_region(credentials.region.as_deref().unwrap_or("us-east-1"))
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_client_options(client)
            .with_retry(RetryConfig {
                max_retries: 0,
                retry_timeout: REQUEST_TIMEOUT,
                ..RetryConfig::default()
            });
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let store = builder.build().map_err(BucketError::Store)?;
        Ok(Self {
            store: Arc::new(store),
            prefix,
            place: url.to_owned(),
        })
    }

    fn path(&self, name: &ObjectName) -> Path {
        if self.prefix.is_empty() {
            return Path::from(name.as_str());
        }
        Path::from(format!("{}/{name}", self.prefix))
    }

    async fn fetch(&self, name: &ObjectName) -> Result<Option<Versioned>, StoreError> {
        let unreachable = |error: Error| StoreError::Unreachable(error.to_string());
        let found = match self
            .store
            .get_opts(&self.path(name), GetOptions::default())
            .await
        {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(unreachable(error)),
        };
        let Some(etag) = found.meta.e_tag.clone() else {
            return Err(StoreError::Corrupt {
                name: name.to_string(),
                what: "the store gave no ETag".to_owned(),
            });
        };
        let bytes = found.bytes().await.map_err(unreachable)?;
        Ok(Some(Versioned {
            bytes,
            version: Version(etag),
        }))
    }

    async fn put(&self, name: &ObjectName, bytes: Bytes, condition: Condition) -> Written {
        let mode = match condition {
            Condition::Absent => PutMode::Create,
            Condition::Any => PutMode::Overwrite,
            Condition::Unchanged(Version(etag)) => PutMode::Update(UpdateVersion {
                e_tag: Some(etag),
                version: None,
            }),
        };
        let options = PutOptions {
            mode,
            ..PutOptions::default()
        };
        match self
            .store
            .put_opts(&self.path(name), PutPayload::from_bytes(bytes), options)
            .await
        {
            Ok(_) => Written::Done,
            // 412, 404 and 409, which some stores answer to one of two racing puts.
            Err(
                Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotFound { .. },
            ) => Written::Refused,
            Err(error) => Written::Unknown(error.to_string()),
        }
    }
}

impl Store for Bucket {
    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        _: Care,
    ) -> Pending<'a, Result<Option<Versioned>, StoreError>> {
        Box::pin(self.fetch(name))
    }

    fn write<'a>(
        &'a self,
        name: &'a ObjectName,
        bytes: Bytes,
        condition: Condition,
        _: Care,
    ) -> Pending<'a, Written> {
        Box::pin(self.put(name, bytes, condition))
    }

    fn remove<'a>(&'a self, name: &'a ObjectName) -> Pending<'a, ()> {
        Box::pin(async move {
            if let Err(error) = self.store.delete(&self.path(name)).await {
                tracing::debug!(%name, %error, "object not removed");
            }
        })
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_endpoint_bucket_and_prefix() {
        let parts =
            |url| address(url).map(|a| (a.endpoint.unwrap_or_default(), a.bucket, a.prefix));
        let some = |endpoint: &str, bucket: &str, prefix: &str| {
            Some((endpoint.to_owned(), bucket.to_owned(), prefix.to_owned()))
        };
        assert_eq!(parts("s3://b"), some("", "b", ""));
        assert_eq!(parts("s3://b/p/q/"), some("", "b", "p/q"));
        assert_eq!(
            parts("http://127.0.0.1:7070/b"),
            some("http://127.0.0.1:7070", "b", "")
        );
        assert_eq!(
            parts("https://s3.example.org/b/p"),
            some("https://s3.example.org", "b", "p")
        );
        for bad in [
            "",
            "b/p",
            "ftp://h/b",
            "https://h",
            "https:///b",
            "s3://",
            "https://u:p@h/b",
            "s3://b?x=1",
        ] {
            assert!(address(bad).is_none(), "{bad}");
        }
    }
}

//! The objects of one pair of sites in a store.
//!
//! Invariants: a register is only written on condition that the stored value is the expected one;
//! a swap whose value is already stored is won, so that the same request may be repeated byte for
//! byte; every request ends within [`REQUEST_TIMEOUT`].
//! A register is taken away by swapping it for an empty object: a plain delete could hit one that
//! somebody just created.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use twinsite_register::{BeatObject, GroupId, Register, Site, VolumeId};

use crate::{
    claim::{Claim, ClaimError, Sites},
    store::{Care, Condition, ObjectName, Store, StoreError, Versioned, Written, is_segment},
};

/// The limit of one request to the witness (protocol 2.15).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a claim or a beat is tried again when somebody else wrote in between.
const MAX_ROUNDS: u32 = 32;
/// How often a beat of unknown outcome is looked at again; each may cost [`REQUEST_TIMEOUT`].
const MAX_UNCLEAR: u32 = 3;

/// The witness of one pair of sites.
#[derive(Clone)]
pub struct Witness {
    store: Arc<dyn Store>,
    pair: String,
}

/// What became of a compare-and-swap of a register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Swap {
    /// The new value is stored.
    Won,
    /// Another value is stored; `None`: there is no register. Not proof that this request never happened.
    Conflict(Option<Box<Register>>),
    /// It may have happened, and it may still happen.
    Unknown(String),
}

/// Why a register or another object could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the witness does not answer: {0}")]
    Unreachable(String),
    #[error("the witness object {name} cannot be used: {what}")]
    Corrupt { name: String, what: String },
}

/// Why evidence could not be written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("could not write {name} at the witness: {what}")]
pub struct WriteError {
    name: String,
    what: String,
}

/// A sign of life of a site. Only that it changed counts, by the reader's own clock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Liveness {
    /// Who wrote it: any agent, or the operator, of the site.
    pub writer: String,
    /// Other than the last one.
    pub nonce: u64,
}

/// A pair name that cannot name objects.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} cannot be the name of a SitePair: only lower-case letters, digits, '-' and '.'")]
pub struct BadPairName(String);

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreachable(what) => Self::Unreachable(what),
            StoreError::Corrupt { name, what } => Self::Corrupt { name, what },
        }
    }
}

impl Witness {
    /// The objects of this pair in a store. A store that several clients can reach should have been
    /// through [`crate::probe`].
    pub fn new(store: Arc<dyn Store>, pair: &str) -> Result<Self, BadPairName> {
        if !is_segment(pair) {
            return Err(BadPairName(pair.to_owned()));
        }
        Ok(Self {
            store,
            pair: pair.to_owned(),
        })
    }

    /// Where it is, for messages.
    pub fn place(&self) -> String {
        self.store.place()
    }

    /// The register of a group, linearizably; `None`: there is none.
    pub async fn read(&self, group: GroupId) -> Result<Option<Register>, ReadError> {
        let name = self.register_name(group);
        match self.fetch(&name, Care::Durable).await? {
            Some(stored) => parse_register(&name, &stored.bytes, group),
            None => Ok(None),
        }
    }

    /// Create-if-absent.
    pub async fn create(&self, new: &Register) -> Swap {
        self.replace(None, Some(new), new.group).await
    }

    /// Compare-and-swap of the whole value.
    pub async fn swap(&self, expected: &Register, new: &Register) -> Swap {
        self.replace(Some(expected), Some(new), expected.group)
            .await
    }

    /// Takes a register away, if it is the expected one.
    pub async fn remove(&self, expected: &Register) -> Swap {
        self.replace(Some(expected), None, expected.group).await
    }

    async fn replace(
        &self,
        expected: Option<&Register>,
        new: Option<&Register>,
        group: GroupId,
    ) -> Swap {
        let name = self.register_name(group);
        let unknown = |error: ReadError| Swap::Unknown(error.to_string());
        let stored = match self.fetch(&name, Care::Durable).await {
            Ok(stored) => stored,
            Err(error) => return unknown(error),
        };
        let current = match &stored {
            Some(stored) => match parse_register(&name, &stored.bytes, group) {
                Ok(current) => current,
                Err(error) => return unknown(error),
            },
            None => None,
        };
        if current.as_ref() == new {
            return Swap::Won;
        }
        if current.as_ref() != expected {
            return Swap::Conflict(current.map(Box::new));
        }
        let condition = stored.map_or(Condition::Absent, |stored| {
            Condition::Unchanged(stored.version)
        });
        let bytes = new.map_or_else(Bytes::new, |new| Bytes::from(new.to_json()));
        match self.put(&name, bytes, condition, Care::Durable).await {
            Written::Done => Swap::Won,
            Written::Unknown(what) => Swap::Unknown(what),
            Written::Refused => self.after_refusal(expected, new, group).await,
        }
    }

    /// A refusal is not proof of loss: an earlier copy of the request may have won.
    async fn after_refusal(
        &self,
        expected: Option<&Register>,
        new: Option<&Register>,
        group: GroupId,
    ) -> Swap {
        match self.read(group).await {
            Ok(current) if current.as_ref() == new => Swap::Won,
            Ok(current) if current.as_ref() == expected => {
                Swap::Unknown("the store refused the write and shows the expected value".to_owned())
            }
            Ok(current) => Swap::Conflict(current.map(Box::new)),
            Err(error) => Swap::Unknown(error.to_string()),
        }
    }

    /// The beat object of a volume.
    pub async fn beat(&self, volume: VolumeId) -> Result<Option<BeatObject>, ReadError> {
        let name = self.beat_name(volume);
        match self.fetch(&name, Care::Evidence).await? {
            Some(stored) => parse(&name, &stored.bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Writes a beat as a maximum: one that is not above the stored one changes nothing.
    /// An outcome that is not known is looked at again, since a maximum may be written twice.
    pub async fn write_beat(&self, volume: VolumeId, beat: BeatObject) -> Result<(), WriteError> {
        let name = self.beat_name(volume);
        let mut unclear = 0;
        for _ in 0..MAX_ROUNDS {
            let stored = self
                .fetch(&name, Care::Evidence)
                .await
                .map_err(|error| failed(&name, &error))?;
            let before = stored
                .as_ref()
                .and_then(|stored| serde_json::from_slice(&stored.bytes).ok());
            if before.is_some_and(|before: BeatObject| beat.merged(before) == before) {
                return Ok(());
            }
            let condition = stored.map_or(Condition::Absent, |stored| {
                Condition::Unchanged(stored.version)
            });
            match self
                .put(&name, emit(&beat), condition, Care::Evidence)
                .await
            {
                Written::Done => return Ok(()),
                Written::Refused => {}
                Written::Unknown(what) if unclear == MAX_UNCLEAR => {
                    return Err(failed(&name, &what));
                }
                Written::Unknown(_) => unclear += 1,
            }
        }
        Err(failed(&name, &"others keep writing it"))
    }

    /// Renews the liveness of a site.
    pub async fn renew(&self, site: &str, liveness: &Liveness) -> Result<(), WriteError> {
        let Some(name) = self.liveness_name(site) else {
            return Err(failed(&site, &"not a site name"));
        };
        match self
            .put(&name, emit(liveness), Condition::Any, Care::Evidence)
            .await
        {
            Written::Done => Ok(()),
            Written::Refused => Err(failed(&name, &"refused without a condition")),
            Written::Unknown(what) => Err(failed(&name, &what)),
        }
    }

    /// The liveness of a site.
    pub async fn liveness(&self, site: &str) -> Result<Option<Liveness>, ReadError> {
        let Some(name) = self.liveness_name(site) else {
            return Ok(None);
        };
        match self.fetch(&name, Care::Evidence).await? {
            Some(stored) => parse(&name, &stored.bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Who has claimed which site name.
    pub async fn sites(&self) -> Result<Sites, ReadError> {
        let name = self.sites_name();
        match self.fetch(&name, Care::Durable).await? {
            Some(stored) => parse(&name, &stored.bytes),
            None => Ok(Sites::default()),
        }
    }

    /// Claims a site name. The first claim of a name gives it index A or B for ever; the same claimant
    /// may claim again and again, another one may not.
    pub async fn claim(&self, site: &str, claimant: &str) -> Result<Claim, ClaimError> {
        self.claim_index(site, claimant, None, None).await
    }

    /// Claims a site name; a claimant `gone` that a person says is gone for good hands its claim on.
    pub async fn claim_after(
        &self,
        site: &str,
        claimant: &str,
        gone: Option<&str>,
    ) -> Result<Claim, ClaimError> {
        self.claim_index(site, claimant, None, gone).await
    }

    /// Claims a site name together with the index that its objects already use: another index is refused.
    pub async fn claim_as(
        &self,
        site: &str,
        claimant: &str,
        index: Site,
    ) -> Result<Claim, ClaimError> {
        self.claim_index(site, claimant, Some(index), None).await
    }

    async fn claim_index(
        &self,
        site: &str,
        claimant: &str,
        wanted: Option<Site>,
        gone: Option<&str>,
    ) -> Result<Claim, ClaimError> {
        let name = self.sites_name();
        for _ in 0..MAX_ROUNDS {
            let stored = self.fetch(&name, Care::Durable).await?;
            let mut sites: Sites = match &stored {
                Some(stored) => parse(&name, &stored.bytes)?,
                None => Sites::default(),
            };
            let (claim, changed) = sites.claim(site, claimant, wanted, gone)?;
            if !changed {
                return Ok(claim);
            }
            let condition = stored.map_or(Condition::Absent, |stored| {
                Condition::Unchanged(stored.version)
            });
            // An unknown outcome is read again in the next round, like a refusal.
            if self
                .put(&name, emit(&sites), condition, Care::Durable)
                .await
                == Written::Done
            {
                return Ok(claim);
            }
        }
        Err(ClaimError::Contended)
    }

    async fn fetch(&self, name: &ObjectName, care: Care) -> Result<Option<Versioned>, ReadError> {
        let stored = within(self.store.read(name, care)).await;
        let stored =
            stored.ok_or_else(|| ReadError::Unreachable("no answer in time".to_owned()))??;
        // An empty object is one that was taken away; its version still guards the next write.
        Ok(stored)
    }

    async fn put(
        &self,
        name: &ObjectName,
        bytes: Bytes,
        condition: Condition,
        care: Care,
    ) -> Written {
        let written = within(self.store.write(name, bytes, condition, care)).await;
        written.unwrap_or_else(|| Written::Unknown("no answer in time".to_owned()))
    }

    fn name(&self, segments: &[&str]) -> ObjectName {
        let mut all = vec![self.pair.as_str()];
        all.extend_from_slice(segments);
        ObjectName::new(&all).expect("the pair name was checked and the rest is hex or fixed")
    }

    fn register_name(&self, group: GroupId) -> ObjectName {
        self.name(&["registers", &group.to_string()])
    }

    fn beat_name(&self, volume: VolumeId) -> ObjectName {
        self.name(&["beats", &volume.to_string()])
    }

    fn sites_name(&self) -> ObjectName {
        self.name(&["sites"])
    }

    fn liveness_name(&self, site: &str) -> Option<ObjectName> {
        ObjectName::new(&[&self.pair, "liveness", site])
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Witness({} in {})", self.pair, self.store.place())
    }
}

async fn within<T>(request: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(REQUEST_TIMEOUT, request).await.ok()
}

fn emit<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value)
        .expect("plain values with text keys")
        .into()
}

fn parse<T: for<'de> Deserialize<'de>>(name: &ObjectName, bytes: &[u8]) -> Result<T, ReadError> {
    serde_json::from_slice(bytes).map_err(|error| corrupt(name, &error))
}

fn parse_register(
    name: &ObjectName,
    bytes: &[u8],
    group: GroupId,
) -> Result<Option<Register>, ReadError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let register = Register::from_json(bytes).map_err(|error| corrupt(name, &error))?;
    if register.group != group {
        return Err(corrupt(name, &"it is the register of another group"));
    }
    Ok(Some(register))
}

fn corrupt(name: &ObjectName, what: &dyn fmt::Display) -> ReadError {
    ReadError::Corrupt {
        name: name.to_string(),
        what: what.to_string(),
    }
}

fn failed(name: &dyn fmt::Display, what: &dyn fmt::Display) -> WriteError {
    WriteError {
        name: name.to_string(),
        what: what.to_string(),
    }
}

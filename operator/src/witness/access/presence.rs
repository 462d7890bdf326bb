//! What every replica does at the witness: probe it, claim the site's name, renew the own sign of life, look at the other's.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use twinsite_witness::{ClaimError, Guard, Liveness, ProbeError, ReadError, Sites};

use super::{Claim, HASTE, PULSE, RETRY, SUSPICION, Share, Told};
use crate::shell::random::random;

const CLAIM: Duration = Duration::from_secs(10);

impl Share {
    /// A store of objects is used only after it was seen to keep its conditions.
    pub(super) async fn admit(self, guard: Arc<Guard>, admit: watch::Sender<bool>) {
        loop {
            let verdict = guard.admit().await;
            self.inner().link.refused = match &verdict {
                Err(error @ ProbeError::Unsafe { .. }) => Some(error.to_string()),
                Ok(()) | Err(ProbeError::Unreachable { .. }) => None,
            };
            (self.tell)(Told::Pair);
            match verdict {
                Ok(()) => {
                    admit.send_replace(true);
                    return;
                }
                Err(error @ ProbeError::Unsafe { .. }) => {
                    tracing::error!(%error, "the witness is not used");
                    return;
                }
                Err(ProbeError::Unreachable { what, .. }) => {
                    self.silence(what);
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits until the store may be used; never, if it must not be.
    pub(super) async fn admission(&self) {
        let mut admitted = self.admitted.clone();
        if admitted.wait_for(|admitted| *admitted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) async fn claim_for_ever(self) {
        self.admission().await;
        loop {
            let claimed = self
                .witness
                .claim_after(
                    &self.identity.site,
                    &self.identity.claimant,
                    self.identity.replaces.as_deref(),
                )
                .await;
            let sites = match &claimed {
                Err(ClaimError::Read(_)) => None,
                _ => self.witness.sites().await.ok(),
            };
            let both = sites
                .as_ref()
                .is_some_and(|sites: &Sites| sites.claims.len() == 2);
            let wait = match &claimed {
                Ok(_) if both => CLAIM,
                // The other site may be about to claim its name.
                Ok(_) => RETRY,
                Err(ClaimError::Read(ReadError::Unreachable(why))) => {
                    self.silence(why.clone());
                    RETRY
                }
                Err(_) => CLAIM,
            };
            let changed = {
                let mut inner = self.inner();
                let before = (inner.claim.clone(), inner.sites.clone());
                match &claimed {
                    Ok(claim) => inner.claim = Claim::Ours(claim.index),
                    Err(ClaimError::Contended | ClaimError::Read(ReadError::Unreachable(_))) => {}
                    Err(error) => inner.claim = Claim::Refused(error.to_string()),
                }
                if sites.is_some() {
                    inner.sites = sites;
                }
                before != (inner.claim.clone(), inner.sites.clone())
            };
            if !matches!(claimed, Err(ClaimError::Read(_) | ClaimError::Contended)) {
                self.answered();
            }
            if changed {
                match &claimed {
                    Ok(claim) => {
                        tracing::info!(site = self.identity.site, index = %claim.index, "the site is claimed")
                    }
                    Err(error) => {
                        tracing::error!(site = self.identity.site, %error, "the site cannot be claimed: nothing of the pair is done here")
                    }
                }
                (self.tell)(Told::Pair);
            }
            sleep(wait).await;
        }
    }

    /// Own sign of life, and the other site's.
    pub(super) async fn pulse_for_ever(self) {
        self.admission().await;
        let mut nonce = u64::from_le_bytes(random());
        let mut suspected = false;
        loop {
            let started = Instant::now();
            if self.is_ours() {
                nonce = nonce.wrapping_add(1);
                let liveness = Liveness {
                    writer: self.identity.writer.clone(),
                    nonce,
                };
                let (renewed, seen) = tokio::join!(
                    self.witness.renew(&self.identity.site, &liveness),
                    self.witness.liveness(&self.identity.peer),
                );
                let now = Instant::now();
                match (renewed, seen) {
                    (Ok(()), Ok(seen)) => {
                        self.inner().liveness.saw(started, now, seen);
                        self.answered();
                    }
                    (renewed, seen) => {
                        self.inner().liveness.blind();
                        let why = seen.err().map(|error| error.to_string());
                        let why = why.or(renewed.err().map(|error| error.to_string()));
                        self.silence(why.unwrap_or_default());
                    }
                }
                let age = self.inner().liveness.age(now);
                let suspicious = age.is_some_and(|age| age >= SUSPICION);
                // While the other site stands still each second may be the one that decides.
                if suspicious || suspected {
                    (self.tell)(Told::Evidence);
                }
                suspected = suspicious;
            }
            let pulse = if suspected { HASTE } else { PULSE };
            sleep(pulse.saturating_sub(started.elapsed())).await;
        }
    }

    pub(super) fn answered(&self) {
        let recovered = {
            let mut inner = self.inner();
            let first = inner.link.answered.is_none();
            inner.link.answered = Some((Instant::now(), Timestamp::now()));
            let silent = inner.link.silent.take();
            silent
                .map(|(since, _)| since.elapsed())
                .or(first.then_some(Duration::ZERO))
        };
        if let Some(after) = recovered {
            tracing::info!(witness = ?self.witness, seconds = after.as_secs(), "the witness answers");
            self.wake.notify_one();
            (self.tell)(Told::Pair);
        }
    }

    pub(super) fn silence(&self, why: String) {
        let news = {
            let mut inner = self.inner();
            let since = inner.link.silent.take().map(|(since, _)| since);
            inner.link.silent = Some((since.unwrap_or_else(Instant::now), why.clone()));
            since.is_none()
        };
        if news {
            tracing::warn!(witness = ?self.witness, why, "the witness does not answer");
            (self.tell)(Told::Pair);
        }
    }
}

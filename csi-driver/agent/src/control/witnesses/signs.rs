//! What an agent does at a witness all the time: look whether it may be used, sign that the site lives, claim the site's name,
//! read registers for the sake of the marks. Each is one task, for ever or until its end is reached.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;
use twinsite_register::{GroupId, Site};
use twinsite_witness::{ClaimError, Guard, Liveness, ProbeError, Witness, WitnessHandle};

use super::{Identity, PairState, Wake, update};
use crate::control::durable::random;

const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);
const CLAIM_RETRY: Duration = Duration::from_secs(5);
const PROBE_RETRY: Duration = Duration::from_secs(2);
/// How often a register is read although nobody here uses it (protocol 2.3 rule 6).
const POLL_INTERVAL: Duration = Duration::from_secs(10);

pub(super) async fn admit(guard: Arc<Guard>, state: Arc<Mutex<PairState>>) {
    loop {
        let verdict = guard.admit().await;
        update(&state, |state| {
            state.refused = verdict.as_ref().err().map(ToString::to_string)
        });
        match verdict {
            Ok(()) => return,
            Err(error @ ProbeError::Unsafe { .. }) => {
                tracing::error!(%error, "the witness is not used");
                return;
            }
            Err(ProbeError::Unreachable { .. }) => sleep(PROBE_RETRY).await,
        }
    }
}

pub(super) async fn renew(witness: Arc<Witness>, identity: Identity, state: Arc<Mutex<PairState>>) {
    let start: [u8; 8] = random().unwrap_or_default();
    let mut nonce = u64::from_le_bytes(start);
    let (mut told, mut failures) = (None, 0u32);
    loop {
        nonce = nonce.wrapping_add(1);
        let liveness = Liveness {
            writer: identity.node.clone(),
            nonce,
        };
        let renewed = witness.renew(&identity.site, &liveness).await;
        let answers = renewed.is_ok();
        update(&state, |state| state.reachable = Some(answers));
        failures = if answers {
            0
        } else {
            failures.saturating_add(1)
        };
        // One failure is not news: the store may be being probed.
        if told != Some(answers) && (answers || failures > 1) {
            told = Some(answers);
            match renewed {
                Ok(()) => tracing::info!(?witness, "the witness answers"),
                Err(error) => tracing::warn!(?witness, %error, "the witness does not answer"),
            }
        }
        sleep(LIVENESS_INTERVAL).await;
    }
}

pub(super) async fn claim(
    witness: Arc<Witness>,
    identity: Identity,
    index: Site,
    state: Arc<Mutex<PairState>>,
    wake: Wake,
) {
    loop {
        let claimed = witness
            .claim_as(&identity.site, &identity.claimant, index)
            .await;
        // One that does not answer is not asked again before the next round.
        let sites = match claimed {
            Err(ClaimError::Read(_)) => None,
            _ => witness.sites().await.ok(),
        };
        update(&state, |state| {
            state.tried = true;
            if let Some(sites) = sites {
                state.sites = sites;
            }
            match &claimed {
                Ok(_) => state.claim_error = None,
                Err(ClaimError::Read(_) | ClaimError::Contended) => {}
                Err(error) => state.claim_error = Some(error.to_string()),
            }
        });
        wake();
        match claimed {
            Ok(claim) => {
                tracing::info!(site = identity.site, index = %claim.index, "the site is claimed");
                return;
            }
            Err(ClaimError::Read(_) | ClaimError::Contended) => {}
            Err(error) => {
                tracing::error!(site = identity.site, %error, "the site cannot be claimed: nothing attaches here")
            }
        }
        sleep(CLAIM_RETRY).await;
    }
}

/// Reads registers for the sake of the marks, one after the other.
pub(super) async fn poll(witness: WitnessHandle, groups: Vec<GroupId>) {
    let share = u32::try_from(groups.len()).unwrap_or(u32::MAX).max(1);
    loop {
        for group in &groups {
            witness.read(*group, |_| {});
            sleep(POLL_INTERVAL / share).await;
        }
    }
}

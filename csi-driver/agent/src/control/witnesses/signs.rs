//! What an agent does at a witness all the time: look whether it may be used, sign that the site lives, claim the site's name,
//! read registers for the sake of the marks. Each is one task, for ever or until its end is reached.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use twinsite_register::{GroupId, Site};
use twinsite_witness::{ClaimError, Guard, Liveness, ProbeError, Witness, WitnessHandle};

use super::{Identity, PairState, Wake, update};
use crate::control::durable::random;

const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);
const CLAIM_RETRY: Duration = Duration::from_secs(5);
/// How often it is looked whether the site's name is still ours.
const CLAIM_LOOK: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 10_000 });
const PROBE_RETRY: Duration = Duration::from_secs(2);
/// How often a register is read although nobody here uses it (protocol 2.3 rule 6).
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// How often one is read whose holder is waited for: as long nobody can write.
pub(super) const WAIT_INTERVAL: Duration = Duration::from_millis(200);
/// After so long nobody counts the moments any more: a grace period of an hour, or a person who has to do something.
const WAIT_LONG: Duration = Duration::from_secs(60);
/// How often it is read then.
const WAIT_SLOWLY: Duration = Duration::from_secs(2);
/// Between two of these reads, however many are waited for.
const WAIT_STEP: Duration = Duration::from_millis(20);

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

/// Signs that the site lives, as long as its name is this claimant's: the signs of a cluster that was replaced, or that was
/// installed under another's name, would hide from the other site that the true one is lost.
pub(super) async fn renew(witness: Arc<Witness>, identity: Identity, state: Arc<Mutex<PairState>>) {
    let start: [u8; 8] = random().unwrap_or_default();
    let mut nonce = u64::from_le_bytes(start);
    let (mut told, mut failures) = (None, 0u32);
    // `None`: nobody's.
    let (mut ours, mut look_at) = (None, Instant::now());
    loop {
        let mut renewed = Ok(());
        if Instant::now() >= look_at {
            match witness.sites().await {
                Ok(sites) => {
                    let claim = sites.named(&identity.site);
                    let now = claim.map(|claim| claim.claimant == identity.claimant);
                    if now == Some(false) && ours != now {
                        tracing::error!(
                            site = identity.site,
                            "the site's name is another cluster's: no sign of life is given for it"
                        );
                    }
                    ours = now;
                    let pause = ours.map_or(LIVENESS_INTERVAL, |_| CLAIM_LOOK);
                    look_at = Instant::now() + pause;
                }
                Err(error) => renewed = Err(error.to_string()),
            }
        }
        if ours == Some(true) && renewed.is_ok() {
            nonce = nonce.wrapping_add(1);
            let liveness = Liveness {
                writer: identity.node.clone(),
                nonce,
            };
            let signed = witness.renew(&identity.site, &liveness).await;
            renewed = signed.map_err(|error| error.to_string());
        }
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
                Err(error) => tracing::warn!(?witness, error, "the witness does not answer"),
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
    let mut known = None;
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
        let pause = match claimed {
            Ok(claim) => {
                if known.as_ref() != Some(&claim) {
                    tracing::info!(site = identity.site, index = %claim.index, "the site is claimed");
                    known = Some(claim);
                    wake();
                }
                CLAIM_LOOK
            }
            Err(error) => {
                // What is open stays: whoever takes it over fences first.
                if !matches!(error, ClaimError::Read(_) | ClaimError::Contended) {
                    known = None;
                    tracing::error!(site = identity.site, %error, "the site cannot be claimed: nothing attaches here");
                }
                wake();
                CLAIM_RETRY
            }
        };
        sleep(pause).await;
    }
}

/// Reads registers for the sake of the marks.
pub(super) async fn poll(witness: WitnessHandle, groups: Vec<GroupId>) {
    let step = POLL_INTERVAL / share(&groups);
    read_in_turn(witness, groups, |_| step).await;
}

/// Reads the registers whose holder is waited for.
pub(super) async fn wait_for_holders(witness: WitnessHandle, groups: Vec<GroupId>) {
    let share = share(&groups);
    read_in_turn(witness, groups, |waited| wait_step(waited, share)).await;
}

fn wait_step(waited: Duration, share: u32) -> Duration {
    let interval = if waited < WAIT_LONG {
        WAIT_INTERVAL
    } else {
        WAIT_SLOWLY
    };
    (interval / share).max(WAIT_STEP)
}

fn share(groups: &[GroupId]) -> u32 {
    u32::try_from(groups.len()).unwrap_or(u32::MAX).max(1)
}

/// One after the other; whoever observes the witness hears of them.
async fn read_in_turn(
    witness: WitnessHandle,
    groups: Vec<GroupId>,
    step: impl Fn(Duration) -> Duration,
) {
    let began = Instant::now();
    loop {
        for group in &groups {
            witness.read(*group, |_| {});
            sleep(step(began.elapsed())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_is_waited_for_long_is_asked_for_less_often() {
        let second = Duration::from_secs;
        assert_eq!(wait_step(second(1), 1), WAIT_INTERVAL);
        assert_eq!(wait_step(second(1), 1000), WAIT_STEP);
        assert_eq!(wait_step(second(61), 1), WAIT_SLOWLY);
        assert_eq!(wait_step(second(61), 4), WAIT_SLOWLY / 4);
    }
}

//! The story: the plug, the takeover, the return, the way back by an edit of the manifest.

use anyhow::Result;

use super::stage::Stage;
use super::trace;
use crate::clusters::{MEDICAL, RESEARCH};

/// Records written between two events.
const A_WHILE: u64 = 400;

/// Tells it `rounds` times on one stage; `node`: in each of them a node dies too.
///
/// # Errors
/// Anything goes otherwise than promised.
pub async fn tell(stage: &mut Stage, rounds: u32, node: bool) -> Result<()> {
    stage
        .timeline
        .act("Birth: the same manifests to both clusters");
    stage.open()?;
    stage.write_records(A_WHILE)?;
    stage.diff(&[MEDICAL, RESEARCH])?;
    for round in 1..=rounds {
        stage.timeline.act(&format!(
            "Round {round} of {rounds}: the plug is pulled on a whole cluster"
        ));
        one_round(stage).await?;
        if node {
            stage.timeline.act(&format!(
                "Round {round} of {rounds}: the plug is pulled on the node that writes"
            ));
            stage.lose_node().await?;
            stage.verify()?;
            stage.diff(&[MEDICAL, RESEARCH])?;
        }
    }
    stage.close()
}

async fn one_round(stage: &mut Stage) -> Result<()> {
    let (home, refuge) = (stage.active, stage.other());
    stage.write_records(A_WHILE)?;
    stage.kill_active()?;
    stage.verify()?;
    stage.diff(&[refuge])?;
    stage.write_records(A_WHILE)?;
    stage.bring_back(home).await?;
    stage.verify()?;
    stage.diff(&[MEDICAL, RESEARCH])?;
    stage.commit_active(refuge)?;
    stage.wait_unlatched()?;
    stage.diff(&[MEDICAL, RESEARCH])?;
    let before = stage.moves();
    stage.ledger.mark();
    let commit = trace::now_ms();
    stage.commit_active(home)?;
    stage.wait_moved(home, before, commit)?;
    stage.write_records(A_WHILE)?;
    stage.verify()?;
    stage.diff(&[MEDICAL, RESEARCH])
}

//! Which copies a force can run: those of one site, one for each volume of the register, as Inspects found them.
//!
//! Asked by a plan, before a person accepts, and by the operator, before it orders. The agent asks the same once more of the
//! superblocks themselves, behind its fence.
//! Not here: whether it is wise, and what it loses beyond `dirtyBytes` (the planners).

use crate::{ForceOrder, InspectReport, InspectedLeg, LegIndex};

/// The copy of one volume.
#[derive(Clone, Copy, Debug)]
pub struct FoundCopy<'a> {
    /// What people call the volume.
    pub name: &'a str,
    /// What the Inspect of the volume found, once it is done.
    pub report: Option<&'a InspectReport>,
}

/// Why the copies cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("the copy of {0} at this site does not answer")]
    Away(String),
    #[error("the copy of {0} at this site carries no superblock of this volume: it cannot be run")]
    NoSuperblock(String),
    #[error("the copy of {0} at this site never joined: it has no data")]
    NeverJoined(String),
    /// Only a person's word for a mix of old and new runs it.
    #[error(
        "the copy of {0} at this site was never completed: it is a mix of old and new; only force.inconsistent runs it"
    )]
    Incomplete(String),
    /// Only a person's word for it runs them.
    #[error(
        "the copies of the group at this site are not of one moment ({0}): one volume would have what was written after what another one lacks; only force.inconsistent runs them"
    )]
    Mixed(String),
}

impl Unfit {
    /// Whether `force.inconsistent` runs them all the same.
    #[must_use]
    pub const fn may_be_accepted(&self) -> bool {
        matches!(self, Self::Incomplete(_) | Self::Mixed(_))
    }
}

/// What stands on the copies `leg` of these volumes, in their order, if a force can run all of them.
///
/// # Errors
/// One of them, or all of them together, cannot be run.
pub fn judge_copies<'a>(
    leg: LegIndex,
    inconsistent: bool,
    volumes: &[FoundCopy<'a>],
) -> Result<Vec<&'a InspectedLeg>, Unfit> {
    let fits = |volume: &FoundCopy<'a>| one(leg, volume);
    let found: Vec<&InspectedLeg> = volumes.iter().map(fits).collect::<Result<_, _>>()?;
    if inconsistent {
        return Ok(found);
    }
    if let [only] = found.as_slice() {
        let incomplete = only.role.as_deref() == Some("Target");
        let name = || volumes[0].name.to_owned();
        return if incomplete {
            Err(Unfit::Incomplete(name()))
        } else {
            Ok(found)
        };
    }
    let moment = found.first().and_then(|first| first.moment.as_ref());
    let same = |found: &&InspectedLeg| moment.is_some() && found.moment.as_ref() == moment;
    if found.iter().all(same) {
        return Ok(found);
    }
    let each = volumes.iter().zip(&found);
    let told = each.map(|(volume, found)| format!("{} {}", volume.name, state(found)));
    Err(Unfit::Mixed(told.collect::<Vec<_>>().join(", ")))
}

fn one<'a>(leg: LegIndex, volume: &FoundCopy<'a>) -> Result<&'a InspectedLeg, Unfit> {
    let name = || volume.name.to_owned();
    let found = volume.report.and_then(|report| report.leg(leg));
    let found = found
        .filter(|found| found.reachable)
        .ok_or_else(|| Unfit::Away(name()))?;
    if found.role.as_deref() == Some("New") {
        return Err(Unfit::NeverJoined(name()));
    }
    let known = found.epoch.is_some() && found.generation.is_some() && found.sb_seq.is_some();
    if known {
        Ok(found)
    } else {
        Err(Unfit::NoSuperblock(name()))
    }
}

fn state(found: &InspectedLeg) -> String {
    let epoch = found.epoch.unwrap_or_default();
    match found.role.as_deref() {
        Some("Target") => "is a copy that was not completed".to_owned(),
        Some("Candidate") => format!("is a copy of epoch {epoch} that had not joined"),
        _ => format!("is of epoch {epoch}"),
    }
}

impl ForceOrder {
    /// The order for one volume that was found so; none without a superblock.
    #[must_use]
    pub fn of(
        found: &InspectedLeg,
        (expect_epoch, expect_txid): (u64, String),
        who: String,
        inconsistent: bool,
    ) -> Option<Self> {
        Some(Self {
            expect_epoch,
            expect_txid,
            epoch: found.epoch?,
            generation: found.generation.clone()?,
            sb_seq: found.sb_seq?,
            who,
            inconsistent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(role: &str, epoch: u64, moment: Option<&str>) -> InspectReport {
        InspectReport {
            legs: vec![InspectedLeg {
                leg: Some(LegIndex::B),
                reachable: true,
                role: Some(role.to_owned()),
                epoch: Some(epoch),
                generation: Some("07".repeat(16)),
                sb_seq: Some(4),
                moment: moment.map(str::to_owned),
                ..InspectedLeg::default()
            }],
            token: None,
        }
    }

    fn judged(reports: &[InspectReport], inconsistent: bool) -> Result<usize, Unfit> {
        let names = ["rv/journal", "rv/data"];
        let copies: Vec<FoundCopy<'_>> = names
            .iter()
            .zip(reports)
            .map(|(name, report)| FoundCopy {
                name,
                report: Some(report),
            })
            .collect();
        judge_copies(LegIndex::B, inconsistent, &copies).map(|found| found.len())
    }

    #[test]
    fn copies_of_a_group_run_if_all_are_of_one_moment_or_a_person_takes_the_mix() {
        let member = report("Member", 3, Some("3-aa"));
        let joined = report("Candidate", 2, Some("3-aa"));
        let older = report("Member", 1, Some("1-bb"));
        let target = report("Target", 2, None);
        assert_eq!(judged(&[member.clone(), joined], false), Ok(2));
        for other in [older, target.clone()] {
            let mixed = judged(&[member.clone(), other.clone()], false).unwrap_err();
            assert!(mixed.may_be_accepted());
            let text = mixed.to_string();
            assert!(
                text.contains("rv/journal is of epoch 3, rv/data is"),
                "{text}"
            );
            assert_eq!(judged(&[member.clone(), other], true), Ok(2));
        }
        // Two halves of a copy are not of one moment because both say nothing.
        assert!(judged(&[target.clone(), target.clone()], false).is_err());
        assert_eq!(
            judged(&[target], false),
            Err(Unfit::Incomplete("rv/journal".to_owned()))
        );
    }

    #[test]
    fn what_has_no_data_or_does_not_answer_is_not_run_by_any_word() {
        let member = report("Member", 3, Some("3-aa"));
        let mut away = member.clone();
        away.legs[0].reachable = false;
        let mut bare = member.clone();
        bare.legs[0].sb_seq = None;
        let cases = [
            (away, Unfit::Away("rv/data".to_owned())),
            (bare, Unfit::NoSuperblock("rv/data".to_owned())),
            (
                report("New", 0, None),
                Unfit::NeverJoined("rv/data".to_owned()),
            ),
        ];
        for (other, expected) in cases {
            assert_eq!(judged(&[member.clone(), other], true), Err(expected));
        }
    }

    #[test]
    fn an_agent_that_says_nothing_of_moments_runs_one_volume_as_before() {
        assert_eq!(judged(&[report("Member", 3, None)], false), Ok(1));
        assert_eq!(judged(&[report("Candidate", 3, None)], false), Ok(1));
    }
}

//! What was found on a LUN, and whether it may be a leg: pure.
//!
//! Invariants: a probe that did not run never counts as passed; one needed answer "no" refuses the LUN.
//! A probe finds bad arrays, it never proves a good one.

use std::collections::BTreeMap;

use serde::Serialize;

/// The probes in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    Disk,
    Naa,
    Size,
    WriteCache,
    OwnTarget,
    SurvivesPowerLoss,
    TypeSixOffered,
    AllPorts,
    FullStatus,
    Flush,
    Underflow,
    Overflow,
    LargeRead,
    ReadLatency,
    Aptpl,
    Reserve,
    Conflict,
    FullStatusShows,
    Fua,
    WriteLatency,
    ZeroesAfterUnmap,
    Preempt,
    PreemptDrain,
    VictimTold,
    ResetDrain,
    LeftNothing,
}

/// What a leg needs a probe for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Need {
    Yes,
    /// Only where no human vouches for the cache.
    Cache,
    /// Only for a target that discards, which are our own.
    OwnTarget,
    No,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Yes(String),
    No(String),
    /// Nothing was learned, and why.
    NotRun(String),
}

pub type Findings = BTreeMap<Probe, Answer>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "verdict", content = "reasons")]
pub enum Verdict {
    Usable,
    /// Its write cache may lose what was acknowledged: only where somebody declares it protected.
    WithCacheProtected,
    Refused(Vec<String>),
    /// Nothing speaks against it so far, and these were not answered.
    NotJudged(Vec<String>),
}

impl Probe {
    pub const ALL: [Self; 26] = [
        Self::Disk,
        Self::Naa,
        Self::Size,
        Self::WriteCache,
        Self::OwnTarget,
        Self::SurvivesPowerLoss,
        Self::TypeSixOffered,
        Self::AllPorts,
        Self::FullStatus,
        Self::Flush,
        Self::Underflow,
        Self::Overflow,
        Self::LargeRead,
        Self::ReadLatency,
        Self::Aptpl,
        Self::Reserve,
        Self::Conflict,
        Self::FullStatusShows,
        Self::Fua,
        Self::WriteLatency,
        Self::ZeroesAfterUnmap,
        Self::Preempt,
        Self::PreemptDrain,
        Self::VictimTold,
        Self::ResetDrain,
        Self::LeftNothing,
    ];

    /// What it asks, and what a leg needs the answer for.
    pub fn asks(self) -> (&'static str, Need) {
        match self {
            Self::Disk => ("a disk without protection information", Need::Yes),
            Self::Naa => ("NAA name (VPD 83h)", Need::Yes),
            Self::Size => ("capacity and block size", Need::Yes),
            Self::WriteCache => ("no volatile write cache (WCE=0)", Need::Cache),
            Self::OwnTarget => ("twinsite target (VPD C0h)", Need::No),
            Self::SurvivesPowerLoss => ("PTPL_C", Need::Yes),
            Self::TypeSixOffered => ("type 6 in the type mask", Need::Yes),
            Self::AllPorts => ("ATP_C", Need::No),
            Self::FullStatus => ("READ FULL STATUS", Need::Yes),
            Self::Flush => ("SYNCHRONIZE CACHE", Need::Yes),
            Self::Underflow => ("residual of a short read", Need::Yes),
            Self::Overflow => ("residual of a cut read", Need::No),
            Self::LargeRead => ("large read", Need::Yes),
            Self::ReadLatency => ("latency of a 4 KiB read", Need::No),
            Self::Aptpl => ("REGISTER with APTPL", Need::Yes),
            Self::Reserve => ("RESERVE type 6", Need::Yes),
            Self::Conflict => ("conflict on another nexus", Need::Yes),
            Self::FullStatusShows => ("full status names both, and the holder", Need::Yes),
            Self::Fua => ("FUA write", Need::Yes),
            Self::WriteLatency => ("latency of a 4 KiB FUA write", Need::No),
            Self::ZeroesAfterUnmap => ("zeros after unmap", Need::OwnTarget),
            Self::Preempt => ("PREEMPT AND ABORT of the holder", Need::Yes),
            Self::PreemptDrain => ("no late write after PREEMPT AND ABORT", Need::Yes),
            Self::VictimTold => ("the victim is told and kept out", Need::Yes),
            Self::ResetDrain => ("no late write after LUN RESET", Need::Yes),
            Self::LeftNothing => ("own keys gone at the end", Need::Yes),
        }
    }
}

/// Whether the LUN may be a leg.
pub fn verdict(findings: &Findings) -> Verdict {
    let own = said_yes(findings, Probe::OwnTarget);
    let needed = |probe: &Probe| match probe.asks().1 {
        Need::Yes => true,
        Need::OwnTarget => own,
        Need::Cache | Need::No => false,
    };
    let (mut against, mut open) = (Vec::new(), Vec::new());
    for probe in Probe::ALL.into_iter().filter(needed) {
        let name = probe.asks().0;
        match findings.get(&probe) {
            Some(Answer::Yes(_)) => {}
            Some(Answer::No(why)) => against.push(format!("{name}: {why}")),
            Some(Answer::NotRun(why)) => open.push(format!("{name}: {why}")),
            None => open.push(format!("{name}: not run")),
        }
    }
    if !against.is_empty() {
        Verdict::Refused(against)
    } else if !open.is_empty() {
        Verdict::NotJudged(open)
    } else if own || said_yes(findings, Probe::WriteCache) {
        Verdict::Usable
    } else {
        Verdict::WithCacheProtected
    }
}

fn said_yes(findings: &Findings, probe: Probe) -> bool {
    matches!(findings.get(&probe), Some(Answer::Yes(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Findings {
        Probe::ALL
            .into_iter()
            .map(|probe| (probe, Answer::Yes(String::new())))
            .collect()
    }

    fn but(changes: &[(Probe, Answer)]) -> Verdict {
        let mut findings = good();
        findings.extend(changes.iter().cloned());
        verdict(&findings)
    }

    fn no() -> Answer {
        Answer::No("it is so".into())
    }

    fn not_run() -> Answer {
        Answer::NotRun("it was not tried".into())
    }

    #[test]
    fn each_needed_answer_alone_decides() {
        for probe in Probe::ALL {
            let name = probe.asks().0;
            let foreign = (Probe::OwnTarget, no());
            let refused = Verdict::Refused(vec![format!("{name}: it is so")]);
            let open = Verdict::NotJudged(vec![format!("{name}: it was not tried")]);
            let (want_no, want_open) = match probe.asks().1 {
                Need::Yes => (refused, open),
                Need::Cache => (Verdict::WithCacheProtected, Verdict::WithCacheProtected),
                Need::No | Need::OwnTarget => (Verdict::Usable, Verdict::Usable),
            };
            assert_eq!(but(&[foreign.clone(), (probe, no())]), want_no, "{probe:?}");
            assert_eq!(but(&[foreign, (probe, not_run())]), want_open, "{probe:?}");
        }
    }

    #[test]
    fn the_boot_id_of_our_target_stands_for_its_cache_and_its_discards_must_be_true() {
        assert_eq!(but(&[(Probe::WriteCache, no())]), Verdict::Usable);
        assert_eq!(
            but(&[(Probe::ZeroesAfterUnmap, no())]),
            Verdict::Refused(vec!["zeros after unmap: it is so".into()])
        );
    }

    #[test]
    fn a_refusal_comes_before_what_is_open_and_nothing_is_never_usable() {
        assert_eq!(
            but(&[(Probe::Preempt, not_run()), (Probe::Fua, no())]),
            Verdict::Refused(vec!["FUA write: it is so".into()])
        );
        assert!(matches!(verdict(&Findings::new()), Verdict::NotJudged(_)));
    }
}

//! `twinsite-agent qualify`: what a LUN really does, and whether it may be a leg.
//!
//! Two nexuses of two initiator names ask, write, reserve and preempt each other; the answers are judged by
//! `verdict`, which is pure. Without `--write-test` nothing on the LUN changes.

mod active;
mod drain;
mod nexus;
mod passive;
mod place;
mod verdict;

use std::time::Duration;

use serde::Serialize;
use twinsite_iscsi::scsi::{ScsiOutcome, Status};

use nexus::{Nexus, said};

pub use nexus::ProbeError;
pub use place::Place;
pub use verdict::{Answer, Findings, Need, Probe, Verdict, verdict};

#[derive(Debug, clap::Args)]
pub struct QualifyArgs {
    /// iscsi://[user%secret@]host:port/iqn/lun
    place: String,
    /// Also write to the LUN and reserve it; it must be blank and unused.
    #[arg(long)]
    write_test: bool,
    /// Write even where there is content, which is lost.
    #[arg(long, requires = "write_test")]
    destroy_contents: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// How hard it tries.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds of each drain probe.
    pub rounds: u32,
    /// How long a late write is waited for.
    pub settle: Duration,
    pub samples: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            rounds: 8,
            settle: Duration::from_millis(400),
            samples: 500,
        }
    }
}

/// What may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    None,
    Blank,
    DestroyContents,
}

struct Qualification {
    place: Place,
    effort: Effort,
    /// The nexus that asks, holds and preempts; the victim logs in where it is needed.
    a: Nexus,
    findings: Findings,
    keys: [u64; 2],
    aptpl: bool,
    block: u32,
    bytes: u64,
    /// Bytes; 0: not told.
    max_transfer: u32,
    unmaps: bool,
    zeroes_after_unmap: bool,
}

/// Runs the probes. `Err` in the second place: they ended early, with what was found until then.
pub fn qualify(
    place: &Place,
    writes: Writes,
    effort: Effort,
) -> Result<(Findings, Option<ProbeError>), ProbeError> {
    let mut run = Qualification {
        place: place.clone(),
        effort,
        a: Nexus::login(place, 1)?,
        findings: Findings::new(),
        keys: active::fresh_keys(nexus::random()?),
        aptpl: true,
        block: 512,
        bytes: 0,
        max_transfer: 0,
        unmaps: false,
        zeroes_after_unmap: false,
    };
    let result = run.passive().and_then(|()| match writes {
        Writes::None => Ok(()),
        Writes::Blank => run.active(false),
        Writes::DestroyContents => run.active(true),
    });
    if writes == Writes::None {
        for probe in Probe::ALL {
            let answer = || Answer::NotRun("needs --write-test".into());
            run.findings.entry(probe).or_insert_with(answer);
        }
    }
    Ok((run.findings, result.err()))
}

impl Qualification {
    fn say(&mut self, probe: Probe, answer: Answer) {
        self.findings.insert(probe, answer);
    }

    fn yes_if(&mut self, probe: Probe, right: bool, text: String) {
        let answer = if right { Answer::Yes } else { Answer::No };
        self.say(probe, answer(text));
    }

    fn good(&mut self, probe: Probe, outcome: &ScsiOutcome) {
        self.yes_if(probe, outcome.status == Status::Good, said(outcome));
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    probe: Probe,
    asks: &'static str,
    answer: &'a str,
    needed: Need,
    verdict: &'static str,
}

fn rows(findings: &Findings) -> Vec<Row<'_>> {
    let row = |probe: Probe| {
        let (asks, needed) = probe.asks();
        let (answer, verdict) = match findings.get(&probe) {
            Some(Answer::Yes(text)) => (text.as_str(), "yes"),
            Some(Answer::No(text)) => (text.as_str(), "no"),
            Some(Answer::NotRun(text)) => (text.as_str(), "open"),
            None => ("not reached", "open"),
        };
        Row {
            probe,
            asks,
            answer,
            needed,
            verdict,
        }
    };
    Probe::ALL.into_iter().map(row).collect()
}

pub fn run(args: QualifyArgs) -> anyhow::Result<()> {
    let writes = match (args.write_test, args.destroy_contents) {
        (false, _) => Writes::None,
        (true, false) => Writes::Blank,
        (true, true) => Writes::DestroyContents,
    };
    // Not read by the command line's parser, which repeats what it refuses: there may be a secret in it.
    let place: Place = args.place.parse().map_err(anyhow::Error::msg)?;
    let (findings, ended) = qualify(&place, writes, Effort::default())?;
    let judged = verdict(&findings);
    let rows = rows(&findings);
    if args.json {
        let ended = ended.as_ref().map(ToString::to_string);
        let report = serde_json::json!({ "target": place.iqn, "rows": rows, "judged": judged, "endedEarly": ended });
        println!("{report}");
    } else {
        for row in rows {
            let needed = match row.needed {
                Need::Yes => "needed",
                Need::Cache => "or cacheProtected",
                Need::OwnTarget => "own target",
                Need::No => "-",
            };
            println!(
                "{:40} {:5} {needed:18} {}",
                row.asks, row.verdict, row.answer
            );
        }
        if let Some(error) = &ended {
            println!("ended early: {error}");
        }
        if writes == Writes::None {
            println!("only what changes nothing was probed; the rest needs --write-test");
        }
    }
    let line = match &judged {
        Verdict::Usable => "usable as a leg".into(),
        Verdict::WithCacheProtected => "usable as a leg with cacheProtected: true".into(),
        Verdict::Refused(why) => format!("refused: {}", why.join("; ")),
        Verdict::NotJudged(open) => format!("not judged, {} answers are open", open.len()),
    };
    if !args.json {
        println!("verdict: {line}");
    }
    anyhow::ensure!(
        !matches!(judged, Verdict::Refused(_)) && ended.is_none(),
        "the LUN does not qualify"
    );
    Ok(())
}

#[cfg(test)]
mod tests;

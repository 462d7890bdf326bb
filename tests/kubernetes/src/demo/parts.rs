//! Where the time of a move went: its milestones in order, each with what it took since the one before.
//!
//! Pure. What happened earlier than the milestone before it took nothing: it was done meanwhile. One that was not seen is
//! left out, and its time stands with the next.

use std::collections::BTreeMap;

use serde::Serialize;

use super::trace::Seen;

/// One part of a move.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// What was waited for.
    pub name: &'static str,
    pub ms: i64,
    /// Typical and longest, in seconds, where the protocol has a budget (2.19).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<(f64, f64)>,
}

/// A milestone, when it was reached, and its budget.
type Stone = (&'static str, Option<i64>, Option<(f64, f64)>);

fn chain(start: i64, stones: impl IntoIterator<Item = Stone>) -> Vec<Part> {
    let mut reached = start;
    let mut parts = Vec::new();
    for (name, at, budget) in stones {
        let Some(at) = at else { continue };
        parts.push(Part {
            name,
            ms: (at - reached).max(0),
            budget,
        });
        reached = reached.max(at);
    }
    parts
}

/// What was seen, to be asked.
#[derive(Debug, Clone, Copy)]
struct Sight<'a> {
    seen: &'a [Seen],
    since: i64,
}

impl Sight<'_> {
    /// When an object of a site first came into a state with one of these beginnings.
    fn first(&self, site: &str, object: &str, states: &[&str]) -> Option<i64> {
        let fits = |seen: &&Seen| {
            seen.at >= self.since
                && seen.site == site
                && seen.object == object
                && states.iter().any(|state| seen.state.starts_with(state))
        };
        self.seen.iter().find(fits).map(|seen| seen.at)
    }

    fn after(self, at: Option<i64>) -> Self {
        Self {
            since: at.unwrap_or(self.since),
            ..self
        }
    }
}

/// A planned move, before the gap and in it.
///
/// `commit`: the manifests were applied; `last` and `first`: the records at both ends of the gap.
#[must_use]
pub fn planned(
    seen: &[Seen],
    (from, to): (&str, &str),
    commit: i64,
    (last, first): (i64, i64),
) -> (Vec<Part>, Vec<Part>) {
    let sight = Sight {
        seen,
        since: commit,
    };
    let before = chain(
        commit,
        [
            (
                "both operators agree",
                sight.first(from, "leaving", &["announced", "down"]),
                None,
            ),
            (
                "the pod is placed there",
                sight.first(to, "pod", &["placed", "runs"]),
                None,
            ),
            (
                "its node could mount",
                sight.first(to, "awaited", &["yes"]),
                None,
            ),
            (
                "the workload goes down",
                sight.first(from, "workload", &["0"]),
                None,
            ),
            ("its last record", Some(last), None),
        ],
    );
    let lets_go = sight.first(from, "writer", &["Detaching", "Detached", "gone"]);
    let released = sight.first(from, "writer", &["Detached", "gone"]);
    let taken = sight.first(to, "writer", &["Attaching"]);
    let gap = chain(
        last,
        [
            ("the container ends and the node lets go", lets_go, None),
            ("drained and released", released, None),
            ("seen by the other agent", taken, None),
            (
                "opened there",
                sight.after(taken).first(to, "writer", &["Attached"]),
                None,
            ),
            (
                "mounted, the container runs",
                sight.first(to, "pod", &["runs"]),
                None,
            ),
            ("the first record", Some(first), None),
        ],
    );
    (before, gap)
}

/// When the agent came to its steps, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default)]
pub struct Steps {
    pub fenced: Option<i64>,
    pub promoted: Option<i64>,
}

/// A takeover, from the death of the other site.
#[must_use]
pub fn takeover(seen: &[Seen], to: &str, killed: i64, steps: Steps, first: i64) -> Vec<Part> {
    let sight = Sight {
        seen,
        since: killed,
    };
    chain(
        killed,
        [
            (
                "signs of life stood still",
                sight.first(to, "move", &["failover"]),
                Some((5.0, 6.0)),
            ),
            (
                "the pod is placed",
                sight.first(to, "pod", &["placed", "runs"]),
                Some((2.0, 4.0)),
            ),
            (
                "the agent has its order",
                sight.first(to, "writer", &["made", "Pending", "Attaching", "Attached"]),
                Some((0.3, 1.0)),
            ),
            ("legs checked and fenced", steps.fenced, Some((1.8, 2.3))),
            ("the register", steps.promoted, Some((0.2, 0.5))),
            (
                "lease waited, device there",
                sight.first(to, "writer", &["Attached"]),
                Some((0.0, 3.5)),
            ),
            (
                "kubelet reports it in use",
                sight.first(to, "in use", &["yes"]),
                None,
            ),
            (
                "mounted, the container runs",
                sight.first(to, "pod", &["runs"]),
                None,
            ),
            ("the first record", Some(first), Some((0.7, 1.5))),
        ],
    )
}

/// A pod that starts on another node of its site, from the death of its node.
#[must_use]
pub fn node_loss(seen: &[Seen], site: &str, killed: i64, first: i64) -> Vec<Part> {
    let sight = Sight {
        seen,
        since: killed,
    };
    let gone = sight.first(site, "pod", &["gone"]);
    let later = sight.after(gone);
    let placed = later.first(site, "pod", &["placed"]);
    let ordered = later.first(site, "writer", &["made", "Pending", "Attaching"]);
    chain(
        killed,
        [
            (
                "the node is held for lost",
                sight.first(
                    site,
                    "caretaker",
                    &["made", "Pending", "Attaching", "Attached"],
                ),
                None,
            ),
            (
                "its writer is fenced",
                sight.first(site, "caretaker", &["Attached"]),
                None,
            ),
            ("its pod is let go", gone, None),
            ("a new pod is placed", placed, None),
            ("the agent has its order", ordered, None),
            (
                "opened there",
                sight.after(ordered).first(site, "writer", &["Attached"]),
                None,
            ),
            (
                "mounted, the container runs",
                later.first(site, "pod", &["runs"]),
                None,
            ),
            ("the first record", Some(first), None),
        ],
    )
}

/// `name 1.2 s, name 0.3 s (budget 0.2-0.5)`.
#[must_use]
pub fn told(parts: &[Part]) -> String {
    let one = |part: &Part| {
        let seconds = part.ms as f64 / 1000.0;
        let budget = part.budget.map_or_else(String::new, |(typical, limit)| {
            format!(" (budget {typical:.1}-{limit:.1})")
        });
        format!("{} {seconds:.1} s{budget}", part.name)
    };
    parts.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A part over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Over {
    pub name: &'static str,
    pub ms_p50: u64,
    pub ms_p99: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<(f64, f64)>,
}

/// Each part over all rounds, in the order in which they come.
#[must_use]
pub fn over_all<'a>(
    rounds: impl IntoIterator<Item = &'a Vec<Part>>,
    percentile: fn(&[u64], usize) -> u64,
) -> Vec<Over> {
    let mut order: Vec<&Part> = Vec::new();
    let mut values: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for part in rounds.into_iter().flatten() {
        if !values.contains_key(part.name) {
            order.push(part);
        }
        let ms = u64::try_from(part.ms).unwrap_or(0);
        values.entry(part.name).or_default().push(ms);
    }
    let over = |part: &Part| {
        let all = values.get(part.name).map_or(&[][..], Vec::as_slice);
        Over {
            name: part.name,
            ms_p50: percentile(all, 50),
            ms_p99: percentile(all, 99),
            budget: part.budget,
        }
    };
    order.into_iter().map(over).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinsite_tests::demo::report::percentile;

    fn seen(lines: &str) -> Vec<Seen> {
        let line = |line: &str| {
            let mut words = line.splitn(4, '|').map(str::trim);
            let mut word = || words.next().unwrap_or_default().to_owned();
            Seen {
                at: word().parse().unwrap(),
                site: word(),
                object: word(),
                state: word(),
            }
        };
        lines
            .lines()
            .filter(|text| !text.trim().is_empty())
            .map(line)
            .collect()
    }

    fn figures(parts: &[Part]) -> Vec<(&'static str, i64)> {
        parts.iter().map(|part| (part.name, part.ms)).collect()
    }

    const MOVE: &str = "
        50   | medical  | leaving  | announced
        200  | research | leaving  | announced
        900  | medical  | pod      | placed
        4000 | medical  | writer   | Pending HeldElsewhere
        5000 | medical  | awaited  | yes
        5100 | research | workload | 0
        6000 | research | writer   | Detaching
        6300 | research | writer   | Detached
        6400 | medical  | writer   | Attaching
        6900 | medical  | writer   | Attached
        8000 | medical  | pod      | runs
    ";

    #[test]
    fn the_gap_of_a_planned_move_is_the_sum_of_its_parts() {
        let (before, gap) = planned(&seen(MOVE), ("research", "medical"), 100, (5200, 8100));
        let before: i64 = before.iter().map(|part| part.ms).sum();
        assert_eq!(before, 5100);
        assert_eq!(
            figures(&gap),
            [
                ("the container ends and the node lets go", 800),
                ("drained and released", 300),
                ("seen by the other agent", 100),
                ("opened there", 500),
                ("mounted, the container runs", 1100),
                ("the first record", 100),
            ]
        );
    }

    #[test]
    fn what_was_done_meanwhile_took_nothing_and_what_was_not_seen_is_left_out() {
        let lines = "
            5500 | research | move     | failover
            6000 | research | writer   | made
            6800 | research | pod      | placed
            9000 | research | pod      | runs
        ";
        let steps = Steps {
            fenced: Some(6500),
            promoted: Some(7000),
        };
        let parts = takeover(&seen(lines), "research", 0, steps, 9100);
        assert_eq!(
            figures(&parts),
            [
                ("signs of life stood still", 5500),
                ("the pod is placed", 1300),
                ("the agent has its order", 0),
                ("legs checked and fenced", 0),
                ("the register", 200),
                ("mounted, the container runs", 2000),
                ("the first record", 100),
            ]
        );
        assert!(told(&parts).starts_with("signs of life stood still 5.5 s (budget 5.0-6.0), "));
    }

    #[test]
    fn the_parts_of_many_rounds_are_told_by_their_middle_and_their_worst() {
        let part = |ms| {
            vec![Part {
                name: "one",
                ms,
                budget: None,
            }]
        };
        let rounds = [part(100), part(300), part(200)];
        let over = over_all(&rounds, percentile);
        assert_eq!((over[0].ms_p50, over[0].ms_p99), (200, 300));
    }
}

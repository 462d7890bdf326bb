//! Tables, marks and the report for machines.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::clients::Sample;
use crate::loads::{Client, Load, Server};

/// Of a plain exchange of the same sizes.
const FLOOR: f64 = 0.8;
const INITIATOR_RATE: f64 = 1.2;
const INITIATOR_CPU: f64 = 0.7;
const SESSIONS: f64 = 1.6;
/// A client that is busy for more than this share of its one thread is the limit, not the server.
const BUSY: f64 = 0.85;

pub(crate) type Round = BTreeMap<(Client, Server), Sample>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Reached,
    Missed,
    /// The mark lies between the quartiles of the rounds.
    Unsure,
}

#[derive(Debug, Serialize)]
struct Mark {
    name: String,
    median: f64,
    quartiles: [f64; 2],
    /// `>= 2` or `<= 0.7`.
    mark: String,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    AtLeast,
    AtMost,
}

impl Mark {
    fn judge(name: String, values: &[f64], bound: Bound, mark: f64) -> Self {
        let quartiles = [quantile(values, 0.25), quantile(values, 0.75)];
        let good = |value: f64| match bound {
            Bound::AtLeast => value >= mark,
            Bound::AtMost => value <= mark,
        };
        let verdict = match quartiles.map(good) {
            [true, true] => Verdict::Reached,
            [false, false] => Verdict::Missed,
            _ => Verdict::Unsure,
        };
        let sign = match bound {
            Bound::AtLeast => ">=",
            Bound::AtMost => "<=",
        };
        Self {
            name,
            median: quantile(values, 0.5),
            quartiles,
            mark: format!("{sign} {mark}"),
            verdict,
        }
    }
}

/// What marks are read beside: the ratios with a target that takes no time.
#[derive(Debug, Serialize)]
struct Limit {
    name: String,
    median: f64,
    quartiles: [f64; 2],
}

impl Limit {
    fn of(name: String, values: &[f64]) -> Self {
        Self {
            name,
            median: quantile(values, 0.5),
            quartiles: [quantile(values, 0.25), quantile(values, 0.75)],
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    load: &'static str,
    client: Client,
    server: Server,
    iops: f64,
    p50_us: f64,
    p99_us: f64,
    client_cpu_us: f64,
    server_cpu_us: f64,
    server_sleeps: f64,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    cores: usize,
    load_average: Vec<f64>,
    rows: Vec<Row>,
    marks: Vec<Mark>,
    limits: Vec<Limit>,
    seconds: f64,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            ..Self::default()
        }
    }

    /// Takes in all rounds of a load: prints its rows, judges its marks.
    pub(crate) fn add(&mut self, load: &'static Load, rounds: Vec<Round>) {
        self.load_average.push(load_average());
        println!(
            "\n{}\n  {:<10} {:<12} {:>8} {:>7} {:>8} {:>8} {:>8} {:>7}",
            load.name, "client", "server", "/s", "p50 us", "p99 us", "CPU us", "server", "sleeps"
        );
        let (from, seen) = (self.marks.len(), self.limits.len());
        for (client, server) in load.runs() {
            let row = row(load, client, server, &rounds);
            let (by, on) = (word(&client), word(&server));
            println!(
                "  {by:<10} {on:<12} {:>8.0} {:>7.0} {:>8.0} {:>8.1} {:>8.1} {:>7.2}",
                row.iops,
                row.p50_us,
                row.p99_us,
                row.client_cpu_us,
                row.server_cpu_us,
                row.server_sleeps
            );
            self.rows.push(row);
        }
        self.judge(load, &rounds);
        for mark in &self.marks[from..] {
            print(mark);
        }
        for limit in &self.limits[seen..] {
            let [low, high] = limit.quartiles;
            let (name, median) = (&limit.name, limit.median);
            println!("  {name:<72} {median:>5.2} ({low:.2} .. {high:.2})");
        }
    }

    fn judge(&mut self, load: &Load, rounds: &[Round]) {
        let name = load.name;
        let rate = |of, to| ratios(rounds, of, to, |sample| sample.iops);
        let cpu = |of, to| ratios(rounds, of, to, |sample| sample.cpu_us);
        let least =
            |name: String, values: Vec<f64>, mark| Mark::judge(name, &values, Bound::AtLeast, mark);
        let stable = load.opponent == Server::TgtStable;
        let ours = if stable {
            Server::OursStable
        } else {
            Server::Ours
        };
        // libiscsi is the common client unless its thread is what one waits for.
        let busy = quantile(
            &column(rounds, (Client::Libiscsi, ours), |sample| {
                sample.iops * sample.cpu_us / 1e6
            }),
            0.5,
        );
        let (common, why) = if busy > BUSY {
            (
                Client::Ours,
                format!(
                    "our client; libiscsi's thread is {:.0} % busy",
                    busy * 100.0
                ),
            )
        } else {
            (Client::Libiscsi, "libiscsi".to_owned())
        };
        let opponent = word(&load.opponent);
        if let Some(floor) = load.floor() {
            let of = |client| rate((client, floor), (client, load.opponent));
            self.limits.push(Limit::of(
                format!("{name}: no time at all / {opponent} ({})", word(&common)),
                &of(common),
            ));
            self.limits.push(Limit::of(
                format!("{name}: ours / no time at all ({})", word(&common)),
                &rate((common, ours), (common, floor)),
            ));
            self.limits.push(Limit::of(
                format!("{name}: initiator / libiscsi, a target without time"),
                &rate((Client::Ours, floor), (Client::Libiscsi, floor)),
            ));
            self.limits.push(Limit::of(
                format!("{name}: initiator CPU / libiscsi, a target without time"),
                &cpu((Client::Ours, floor), (Client::Libiscsi, floor)),
            ));
        }
        self.marks.push(least(
            format!("{name} / {opponent} ({why})"),
            rate((common, ours), (common, load.opponent)),
            load.mark,
        ));
        if stable {
            return;
        }
        let one = (Client::Ours, Server::Ours);
        self.marks.push(least(
            format!("{name} / ping-pong"),
            rate(one, (Client::PingPong, Server::None)),
            FLOOR,
        ));
        let peer = (Client::Libiscsi, Server::Ours);
        if load.depth == 1 {
            // The ping-pong's figure is that of both its ends.
            let halves = cpu((Client::PingPong, Server::None), peer);
            let halves: Vec<f64> = halves.iter().map(|both| both / 2.0).collect();
            self.limits.push(Limit::of(
                format!("{name}: CPU of an end of the ping-pong / libiscsi"),
                &halves,
            ));
        }
        self.marks.push(least(
            format!("{name}, initiator / libiscsi"),
            rate(one, peer),
            INITIATOR_RATE,
        ));
        self.marks.push(Mark::judge(
            format!("{name}, initiator CPU / libiscsi"),
            &cpu(one, peer),
            Bound::AtMost,
            INITIATOR_CPU,
        ));
        if load.counts_sessions() {
            let values = rate(
                (Client::Four, Server::OursTwo),
                (Client::Ours, Server::OursTwo),
            );
            self.marks
                .push(least(format!("{name}, 4 sessions / 1"), values, SESSIONS));
        }
    }

    /// Writes the report and prints the last line; whether no mark was missed.
    pub(crate) fn finish(&mut self, out: &Path, seconds: f64) -> Result<bool> {
        self.seconds = seconds;
        let path = out.join("report.json");
        std::fs::write(&path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!();
        self.marks.iter().for_each(print);
        let count = |verdict| {
            self.marks
                .iter()
                .filter(|mark| mark.verdict == verdict)
                .count()
        };
        let (reached, missed, unsure) = (
            count(Verdict::Reached),
            count(Verdict::Missed),
            count(Verdict::Unsure),
        );
        println!(
            "bench-iscsi: reached={reached} missed={missed} unsure={unsure} load_average={:.1} seconds={seconds:.0}",
            quantile(&self.load_average, 0.5)
        );
        Ok(missed == 0)
    }
}

fn print(mark: &Mark) {
    println!(
        "  {:<72} {:>5.2} ({:.2} .. {:.2})  {:<6} {:?}",
        mark.name, mark.median, mark.quartiles[0], mark.quartiles[1], mark.mark, mark.verdict
    );
}

fn row(load: &'static Load, client: Client, server: Server, rounds: &[Round]) -> Row {
    let of = |field: fn(&Sample) -> f64| quantile(&column(rounds, (client, server), field), 0.5);
    Row {
        load: load.name,
        client,
        server,
        iops: of(|sample| sample.iops),
        p50_us: of(|sample| sample.p50_us),
        p99_us: of(|sample| sample.p99_us),
        client_cpu_us: of(|sample| sample.cpu_us),
        server_cpu_us: of(|sample| sample.server_cpu_us),
        server_sleeps: of(|sample| sample.server_sleeps),
    }
}

fn column(rounds: &[Round], run: (Client, Server), field: fn(&Sample) -> f64) -> Vec<f64> {
    rounds
        .iter()
        .filter_map(|round| round.get(&run))
        .map(field)
        .collect()
}

/// One run in units of another one of the same round.
fn ratios(
    rounds: &[Round],
    of: (Client, Server),
    to: (Client, Server),
    field: fn(&Sample) -> f64,
) -> Vec<f64> {
    let one = |round: &Round| Some(field(round.get(&of)?) / field(round.get(&to)?));
    rounds.iter().filter_map(one).collect()
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| Some(value.as_str()?.to_owned()))
        .unwrap_or_default()
}

fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_between_the_quartiles_is_not_judged() {
        let verdict =
            |values: &[f64], bound| Mark::judge(String::new(), values, bound, 2.0).verdict;
        assert_eq!(verdict(&[2.0, 2.5, 3.0], Bound::AtLeast), Verdict::Reached);
        assert_eq!(verdict(&[1.0, 1.5, 1.9], Bound::AtLeast), Verdict::Missed);
        assert_eq!(
            verdict(&[1.0, 1.9, 2.1, 4.0], Bound::AtLeast),
            Verdict::Unsure
        );
        assert_eq!(verdict(&[1.0, 1.5, 2.0], Bound::AtMost), Verdict::Reached);
    }

    #[test]
    fn only_runs_of_the_same_round_are_compared() {
        let sample = |iops| -> Sample {
            serde_json::from_value(serde_json::json!({"iops": iops, "p50_us": 0.0, "p99_us": 0.0, "cpu_us": 1.0, "errors": 0})).unwrap()
        };
        let (ours, tgt) = ((Client::Ours, Server::Ours), (Client::Ours, Server::Tgt));
        let rounds = vec![
            Round::from([(ours, sample(300.0)), (tgt, sample(100.0))]),
            Round::from([(ours, sample(40.0)), (tgt, sample(20.0))]),
            Round::from([(ours, sample(40.0))]),
        ];
        assert_eq!(ratios(&rounds, ours, tgt, |sample| sample.iops), [3.0, 2.0]);
    }
}

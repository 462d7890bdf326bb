//! The tables on the terminal, the marks, and the report for machines.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::measure::{Load, Round, Side, load_average, median, quantile};

/// What a hot write may add to the slower leg alone, in microseconds.
const ADDED_P50: f64 = 30.0;
const ADDED_P99: f64 = 150.0;
/// Of the slower leg's throughput, where the legs are the limit.
const SHARE: f64 = 0.95;
/// CPU of a mirrored write in writes to one leg.
const CPU: f64 = 2.1;

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    load: &'static str,
    service_us: u128,
    leg: Side,
    mirror: Side,
    /// Medians of what each round gave.
    rate_ratio: f64,
    added_p50_us: f64,
    added_p99_us: f64,
    data_cpu_ratio: f64,
    all_cpu_ratio: f64,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct Table {
    title: String,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Reached,
    Missed,
    /// The mark lies between the quartiles of the rounds: other work on the machine is louder than what is measured.
    Unsure,
}

/// Which side of a mark is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    AtMost,
    AtLeast,
}

#[derive(Debug, Serialize)]
struct Mark {
    name: &'static str,
    median: f64,
    quartiles: [f64; 2],
    mark: f64,
    verdict: Verdict,
}

impl Mark {
    fn judge(name: &'static str, values: &[f64], bound: Bound, mark: f64) -> Self {
        let at = |share| quantile(values.iter().copied(), share);
        let quartiles = [at(0.25), at(0.75)];
        let good = |value: f64| match bound {
            Bound::AtMost => value <= mark,
            Bound::AtLeast => value >= mark,
        };
        let verdict = match quartiles.map(good) {
            [true, true] => Verdict::Reached,
            [false, false] => Verdict::Missed,
            _ => Verdict::Unsure,
        };
        Self {
            name,
            median: at(0.5),
            quartiles,
            mark,
            verdict,
        }
    }
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    cores: usize,
    load_average: Vec<f64>,
    tables: Vec<Table>,
    marks: Vec<Mark>,
    seconds: f64,
}

fn medians(rounds: &[Round], pick: impl Fn(&Round) -> Side) -> Side {
    let of = |field: fn(&Side) -> f64| median(rounds.iter().map(|round| field(&pick(round))));
    Side {
        p50_us: of(|side| side.p50_us),
        p99_us: of(|side| side.p99_us),
        per_second: of(|side| side.per_second),
        data_cpu_us: of(|side| side.data_cpu_us),
        all_cpu_us: of(|side| side.all_cpu_us),
    }
}

impl Row {
    pub(crate) fn new(load: &Load, rounds: Vec<Round>) -> Self {
        let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
        Self {
            load: load.name,
            service_us: load.service.as_micros(),
            leg: medians(&rounds, |round| round.leg),
            mirror: medians(&rounds, |round| round.mirror),
            rate_ratio: of(Round::rate_ratio),
            added_p50_us: of(Round::added_p50),
            added_p99_us: of(Round::added_p99),
            data_cpu_ratio: of(Round::data_cpu_ratio),
            all_cpu_ratio: of(Round::all_cpu_ratio),
            rounds,
        }
    }

    fn print(&self) {
        let side = |side: &Side| {
            format!(
                "{:>6.0} {:>6.0} {:>7.0} {:>5.1} {:>5.1}",
                side.p50_us, side.p99_us, side.per_second, side.data_cpu_us, side.all_cpu_us
            )
        };
        println!(
            "{:<15} {:>4} | {} | {} | {:>5.2} {:>+6.0} {:>+6.0} | {:>4.2} {:>4.2}",
            self.load,
            self.service_us,
            side(&self.leg),
            side(&self.mirror),
            self.rate_ratio,
            self.added_p50_us,
            self.added_p99_us,
            self.data_cpu_ratio,
            self.all_cpu_ratio
        );
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load_average: vec![load_average()],
            ..Self::default()
        }
    }

    /// Prints a table and keeps it.
    pub(crate) fn table(&mut self, title: String, rows: Vec<Row>) {
        println!("\n{title}");
        let side = |who: &str| format!("{:<33}", format!("{who}: p50 p99 /s cpu all"));
        println!(
            "{:<15} {:>4} | {} | {} | {:>5} {:>6} {:>6} | cpu all",
            "load",
            "us",
            side("leg"),
            side("mirror"),
            "ratio",
            "+p50",
            "+p99"
        );
        rows.iter().for_each(Row::print);
        self.load_average.push(load_average());
        self.tables.push(Table { title, rows });
    }

    /// The row of this load, in any table that has it under this service time.
    fn row(&self, load: &str, service_us: u128, table: usize) -> Option<&Row> {
        let rows = &self.tables.get(table)?.rows;
        let mut rows = rows.iter();
        rows.find(|row| row.load == load && row.service_us == service_us)
    }

    /// The first table is the hot one, the second the one of legs with a limited rate.
    fn judge(&self) -> Option<Vec<Mark>> {
        let of = |row: &Row, value: fn(&Round) -> f64| -> Vec<f64> {
            row.rounds.iter().map(value).collect()
        };
        let far = self.row("4k write QD1", 100, 0)?;
        let busy = self.row("4k write QD32", 0, 0)?;
        let rated = &self.tables.get(1)?.rows;
        // The worse of the loads is judged.
        let worst = rated
            .iter()
            .min_by(|a, b| a.rate_ratio.total_cmp(&b.rate_ratio))?;
        let most = |name, values: Vec<f64>, mark| Mark::judge(name, &values, Bound::AtMost, mark);
        let share = of(worst, Round::rate_ratio);
        Some(vec![
            most(
                "hot_write_added_us_p50",
                of(far, Round::added_p50),
                ADDED_P50,
            ),
            most(
                "hot_write_added_us_p99",
                of(far, Round::added_p99),
                ADDED_P99,
            ),
            most("cpu_ratio", of(busy, Round::all_cpu_ratio), CPU),
            Mark::judge("throughput_share", &share, Bound::AtLeast, SHARE),
        ])
    }

    /// Judges, writes the report and prints the last line; whether no mark was missed.
    pub(crate) fn finish(&mut self, out: &Path, seconds: f64) -> Result<bool> {
        self.seconds = seconds;
        self.marks = self.judge().context("a table is missing")?;
        std::fs::create_dir_all(out)?;
        let path = out.join("report.json");
        std::fs::write(&path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!(
            "\n{:<24} {:>8}  {:<18} {:>6}",
            "", "median", "quartiles", "mark"
        );
        for mark in &self.marks {
            let quartiles = format!("{:.2} .. {:.2}", mark.quartiles[0], mark.quartiles[1]);
            println!(
                "{:<24} {:>8.2}  {quartiles:<18} {:>6.2}  {:?}",
                mark.name, mark.median, mark.mark, mark.verdict
            );
        }
        let is = |verdict| self.marks.iter().any(|mark| mark.verdict == verdict);
        let word = match () {
            () if is(Verdict::Missed) => "MISSED",
            () if is(Verdict::Unsure) => "unsure",
            () => "ok",
        };
        let figures: Vec<String> = self
            .marks
            .iter()
            .map(|mark| format!("{}={:.2}", mark.name, mark.median))
            .collect();
        println!(
            "bench: {word} {} load_average={:.1} seconds={seconds:.0}",
            figures.join(" "),
            median(self.load_average.iter().copied()),
        );
        Ok(!is(Verdict::Missed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use twinsite_agent::volume::drive::Kind;

    const LOAD: Load = Load {
        name: "4k write QD1",
        kind: Kind::Write,
        block: 4096,
        depth: 1,
        span: 1 << 20,
        service: Duration::from_micros(100),
    };

    fn round(leg: f64, mirror: f64) -> Round {
        let side = |p50_us| Side {
            p50_us,
            p99_us: 2.0 * p50_us,
            per_second: 1e6 / p50_us,
            data_cpu_us: 1.0,
            all_cpu_us: 2.0,
        };
        Round {
            leg: side(leg),
            mirror: side(mirror),
        }
    }

    #[test]
    fn a_row_gives_the_median_of_differences_and_not_the_difference_of_medians() {
        let rounds = vec![
            round(100.0, 110.0),
            round(300.0, 320.0),
            round(200.0, 500.0),
        ];
        let row = Row::new(&LOAD, rounds);
        assert_eq!((row.added_p50_us, row.added_p99_us), (20.0, 40.0));
        assert_eq!((row.leg.p50_us, row.mirror.p50_us), (200.0, 320.0));
    }

    #[test]
    fn a_mark_between_the_quartiles_is_not_judged() {
        let verdict = |values: &[f64], bound| Mark::judge("x", values, bound, 30.0).verdict;
        let close = [29.0, 30.0, 28.0];
        assert_eq!(verdict(&close, Bound::AtMost), Verdict::Reached);
        assert_eq!(verdict(&[31.0, 32.0, 35.0], Bound::AtMost), Verdict::Missed);
        assert_eq!(
            verdict(&[-90.0, 20.0, 80.0], Bound::AtMost),
            Verdict::Unsure
        );
        assert_eq!(
            verdict(&[31.0, 32.0, 35.0], Bound::AtLeast),
            Verdict::Reached
        );
        assert_eq!(
            verdict(&[28.0, 29.0, 29.5], Bound::AtLeast),
            Verdict::Missed
        );
    }
}

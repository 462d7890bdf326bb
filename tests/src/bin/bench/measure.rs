//! One load in rounds: each round drives the leg of either site alone and then the mirror, close together in time, and
//! gives differences and ratios of its own; the median of those over the rounds is the result.
#![allow(unsafe_code, reason = "the CPU time of a process has no form in std")]

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use twinsite_agent::volume::drive::{Kind, Places, Run, Workload};
use twinsite_mirror::io::Leg;

use crate::world::World;

/// A row of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) block: u32,
    pub(crate) depth: u32,
    pub(crate) span: u64,
    /// What every operation of a store takes longer.
    pub(crate) service: Duration,
}

/// One side of one round.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Side {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) per_second: f64,
    /// CPU of the data thread for one request.
    pub(crate) data_cpu_us: f64,
    /// CPU of the whole process, targets included.
    pub(crate) all_cpu_us: f64,
}

/// One round: the leg that was compared with, and the mirror.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Round {
    pub(crate) leg: Side,
    pub(crate) mirror: Side,
}

impl Round {
    pub(crate) fn rate_ratio(&self) -> f64 {
        self.mirror.per_second / self.leg.per_second
    }

    pub(crate) fn added_p50(&self) -> f64 {
        self.mirror.p50_us - self.leg.p50_us
    }

    pub(crate) fn added_p99(&self) -> f64 {
        self.mirror.p99_us - self.leg.p99_us
    }

    pub(crate) fn data_cpu_ratio(&self) -> f64 {
        self.mirror.data_cpu_us / self.leg.data_cpu_us
    }

    pub(crate) fn all_cpu_ratio(&self) -> f64 {
        self.mirror.all_cpu_us / self.leg.all_cpu_us
    }
}

/// Requests of one run: at least, at most.
const REQUESTS: (f64, f64) = (300.0, 20_000.0);

impl Load {
    fn work(&self, requests: u64, seed: u64) -> Workload {
        Workload {
            kind: self.kind,
            block: self.block,
            depth: self.depth,
            offset: 0,
            span: self.span,
            places: Places::Random { seed },
            requests,
            warm_up: requests / 10,
        }
    }

    /// How many requests fill `slice` on the slower leg alone.
    pub(crate) fn calibrate(&self, world: &World, slice: Duration) -> Result<u64> {
        world.set_service_time(self.service)?;
        let run = |leg| world.drive_alone(leg, self.work(200, 1));
        let runs = [run(Leg::A), run(Leg::B)];
        let good = runs.iter().all(|run| run.failed == 0);
        ensure!(good, "{}: requests failed", self.name);
        let slower = runs
            .iter()
            .map(Run::per_second)
            .fold(f64::INFINITY, f64::min);
        let fit = slower * slice.as_secs_f64();
        Ok(fit.clamp(REQUESTS.0, REQUESTS.1) as u64)
    }

    pub(crate) fn round(&self, world: &World, requests: u64, seed: u64) -> Result<Round> {
        world.set_service_time(self.service)?;
        let work = self.work(requests, seed);
        // The order changes, so that nobody always runs after the same other one.
        let mut sides = [Side::default(); 3];
        for turn in 0..sides.len() {
            let who = (turn + seed as usize) % sides.len();
            sides[who] = side(work, || match who {
                0 => world.drive_alone(Leg::A, work),
                1 => world.drive_alone(Leg::B, work),
                _ => world.drive_mirror(work),
            })?;
        }
        let [a, b, mirror] = sides;
        // A write waits for the slower leg, a read for the leg of its own site.
        let leg = match self.kind {
            Kind::Write if b.p50_us > a.p50_us => b,
            _ => a,
        };
        Ok(Round { leg, mirror })
    }
}

fn side(work: Workload, drive: impl FnOnce() -> Run) -> Result<Side> {
    let before = process_cpu();
    let run = drive();
    let all = process_cpu().saturating_sub(before);
    let measured = run.latencies.len();
    ensure!(
        run.failed == 0 && measured as u64 == work.requests,
        "{measured} of {} requests, {} failed",
        work.requests,
        run.failed
    );
    let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
    Ok(Side {
        p50_us: micros(run.quantile(0.5)),
        p99_us: micros(run.quantile(0.99)),
        per_second: run.per_second(),
        data_cpu_us: micros(run.cpu) / work.requests as f64,
        all_cpu_us: micros(all) / (work.requests + work.warm_up) as f64,
    })
}

fn process_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live timespec for the call to fill in.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(time.tv_sec.unsigned_abs(), nanos)
}

/// Marks every region of the span, so that what follows finds it hot.
pub(crate) fn heat(world: &World, span: u64) -> Result<()> {
    let work = Workload {
        kind: Kind::Write,
        block: 1 << 16,
        depth: 8,
        offset: 0,
        span,
        places: Places::Sequential,
        requests: span >> 16,
        warm_up: 0,
    };
    let runs = [
        world.drive_alone(Leg::A, work),
        world.drive_alone(Leg::B, work),
        world.drive_mirror(work),
    ];
    ensure!(runs.iter().all(|run| run.failed == 0), "writes failed");
    Ok(())
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this share of the values lies, between two of them where it has to.
pub(crate) fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * at.fract()
}

/// The machine's other work: what `uptime` shows.
pub(crate) fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next();
    first.and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Runs `rounds` rounds over all loads: one round of each, then the next round.
pub(crate) fn rounds(
    world: &World,
    loads: &[Load],
    rounds: u64,
    slice: Duration,
) -> Result<Vec<Vec<Round>>> {
    let mut counts = Vec::new();
    for load in loads {
        counts.push(load.calibrate(world, slice)?);
    }
    let mut results = vec![Vec::new(); loads.len()];
    for seed in 1..=rounds {
        for ((load, requests), result) in loads.iter().zip(&counts).zip(&mut results) {
            result.push(load.round(world, *requests, seed)?);
        }
    }
    world.check_synced()?;
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_two_values_where_they_have_to() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
        assert_eq!(quantile([5.0, 1.0, 2.0, 4.0, 3.0], 0.25), 2.0);
        assert_eq!(quantile([1.0, 2.0], 0.75), 1.75);
    }
}

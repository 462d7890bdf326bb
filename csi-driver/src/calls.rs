//! Every RPC passes here: it is run to its end, counted, timed and logged.
//!
//! A caller that gives up (kubelet does after two minutes) does not stop what it began: the work goes on in a task of its
//! own, and keeps its volume until it is done.
//!
//! Invariants: a log line has method, volume id, code and duration, never a request: requests may carry secrets.

use std::{
    collections::BTreeMap,
    fmt::Write,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tonic::{Code, Request, Response, Status};

/// How long a call may take whose caller does not say.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
/// Upper bounds of the buckets of the duration histogram, in milliseconds.
const BUCKETS_MS: [u64; 10] = [5, 25, 100, 250, 500, 1_000, 2_500, 10_000, 30_000, 120_000];

/// Account of the calls of a process.
#[derive(Debug, Clone, Default)]
pub struct Calls(Arc<Mutex<Account>>);

#[derive(Debug, Default)]
struct Account {
    codes: BTreeMap<(&'static str, &'static str), u64>,
    times: BTreeMap<&'static str, Histogram>,
    under_way: u64,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS_MS.len()],
    count: u64,
    seconds: f64,
}

impl Calls {
    /// Runs the work of a call to its end, whether its caller waits or not.
    ///
    /// # Errors
    /// What the work says; INTERNAL if it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        method: &'static str,
        volume: &str,
        work: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let calls = self.clone();
        let volume = volume.to_owned();
        let task = tokio::spawn(async move {
            let begun = Instant::now();
            calls.account().under_way += 1;
            let result = tokio::spawn(work).await.unwrap_or_else(|panic| {
                Err(Status::internal(format!("the call did not end: {panic}")))
            });
            calls.finish(method, &volume, begun.elapsed(), result.as_ref().err());
            result
        });
        let result = task
            .await
            .unwrap_or_else(|panic| Err(Status::internal(format!("not accounted: {panic}"))));
        result.map(Response::new)
    }

    fn finish(&self, method: &'static str, volume: &str, took: Duration, error: Option<&Status>) {
        let code = code_name(error.map_or(Code::Ok, Status::code));
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match error {
            None => tracing::info!(method, volume, code, ms, "call"),
            Some(status) => {
                let why = status.message();
                tracing::warn!(method, volume, code, ms, why, "call");
            }
        }
        let mut account = self.account();
        account.under_way -= 1;
        *account.codes.entry((method, code)).or_default() += 1;
        let times = account.times.entry(method).or_default();
        times.count += 1;
        times.seconds += took.as_secs_f64();
        for (bucket, bound) in times.buckets.iter_mut().zip(BUCKETS_MS) {
            *bucket += u64::from(ms <= bound);
        }
    }

    fn account(&self) -> std::sync::MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account in the text format of Prometheus.
    pub fn page(&self) -> String {
        let account = self.account();
        let mut page = String::new();
        // Writing to a string does not fail.
        let mut line = |text: std::fmt::Arguments<'_>| {
            let _ = writeln!(page, "{text}");
        };
        line(format_args!(
            "# HELP twinsite_csi_calls_total CSI calls answered.\n# TYPE twinsite_csi_calls_total counter"
        ));
        for ((method, code), count) in &account.codes {
            line(format_args!(
                "twinsite_csi_calls_total{{method=\"{method}\",code=\"{code}\"}} {count}"
            ));
        }
        line(format_args!(
            "# HELP twinsite_csi_call_seconds Time to the answer of a CSI call.\n# TYPE twinsite_csi_call_seconds histogram"
        ));
        for (method, times) in &account.times {
            for (bucket, bound) in times.buckets.iter().zip(BUCKETS_MS) {
                let (whole, part) = (bound / 1000, bound % 1000);
                line(format_args!(
                    "twinsite_csi_call_seconds_bucket{{method=\"{method}\",le=\"{whole}.{part:03}\"}} {bucket}"
                ));
            }
            let Histogram { count, seconds, .. } = times;
            line(format_args!(
                "twinsite_csi_call_seconds_bucket{{method=\"{method}\",le=\"+Inf\"}} {count}\ntwinsite_csi_call_seconds_sum{{method=\"{method}\"}} {seconds:.6}\ntwinsite_csi_call_seconds_count{{method=\"{method}\"}} {count}"
            ));
        }
        line(format_args!(
            "# HELP twinsite_csi_calls_under_way CSI calls that are not answered yet.\n# TYPE twinsite_csi_calls_under_way gauge\ntwinsite_csi_calls_under_way {}",
            account.under_way
        ));
        page
    }
}

/// When the answer to a request must be on its way: a little before its caller gives up.
pub fn deadline<T>(request: &Request<T>) -> tokio::time::Instant {
    let given = request.metadata().get("grpc-timeout");
    let limit = given
        .and_then(|value| parse_timeout(value.to_str().ok()?))
        .unwrap_or(DEFAULT_DEADLINE);
    let margin = (limit / 10).min(Duration::from_secs(2));
    tokio::time::Instant::now() + (limit - margin)
}

/// `grpc-timeout`: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inflight::InFlight;

    #[test]
    fn the_time_a_caller_gives_is_read_in_every_unit() {
        for (text, millis) in [
            ("2M", Some(120_000)),
            ("1H", Some(3_600_000)),
            ("15S", Some(15_000)),
            ("250m", Some(250)),
            ("119999999u", None),
            ("5000u", Some(5)),
            ("99999999n", Some(99)),
            ("", None),
            ("S", None),
            ("1x", None),
            ("-1S", None),
            ("1é", None),
        ] {
            let read = parse_timeout(text).map(|time| time.as_millis());
            assert_eq!(read, millis, "{text}");
        }
    }

    #[tokio::test]
    async fn work_goes_on_when_its_caller_has_gone_and_keeps_its_volume() {
        let (calls, volumes) = (Calls::default(), InFlight::default());
        let guard = volumes.begin("v").unwrap();
        let (go_on, wait) = tokio::sync::oneshot::channel::<()>();
        let work = async move {
            let _guard = guard;
            wait.await.map_err(|_| Status::internal("gone"))
        };
        let call = calls.run("NodeStageVolume", "v", work);
        tokio::time::timeout(Duration::from_millis(20), call)
            .await
            .unwrap_err();
        assert_eq!(volumes.begin("v").unwrap_err().code(), Code::Aborted);
        go_on.send(()).unwrap();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if volumes.begin("v").is_ok() {
                return;
            }
        }
        panic!("the volume is still held");
    }

    #[tokio::test]
    async fn calls_are_counted_by_method_and_code() {
        let calls = Calls::default();
        let good = calls.run("Probe", "", async { Ok(()) }).await;
        good.unwrap();
        for _ in 0..2 {
            let bad = calls.run("Probe", "", async { Err::<(), _>(Status::not_found("x")) });
            bad.await.unwrap_err();
        }
        let page = calls.page();
        for line in [
            "twinsite_csi_calls_total{method=\"Probe\",code=\"OK\"} 1",
            "twinsite_csi_calls_total{method=\"Probe\",code=\"NOT_FOUND\"} 2",
            "twinsite_csi_call_seconds_bucket{method=\"Probe\",le=\"+Inf\"} 3",
            "twinsite_csi_calls_under_way 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}

//! Instants that are subtracted from each other: with microseconds, which the plain Kubernetes time
//! leaves out. What it writes is still an RFC 3339 time.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::fmt::strtime};
use serde::{Serialize, Serializer, ser};

pub(crate) fn precisely<S: Serializer>(
    time: &Option<Time>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = time
        .as_ref()
        .map(|time| strtime::format("%Y-%m-%dT%H:%M:%S%.6fZ", time.0));
    text.transpose()
        .map_err(ser::Error::custom)?
        .serialize(serializer)
}

#[cfg(test)]
mod tests {
    use crate::Timings;

    #[test]
    fn an_instant_keeps_its_microseconds() {
        let text = r#"{"orderedAt":"2026-11-28T04:04:08.123456Z"}"#;
        let timings: Timings = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&timings).unwrap(), text);
        let whole: Timings =
            serde_json::from_str(r#"{"orderedAt":"2026-11-28T04:04:08Z"}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&whole).unwrap(),
            r#"{"orderedAt":"2026-11-28T04:04:08.000000Z"}"#
        );
    }
}

//! A comparison of both copies while the volume is used: how it is ordered, what it found.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Annotation of a MirroredVolume: each new value, such as the time, compares the copies once.
pub const VERIFY_ANNOTATION: &str = "twinsite.io/verify";
/// Longest value of it that counts.
pub const VERIFY_REQUEST_MAX: usize = 64;

/// How far a comparison of the copies is, or how the last one ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// What ordered it: the value of the order, or `by hand`.
    pub request: String,
    pub state: VerifyState,
    /// Why it waits or was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub started_at: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// Size of the volume.
    pub total_bytes: u64,
    /// Everything before this byte was compared.
    pub compared_bytes: u64,
    pub percent: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// Chunks that were compared.
    pub chunks: u64,
    /// Bytes of blocks that are not the same in both copies.
    pub differing_bytes: u64,
    /// Where, as far as the list goes (64 ranges).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differing: Vec<ByteRange>,
    /// Bytes that could not be compared, because a copy cannot be read there.
    #[serde(default)]
    pub unreadable_bytes: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<ByteRange>,
}

impl VerifyReport {
    /// Everything was compared, and something is not the same.
    #[must_use]
    pub fn found_difference(&self) -> bool {
        self.differing_bytes > 0
    }

    /// It has not ended: it runs, or goes on by itself.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, VerifyState::Running | VerifyState::Waiting)
    }

    /// The result in a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let found = match (self.differing_bytes, self.unreadable_bytes) {
            (0, 0) => "no difference".to_owned(),
            (0, unreadable) => format!("no difference, {unreadable} bytes could not be read"),
            (differing, _) => {
                let at: Vec<String> = self.differing.iter().map(ToString::to_string).collect();
                format!("{differing} bytes differ, at {}", at.join(", "))
            }
        };
        match self.state {
            VerifyState::Done => format!("all compared: {found}"),
            VerifyState::Running => format!("{} % compared: {found}", self.percent),
            VerifyState::Waiting | VerifyState::Stopped => format!(
                "{} % compared ({}): {found}",
                self.percent,
                self.reason.as_deref().unwrap_or("stopped")
            ),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerifyState {
    /// Both copies are being read.
    Running,
    /// It goes on from where it was when both copies are members again.
    Waiting,
    /// All of the volume was compared.
    Done,
    /// By an order.
    Stopped,
}

/// Some bytes of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ByteRange {
    pub offset: u64,
    pub length: u64,
}

impl std::fmt::Display for ByteRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.offset, self.length)
    }
}

//! The text page that Prometheus reads, and how well the agent is.

mod health;
mod page;

pub use health::Health;
pub use page::{LegMetrics, NodeMetrics, Page, PoolMetrics, VolumeMetrics, render};

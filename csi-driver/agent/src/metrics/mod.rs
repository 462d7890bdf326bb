//! The text page that Prometheus reads, and the small server that shows it.

mod page;
mod server;

pub use page::{LegMetrics, NodeMetrics, Page, PoolMetrics, VolumeMetrics, render};
pub use server::{Health, serve};

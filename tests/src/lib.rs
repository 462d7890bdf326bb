//! The harness: sites as process groups, the line between them, the workload that numbers its writes, and the timeline.
//!
//! Used by `make demo`, by the benchmarks and by the whole-system tests. Nothing of the product is re-made here: sites run
//! the real `twinsite-agent`.

pub mod demo;
pub mod evidence;
pub mod history;
pub mod link;
pub mod needs;
pub mod pair;
pub mod play;
pub mod process;
pub mod site;
pub mod timeline;
pub mod workload;

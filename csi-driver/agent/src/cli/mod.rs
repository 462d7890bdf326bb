//! The command line: what the agent is started with, and what a person asks of a running one.

pub mod ctl;
pub mod pool;
pub mod run;

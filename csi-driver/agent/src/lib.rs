//! The node agent: target, mirror and block device.

pub mod backend;
pub mod cli;
pub mod control;
pub mod frontend;
pub mod initiator;
pub mod kubernetes;
pub mod metrics;
pub mod objects;
pub mod qualify;
pub mod reactor;
pub mod status;
pub mod target;
pub mod volume;

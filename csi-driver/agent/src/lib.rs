//! The node agent: target, mirror and block device.

pub mod backend;
pub mod frontend;
pub mod reactor;
pub mod target;

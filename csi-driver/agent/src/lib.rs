//! The node agent: target, mirror and block device.

pub mod reactor;

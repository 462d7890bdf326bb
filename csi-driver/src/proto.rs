//! The wire types, made from `proto/` by the build script.

#![allow(
    unreachable_pub,
    unused_qualifications,
    clippy::use_self,
    clippy::wildcard_imports,
    reason = "generated code"
)]

/// CSI v1.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// kubelet's plugin registration v1.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

//! The CSI driver.

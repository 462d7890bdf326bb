//! The register: the compare-and-swap record that decides membership and active site.
#![forbid(unsafe_code)]

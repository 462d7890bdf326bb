//! Resource types of twinsite.io/v1alpha1.
#![forbid(unsafe_code)]

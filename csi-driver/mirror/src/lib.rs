//! The mirror engine: two legs, one device, no acknowledged write lost.
#![forbid(unsafe_code)]

//! The witness: where the register lives, and what else the two sites know of each other by it.
//!
//! A [`Store`] is a place for small named objects that can be swapped on condition: a directory
//! ([`Directory`]), an S3-compatible bucket ([`Bucket`]), a namespace of a Kubernetes cluster ([`Kubernetes`]).
//! A [`Witness`] keeps four kinds of object of one pair of sites in a store:
//!
//! | object | written | means |
//! |---|---|---|
//! | register, per group | compare-and-swap of the whole value | decides membership and active site |
//! | sites | compare-and-swap | which site name has index A and B, for ever |
//! | beat, per volume | as a maximum | evidence that its writer lives; highest beat known |
//! | liveness, per site | over the old one | evidence that the site lives; only its change counts |
//!
//! Nothing here is decided by a clock, and nothing is decided at all: the rules are in
//! `twinsite-register`, the witness is a place. An outcome that is not known is [`Swap::Unknown`],
//! never a guess: the caller reads and compares (protocol 2.3 rule 3).
//!
//! A thread without tokio talks to a witness through [`WitnessHandle`].

#![forbid(unsafe_code)]

mod bucket;
mod claim;
mod directory;
mod guard;
mod handle;
mod kubernetes;
mod probe;
mod store;
mod witness;

pub use bucket::{Bucket, BucketCredentials, BucketError};
pub use claim::{Claim, ClaimError, Sites};
pub use directory::{Directory, DirectoryError};
pub use guard::Guard;
pub use handle::{Observer, WitnessHandle};
pub use kubernetes::{Kubernetes, KubernetesError};
pub use probe::{ProbeError, probe};
pub use store::{
    Care, Condition, ObjectName, Pending, Store, StoreError, Version, Versioned, Written,
};
pub use twinsite_register as register;
pub use witness::{BadPairName, Liveness, REQUEST_TIMEOUT, ReadError, Swap, Witness, WriteError};

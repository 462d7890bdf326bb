//! FUSE by hand: one file, straight from the kernel's request format to ours.
//!
//! A file system of one file needs a dozen of the kernel's operations. Spoken here without a library, a write costs
//! one copy (out of the read buffer), a read reply is gathered from the pieces that came off the network, answers go
//! out on the thread that has them, and nobody but us decides who holds the descriptor, on which the promise that
//! a kill always ends the agent depends.
//!
//! `abi` reads requests and writes answers as bytes; `device` owns the descriptor and the mount.

pub mod abi;
pub mod device;

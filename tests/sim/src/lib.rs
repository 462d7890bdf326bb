//! Deterministic simulation of a mirrored volume: two sites, three agents, one witness, everything that fails.
//!
//! Real: the mirror engine, both ends of iSCSI sessions, the logical units with their reservations, the register's values
//! and transitions. Simulated, from one seed: time, network, disks, witness transport, processes, guests. A run is a list
//! of numbered faults; then everything is healed and the volume must be whole, readable and equal on both legs.
//!
//! Checked while it runs: each read against the oracle (`oracle`), I1 after each acknowledgement and each change of the
//! register, I3 and I8 at each change, I4 and I13 when nobody serves, I7, I11, R44; I10 and the size at the end.

pub mod agent;
pub mod birth;
mod check;
pub mod coverage;
pub mod disk;
pub mod faults;
mod guest;
pub mod history;
pub mod human;
pub mod mutants;
pub mod network;
pub mod oracle;
mod outputs;
pub mod random;
mod requests;
pub mod run;
pub mod scsi;
pub mod shell;
mod supervisor;
pub mod target;
mod traffic;
pub mod witness;
pub mod world;

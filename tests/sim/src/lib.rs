//! Deterministic simulation of a mirrored volume: two sites, three agents, one witness, everything that fails.
//!
//! Real: the mirror engine, both ends of iSCSI sessions, the logical units with their reservations, the register's values
//! and transitions. Simulated, from one seed: time, network, disks, witness transport, processes, guests. A run is a list
//! of numbered faults; then everything is healed and the volume must be whole, readable and equal on both legs.
//!
//! Checked while it runs: each read against the oracle (`oracle`), I1 after each acknowledgement and each change of the
//! register, I3 and I8 at each change, I4 and I13 when nobody serves, I7, I11, R44; I10 and the size at the end.
//!
//! | file | what |
//! |---|---|
//! | `world`, `supervisor`, `agent`, `shell`, `outputs`, `requests` | the event loop; processes, and what each carries out for its engine |
//! | `network`, `disk`, `target`, `traffic`, `scsi`, `witness` | what is simulated, and the real targets on it |
//! | `faults`, `human`, `guest` | what goes wrong, what people do, what the application does |
//! | `oracle`, `check`, `history`, `coverage` | what must hold, what happened, what was never met |
//! | `birth`, `run`, `random` | the first state, one run, the one source of chance |
//! | `mutants` | the engine with one rule taken out |

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

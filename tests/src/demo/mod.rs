//! `make demo`: the story of a site that dies in mid-write, told by the real agents on a real file system.
//!
//! [`stage`] has the moves that every act is made of (open, write, verify, kill, return); [`acts`] the acts themselves, [`kills`] the
//! run that waits for no good moment.

pub mod acts;
pub mod dice;
pub mod kills;
pub mod options;
pub mod report;
pub mod stage;

//! `make demo`: the story of a site that dies in mid-write, told by the real agents on a real file system.
//!
//! [`stage`] has the moves that every act is made of (open, write, verify, kill, return); [`acts`] the acts themselves.

pub mod acts;
pub mod options;
pub mod report;
pub mod stage;

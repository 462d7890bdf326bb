//! `make demo-kubernetes`: the story of `make demo` on two real clusters, told with kubectl.
//!
//! [`stage`] has the moves that the story is made of, [`story`] the story, [`report`] its figures.

pub mod report;
pub mod stage;
pub mod story;

//! `make demo-kubernetes`: the story of `make demo` on two real clusters, told with kubectl.
//!
//! [`stage`] has what the story is made of, [`moves`] what of it is measured, [`story`] the story, [`report`] its figures;
//! [`trace`] watches the objects meanwhile, and [`parts`] tells from it where the time went.

pub mod moves;
pub mod parts;
pub mod report;
pub mod stage;
pub mod story;
pub mod trace;

//! The mirror protocol as checked models.
//!
//! Each model is a finite transition system explored breadth first (`search`). With all rules on no violation exists within
//! the stated bounds; with one rule switched off (a flag) the search returns a shortest counterexample, and each of these
//! pairs is a regression test: a checker that cannot fail is worth nothing.
//!
//! - `ordering`: who may write, in what order: fences, compare-and-swap as a message, shrink, rejoin, takeover, leases.
//! - `regions`: the data path: maps, page and base numbers, beats, volatile caches, a leg that is put back.
//! - `lifecycle`: birth, format, the order of Attachments, a restored witness, force, delete.
//! - `small`: slots and `landed`, expand, a group of two volumes, two paths to one leg.
//! - `made`: which rules are switched off in a run.
//! - `table`: what the models hand to the activation decision, which is the shipped one.

pub mod catalogue;
pub mod lifecycle;
pub mod made;
pub mod ordering;
pub mod regions;
pub mod search;
pub mod small;
pub mod table;

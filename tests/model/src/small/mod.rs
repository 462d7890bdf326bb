//! Small models of one rule set each, complete in seconds.
//!
//! - `slots`: two superblock slots per leg, torn or unreadable, a leg that is put back, `landed` (R32).
//! - `expand`: the volume grows, killed at any step (2.17).
//! - `group`: two volumes, one register (2.10).
//! - `paths`: two sessions of one writer to one leg, and another writer (R15, R16, R31).

pub mod expand;
pub mod group;
pub mod paths;
pub mod slots;

use crate::made::Made;
use crate::search::{Model, Outcome, Step, search, step};

/// Flag and rule of each mistake that a small model can make, by number.
pub type Mistakes = &'static [(&'static str, &'static str)];

/// Flags for which no counterexample is known, with the reason.
pub type NotShown = &'static [(&'static str, &'static str)];

fn made(all: Mistakes, flags: &[&str]) -> Result<Made, String> {
    Made::of(flags, |flag| all.iter().position(|(name, _)| *name == flag))
}

/// A step that changes a copy of `s`.
fn to<S: Clone>(
    out: &mut Vec<(Step, S)>,
    s: &S,
    name: &'static str,
    args: (usize, usize),
    change: impl FnOnce(&mut S),
) {
    let mut t = s.clone();
    change(&mut t);
    out.push((step(name, args.0 as u64, args.1 as u64, 0u8), t));
}

pub const BASE: &[&str] = &["slots", "expand", "group", "paths"];

/// `None`: no such configuration.
pub fn run(name: &str, flags: &[&str], max: usize) -> Option<Result<Outcome, String>> {
    fn all<M: Model>(model: Result<M, String>, max: usize) -> Result<Outcome, String> {
        Ok(search(&model?, max))
    }
    Some(match name {
        "slots" => all(made(slots::MISTAKES, flags).map(slots::Slots), max),
        "expand" => all(made(expand::MISTAKES, flags).map(expand::Expand), max),
        "group" => all(made(group::MISTAKES, flags).map(group::Group), max),
        "paths" => all(made(paths::MISTAKES, flags).map(paths::Paths), max),
        _ => return None,
    })
}

/// Every other flag is shown in its own model.
pub fn shown() -> impl Iterator<Item = (&'static str, &'static str)> {
    let of = |name: &'static str, all: Mistakes| all.iter().map(move |(flag, _)| (name, *flag));
    of("slots", slots::MISTAKES)
        .chain(of("expand", expand::MISTAKES))
        .chain(of("group", group::MISTAKES))
        .chain(of("paths", paths::MISTAKES))
        .filter(|(_, flag)| !not_shown().any(|(f, _)| f == *flag))
}

pub fn not_shown() -> impl Iterator<Item = (&'static str, &'static str)> {
    [slots::NOT_SHOWN, expand::NOT_SHOWN, group::NOT_SHOWN]
        .into_iter()
        .flatten()
        .copied()
}

pub fn rules() -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        slots::MISTAKES,
        expand::MISTAKES,
        group::MISTAKES,
        paths::MISTAKES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

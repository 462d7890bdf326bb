//! All configurations of all models by name, and the pairs (configuration, flag) that must fail.

use crate::lifecycle::{self, Lifecycle};
use crate::ordering::{self, Ordering};
use crate::regions::{self, Regions};
use crate::search::{Outcome, search, search_stuck};
use crate::small;

/// States of a small model at most.
const SMALL: usize = 20_000_000;

/// Runs one configuration. `bounds` are `key=value` pairs.
pub fn run(name: &str, flags: &[&str], bounds: &[(&str, &str)]) -> Result<Outcome, String> {
    if let Some(mut config) = ordering::config::Config::named(name) {
        bounds.iter().try_for_each(|(k, v)| config.set(k, v))?;
        let max = config.max;
        return Ok(search(&Ordering::new(config, flags)?, max));
    }
    if let Some(mut config) = regions::rules::Config::named(name) {
        bounds.iter().try_for_each(|(k, v)| config.set(k, v))?;
        let max = config.max;
        let (live, model) = (config.live, Regions::new(config, flags)?);
        return Ok(if live {
            search_stuck(&model, max)
        } else {
            search(&model, max)
        });
    }
    if let Some(mut config) = lifecycle::rules::Config::named(name) {
        bounds.iter().try_for_each(|(k, v)| config.set(k, v))?;
        let max = config.max;
        return Ok(search(&Lifecycle::new(config, flags)?, max));
    }
    let mut max = SMALL;
    for (key, value) in bounds {
        match *key {
            "max" => {
                max = value
                    .parse()
                    .map_err(|_| format!("not a number: {value}"))?
            }
            _ => return Err(format!("{name} has no bound {key}")),
        }
    }
    if let Some(outcome) = small::run(name, flags, max) {
        return outcome;
    }
    let known: Vec<_> = base().collect();
    Err(format!(
        "there is no configuration {name}; say all, base, flags, short, or one of {}",
        known.join(", ")
    ))
}

/// Configurations that are explored completely with all rules on.
pub fn base() -> impl Iterator<Item = &'static str> {
    [
        ordering::config::BASE,
        regions::rules::BASE,
        lifecycle::rules::BASE,
        small::BASE,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// Configuration and flag: a counterexample must be found.
pub fn shown() -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        ordering::config::SHOWN,
        regions::rules::SHOWN,
        lifecycle::rules::SHOWN,
    ]
    .into_iter()
    .flatten()
    .copied()
    .chain(small::shown())
}

/// Flags for which no counterexample is known, with the reason.
pub fn not_shown() -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        ordering::config::NOT_SHOWN,
        regions::rules::NOT_SHOWN,
        lifecycle::rules::NOT_SHOWN,
    ]
    .into_iter()
    .flatten()
    .copied()
    .chain(small::not_shown())
}

/// Flag and the rule it breaks.
pub fn rules() -> impl Iterator<Item = (&'static str, &'static str)> {
    let ordering = ordering::rules::MISTAKES.iter().map(|(f, r, _)| (*f, *r));
    let regions = regions::rules::MISTAKES.iter().map(|(f, r, _)| (*f, *r));
    let lifecycle = lifecycle::rules::MISTAKES.iter().map(|(f, r, _)| (*f, *r));
    ordering
        .chain(regions)
        .chain(lifecycle)
        .chain(small::rules())
}

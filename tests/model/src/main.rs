//! Command line of the models: `base`, `flags`, or one configuration with flags and bounds.

use std::process::ExitCode;
use std::time::Instant;
use twinsite_model::ordering::{Ordering, config};
use twinsite_model::search::search;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let name = args.first().map_or("base", String::as_str);
    let mut c = config::Config::named(name).expect("configuration");
    let mut flags = vec![];
    for a in args.iter().skip(1) {
        match a.split_once('=') {
            Some((k, v)) => c.set(k, v).expect("bound"),
            None => flags.push(a.as_str()),
        }
    }
    let t = Instant::now();
    let max = c.max;
    let o = search(&Ordering::new(c, &flags).expect("flags"), max);
    println!(
        "{name} {flags:?} states={} complete={} {:.1}s {:?}",
        o.states,
        o.complete,
        t.elapsed().as_secs_f32(),
        o.found
    );
    ExitCode::SUCCESS
}

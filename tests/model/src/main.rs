//! Command line of the models: `base`, `flags`, or one configuration with flags and bounds.

use std::process::ExitCode;
use std::time::Instant;
use twinsite_model::ordering::{Ordering, config};
use twinsite_model::regions::{Regions, rules};
use twinsite_model::search::search;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let name = args.first().map_or("base", String::as_str);
    let t = Instant::now();
    let mut flags = vec![];
    let mut kv = vec![];
    for a in args.iter().skip(1) {
        match a.split_once('=') {
            Some((k, v)) => kv.push((k, v)),
            None => flags.push(a.as_str()),
        }
    }
    let o = if let Some(mut c) = config::Config::named(name) {
        for (k, v) in kv { c.set(k, v).expect("bound"); }
        let max = c.max;
        search(&Ordering::new(c, &flags).expect("flags"), max)
    } else {
        let mut c = rules::Config::named(name).expect("configuration");
        for (k, v) in kv { c.set(k, v).expect("bound"); }
        let max = c.max;
        search(&Regions::new(c, &flags).expect("flags"), max)
    };
    println!("{name} {flags:?} states={} complete={} {:.1}s {:?}", o.states, o.complete, t.elapsed().as_secs_f32(), o.found.as_ref().map(|f| f.violation));
    if let Some(f) = o.found { for s in f.trace { println!("    {s}"); } }
    if std::env::var_os("COVER").is_some() { for s in o.taken { println!(" taken {s}"); } }
    ExitCode::SUCCESS
}

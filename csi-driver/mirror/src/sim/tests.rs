use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use super::world::{Options, World};

const CALM: Options = Options {
    volatile: false,
    faults: false,
    seconds: 10,
    moves: false,
    verify: false,
};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// One seed; on failure its log is printed.
fn run(seed: u64, options: Options) -> World {
    let verbose = std::env::var_os("MIRROR_SEED").is_some();
    let mut world = World::new(seed, options, verbose);
    let result = catch_unwind(AssertUnwindSafe(|| {
        world.run(secs(options.seconds));
        world.heal();
        world.quiet = true;
        world.run(secs(options.seconds + 120));
        world.stop_guests();
        world.run(secs(options.seconds + 140));
        world.resume_guests();
        world.check_converged();
    }));
    if let Err(panic) = result {
        if !verbose {
            for line in &world.log {
                eprintln!("{line}");
            }
        }
        eprintln!("seed {seed} {options:?}: MIRROR_SEED={seed} runs it alone");
        resume_unwind(panic);
    }
    if verbose {
        eprintln!(
            "attaches {} epochs {} answered {}",
            world.attaches,
            world.epochs,
            world.answered()
        );
    }
    world
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("MIRROR_SEED") {
        Ok(seed) => vec![seed.parse().expect("MIRROR_SEED is a number")],
        Err(_) => {
            let more = std::env::var("MIRROR_SEEDS")
                .ok()
                .and_then(|n| n.parse().ok());
            (1..=more.unwrap_or(count)).collect()
        }
    }
}

#[test]
fn a_calm_world_serves_both_legs_and_clears_its_map() {
    run(1, CALM);
}

#[test]
fn no_acknowledged_write_is_lost_whatever_breaks() {
    for seed in seeds(6) {
        run(
            seed,
            Options {
                volatile: false,
                faults: true,
                seconds: 60,
                moves: true,
                verify: false,
            },
        );
    }
}

#[test]
fn no_flushed_write_is_lost_when_caches_are_volatile() {
    for seed in seeds(3) {
        run(
            seed + 1000,
            Options {
                volatile: true,
                faults: true,
                seconds: 60,
                moves: true,
                verify: false,
            },
        );
    }
}

#[test]
fn a_verify_beside_writes_and_faults_never_calls_equal_legs_different() {
    for seed in seeds(4) {
        let world = run(
            seed + 2000,
            Options {
                volatile: seed % 2 == 0,
                faults: true,
                seconds: 60,
                moves: true,
                verify: true,
            },
        );
        assert!(world.compared > 5_000, "seed {seed}: {}", world.compared);
    }
}

//! One run: faults for a while, then everything is healed and the volume must become whole.

use std::time::Duration;

use crate::coverage::Coverage;
use crate::oracle::{RUN, blocks_of};
use crate::world::{Event, Figures, Plan, World};

/// How long a healed volume may take to be whole again.
const WHOLE_WITHIN: Duration = Duration::from_secs(240);

#[derive(Debug)]
pub struct Outcome {
    pub figures: Figures,
    pub violation: Option<String>,
    pub history: Vec<String>,
    /// Faults that happened.
    pub faults: usize,
    pub coverage: Coverage,
}

pub fn run(plan: Plan) -> Outcome {
    let mut world = World::new(plan);
    if world.plan.script.is_empty() {
        world.plan_fault();
    }
    for (at, fault) in world.plan.script.clone() {
        world.at(at, Event::Fault(fault));
    }
    let end = world.plan.faults_for;
    world.run(end);
    if world.violation.is_none() {
        finish(&mut world, end);
    }
    world.figures.acknowledged = world.oracle.acknowledged;
    world.figures.reads = world.oracle.read;
    world.figures.swaps = world.witness.swaps;
    for target in &world.targets {
        (0..target.disk.torn).for_each(|_| world.coverage.seen("a torn block"));
    }
    Outcome {
        coverage: world.coverage,
        violation: world.violation.clone(),
        history: world.history.tail(120),
        faults: world.fault_number,
        figures: world.figures,
    }
}

fn finish(world: &mut World, end: Duration) {
    world.heal_all();
    world.say("FAULT", "all is healed");
    let mut at = end;
    while !world.is_whole() || !is_read(world, &mut at) {
        if world.violation.is_some() {
            return;
        }
        at += Duration::from_millis(500);
        if at.subsec_millis() == 0 && at.as_secs().is_multiple_of(5) {
            world.let_legs_back();
        }
        if at > end + WHOLE_WITHIN {
            let i = world.wanted;
            let state = world.agents[i]
                .shell
                .as_ref()
                .map(|s| s.engine.status(world.now));
            world.fail(format!(
                "not whole {WHOLE_WITHIN:?} after everything was healed (I10): {state:?}"
            ));
            return;
        }
        world.run(at);
        if world.violation.is_some() {
            return;
        }
    }
    world.check_members();
    world.check_size();
    if world.liar.is_none() {
        return world.check_equal();
    }
    world.verify_all();
    while world.violation.is_none() && world.check_verified().is_none() {
        at += Duration::from_millis(500);
        world.run(at);
        if at > end + 3 * WHOLE_WITHIN {
            world.fail("a comparison of the legs does not end (I10)");
        }
    }
}

/// Every block of a whole volume reads right, and it is whole after that too: what was lost in the last moment before may only
/// be noticed now.
fn is_read(world: &mut World, at: &mut Duration) -> bool {
    let (i, begun) = (world.wanted, *at);
    for first in (0..blocks_of(world.promised_size)).step_by(RUN) {
        world.send_read(i, first, RUN);
    }
    while !world.agents[i].requests.is_empty() && world.violation.is_none() {
        *at += Duration::from_millis(500);
        world.run(*at);
        if *at > begun + WHOLE_WITHIN {
            world.fail("reads of a healed volume hang (I10)");
        }
    }
    world.violation.is_none() && world.is_whole()
}

/// The least set of faults that still fails, by leaving them out one after the other.
pub fn shrink(plan: &Plan, faults: usize) -> (Vec<usize>, Outcome) {
    let mut only: Vec<usize> = (0..faults).collect();
    let fails = |only: &[usize]| {
        let outcome = run(Plan {
            only: Some(only.to_vec()),
            print: false,
            ..plan.clone()
        });
        outcome.violation.is_some().then_some(outcome)
    };
    let mut best = run(Plan {
        only: Some(only.clone()),
        print: false,
        ..plan.clone()
    });
    let (mut step, mut before) = (only.len().div_ceil(2), usize::MAX);
    while step > 0 {
        let mut at = 0;
        while at < only.len() {
            let mut fewer = only.clone();
            fewer.drain(at..(at + step).min(only.len()));
            match fails(&fewer) {
                Some(outcome) => {
                    only = fewer;
                    best = outcome;
                }
                None => at += step,
            }
        }
        // Once more by single faults as long as one of them goes.
        step = if step == 1 && only.len() < before {
            before = only.len();
            1
        } else {
            step / 2
        };
    }
    (only, best)
}

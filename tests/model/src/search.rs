//! Breadth-first search over a finite model, with a shortest counterexample.
//!
//! A state is kept whole only while it waits to be expanded; afterwards 64 bits of fingerprint and eight bytes (parent, number
//! of the step) stay, so a search of 15 million states needs well under a gigabyte. A trace is rebuilt by taking the recorded
//! steps again from the start. Fingerprints may collide and hide a state: about 1 in 10^5 for the largest run here.
//!
//! Why not stateright 0.31: measured on configuration `two` (2 127 384 states, one thread, same machine and minute) it took
//! 8.8 s with each successor carried in its action and 18.9 s with actions as indices; this search took 4.0 s.
//!
//! Not here: any knowledge of the protocol.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// What happened in one step, printed in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub name: &'static str,
    pub args: [u8; 3],
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.args)
    }
}

pub fn step(name: &'static str, a: impl Into<u64>, b: impl Into<u64>, c: impl Into<u64>) -> Step {
    let byte = |v: u64| u8::try_from(v).unwrap_or(u8::MAX);
    Step {
        name,
        args: [byte(a.into()), byte(b.into()), byte(c.into())],
    }
}

/// A finite transition system. `steps` must be deterministic: the same state gives the same successors in the same order.
pub trait Model {
    type State: Clone + Eq + Hash;
    fn initial(&self) -> Self::State;
    fn steps(&self, state: &Self::State, out: &mut Vec<(Step, Self::State)>);
    fn violation(&self, state: &Self::State) -> Option<&'static str>;
}

/// A model that says where it should always be able to get to.
pub trait Live: Model {
    /// Everything is as it should be.
    fn is_whole(&self, state: &Self::State) -> bool;
    /// From here a whole state must be reachable: nothing is away that only a fault's end could bring back.
    fn is_judged(&self, state: &Self::State) -> bool;
}

#[derive(Debug, Clone)]
pub struct Found {
    pub violation: &'static str,
    pub trace: Vec<Step>,
}

#[derive(Debug, Clone)]
pub struct Outcome {
    pub states: usize,
    /// False: the bound on states was reached before the space was exhausted.
    pub complete: bool,
    pub found: Option<Found>,
    /// Every name of a step that was taken.
    pub taken: std::collections::BTreeSet<&'static str>,
}

/// Explores at most `max` states.
pub fn search<M: Model>(model: &M, max: usize) -> Outcome {
    let mut seen: HashSet<u64, BuildHasherDefault<Identity>> = HashSet::default();
    let mut parents: Vec<(u32, u16)> = vec![(u32::MAX, 0)];
    let mut waiting: VecDeque<M::State> = VecDeque::from([model.initial()]);
    seen.insert(fingerprint(&waiting[0]));
    let mut out = Outcome {
        states: 0,
        complete: true,
        found: None,
        taken: Default::default(),
    };
    let mut next = Vec::with_capacity(64);
    let mut index = 0u32;
    while let Some(state) = waiting.pop_front() {
        if let Some(violation) = model.violation(&state) {
            out.found = Some(Found {
                violation,
                trace: trace(model, &parents, index),
            });
            break;
        }
        if parents.len() >= max {
            out.complete = false;
            break;
        }
        next.clear();
        model.steps(&state, &mut next);
        for (number, (step, successor)) in next.drain(..).enumerate() {
            out.taken.insert(step.name);
            if seen.insert(fingerprint(&successor)) {
                parents.push((index, u16::try_from(number).unwrap_or(u16::MAX)));
                waiting.push_back(successor);
            }
        }
        index += 1;
    }
    out.states = parents.len();
    out
}

/// Looks for a state from which no whole state can be reached, whatever is done: something that only a human ends. The graph
/// is kept, so this is for smaller spaces than [`search`].
pub fn search_stuck<M: Live>(model: &M, max: usize) -> Outcome {
    let mut seen: HashMap<u64, u32, BuildHasherDefault<Identity>> = HashMap::default();
    let mut parents: Vec<(u32, u16)> = vec![(u32::MAX, 0)];
    let mut waiting: VecDeque<M::State> = VecDeque::from([model.initial()]);
    seen.insert(fingerprint(&waiting[0]), 0);
    let (mut edges, mut good, mut judged): (Vec<(u32, u32)>, Vec<bool>, Vec<bool>) =
        (vec![], vec![], vec![]);
    let mut out = Outcome {
        states: 0,
        complete: true,
        found: None,
        taken: Default::default(),
    };
    let mut next = Vec::with_capacity(64);
    while let Some(state) = waiting.pop_front() {
        let index = good.len() as u32;
        if parents.len() >= max {
            out.complete = false;
            break;
        }
        good.push(model.is_whole(&state));
        judged.push(model.is_judged(&state));
        next.clear();
        model.steps(&state, &mut next);
        for (number, (step, successor)) in next.drain(..).enumerate() {
            out.taken.insert(step.name);
            let known = seen.len() as u32;
            let to = *seen.entry(fingerprint(&successor)).or_insert(known);
            if to == known {
                parents.push((index, u16::try_from(number).unwrap_or(u16::MAX)));
                waiting.push_back(successor);
            }
            edges.push((to, index));
        }
    }
    out.states = parents.len();
    if !out.complete {
        return out;
    }
    let hopeful = backwards(&edges, &good);
    let stuck = (0..good.len()).find(|&n| judged[n] && !hopeful[n]);
    out.found = stuck.map(|n| Found {
        violation: "stuck: nothing but a human leads back to a whole volume (I10)",
        trace: trace(model, &parents, n as u32),
    });
    out
}

/// Every state from which a good one can be reached. An edge is (successor, state).
fn backwards(edges: &[(u32, u32)], good: &[bool]) -> Vec<bool> {
    let mut from = vec![0u32; good.len() + 1];
    edges.iter().for_each(|&(to, _)| from[to as usize + 1] += 1);
    for n in 0..good.len() {
        from[n + 1] += from[n];
    }
    let mut fill = from.clone();
    let mut before = vec![0u32; edges.len()];
    for &(to, index) in edges {
        before[fill[to as usize] as usize] = index;
        fill[to as usize] += 1;
    }
    let mut reached = good.to_vec();
    let mut stack: Vec<u32> = (0..good.len() as u32)
        .filter(|&n| good[n as usize])
        .collect();
    while let Some(n) = stack.pop() {
        let range = from[n as usize] as usize..from[n as usize + 1] as usize;
        for &index in &before[range] {
            if !std::mem::replace(&mut reached[index as usize], true) {
                stack.push(index);
            }
        }
    }
    reached
}

fn trace<M: Model>(model: &M, parents: &[(u32, u16)], last: u32) -> Vec<Step> {
    let mut numbers = vec![];
    let mut k = last;
    while parents[k as usize].0 != u32::MAX {
        numbers.push(parents[k as usize].1);
        k = parents[k as usize].0;
    }
    let mut state = model.initial();
    let mut steps = vec![];
    for number in numbers.into_iter().rev() {
        let mut next = vec![];
        model.steps(&state, &mut next);
        let (step, successor) = next.swap_remove(usize::from(number));
        steps.push(step);
        state = successor;
    }
    steps
}

pub fn fingerprint(value: &impl Hash) -> u64 {
    let mut h = Fingerprint::default();
    value.hash(&mut h);
    h.finish()
}

/// Packs bytes into words and folds each word by one widening multiplication.
#[derive(Default)]
struct Fingerprint {
    sum: u64,
    word: u64,
    filled: u32,
}

impl Fingerprint {
    fn fold(&mut self) {
        let wide =
            u128::from(self.sum ^ self.word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93u128;
        self.sum = (wide as u64) ^ ((wide >> 64) as u64).rotate_left(23);
        self.word = 0;
        self.filled = 0;
    }
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        let mut last = Self {
            sum: self.sum,
            word: self.word ^ u64::from(self.filled) << 60,
            filled: 0,
        };
        last.fold();
        last.word = 0x5851_f42d_4c95_7f2d;
        last.fold();
        last.sum
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u8(b);
        }
    }

    fn write_u8(&mut self, b: u8) {
        self.word = self.word << 8 | u64::from(b);
        self.filled += 1;
        if self.filled == 8 {
            self.fold();
        }
    }

    /// Enum discriminants and array lengths: all small.
    fn write_isize(&mut self, v: isize) {
        self.write_u8(v as u8);
    }

    fn write_usize(&mut self, v: usize) {
        self.write_u8(v as u8);
    }
}

/// Fingerprints are already mixed.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed")
    }

    fn write_u64(&mut self, v: u64) {
        self.0 = v;
    }
}

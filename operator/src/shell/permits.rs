//! How many automatic moves may begin at a time: a witness or network that lies must not move everything at once.
//!
//! Not here: whether a move is right (`crate::policy`).

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// At most this many moves begin within [`WINDOW`].
const MOST: usize = 50;
const WINDOW: Duration = Duration::from_secs(1);

/// Permits for automatic moves.
#[derive(Debug, Default)]
pub struct Permits(Mutex<VecDeque<Instant>>);

impl Permits {
    fn with<T>(&self, look: impl FnOnce(&mut VecDeque<Instant>) -> T) -> T {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while taken.front().is_some_and(|at| at.elapsed() >= WINDOW) {
            taken.pop_front();
        }
        look(&mut taken)
    }

    /// Whether a move may begin now.
    pub fn is_free(&self) -> bool {
        self.with(|taken| taken.len() < MOST)
    }

    /// A move begins.
    pub fn take(&self) {
        self.with(|taken| taken.push_back(Instant::now()));
    }
}

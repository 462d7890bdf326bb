//! What happened when: lines for a person, and figures for the report.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Prints one line per event with the seconds since the start.
#[derive(Debug)]
pub struct Timeline {
    start: Instant,
    bar_open: bool,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            bar_open: false,
        }
    }
}

impl Timeline {
    /// An act's title.
    pub fn act(&mut self, title: &str) {
        self.close_bar();
        println!("\n          {title}");
    }

    /// Something happened now.
    pub fn event(&mut self, text: &str) {
        self.close_bar();
        println!("{:>8.1} s  {text}", self.start.elapsed().as_secs_f64());
    }

    /// A progress bar, drawn in place on a terminal and silent elsewhere until it is full.
    pub fn progress(&mut self, label: &str, percent: f64, detail: &str) {
        if !std::io::stdout().is_terminal() {
            return;
        }
        const WIDTH: usize = 30;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0..=30"
        )]
        let full = ((percent.clamp(0.0, 100.0) / 100.0) * WIDTH as f64) as usize;
        print!(
            "\r{:>8.1} s  {label} [{}{}] {percent:>5.1} % {detail}   ",
            self.start.elapsed().as_secs_f64(),
            "#".repeat(full),
            ".".repeat(WIDTH - full)
        );
        let _ = std::io::stdout().flush();
        self.bar_open = true;
    }

    fn close_bar(&mut self) {
        if self.bar_open {
            println!();
            self.bar_open = false;
        }
    }

    /// Since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

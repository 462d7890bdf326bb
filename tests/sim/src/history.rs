//! What happened, in lines a person can follow. The last lines are kept; all of them are printed when asked for.

use std::collections::VecDeque;
use std::fmt::Display;
use std::time::Duration;

const KEPT: usize = 400;

#[derive(Debug)]
pub struct History {
    lines: VecDeque<String>,
    pub print: bool,
}

impl History {
    pub fn new(print: bool) -> Self {
        Self {
            lines: VecDeque::new(),
            print,
        }
    }

    pub fn say(&mut self, now: Duration, who: &str, what: impl Display) {
        let line = format!("{:>10.4}s {who:8} {what}", now.as_secs_f64());
        if self.print {
            println!("{line}");
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub fn tail(&self, lines: usize) -> Vec<String> {
        self.lines
            .iter()
            .skip(self.lines.len().saturating_sub(lines))
            .cloned()
            .collect()
    }
}

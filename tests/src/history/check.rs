//! Judges a history. Four things must never be seen:
//!
//! - **lost**: a reading that began after a write was acknowledged finds less;
//! - **went back**: a reading that began after another one ended finds less than that one;
//! - **invented**: a reading finds what nobody had issued when it ended;
//! - **two writers**: two writers whose acknowledged writes were begun in overlapping times.
//!
//! A write without an answer, or with a failure, may be found or not; found once, it stays (went back). Where two instants
//! are equal the history gets the benefit of the doubt.

use std::collections::BTreeMap;
use std::fmt;

use super::event::Event;

/// What must not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    Lost {
        item: u64,
        acked: u64,
        found: u64,
        reader: String,
        at: u64,
    },
    WentBack {
        item: u64,
        before: u64,
        found: u64,
        reader: String,
        at: u64,
    },
    Invented {
        item: u64,
        issued: u64,
        found: u64,
        reader: String,
        at: u64,
    },
    TwoWriters {
        first: String,
        second: String,
        /// When both wrote: from the later begin to the earlier end.
        from: u64,
        to: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost {
                item,
                acked,
                found,
                reader,
                at,
            } => write!(
                f,
                "item {item}: {reader} found {found} at {at}, {acked} had been acknowledged before it looked"
            ),
            Self::WentBack {
                item,
                before,
                found,
                reader,
                at,
            } => write!(
                f,
                "item {item}: {reader} found {found} at {at}, an earlier reading had found {before}"
            ),
            Self::Invented {
                item,
                issued,
                found,
                reader,
                at,
            } => write!(
                f,
                "item {item}: {reader} found {found} at {at}, nobody had issued more than {issued}"
            ),
            Self::TwoWriters {
                first,
                second,
                from,
                to,
            } => write!(
                f,
                "{first} and {second} both began writes between {from} and {to} that were acknowledged"
            ),
        }
    }
}

/// What a history holds, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub issued: u64,
    pub acked: u64,
    pub failed: u64,
    pub reads: u64,
    pub writers: usize,
    pub violations: Vec<Violation>,
}

/// An instant of the sweep. At equal times the order of the variants is the benefit of the doubt: what was issued counts
/// for a reading that ends then, what was acknowledged does not count for one that begins then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Issued,
    ReadBegins,
    Acked,
    ReadEnds,
}

#[derive(Debug, Default)]
struct Item {
    issued: u64,
    acked: u64,
    read: u64,
}

/// The lower bounds of a reading under way.
#[derive(Debug, Clone, Copy)]
struct Floor {
    acked: u64,
    read: u64,
}

/// Judges.
#[must_use]
pub fn check(events: &[Event]) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.count(events);
    verdict.violations = readings(events);
    let spans = writing_spans(events);
    verdict.writers = spans.len();
    verdict.violations.extend(overlaps(&spans));
    verdict
}

impl Verdict {
    fn count(&mut self, events: &[Event]) {
        for event in events {
            *match event {
                Event::Issued { .. } => &mut self.issued,
                Event::Acked { .. } => &mut self.acked,
                Event::Failed { .. } => &mut self.failed,
                Event::Read { .. } => &mut self.reads,
            } += 1;
        }
    }
}

fn readings(events: &[Event]) -> Vec<Violation> {
    let mut points: Vec<(u64, Point, usize)> = Vec::with_capacity(events.len() * 2);
    for (index, event) in events.iter().enumerate() {
        match event {
            Event::Issued { at, .. } => points.push((*at, Point::Issued, index)),
            Event::Acked { at, .. } => points.push((*at, Point::Acked, index)),
            Event::Failed { .. } => {}
            Event::Read { began, at, .. } => {
                points.push((*began, Point::ReadBegins, index));
                points.push((*(at.max(began)), Point::ReadEnds, index));
            }
        }
    }
    points.sort_unstable();
    let mut items: BTreeMap<u64, Item> = BTreeMap::new();
    let mut floors: BTreeMap<usize, Floor> = BTreeMap::new();
    let mut violations = Vec::new();
    for (_, point, index) in points {
        match &events[index] {
            Event::Issued { item, value, .. } => {
                let item = items.entry(*item).or_default();
                item.issued = item.issued.max(*value);
            }
            Event::Acked { item, value, .. } => {
                let item = items.entry(*item).or_default();
                item.acked = item.acked.max(*value);
            }
            Event::Failed { .. } => {}
            Event::Read { item, .. } if point == Point::ReadBegins => {
                let item = items.entry(*item).or_default();
                let floor = Floor {
                    acked: item.acked,
                    read: item.read,
                };
                floors.insert(index, floor);
            }
            Event::Read {
                at,
                reader,
                item: name,
                value,
                ..
            } => {
                let item = items.entry(*name).or_default();
                let floor = floors.remove(&index).unwrap_or(Floor { acked: 0, read: 0 });
                violations.extend(judge(item, floor, *name, *value, reader, *at));
                item.read = item.read.max(*value);
            }
        }
    }
    violations
}

fn judge(
    item: &Item,
    floor: Floor,
    name: u64,
    found: u64,
    reader: &str,
    at: u64,
) -> Option<Violation> {
    let reader = reader.to_owned();
    if found < floor.acked {
        Some(Violation::Lost {
            item: name,
            acked: floor.acked,
            found,
            reader,
            at,
        })
    } else if found < floor.read {
        Some(Violation::WentBack {
            item: name,
            before: floor.read,
            found,
            reader,
            at,
        })
    } else if found > item.issued {
        Some(Violation::Invented {
            item: name,
            issued: item.issued,
            found,
            reader,
            at,
        })
    } else {
        None
    }
}

/// Per writer: when the first and the last of its acknowledged writes were begun.
fn writing_spans(events: &[Event]) -> Vec<(String, u64, u64)> {
    let mut begun: BTreeMap<(&str, u64, u64), u64> = BTreeMap::new();
    let mut spans: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for event in events {
        if let Event::Issued {
            at,
            writer,
            item,
            value,
        } = event
        {
            begun.entry((writer, *item, *value)).or_insert(*at);
        }
    }
    for event in events {
        if let Event::Acked {
            at,
            writer,
            item,
            value,
        } = event
        {
            let begin = begun
                .get(&(writer.as_str(), *item, *value))
                .copied()
                .unwrap_or(*at);
            let span = spans.entry(writer).or_insert((begin, begin));
            *span = (span.0.min(begin), span.1.max(begin));
        }
    }
    let mut spans: Vec<_> = spans
        .into_iter()
        .map(|(writer, (from, to))| (writer.to_owned(), from, to))
        .collect();
    spans.sort_by_key(|(_, from, to)| (*from, *to));
    spans
}

/// Neighbours in the order of their begin are enough to see that two overlap; the longest so far is the one to compare with.
fn overlaps(spans: &[(String, u64, u64)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut longest: Option<&(String, u64, u64)> = None;
    for span in spans {
        if let Some(before) = longest
            && span.1 < before.2
        {
            violations.push(Violation::TwoWriters {
                first: before.0.clone(),
                second: span.0.clone(),
                from: span.1,
                to: before.2.min(span.2),
            });
        }
        if longest.is_none_or(|before| before.2 <= span.2) {
            longest = Some(span);
        }
    }
    violations
}

#[cfg(test)]
mod tests;

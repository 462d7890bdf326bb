//! Histories that are fine, and each kind that is not.

use super::*;

fn issued(at: u64, writer: &str, value: u64) -> Event {
    let writer = writer.to_owned();
    Event::Issued {
        at,
        writer,
        item: 1,
        value,
    }
}

fn acked(at: u64, writer: &str, value: u64) -> Event {
    let writer = writer.to_owned();
    Event::Acked {
        at,
        writer,
        item: 1,
        value,
    }
}

fn read(began: u64, at: u64, value: u64) -> Event {
    Event::Read {
        began,
        at,
        reader: "r".into(),
        item: 1,
        value,
    }
}

#[test]
fn a_write_and_its_reading_are_fine() {
    let verdict = check(&[issued(1, "a", 1), acked(2, "a", 1), read(3, 4, 1)]);
    assert_eq!(verdict.violations, []);
    assert_eq!(
        (
            verdict.issued,
            verdict.acked,
            verdict.reads,
            verdict.writers
        ),
        (1, 1, 1, 1)
    );
}

#[test]
fn an_acknowledged_write_that_is_not_found_is_lost() {
    let verdict = check(&[issued(1, "a", 1), acked(2, "a", 1), read(3, 4, 0)]);
    assert_eq!(
        verdict.violations,
        [Violation::Lost {
            item: 1,
            acked: 1,
            found: 0,
            reader: "r".into(),
            at: 4
        }]
    );
}

#[test]
fn a_write_acknowledged_while_somebody_reads_may_be_missed() {
    let verdict = check(&[issued(1, "a", 1), read(1, 4, 0), acked(2, "a", 1)]);
    assert_eq!(verdict.violations, []);
}

#[test]
fn a_write_without_an_answer_may_be_there_but_not_vanish() {
    let there = [issued(1, "a", 1), read(3, 4, 1)];
    assert_eq!(check(&there).violations, []);
    let vanished = [issued(1, "a", 1), read(3, 4, 1), read(5, 6, 0)];
    assert_eq!(
        check(&vanished).violations,
        [Violation::WentBack {
            item: 1,
            before: 1,
            found: 0,
            reader: "r".into(),
            at: 6
        }]
    );
}

#[test]
fn two_readings_at_once_may_differ() {
    let verdict = check(&[issued(1, "a", 1), read(3, 6, 1), read(4, 5, 0)]);
    assert_eq!(verdict.violations, []);
}

#[test]
fn what_nobody_wrote_is_invented() {
    let verdict = check(&[issued(1, "a", 1), read(3, 4, 2)]);
    assert!(matches!(
        verdict.violations[..],
        [Violation::Invented {
            issued: 1,
            found: 2,
            ..
        }]
    ));
}

#[test]
fn a_takeover_is_one_writer_after_the_other() {
    // The old writer's last write is never answered, its last answer comes late.
    let verdict = check(&[
        issued(1, "a", 1),
        issued(2, "a", 2),
        acked(9, "a", 1),
        issued(5, "b", 2),
        acked(6, "b", 2),
    ]);
    assert_eq!((verdict.violations, verdict.writers), (vec![], 2));
}

#[test]
fn two_writers_at_once_are_seen() {
    let verdict = check(&[
        issued(1, "a", 1),
        acked(2, "a", 1),
        issued(3, "b", 2),
        acked(4, "b", 2),
        issued(5, "a", 3),
        acked(6, "a", 3),
    ]);
    assert_eq!(
        verdict.violations,
        [Violation::TwoWriters {
            first: "a".into(),
            second: "b".into(),
            from: 3,
            to: 3
        }]
    );
}

#[test]
fn the_order_of_the_lines_does_not_matter() {
    let mut events = vec![
        issued(1, "a", 1),
        acked(2, "a", 1),
        read(3, 4, 0),
        issued(5, "b", 2),
        acked(6, "b", 2),
    ];
    let forward = check(&events);
    events.reverse();
    assert_eq!(check(&events), forward);
    assert_eq!(forward.violations.len(), 1);
}

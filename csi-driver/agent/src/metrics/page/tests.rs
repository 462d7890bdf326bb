//! The page of a small world, line by line, and what may stand in a label.

use std::{collections::BTreeSet, path::Path, time::Duration};

use super::*;
use twinsite_mirror::status::Progress;

fn volume(name: &str, engine: Status) -> VolumeMetrics {
    VolumeMetrics {
        name: format!("{name}-writer"),
        volume: format!("rv/{name}"),
        attached: true,
        superseded: false,
        engine: Box::new(engine),
        verify: None,
        active_here: true,
        latched: false,
        unconfirmed: false,
    }
}

fn engine(state: StateName, second: LegRole) -> Status {
    let mut engine = Status {
        state,
        device_shown: true,
        size: 1 << 30,
        ..Status::off()
    };
    engine.legs[0].role = LegRole::Member;
    engine.legs[1].role = second;
    engine
}

/// A node that is well: one volume is whole and was compared, one (`images`) is rebuilt.
fn sample() -> NodeMetrics {
    let compared = r#"{request: by hand, state: Done, startedAt: "2026-11-28T12:00:00Z", totalBytes: 1073741824,
        comparedBytes: 1073741824, percent: 100, chunks: 1024, differingBytes: 0}"#;
    let mut rebuilt = engine(StateName::RjBoth, LegRole::Resyncing);
    rebuilt.resync = Some(Progress {
        total_bytes: 1 << 30,
        left_bytes: 1 << 29,
        bytes_per_second: 100 << 20,
        eta: Some(Duration::from_secs(6)),
        full: false,
    });
    NodeMetrics {
        node: "m1".to_owned(),
        site: "medical".to_owned(),
        problems: 0,
        witnesses: vec![("ctrc".to_owned(), true)],
        pools: vec![PoolMetrics {
            name: "ssd-m1".to_owned(),
            open: true,
            capacity: Some((100 << 30, 60 << 30)),
        }],
        legs: vec![LegMetrics {
            name: "records-a".to_owned(),
            volume: "rv/records".to_owned(),
            leg: "A",
            served: true,
            sessions: 2,
            ..LegMetrics::default()
        }],
        volumes: vec![
            VolumeMetrics {
                verify: Some(serde_yaml::from_str(compared).unwrap()),
                ..volume("records", engine(StateName::Synced, LegRole::Member))
            },
            volume("images", rebuilt),
        ],
    }
}

/// What the alerts are tried on, in the tests of the chart.
#[test]
fn the_page_of_the_sample_is_the_one_that_alerts_are_tried_on() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics/sample.txt");
    let page = render(&sample());
    if std::env::var_os("GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&file, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&file).unwrap_or_default() == page,
        "src/metrics/sample.txt is not this page; GOLDEN=write writes it anew\n{page}"
    );
}

#[test]
fn no_series_stands_twice_while_a_superseded_writer_is_still_there() {
    let old = VolumeMetrics {
        name: "records-caretaker".to_owned(),
        ..volume("records", engine(StateName::Superseded, LegRole::Unknown))
    };
    let mut node = sample();
    node.volumes.push(old);
    let page = render(&node);
    let mut seen = BTreeSet::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        assert!(seen.insert(series), "{series} stands there twice");
    }
}

#[test]
fn every_family_has_help_and_type_once_and_every_line_a_number() {
    let text = render(&NodeMetrics {
        node: "m\"1".to_owned(),
        ..sample()
    });
    let mut families = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(
                families.insert(rest.split(' ').next().unwrap().to_owned()),
                "{line}"
            );
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(
                families.contains(series.split('{').next().unwrap()),
                "{line}"
            );
        }
    }
    let of = r#"twinsite_mirror_state{volume="rv/records",attachment="records-writer""#;
    for line in [
        &format!("{of},state=\"Synced\"}} 1\n"),
        &format!("{of},state=\"Solo\"}} 0\n"),
        r#"node="m\"1""#,
        "twinsite_pool_free_bytes{pool=\"ssd-m1\"} 64424509440\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

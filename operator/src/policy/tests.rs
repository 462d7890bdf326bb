//! When a volume may move without a person: each piece of evidence, and the lack of it.

use super::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Everything speaks for a move.
fn case() -> Case {
    Case {
        policy: FailoverPolicy::Automatic,
        detect_after: s(5),
        active: "medical".to_owned(),
        register_is_current: true,
        is_attached: true,
        own_is_member: true,
        own_target_serves: true,
        site_still_for: Some(s(6)),
        beat_still_for: Some(s(6)),
        foreign_command: Some(s(6)),
        permit: true,
        ..Case::default()
    }
}

#[test]
fn a_silent_site_loses_its_volume() {
    assert_eq!(
        judge(&case()),
        Verdict::Move("no sign of life of medical for 5s".to_owned())
    );
}

#[test]
fn a_moving_beat_is_never_failed_over() {
    for beat_still_for in [None, Some(s(0)), Some(s(4))] {
        let verdict = judge(&Case {
            beat_still_for,
            site_still_for: Some(s(3600)),
            ..case()
        });
        assert!(matches!(verdict, Verdict::Wait(_)), "{verdict:?}");
    }
}

#[test]
fn a_writer_is_not_said_to_beat_before_anybody_looked() {
    for (beat_still_for, beats) in [(None, false), (Some(s(1)), true), (Some(s(7)), false)] {
        let verdict = judge(&Case {
            beat_still_for,
            detect_after: s(10),
            site_still_for: Some(s(3600)),
            ..case()
        });
        let Verdict::Wait(text) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(text.contains("still beats"), beats, "{text}");
    }
}

#[test]
fn a_short_detect_after_does_not_outrun_the_beat() {
    let fast = Case {
        detect_after: s(1),
        beat_still_for: Some(s(3)),
        ..case()
    };
    assert!(matches!(judge(&fast), Verdict::Wait(_)));
}

#[test]
fn any_single_lack_of_evidence_prevents_the_move() {
    let lacks = [
        Case {
            site_still_for: None,
            ..case()
        },
        Case {
            site_still_for: Some(s(4)),
            ..case()
        },
        Case {
            register_is_current: false,
            ..case()
        },
        Case {
            own_is_member: false,
            ..case()
        },
        Case {
            own_target_serves: false,
            ..case()
        },
        Case {
            has_array: true,
            ..case()
        },
        Case {
            foreign_command: Some(s(1)),
            ..case()
        },
        Case {
            is_drained: true,
            ..case()
        },
        Case {
            last_unplanned: Some(s(20)),
            ..case()
        },
        Case {
            permit: false,
            ..case()
        },
        Case {
            policy: FailoverPolicy::Manual,
            ..case()
        },
        Case {
            policy: FailoverPolicy::Observe,
            ..case()
        },
    ];
    for lack in lacks {
        assert!(!matches!(judge(&lack), Verdict::Move(_)), "{lack:?}");
    }
}

#[test]
fn the_second_site_may_die_a_minute_after_the_first() {
    let again = Case {
        last_unplanned: Some(s(60)),
        ..case()
    };
    assert!(matches!(judge(&again), Verdict::Move(_)));
}

#[test]
fn observe_says_what_automatic_would_do() {
    let observe = Case {
        policy: FailoverPolicy::Observe,
        ..case()
    };
    assert_eq!(
        judge(&observe),
        Verdict::Would("no sign of life of medical for 5s".to_owned())
    );
}

#[test]
fn a_volume_that_is_not_attached_needs_no_beat() {
    let idle = Case {
        is_attached: false,
        beat_still_for: None,
        foreign_command: None,
        ..case()
    };
    assert!(matches!(judge(&idle), Verdict::Move(_)));
}

#[test]
fn a_thousand_volumes_move_within_a_minute_and_not_at_once() {
    let mut limit = RateLimit::new(s(100));
    let mut moved = 0;
    let mut tick = Duration::ZERO;
    while moved < 1000 {
        let now = s(100) + tick;
        let before = moved;
        while moved < 1000 && limit.has_permit(now) {
            limit.take();
            moved += 1;
        }
        assert!(moved - before <= BURST);
        tick += Duration::from_millis(100);
    }
    assert!(tick < s(60) && tick > s(50), "{tick:?}");
}

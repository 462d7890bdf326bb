//! Small configurations with all rules on, and the flags whose counterexample is near. `make model` runs everything.

use twinsite_model::catalogue::{base, not_shown, rules, run, shown};
use twinsite_model::small;

/// States that a flag may need here before its counterexample is found; more than that belongs to `make model`.
const NEAR: &str = "700000";

fn clean(name: &str, bounds: &[(&str, &str)]) {
    let outcome = run(name, &[], bounds).expect("a configuration and its flags");
    assert!(outcome.complete, "{name}: bound reached");
    let trace: Vec<String> = outcome
        .found
        .iter()
        .flat_map(|f| &f.trace)
        .map(ToString::to_string)
        .collect();
    assert!(
        outcome.found.is_none(),
        "{name}: {:?}\n{}",
        outcome.found.map(|f| f.violation),
        trace.join("\n")
    );
}

fn caught(pairs: &[(&str, &str)]) {
    for (name, flag) in pairs {
        let outcome = run(name, &[flag], &[("max", NEAR)]).expect("a configuration and its flags");
        assert!(outcome.found.is_some(), "{flag} is not caught in {name}");
    }
}

#[test]
fn with_all_rules_on_an_operator_may_edit_r_at_any_time() {
    clean("edits", &[]);
}

#[test]
fn with_all_rules_on_two_sites_contend() {
    clean("cross", &[("cuts", "1"), ("heals", "0")]);
}

#[test]
fn with_all_rules_on_reads_never_go_back() {
    clean("reads", &[("heals", "0")]);
}

#[test]
fn with_all_rules_on_two_crashes_leave_equal_legs() {
    clean("regions-crash", &[]);
}

#[test]
fn with_all_rules_on_a_rejoin_by_regions_is_complete() {
    clean(
        "regions-rejoin",
        &[("cuts", "1"), ("heals", "1"), ("crash", "0")],
    );
}

#[test]
fn with_all_rules_on_a_leg_that_was_put_back_is_never_served_older() {
    clean("regions-rollback", &[]);
    clean("regions-object", &[]);
}

#[test]
fn with_all_rules_on_deleting_wipes_only_what_was_deleted() {
    clean("life-delete", &[]);
}

#[test]
fn each_ordering_mistake_that_is_near_is_caught() {
    caught(&[
        ("cross", "no_wil"),
        ("cross", "ack_one"),
        ("cross", "ack_before_cas"),
        ("cross", "guess_cas"),
        ("cross", "serve_before_sb"),
        ("reads", "no_lease"),
        ("reads", "no_reconcile"),
        ("reads", "lease_by_members"),
        ("same", "no_stamp"),
        ("two", "no_reinstate"),
        ("rejoin", "copy_nolock"),
        ("power", "member_behind"),
        ("power", "clear_unflushed"),
        ("edits", "outcome_by_txid"),
    ]);
}

#[test]
fn each_regions_mistake_that_is_near_is_caught() {
    caught(&[
        ("regions-crash", "no_wil"),
        ("regions-crash", "local_map_only"),
        ("regions-crash", "no_equalise"),
        ("regions-crash", "alarm_at_1"),
        ("regions-rejoin", "target_after_copy"),
        ("regions-power", "clear_unflushed"),
        ("regions-solo-power", "no_flush_fail"),
        ("regions-solo-power", "flush_source_only"),
        ("regions-rollback", "ack_before_both_pages"),
        ("regions-rollback", "alarm_at_3"),
        ("regions-rollback", "free_direction"),
        ("regions-rollback", "early_beats"),
        ("regions-object", "damaged_delta"),
        ("regions-object2", "beat_object_slack"),
        ("regions-eio", "eio_ends"),
    ]);
}

#[test]
fn each_lifecycle_mistake_that_is_near_is_caught() {
    caught(&[
        ("life-birth", "birth_no_reread+birth_ignores_sb"),
        ("life-birth", "format_two_valued"),
        ("life-birth", "format_one_leg"),
        ("life-restore", "below_last+birth_ignores_sb"),
        ("life-restore-solo", "no_marks"),
        ("life-force", "rejoin_unconfirmed"),
        ("life-force", "alone_without_r"),
        ("life-force", "force_no_fence+named_runs_without_r"),
        ("life-reseed-solo", "reseed_while_attached"),
        ("life-reseed", "named_runs_without_r"),
        ("life-reseed-solo", "rejoin_unconfirmed"),
        ("life-reseed", "reseed_without_former"),
        ("life-delete", "below_last+wipe_any_register"),
        ("life-delete", "tombstone_while_held"),
        ("life-order", "no_order"),
        ("life-order", "release_reservation"),
    ]);
}

#[test]
fn with_all_rules_on_the_small_models_are_complete_and_each_of_their_mistakes_is_caught() {
    for name in small::BASE {
        clean(name, &[]);
    }
    let pairs: Vec<_> = small::shown().collect();
    caught(&pairs);
}

#[test]
fn no_state_is_left_by_a_human_only() {
    clean("live-crash", &[("cuts", "1"), ("heals", "1")]);
    clean("live-power", &[]);
    clean("live-rollback", &[]);
    caught(&[("live-power", "both_restarted_hold")]);
}

#[test]
fn every_flag_is_either_shown_or_its_absence_explained() {
    for (flag, rule) in rules() {
        let is_shown = shown().any(|(_, f)| f.split('+').any(|g| g == flag));
        let explained = not_shown().any(|(f, _)| f == flag);
        assert!(
            is_shown || explained,
            "{flag} ({rule}) is neither shown nor explained"
        );
    }
    assert!(base().count() > 20);
}

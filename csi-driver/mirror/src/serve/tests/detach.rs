//! Detach: clean, in the middle of something, and with a leg or the witness away.

use super::bench::{A, B, Bench, ms};
use super::setup::Setup;
use crate::io::Input;
use crate::status::StateName;

#[test]
fn a_clean_detach_syncs_clears_beats_marks_clean_and_releases_but_r30_keeps_the_reservation() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.quiet_beats = false;
    b.input(Input::Detach);
    b.check(&["A sync", "B sync"]);
    b.ok("A sync");
    b.ok("B sync");
    b.check(&["A page 0 n7 []", "B page 0 n7 []"]);
    b.ok("A page");
    b.ok("B page");
    b.check(&["A beat 11", "B beat 11"]);
    b.ok("A beat");
    b.ok("B beat");
    b.check(&["A sb Member{AB} e3 clean", "B sb Member{AB} e3 clean"]);
    b.ok("A sb");
    b.ok("B sb");
    b.check(&["cas release"]);
    b.win();
    b.check(&[
        "remove Detached",
        "A disconnect",
        "B disconnect",
        "detached",
    ]);
    assert_eq!(b.state(), StateName::Off);
    assert!(b.register.holder.is_none());
}

#[test]
fn a_detach_waits_for_requests_under_way_and_takes_no_new_ones() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.write(0);
    b.input(Input::Detach);
    b.write(4096);
    b.check(&["A write 0+4096", "B write 0+4096", "done 3 NotShown"]);
    b.ok("A write");
    b.ok("B write");
    b.check(&["done 2", "A sync", "B sync"]);
}

#[test]
fn a_detach_that_cannot_drain_is_over_after_t_cmd_with_the_bits_left() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.write(0);
    b.ok("A write");
    b.down(B);
    b.input(Input::Detach);
    b.seen();
    b.wait(ms(8000));
    let seen = b.settle();
    assert_eq!(b.state(), StateName::Off);
    assert!(
        seen.contains(&"done 2 EIO".to_owned()) || seen.contains(&"done 2".to_owned()),
        "{seen:?}"
    );
    assert!(!seen.iter().any(|line| line.contains("clean")));
}

#[test]
fn a_detach_in_solo_is_the_same_on_x_without_a_clear() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.shrink_to_a();
    b.written(4 << 16);
    b.input(Input::Detach);
    let seen = b.settle();
    assert!(
        seen.contains(&"A sb Member{A} e4 base e3".to_owned()),
        "{seen:?}"
    );
    assert!(!seen.iter().any(|line| line.contains("page")));
    assert!(seen.contains(&"cas release".to_owned()));
    assert_eq!(b.state(), StateName::Off);
}

#[test]
fn a_release_without_an_answer_is_repeated_after_the_logout_until_the_holder_is_another() {
    let mut b = Bench::served(Setup::pair());
    b.input(Input::Detach);
    while !b.open_lines().is_empty() {
        let name = b.open_lines()[0].to_owned();
        b.ok(&name);
    }
    b.no_answer();
    b.unreadable();
    b.wait(ms(3500));
    let seen = b.seen();
    assert!(seen.contains(&"detached".to_owned()), "{seen:?}");
    b.wait(ms(30_000));
    assert!(b.seen().contains(&"read R".to_owned()));
    b.settle();
    b.wait(ms(11_000));
    b.settle();
    assert!(b.register.holder.is_none());
    b.wait(ms(60_000));
    b.check(&[]);
    let _ = (A, B);
}

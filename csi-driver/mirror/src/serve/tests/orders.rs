//! Orders to a serving engine: drop a leg, expand, format.

use twinsite_register::{Epoch, Key, KeyTag, Members, Site};

use super::bench::{A, B, Bench, ms};
use super::rejoin::{Far, far, join};
use super::setup::{Setup, served};
use crate::engine::Port;
use crate::io::{DATA_START, Format, Input, LegError};
use crate::layout::Superblock;
use crate::serve::Serve;
use crate::status::StateName;

fn fs(name: &str) -> [u8; 15] {
    let mut out = [0; 15];
    out[..name.len()].copy_from_slice(name.as_bytes());
    out
}

#[test]
fn a_dropped_leg_leaves_by_a_shrink_that_forbids_its_return() {
    let mut b = Bench::served(Setup::pair());
    b.written(0);
    b.input(Input::DropLeg(B));
    b.check(&["read R"]);
    b.read();
    b.check(&["cas e4 {A} no rejoin {B}"]);
    b.win();
    assert!(b.seen().contains(&"order Ok(())".to_owned()));
    b.settle();
    b.up(B);
    b.settle();
    assert_eq!(b.state(), StateName::Solo);
    b.wait(ms(400_000));
    assert!(!b.seen().iter().any(|line| line.starts_with("B ")));
}

#[test]
fn the_last_member_is_never_dropped() {
    let mut b = Bench::served(Setup::solo(A));
    b.input(Input::DropLeg(A));
    b.input(Input::DropLeg(B));
    b.check(&["order Err(LastMember)", "order Err(WaitingForLeg)"]);
}

#[test]
fn expand_writes_the_new_size_twice_with_the_map_between_and_then_tells_the_kernel() {
    let mut b = Bench::served(Setup {
        discard: 4096,
        ..Setup::pair()
    });
    let size = 20_000_u64 << 16;
    b.input(Input::Expand { size });
    b.check(&["A identify", "B identify"]);
    b.ok("A identify");
    b.ok("B identify");
    b.check(&[
        "A sb Member{AB} e3 new 1310720000",
        "B sb Member{AB} e3 new 1310720000",
    ]);
    b.ok("A sb");
    b.ok("B sb");
    // Whatever the legs hold there is gone before the map says that nothing was written (I12).
    let mut zeroed = 0;
    loop {
        let sent = b.seen();
        let of_a = sent.iter().filter_map(|line| {
            let range = line.strip_prefix("A discard ")?;
            range.split_once('+')
        });
        let lengths: Vec<u64> = of_a.map(|(_, len)| len.parse().unwrap()).collect();
        assert!(lengths.len() <= 2, "{}", lengths.len());
        if lengths.is_empty() {
            assert_eq!(sent, ["A sync", "B sync"]);
            break;
        }
        for len in lengths {
            b.ok("A discard");
            b.ok("B discard");
            zeroed += len;
        }
    }
    assert_eq!(zeroed, size - (64 << 16));
    b.ok("A sync");
    b.ok("B sync");
    b.check(&["A page 1 n1 []", "B page 1 n1 []"]);
    b.ok("A page");
    b.ok("B page");
    b.check(&["A sb Member{AB} e3", "B sb Member{AB} e3"]);
    for name in ["A sb", "B sb", "A sb", "B sb"] {
        b.ok(name);
    }
    let seen = b.seen();
    assert!(
        seen.ends_with(&["resize 1310720000".to_owned(), "order Ok(())".to_owned()]),
        "{seen:?}"
    );
    b.write(19_999 << 16);
    b.check(&["A page 1 n2 [3743]", "B page 1 n2 [3743]"]);
}

#[test]
fn an_expansion_whose_leg_hangs_up_before_it_says_its_size_is_answered() {
    let mut b = Bench::served(Setup {
        discard: 4096,
        ..Setup::pair()
    });
    b.input(Input::Expand { size: 128 << 16 });
    b.ok("A identify");
    b.down(B);
    assert!(b.seen().contains(&"order Err(Interrupted)".to_owned()));
    b.back(B);
    b.settle();
    b.input(Input::Expand { size: 128 << 16 });
    let seen = b.settle();
    assert!(seen.contains(&"order Ok(())".to_owned()), "{seen:?}");
}

#[test]
fn expand_needs_both_legs_and_room_on_each() {
    let mut b = Bench::served(Setup::pair());
    b.infos[1].capacity = DATA_START + (64 << 16);
    b.input(Input::Expand { size: 128 << 16 });
    b.ok("A identify");
    b.ok("B identify");
    assert!(b.seen().contains(&"order Err(TooSmall)".to_owned()));
    b.input(Input::Expand { size: 1 << 16 });
    b.check(&["order Err(Shrink)"]);

    let mut b = Bench::served(Setup::solo(A));
    b.input(Input::Expand { size: 128 << 16 });
    b.check(&["order Err(WaitingForLeg)"]);
}

#[test]
fn new_space_that_need_not_read_zeros_is_copied_before_it_is_read() {
    let mut b = Bench::served(Setup::pair());
    b.input(Input::Expand { size: 66 << 16 });
    b.polls = true;
    while b.state() != StateName::Expand {
        let name = b.open_lines()[0].to_owned();
        b.ok(&name);
    }
    while b.state() == StateName::Expand {
        let name = b.open_lines()[0].to_owned();
        b.ok(&name);
    }
    b.seen();
    b.read_at(64 << 16);
    b.check(&[]);
    let seen = b.settle();
    assert_eq!(
        seen[..2],
        ["B copy to 4194304+131072", "A read 4194304+4096"]
    );
}

#[test]
fn r34_the_format_record_is_in_both_slots_of_every_member_before_it_is_confirmed() {
    let mut b = Bench::served(Setup::pair());
    b.input(Input::SetFormat {
        format: Format::Started,
        fs_type: fs("xfs"),
    });
    b.check(&["A sb Member{AB} e3", "B sb Member{AB} e3"]);
    b.ok("A sb");
    b.ok("B sb");
    b.check(&["A sb Member{AB} e3", "B sb Member{AB} e3"]);
    b.ok("A sb");
    b.check(&[]);
    b.ok("B sb");
    b.check(&["format Ok(())"]);
    let mut b = Bench::served(Setup::solo(A));
    b.input(Input::SetFormat {
        format: Format::Started,
        fs_type: fs("xfs"),
    });
    b.check(&["format Err(WaitingForLeg)"]);
}

const OLD_SIZE: u64 = 64 << 16;
const NEW_SIZE: u64 = 128 << 16;

/// An expansion that was begun, and whose zeros are under way.
fn zeroing() -> Bench {
    let mut b = Bench::served(Setup::pair());
    b.input(Input::Expand { size: NEW_SIZE });
    for name in ["A identify", "B identify", "A sb", "B sb"] {
        b.ok(name);
    }
    assert!(b.seen().contains(&"A zero 4194304+4194304".to_owned()));
    b.sizes.clear();
    b
}

#[test]
fn a_detach_out_of_the_zeroes_of_an_expansion_leaves_the_old_size() {
    let mut b = zeroing();
    b.input(Input::Detach);
    let seen = b.settle();
    assert!(seen.contains(&"order Err(Interrupted)".to_owned()));
    assert!(!b.sizes.is_empty());
    assert!(b.sizes.iter().all(|&sizes| sizes == (OLD_SIZE, NEW_SIZE)));
}

#[test]
fn a_leg_lost_in_the_zeroes_of_an_expansion_leaves_the_old_size() {
    let mut b = zeroing();
    b.fail("B zero", LegError::Medium);
    b.settle();
    assert_eq!(b.state(), StateName::Solo);
    assert!(!b.sizes.is_empty());
    assert!(b.sizes.iter().all(|&(size, _)| size == OLD_SIZE));
}

/// A leg was away for a while: the expansion is begun anew by the engine itself.
fn thawed() -> Bench {
    let mut b = zeroing();
    b.down(B);
    b.ok("A zero");
    b.wait(ms(3_500));
    assert_eq!(b.state(), StateName::Frozen);
    assert!(b.seen().contains(&"order Err(Interrupted)".to_owned()));
    b.back(B);
    assert_eq!(b.state(), StateName::Synced);
    b
}

#[test]
fn an_expansion_that_was_cut_short_in_its_zeroes_zeroes_again() {
    let mut b = thawed();
    let seen = b.settle();
    assert!(b.sizes.contains(&(NEW_SIZE, 0)));
    let at = |what: &str| seen.iter().position(|line| line == what);
    let zero = |leg: &str| at(&format!("{leg} zero 4194304+4194304"));
    let expanded = seen.iter().position(|line| line == "A sb Member{AB} e3");
    assert!(zero("A").is_some() && zero("A") < expanded, "{seen:?}");
    assert!(zero("B").is_some() && zero("B") < expanded, "{seen:?}");
    assert!(at("resize 8388608").is_some(), "{seen:?}");
}

#[test]
fn an_expansion_that_fails_beside_a_drop_does_not_answer_it() {
    let mut b = thawed();
    b.seen();
    b.input(Input::DropLeg(B));
    b.fail("A identify", LegError::Medium);
    assert!(!b.seen().iter().any(|line| line.starts_with("order")));
    let seen = b.settle();
    assert!(seen.contains(&"cas e4 {A} no rejoin {B}".to_owned()));
    assert!(seen.contains(&"order Ok(())".to_owned()), "{seen:?}");
}

/// B is to leave by order, A loses its cache before.
pub(super) fn forgets_beside_a_drop() -> Bench {
    let mut b = Bench::served(Setup {
        volatile: true,
        ..Setup::pair()
    });
    b.written(0);
    b.input(Input::DropLeg(B));
    b.down(A);
    b.infos[0].boot_id = Some(999);
    b.back(A);
    b
}

#[test]
fn a_leg_that_is_to_leave_stays_when_the_other_one_loses_what_was_written() {
    let mut b = forgets_beside_a_drop();
    b.seen();
    b.read();
    b.check(&["cas e4 {B}"]);
    assert!(b.settle().contains(&"order Err(Interrupted)".to_owned()));
    assert_eq!(b.state(), StateName::Solo);
}

/// The leg is put back to before an expansion that is in use since: the device keeps its size, and what the leg lacks is copied
/// before it is a member again.
#[test]
fn a_leg_that_is_put_back_to_a_smaller_size_takes_nothing_away() {
    let mut b = Bench::raw(Setup {
        beats: [9, 7],
        a_grew: NEW_SIZE - OLD_SIZE,
        ..Setup::pair()
    });
    b.quiet_beats = true;
    let behind = (NEW_SIZE - 4096) / 4096;
    b.contents[0].insert(behind, 77);
    let seen = b.settle();
    assert_eq!(b.state(), StateName::Solo);
    assert!(seen.contains(&format!("show {NEW_SIZE}")), "{seen:?}");
    let far = far(&b);
    join(&mut b, &far);
    b.sizes.clear();
    b.settle();
    assert_eq!(b.state(), StateName::Synced);
    assert_eq!(b.contents[1].get(&behind), Some(&77));
    b.input(Input::Expand { size: NEW_SIZE });
    let seen = b.settle();
    assert!(!seen.iter().any(|line| line.contains(" zero ")), "{seen:?}");
    assert!(seen.contains(&"order Ok(())".to_owned()), "{seen:?}");
    assert!(
        b.sizes.iter().all(|&(size, _)| size == NEW_SIZE),
        "{:?}",
        b.sizes
    );
}

/// The zeros are durable, and the first superblock with the new size is on A.
fn cut_short() -> Bench {
    let mut b = zeroing();
    while !b.sizes.contains(&(NEW_SIZE, 0)) {
        let name = b.open_lines()[0].to_owned();
        b.ok(&name);
    }
    b.ok("A sb");
    b
}

/// B was replaced: what has no zeros of its own gets them before any superblock of it says the new size.
fn a_blank_leg_joins(b: &mut Bench) {
    let far = far(b);
    let blank = Far {
        superblock: Superblock {
            epoch: Epoch(1),
            ..far.superblock
        },
        ..far
    };
    b.seen();
    b.sizes.clear();
    join(b, &blank);
    let seen = b.settle();
    assert_eq!(b.state(), StateName::Synced);
    assert!(seen.contains(&"B zero 4194304+4194304".to_owned()));
    assert!(seen.contains(&format!("resize {NEW_SIZE}")), "{seen:?}");
    let first_new = b.sizes.iter().position(|&(size, _)| size == NEW_SIZE);
    let last_old = b.sizes.iter().rposition(|&(size, _)| size == OLD_SIZE);
    assert!(last_old.is_some() && last_old < first_new, "{:?}", b.sizes);
}

/// B fails, is replaced and is filled anew: it gets what the device has, and the rest later.
#[test]
fn a_leg_that_joins_after_an_expansion_was_cut_short_at_its_superblocks_is_zeroed_too() {
    let mut b = cut_short();
    b.sizes.clear();
    b.fail("B sb", LegError::Medium);
    b.settle();
    assert_eq!(b.state(), StateName::Solo);
    assert!(b.sizes.iter().all(|&sizes| sizes == (OLD_SIZE, NEW_SIZE)));
    a_blank_leg_joins(&mut b);
}

/// The same with another decision before B is back: its A says the new size, the device goes on with the old one.
#[test]
fn a_leg_that_joins_a_device_that_went_on_with_the_old_size_is_zeroed_before_it_says_the_new_one() {
    let mut b = cut_short();
    b.down(B);
    b.wait(ms(3_500));
    assert_eq!(b.state(), StateName::Frozen);
    b.decided(&Setup {
        a_grew: NEW_SIZE - OLD_SIZE,
        ..Setup::solo(A)
    });
    b.settle();
    assert_eq!(b.state(), StateName::Solo);
    a_blank_leg_joins(&mut b);
}

#[test]
fn a_device_that_goes_on_keeps_its_size_its_pages_and_what_its_superblocks_say() {
    let grown = |members| Setup {
        a_grew: 20_000 << 16,
        more_pages: 1,
        members,
        ..Setup::pair()
    };
    for members in [Members::only(A), Members::BOTH] {
        let first = served(&Setup {
            members,
            ..Setup::pair()
        });
        let mut serve = Serve::new(ms(0), first, 1, Port::default());
        serve.resume(ms(60_000), served(&grown(members)));
        assert_eq!(serve.geometry.size(), OLD_SIZE);
        assert_eq!(serve.map.numbers().len(), 1);
        for sb in serve.superblocks.iter().flatten() {
            let sizes = (sb.geometry.size(), sb.size_new);
            assert_eq!(sizes, (OLD_SIZE, OLD_SIZE + (20_000 << 16)));
        }
    }
    // One that begins has what the leg has.
    let serve = Serve::new(ms(0), served(&grown(Members::only(A))), 1, Port::default());
    assert_eq!(serve.geometry.size(), OLD_SIZE + (20_000 << 16));
    assert_eq!(serve.map.numbers().len(), 2);
    let sb = serve.superblocks[0].as_ref().expect("of A");
    assert_eq!((sb.geometry, sb.size_new), (serve.geometry, 0));
}

#[test]
fn an_expansion_beside_a_format_record_goes_on_when_that_is_written() {
    let mut b = Bench::served(Setup::pair());
    b.input(Input::Expand { size: NEW_SIZE });
    b.input(Input::SetFormat {
        format: Format::Started,
        fs_type: fs("xfs"),
    });
    b.ok("A identify");
    b.ok("B identify");
    let seen = b.settle();
    assert!(seen.contains(&"format Ok(())".to_owned()), "{seen:?}");
    assert!(seen.contains(&"order Ok(())".to_owned()), "{seen:?}");
}

#[test]
fn an_order_of_a_writer_that_is_superseded_is_answered() {
    let other = Key::new(KeyTag::Writer(Site::B), 9);
    let mut b = Bench::served(Setup::pair());
    b.input(Input::DropLeg(B));
    b.edit(|register| register.holder = Some(other));
    b.read();
    assert_eq!(b.state(), StateName::Superseded);
    assert!(b.seen().contains(&"order Err(Interrupted)".to_owned()));
    let mut b = zeroing();
    b.fail("B zero", LegError::Conflict);
    assert_eq!(b.state(), StateName::Superseded);
    assert!(b.seen().contains(&"order Err(Interrupted)".to_owned()));
}

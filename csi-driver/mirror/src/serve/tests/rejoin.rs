//! Steps 0 to 4 of a rejoin: the joining leg is fenced, looked at, marked and filled.

use twinsite_register::{Epoch, Key, KeyTag, Members, Naa, Site};

use super::bench::{A, B, Bench, ms};
use super::setup::{Setup, page};
use crate::config::Config;
use crate::io::{LegError, LegReply};
use crate::layout::{Base, Geometry, MapPage, PAGE_REGIONS, RegionState, Role, Superblock};
use crate::status::{Condition, Event, RejoinBlock, StateName};

/// Solo(A) after a shrink from {AB} e3, with region 0 dirty; B is away.
pub(super) fn solo() -> Bench {
    let setup = Setup::pair();
    let config = Config {
        rest_small: 1 << 20,
        ..setup.config
    };
    let mut b = Bench::served(Setup { config, ..setup });
    b.written(0);
    b.shrink_to_a();
    b.settle();
    b
}

/// The superblock and the map page that B has.
pub(super) struct Far {
    pub(super) superblock: Superblock,
    pub(super) page: MapPage,
    pub(super) second: Option<MapPage>,
}

pub(super) fn far(b: &Bench) -> Far {
    // As it was when B was a member of e3.
    let superblock = Superblock {
        compat: 0,
        ro_compat: 0,
        sb_seq: 20,
        volume: twinsite_register::VolumeId([7; 16]),
        group: twinsite_register::GroupId([8; 16]),
        register_id: b.register.register_id,
        leg: B,
        role: Role::Member,
        members: Members::BOTH,
        active_site: Site::A,
        active_seq: 1,
        geometry: Geometry::new(64 << 16, 16).unwrap(),
        size_new: 0,
        epoch: Epoch(3),
        generation: super::setup::OLD,
        base: None,
        clean: false,
        attach_key: Some(b.key),
        boot_id: 200,
        lease_ms: 3000,
        awaits_register: false,
        node: String::new(),
        format: crate::io::Format::None,
        fs_type: [0; 15],
        naa: Naa([2; 16]),
        parents: Vec::new(),
        order: Default::default(),
    };
    Far {
        superblock,
        page: page(6, &[0]),
        second: None,
    }
}

/// B logs in; steps 0 to 2: everything up to the superblock Target.
pub(super) fn join(b: &mut Bench, far: &Far) {
    b.polls = false;
    b.up(B);
    b.check(&["read R"]);
    join_read(b, far);
}

/// From the read of the register on.
pub(super) fn join_read(b: &mut Bench, far: &Far) {
    b.read();
    b.check(&["B register Data"]);
    b.ok("B register Data");
    b.ok("B read keys");
    b.ok("B read reservation");
    b.ok("B full status");
    b.ok("B register Resync");
    b.seen();
    b.reply(
        "B read meta 65536",
        LegReply::Meta(far.superblock.emit().to_vec()),
    );
    b.reply("B read meta 131072", LegReply::Meta(vec![0; 4096]));
    let pages = std::iter::once(&far.page).chain(&far.second);
    let map: Vec<u8> = pages.flat_map(|page| page.emit().to_vec()).collect();
    b.reply("B read meta 1048576", LegReply::Meta(map));
    b.polls = true;
}

/// Up to RjTarget.
pub(super) fn target(b: &mut Bench) {
    let far = far(b);
    join(b, &far);
    b.ok("B sb Target");
    b.ok("B sb Target");
    assert_eq!(b.state(), StateName::RjNeed);
    b.seen();
}

#[test]
fn r5_y_is_fenced_before_its_superblock_is_read() {
    let mut b = solo();
    b.polls = false;
    b.up(B);
    b.read();
    b.ok("B register Data");
    let other = Key::new(KeyTag::Writer(Site::B), 5);
    b.reply("B read keys", LegReply::Keys(vec![b.key, other]));
    b.reply(
        "B read reservation",
        LegReply::Reservation(Some((other, 6))),
    );
    let seen = b.seen();
    assert!(seen.last().unwrap().contains("PrPreemptAbort"), "{seen:?}");
    b.ok("B PrPreemptAbort");
    b.ok("B full status");
    b.ok("B register Resync");
    b.check(&[
        "B full status",
        "B register Resync",
        "B read meta 65536+4096",
    ]);
}

#[test]
fn r18_r35_the_target_superblock_and_then_the_union_are_durable_before_the_first_copy() {
    let mut b = solo();
    let far = Far {
        page: page(6, &[0, 5]),
        ..far(&b)
    };
    join(&mut b, &far);
    b.check(&[
        "B read meta 131072+4096",
        "B read meta 1048576+4096",
        "B sb Target{} e4 base e3",
    ]);
    b.ok("B sb Target");
    b.check(&["B sb Target{} e4 base e3"]);
    b.ok("B sb Target");
    b.check(&["A page 0 n8 [0, 5]"]);
    b.ok("A page");
    b.check(&["A copy from 0+65536", "A copy from 327680+65536"]);
    assert!(b.events.contains(&Event::RejoinStarted {
        leg: B,
        full: false
    }));
}

#[test]
fn a_number_below_the_base_or_another_history_means_a_full_copy_with_no_base_on_y() {
    let low = |far: Far| Far {
        page: page(4, &[]),
        ..far
    };
    let other = |far: Far| Far {
        superblock: Superblock {
            epoch: Epoch(2),
            ..far.superblock
        },
        second: None,
        page: far.page,
    };
    for change in [&low as &dyn Fn(Far) -> Far, &other] {
        let mut b = solo();
        let far = change(far(&b));
        join(&mut b, &far);
        assert!(b.seen().contains(&"B sb Target{} e4".to_owned()));
        assert!(
            b.events
                .contains(&Event::RejoinStarted { leg: B, full: true })
        );
        b.ok("B sb Target");
        b.ok("B sb Target");
        b.ok("A page");
        assert!(b.seen().contains(&"A copy from 0+1048576".to_owned()));
    }
}

#[test]
fn y_that_left_again_before_the_base_was_given_up_is_a_delta() {
    let mut b = solo();
    let mut far = far(&b);
    far.superblock.epoch = Epoch(3);
    far.superblock.generation = twinsite_register::Gen([0x55; 16]);
    let base = b.base();
    far.superblock.base = Some(base);
    join(&mut b, &far);
    assert!(b.events.contains(&Event::RejoinStarted {
        leg: B,
        full: false
    }));
}

/// Put back to before an expansion: its pages say nothing of what was added, whatever their numbers are.
#[test]
fn y_of_another_size_is_copied_as_a_whole() {
    let mut b = solo();
    let mut far = far(&b);
    far.superblock.geometry = Geometry::new(32 << 16, 16).unwrap();
    b.contents[0].insert(40 << 4, 77);
    join(&mut b, &far);
    assert!(
        b.events
            .contains(&Event::RejoinStarted { leg: B, full: true })
    );
    b.settle();
    assert_eq!(b.state(), StateName::Synced);
    assert_eq!(b.contents[1].get(&(40 << 4)), Some(&77));
}

#[test]
fn a_full_copy_zeroes_what_x_never_wrote() {
    let blank = |number| MapPage::filled(0, number, Epoch(3), RegionState::Unwritten);
    let mut b = Bench::served(Setup {
        pages: [blank(5), blank(5)],
        ..Setup::pair()
    });
    b.written(0);
    b.shrink_to_a();
    let far = Far {
        page: page(1, &[]),
        ..far(&b)
    };
    join(&mut b, &far);
    b.ok("B sb Target");
    b.ok("B sb Target");
    let seen = b.seen();
    assert!(seen.contains(&"A copy from 0+65536".to_owned()), "{seen:?}");
    assert!(
        seen.contains(&"B zero 65536+1048576".to_owned())
            || seen.contains(&"B zero 65536+983040".to_owned()),
        "{seen:?}"
    );
}

#[test]
fn a_blank_leg_joins_only_if_its_naa_is_named() {
    let mut b = solo();
    let mut far = far(&b);
    far.superblock.volume = twinsite_register::VolumeId([1; 16]);
    b.polls = false;
    b.up(B);
    b.read();
    for step in [
        "B register Data",
        "B read keys",
        "B read reservation",
        "B full status",
        "B register Resync",
    ] {
        b.ok(step);
    }
    b.reply(
        "B read meta 65536",
        LegReply::Meta(far.superblock.emit().to_vec()),
    );
    b.reply("B read meta 131072", LegReply::Meta(vec![0; 4096]));
    let status = b.engine.status(b.now);
    assert_eq!(status.rejoin_blocked, Some(RejoinBlock::ForeignData));
    assert!(status.conditions.contains(&Condition::ForeignData(B)));
    assert!(b.open_lines().is_empty(), "nothing is written to it");
}

#[test]
fn a_leg_that_must_not_join_is_left_alone() {
    for (edit, block) in [
        (0, RejoinBlock::NoRejoin),
        (1, RejoinBlock::LostBranch),
        (2, RejoinBlock::Retired),
    ] {
        let mut b = solo();
        b.edit(|register| match edit {
            0 => register.no_rejoin = Members::only(B),
            1 => register.unconfirmed = Members::only(B),
            _ => register.retired.push(twinsite_register::Retired {
                leg: B,
                naa: Naa([2; 16]),
            }),
        });
        b.up(B);
        assert_eq!(b.engine.status(b.now).rejoin_blocked, Some(block));
        assert!(b.open_lines().is_empty());
    }
}

/// The union is durable in the first page and not in the second one: the copy has not begun, but what must be copied is known.
#[test]
fn r35_a_write_while_the_union_becomes_durable_is_copied_too() {
    let size = (PAGE_REGIONS as u64 + 64) << 16;
    let base = Base {
        epoch: Epoch(2),
        generation: super::setup::OLD,
        crc: 7,
    };
    let mut b = Bench::served(Setup {
        base: Some((A, base, vec![4, 4])),
        more_pages: 1,
        size,
        ..Setup::solo(A)
    });
    let mut second = MapPage::filled(1, 5, Epoch(2), RegionState::Clean);
    second.set_region(3, RegionState::Dirty);
    let before = far(&b).superblock;
    let far = Far {
        superblock: Superblock {
            epoch: Epoch(2),
            geometry: Geometry::new(size, 16).unwrap(),
            ..before
        },
        page: page(6, &[5]),
        second: Some(second),
    };
    join(&mut b, &far);
    b.ok("B sb Target");
    b.ok("B sb Target");
    assert!(
        b.seen()
            .ends_with(&["A page 0 n6 [5]".into(), "A page 1 n6 [3]".into()])
    );
    b.ok("A page 0");
    let id = b.write(9 << 16);
    b.ok("A page 0 n7 [5, 9]");
    b.ok("A write");
    assert!(b.seen().contains(&format!("done {id}")));
    b.ok("A page 1");
    b.settle();
    assert_eq!(b.state(), StateName::Synced);
    assert_eq!(b.contents[1].get(&(9 << 4)), Some(&id));
}

#[test]
fn r36_a_copy_holds_its_region_from_the_read_to_the_durable_write() {
    let mut b = solo();
    let far = far(&b);
    join(&mut b, &far);
    b.ok("B sb Target");
    b.ok("B sb Target");
    b.seen();
    b.write(0);
    b.check(&[]);
    b.ok("A copy from");
    b.check(&["B copy to 0+65536"]);
    b.ok("B copy to");
    b.check(&["A write 0+4096", "B write 0+4096", "A sync", "B sync"]);
}

/// In RjBoth: region 0 was written during its copy, and is copied again.
fn both() -> Bench {
    let setup = Setup::pair();
    let config = Config {
        copies: 1,
        copy_max: 65536,
        ..setup.config
    };
    let mut b = Bench::served(Setup { config, ..setup });
    for region in 0..4 {
        b.written(region << 16);
    }
    b.shrink_to_a();
    let far = Far {
        page: page(8, &[]),
        ..far(&b)
    };
    join(&mut b, &far);
    b.ok("B sb Target");
    b.ok("B sb Target");
    assert_eq!(b.state(), StateName::RjTarget);
    b.seen();
    b.ok("A copy from");
    b.ok("B copy to");
    b.seen();
    b.write(0);
    b.check(&["A write 0+4096"]);
    b.ok("A write");
    b.check(&["done 5"]);
    for _ in 0..3 {
        b.ok("A copy from");
        b.ok("B copy to");
    }
    assert_eq!(b.state(), StateName::RjBoth, "one pass is over");
    b.seen();
    b
}

#[test]
fn a_write_to_x_alone_during_the_copy_is_copied_again() {
    assert_eq!(both().open_lines(), ["A copy from 0+65536"]);
}

#[test]
fn busy_of_a_leg_that_nobody_waits_for_is_not_retried_after_the_answer() {
    let mut b = both();
    let id = b.write(65536);
    b.check(&["A write 65536+4096", "B write 65536+4096"]);
    b.fail("B write", LegError::Retry);
    b.ok("A write");
    b.check(&[&format!("done {id}")]);
    // The buffer is the guest's again: what B lacks is copied, never sent.
    b.wait(ms(25));
    assert_eq!(b.seen(), [] as [String; 0]);
    b.ok("A copy from 0");
    b.ok("B copy to 0");
    assert!(
        b.open_lines().contains(&"A copy from 65536+65536"),
        "{:?}",
        b.open_lines()
    );
}

#[test]
fn r35_a_write_between_the_union_and_the_copy_joins_the_copy() {
    let mut b = solo();
    // Region 5 may differ because of B's map: the union must become durable on A.
    let far = Far {
        page: page(6, &[0, 5]),
        ..far(&b)
    };
    join(&mut b, &far);
    b.ok("B sb Target");
    b.ok("B sb Target");
    let seen = b.seen();
    assert!(
        seen.last().unwrap().starts_with("A page 0"),
        "the union is on its way: {seen:?}"
    );
    // Acknowledged from A alone: the region is dirty already.
    b.write(0);
    b.ok("A write 0");
    assert!(b.seen().contains(&"done 2".to_owned()));
    // And one whose region is cold: its page comes after the union.
    b.write(9 << 16);
    b.ok("A page 0");
    let mut copied = Vec::new();
    while b.state() != StateName::Growing {
        let name = b.open_lines()[0].to_owned();
        copied.push(name.clone());
        b.ok(&name);
    }
    for region in [0, 5, 9] {
        let from = format!("A copy from {}+65536", region << 16);
        let both = format!("B write {}+4096", region << 16);
        assert!(
            copied.contains(&from) || copied.contains(&both),
            "region {region}: {copied:?}"
        );
    }
}

/// B may join, and block 3 of region 0 cannot be read on A.
fn fails_on_a_bad_block(b: &mut Bench) {
    b.ok("B sb Target");
    b.ok("B sb Target");
    b.fail("A copy from 0+65536", LegError::Medium);
    for block in 0..3 {
        b.ok(&format!("A copy from {}+4096", block * 4096));
        b.ok(&format!("B copy to {}+4096", block * 4096));
    }
    b.fail("A copy from 12288+4096", LegError::Medium);
    b.settle();
}

#[test]
fn a_source_with_a_bad_block_says_so_tries_three_times_and_then_only_looks_at_that_block() {
    let mut b = solo();
    let far = far(&b);
    join(&mut b, &far);
    for again in 0..3 {
        if again > 0 {
            let at = b.engine.status(b.now).rejoin_at.expect("another try");
            b.polls = false;
            b.now = at;
            b.up(B);
            b.input(crate::io::Input::Tick);
            b.seen();
            join_read(&mut b, &far);
        }
        fails_on_a_bad_block(&mut b);
        assert_eq!(b.state(), StateName::Solo);
        let status = b.engine.status(b.now);
        assert_eq!(status.rejoin_blocked, Some(RejoinBlock::SourceUnreadable));
        assert!(status.conditions.contains(&Condition::SourceUnreadable));
        assert!(status.dirty_bytes > 0, "the region stays dirty");
    }
    let bad = Event::ReadFailed {
        offset: 12_288,
        len: 4096,
    };
    assert!(b.events.contains(&bad), "the place is told");
    assert_eq!(b.engine.status(b.now).rejoin_at, None);
    b.up(B);
    let look = format!("A read meta {}+4096", crate::io::DATA_START + 12_288);
    for _ in 0..5 {
        b.wait(ms(300_000));
        let seen = b.seen();
        assert!(seen.contains(&look), "{seen:?}");
        assert!(
            !seen.iter().any(|line| line.contains("register Data")),
            "no further try"
        );
        b.fail(&look, LegError::Medium);
    }
    // A write elsewhere does not help, one there does.
    b.written(9 << 16);
    assert_eq!(b.engine.status(b.now).rejoin_at, None);
    b.written(0);
    assert!(b.engine.status(b.now).rejoin_at.is_some());
}

#[test]
fn a_bad_block_that_can_be_read_again_lets_the_rejoin_go_on() {
    let mut b = solo();
    let far = far(&b);
    join(&mut b, &far);
    for again in 0..3 {
        if again > 0 {
            b.now = b.engine.status(b.now).rejoin_at.expect("another try");
            b.polls = false;
            b.up(B);
            b.input(crate::io::Input::Tick);
            b.seen();
            join_read(&mut b, &far);
        }
        fails_on_a_bad_block(&mut b);
    }
    b.wait(ms(300_000));
    let look = format!("A read meta {}+4096", crate::io::DATA_START + 12_288);
    b.ok(&look);
    assert!(b.engine.status(b.now).rejoin_at.is_some());
}

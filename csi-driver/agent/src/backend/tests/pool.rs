//! Pools, the files of legs, and what is kept beside them.

use super::*;

#[test]
fn a_directory_without_a_marker_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert!(matches!(
        Pool::open(folder.path()),
        Err(BackendError::NoMarker(_))
    ));
    assert!(matches!(
        Pool::open(&folder.path().join("absent")),
        Err(BackendError::NoMarker(_))
    ));
    std::fs::write(folder.path().join("twinsite-pool"), "something else\n").expect("written");
    assert!(matches!(
        Pool::open(folder.path()),
        Err(BackendError::BadMarker(_))
    ));
}

#[test]
fn a_pool_is_made_once_and_keeps_its_id() {
    let (folder, pool) = pool();
    assert!(matches!(
        Pool::init(folder.path()),
        Err(BackendError::PoolExists(_))
    ));
    assert_eq!(Pool::open(folder.path()).expect("opens").id(), pool.id());
}

#[test]
fn an_unmounted_pool_makes_no_legs() {
    let (folder, pool) = pool();
    std::fs::remove_file(folder.path().join("twinsite-pool")).expect("removed");
    assert!(matches!(
        pool.create_leg("a", MIB),
        Err(BackendError::NoMarker(_))
    ));
    assert!(matches!(
        pool.open_leg("a", MIB),
        Err(BackendError::NoMarker(_))
    ));
    assert!(matches!(pool.legs(), Err(BackendError::NoMarker(_))));
}

#[test]
fn a_leg_is_made_once_with_its_size_and_opened_with_no_other() {
    let (folder, pool) = pool();
    pool.create_leg("ts-1", 64 * MIB).expect("made");
    assert!(matches!(
        pool.create_leg("ts-1", 64 * MIB),
        Err(BackendError::LegExists(_))
    ));
    assert_eq!(
        pool.legs().expect("listed"),
        [("ts-1".to_owned(), 64 * MIB)]
    );
    assert!(matches!(
        pool.open_leg("ts-1", 32 * MIB),
        Err(BackendError::Size { found, wanted, .. }) if (found, wanted) == (64 * MIB, 32 * MIB)
    ));
    assert!(matches!(
        pool.open_leg("ts-2", MIB),
        Err(BackendError::NoLeg(_))
    ));
    for name in ["", "../x", ".hidden", "a/b", "ä"] {
        assert!(
            matches!(pool.open_leg(name, MIB), Err(BackendError::Name(_))),
            "{name:?}"
        );
    }
    let files: Vec<_> = std::fs::read_dir(folder.path().join("legs"))
        .expect("listed")
        .collect();
    // The leg, and two files that take turns at holding its reservations.
    assert_eq!(files.len(), 3, "nothing else is left behind");
}

#[test]
fn a_leg_has_one_owner_at_a_time() {
    let (_folder, pool) = pool();
    pool.create_leg("a", MIB).expect("made");
    let first = pool.open_leg("a", MIB).expect("opens");
    assert!(matches!(
        pool.open_leg("a", MIB),
        Err(BackendError::Locked(_))
    ));
    assert!(matches!(pool.delete_leg("a"), Err(BackendError::Locked(_))));
    drop(first);
    pool.open_leg("a", MIB).expect("free again");
    pool.delete_leg("a").expect("removed");
    pool.delete_leg("a").expect("removing twice is no error");
    assert_eq!(pool.legs().expect("listed"), []);
}

#[test]
fn a_leg_only_grows() {
    let (_folder, pool) = pool();
    pool.create_leg("a", MIB).expect("made");
    pool.grow_leg("a", 2 * MIB).expect("grown");
    assert!(matches!(
        pool.grow_leg("a", MIB),
        Err(BackendError::Size { .. })
    ));
    assert_eq!(pool.open_leg("a", 2 * MIB).expect("opens").size(), 2 * MIB);
}

#[test]
fn the_boot_id_is_that_of_kernel_and_store_and_never_zero() {
    let (folder, pool) = pool();
    pool.create_leg("a", MIB).expect("made");
    let first = pool.open_leg("a", MIB).expect("opens").boot_id();
    let again = Pool::open(folder.path())
        .expect("opens")
        .open_leg("a", MIB)
        .expect("opens")
        .boot_id();
    assert_eq!(
        first, again,
        "a restarted agent has lost nothing that the kernel has"
    );
    assert_ne!(boot_id("kernel 1", "pool"), boot_id("kernel 2", "pool"));
    assert_ne!(boot_id("kernel 1", "pool"), boot_id("kernel 1", "other"));
    // Pinned: the value must not change from one build of the agent to the next.
    assert_eq!(boot_id("a\n", "b"), 0xe5d2_9919_0426_66b2);
}

#[test]
fn a_leg_whose_making_was_cut_off_is_not_made_again_over_its_data() {
    let (folder, pool) = pool();
    pool.create_leg("a", MIB).expect("made");
    let legs = folder.path().join("legs");
    // Killed between the link and the removal of the first name.
    std::fs::hard_link(legs.join("a.img"), legs.join(".a.new")).expect("linked");
    std::fs::write(legs.join("a.img"), vec![7; MIB as usize]).expect("written");
    assert!(matches!(
        pool.create_leg("a", MIB),
        Err(BackendError::LegExists(_))
    ));
    assert!(std::fs::read(legs.join("a.img")).expect("read") == vec![7; MIB as usize]);
    assert!(!legs.join(".a.new").exists());
    std::fs::hard_link(legs.join("a.img"), legs.join(".a.new")).expect("linked");
    pool.delete_leg("a").expect("removed");
    assert!(!legs.join(".a.new").exists(), "its space is given back");
}

#[test]
fn reservations_are_replaced_whole_and_found_again() {
    let (_folder, pool) = pool();
    pool.create_leg("a", MIB).expect("made");
    let backing = pool.open_leg("a", MIB).expect("opens");
    assert_eq!(backing.saved_reservations().expect("read"), b"");
    let bench = Bench::new(backing);
    for state in [&b"a long first state"[..], b"second"] {
        assert_eq!(
            bench.run(StoreOp::SavePr(Bytes::from_static(state))),
            Ok(StoreReply::Done)
        );
    }
    drop(bench);
    let backing = pool.open_leg("a", MIB).expect("opens");
    assert_eq!(backing.saved_reservations().expect("read"), b"second");
}

#[test]
fn reservations_saved_before_they_had_a_head_are_read() {
    let (folder, pool) = pool();
    pool.create_leg("a", MIB).expect("made");
    std::fs::write(folder.path().join("legs/a.pr"), b"an old state").expect("written");
    let backing = pool.open_leg("a", MIB).expect("opens");
    assert_eq!(backing.saved_reservations().expect("read"), b"an old state");
    std::fs::write(
        folder.path().join("legs/a.pr"),
        b"twinsite pr1\0\0\0\x09short",
    )
    .expect("written");
    assert!(backing.saved_reservations().is_err(), "cut short");
}

/// A file system of its own, gone at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`: it takes the right to mount.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(folder.path())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(folder))
    }

    /// Not one byte is left.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.0.path().join("filler")).expect("made");
        while file.write_all(&[1; 4096]).is_ok() {}
        while file.write_all(&[1]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
    }
}

#[test]
fn a_fence_is_recorded_on_a_disk_that_is_full() {
    let Some(disk) = SmallDisk::new() else {
        eprintln!("skipped: no right to mount");
        return;
    };
    let pool = Pool::init(disk.0.path()).expect("a pool");
    pool.create_leg("a", MIB).expect("made");
    let bench = Bench::new(pool.open_leg("a", MIB).expect("opens"));
    disk.fill();
    assert_eq!(
        bench.run(write(0, 7, 65536, false)),
        Err(StoreError::NoSpace)
    );
    for state in [vec![1; 30_000], vec![2; 20], vec![3; 40_000]] {
        let saved = bench.run(StoreOp::SavePr(state.clone().into()));
        assert_eq!(saved, Ok(StoreReply::Done));
        let path = disk.0.path().join("legs/a.pr");
        let bytes = std::fs::read(path).expect("read");
        assert_eq!(bytes[16..][..state.len()], state);
    }
    drop(bench);
    let backing = pool.open_leg("a", MIB).expect("opens");
    assert_eq!(backing.saved_reservations().expect("read"), [3; 40_000]);
    assert!(
        pool.create_leg("b", MIB).is_err(),
        "no room for its reservations"
    );
    assert_eq!(pool.legs().expect("listed"), [("a".to_owned(), MIB)]);
}

#[test]
fn a_plain_file_is_made_with_the_size_asked_for_and_never_cut() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("disk");
    drop(Backing::open(&path, Some(MIB), Access::ReadWrite).expect("made"));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("opens");
    file.write_all_at(b"x", 2 * MIB).expect("written");
    let backing = Backing::open(&path, Some(MIB), Access::ReadWrite).expect("opens");
    assert_eq!(backing.size(), MIB);
    assert_eq!(length(&path), 2 * MIB + 1);
    assert!(matches!(
        Backing::open(folder.path(), None, Access::ReadOnly),
        Err(BackendError::Kind(_))
    ));
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).expect("inspected").len()
}

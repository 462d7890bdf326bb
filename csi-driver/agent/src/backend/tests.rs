//! Stores on real files: what is written, cleared and flushed, what a failed write or flush costs, who may open what.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use twinsite_iscsi::scsi::{Extent, StoreError, StoreOp, StoreReply};

use super::{Access, BackendError, Backing, Pool, Store, boot_id};
use crate::reactor::{Actor, Context, Event, Inlet, Mailbox, Thread, ThreadConfig, Token};

mod pool;

const MIB: u64 = 1 << 20;

fn pool() -> (tempfile::TempDir, Pool) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pool = Pool::init(folder.path()).expect("a new pool");
    (folder, pool)
}

/// What an operation came to, and whether its last event was that of a ring.
type Report = (Result<StoreReply, StoreError>, bool);

/// Runs store operations that arrive by mail.
struct Runner {
    store: Store,
    inlet: Inlet<StoreOp>,
    next: u64,
    report: mpsc::Sender<Report>,
}

impl Actor for Runner {
    fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
        let by_ring = !matches!(event, Event::Alarm);
        if let Some(result) = self.store.handle(cx, token, event) {
            self.report.send((result, by_ring)).expect("the test waits");
        }
    }

    fn mail(&mut self, cx: &mut Context<'_>) {
        while let Some(op) = self.inlet.take() {
            self.next += 1;
            if let Some(result) = self.store.submit(cx, Token(self.next), op) {
                self.report.send((result, false)).expect("the test waits");
            }
        }
    }
}

struct Bench {
    thread: Thread,
    mailbox: Mailbox<StoreOp>,
    reported: mpsc::Receiver<Report>,
}

impl Bench {
    fn new(backing: Backing) -> Self {
        Self::with(backing, |_| {})
    }

    fn with(backing: Backing, change: impl FnOnce(&mut Store)) -> Self {
        let thread = Thread::spawn(ThreadConfig::default()).expect("io_uring is there");
        let id = thread.reserve();
        let (mailbox, inlet) = thread.mailbox(id, 16);
        let (report, reported) = mpsc::channel();
        let mut store = Store::new(backing).expect("a store");
        change(&mut store);
        thread.start(id, move |_| {
            Box::new(Runner {
                store,
                inlet,
                next: 0,
                report,
            })
        });
        Self {
            thread,
            mailbox,
            reported,
        }
    }

    fn run(&self, op: StoreOp) -> Result<StoreReply, StoreError> {
        self.report_of(op).0
    }

    fn report_of(&self, op: StoreOp) -> Report {
        self.mailbox
            .post(op)
            .unwrap_or_else(|_| panic!("the runner takes mail"));
        self.reported
            .recv_timeout(Duration::from_secs(10))
            .expect("a result")
    }

    fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        match self.run(StoreOp::Read { offset, len }) {
            Ok(StoreReply::Data(pieces)) => pieces.concat(),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.thread.stop();
        self.thread.join();
    }
}

fn write(offset: u64, byte: u8, len: usize, fua: bool) -> StoreOp {
    StoreOp::Write {
        offset,
        data: vec![Bytes::from(vec![byte; len])],
        fua,
    }
}

#[test]
fn a_store_keeps_what_is_written_and_clears_what_is_cleared() {
    let (_folder, pool) = pool();
    pool.create_leg("a", 8 * MIB).expect("made");
    let bench = Bench::new(pool.open_leg("a", 8 * MIB).expect("opens"));
    assert_eq!(bench.run(write(4096, 7, 8192, false)), Ok(StoreReply::Done));
    assert_eq!(bench.run(write(MIB, 9, 4096, true)), Ok(StoreReply::Done));
    assert_eq!(bench.run(StoreOp::Flush), Ok(StoreReply::Done));
    assert_eq!(
        bench.read(0, 16384),
        [vec![0; 4096], vec![7; 8192], vec![0; 4096]].concat()
    );
    assert_eq!(
        bench.run(StoreOp::Discard {
            offset: 4096,
            len: 4096
        }),
        Ok(StoreReply::Done)
    );
    assert_eq!(
        bench.read(4096, 8192),
        [vec![0; 4096], vec![7; 4096]].concat()
    );
    // Longer than one write of zeroes, for file systems that need it.
    assert_eq!(
        bench.run(write(MIB, 5, 6 << 20, false)),
        Ok(StoreReply::Done)
    );
    assert_eq!(
        bench.run(StoreOp::WriteZeros {
            offset: MIB + 512,
            len: (6 << 20) - 1024,
            fua: true
        }),
        Ok(StoreReply::Done)
    );
    assert_eq!(bench.read(MIB, 512), vec![5; 512]);
    assert_eq!(bench.read(7 * MIB - 512, 512), vec![5; 512]);
    assert!(
        bench
            .read(MIB + 512, (6 << 20) - 1024)
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn a_store_in_memory_answers_alike() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let path = folder.path().join("disk");
    let bench = Bench::new(Backing::open(&path, Some(MIB), Access::ReadWrite).expect("made"));
    assert_eq!(bench.run(write(4096, 7, 8192, true)), Ok(StoreReply::Done));
    assert!(bench.read(0, 16384) == [vec![0; 4096], vec![7; 8192], vec![0; 4096]].concat());
    let zeros = StoreOp::WriteZeros {
        offset: 4096,
        len: 4096,
        fua: false,
    };
    assert_eq!(bench.run(zeros), Ok(StoreReply::Done));
    assert!(bench.read(4096, 8192) == [vec![0; 4096], vec![7; 4096]].concat());
    assert_eq!(
        bench.run(StoreOp::Read {
            offset: MIB,
            len: 512
        }),
        Err(StoreError::Medium)
    );
}

#[test]
fn a_hasty_store_writes_alike_and_leaves_its_syncs_to_the_ring() {
    let (_folder, pool) = pool();
    pool.create_leg("a", MIB).expect("made");
    let backing = pool.open_leg("a", MIB).expect("opens");
    let bench = Bench::with(backing, Store::write_at_once);
    assert_eq!(bench.run(write(512, 7, 512, false)), Ok(StoreReply::Done));
    assert_eq!(bench.run(write(1024, 8, 512, true)), Ok(StoreReply::Done));
    assert!(
        bench.read(0, 2048) == [vec![0; 512], vec![7; 512], vec![8; 512], vec![0; 512]].concat()
    );
}

type Change = fn(&mut Store);

/// As those of a target by hand.
fn hasty_to_the_disk(store: &mut Store) {
    store.write_at_once();
    store.sync_at_once(Arc::new(AtomicBool::new(true)));
}

#[test]
fn a_stable_write_alone_is_synced_by_the_thread_of_a_target_by_hand_and_never_by_that_of_a_leg() {
    let changes: [(Change, bool); 3] = [
        (|_| {}, true),
        (Store::write_at_once, true),
        (hasty_to_the_disk, false),
    ];
    for (change, by_ring) in changes {
        let (_folder, pool) = pool();
        pool.create_leg("a", MIB).expect("made");
        let bench = Bench::with(pool.open_leg("a", MIB).expect("opens"), change);
        // The thread is idle by then.
        std::thread::sleep(Duration::from_millis(20));
        let report = bench.report_of(write(512, 7, 512, true));
        assert_eq!(report, (Ok(StoreReply::Done), by_ring));
    }
}

#[test]
fn a_store_that_is_stable_throughout_keeps_small_writes_under_and_beside_large_ones() {
    let (_folder, pool) = pool();
    pool.create_leg("a", 8 * MIB).expect("made");
    let bench = Bench::with(pool.open_leg("a", 8 * MIB).expect("opens"), |store| {
        store.all_is_stable();
        hasty_to_the_disk(store);
    });
    let mut whole = vec![0; 2 << 20];
    let steps = [
        (0, 1, 2 << 20),
        (4096, 2, 4096),
        (200 << 10, 3, 512),
        // Over the first of them, and up to the middle of the other.
        (0, 4, (200 << 10) + 256),
        (1 << 20, 5, 4096),
        ((1 << 20) - 512, 6, 128 << 10),
    ];
    for (at, byte, len) in steps {
        let done = bench.run(write(at as u64, byte, len, true));
        assert_eq!(done, Ok(StoreReply::Done));
        whole[at..at + len].fill(byte);
        assert!(bench.read(0, 2 << 20) == whole, "after {byte}");
    }
}

#[test]
fn the_map_shows_what_was_written() {
    let (_folder, pool) = pool();
    pool.create_leg("a", 8 * MIB).expect("made");
    let bench = Bench::new(pool.open_leg("a", 8 * MIB).expect("opens"));
    assert_eq!(bench.run(write(MIB, 7, 4096, false)), Ok(StoreReply::Done));
    let extent = |offset, len, mapped| Extent {
        offset,
        len,
        mapped,
    };
    assert_eq!(
        bench.run(StoreOp::Map {
            offset: 0,
            len: 8 * MIB
        }),
        Ok(StoreReply::Extents(vec![
            extent(0, MIB, false),
            extent(MIB, 4096, true),
            extent(MIB + 4096, 7 * MIB - 4096, false),
        ]))
    );
}

#[test]
fn a_file_in_memory_is_mapped_without_a_look_at_its_pages() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let path = folder.path().join("disk");
    let bench = Bench::new(Backing::open(&path, Some(MIB), Access::ReadWrite).expect("made"));
    let map = StoreOp::Map {
        offset: 4096,
        len: MIB,
    };
    let all = Extent {
        offset: 4096,
        len: MIB - 4096,
        mapped: true,
    };
    assert_eq!(bench.run(map), Ok(StoreReply::Extents(vec![all])));
}

#[test]
fn a_discard_makes_a_hole_where_ranges_cannot_be_zeroed() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let path = folder.path().join("disk");
    let bench = Bench::new(Backing::open(&path, Some(MIB), Access::ReadWrite).expect("made"));
    let (offset, len) = (0, 65536);
    bench
        .run(write(0, 7, MIB as usize, false))
        .expect("written");
    let fua = false;
    let zeros = StoreOp::WriteZeros { offset, len, fua };
    assert_eq!(bench.run(zeros), Ok(StoreReply::Done));
    let blocks = || std::fs::metadata(&path).expect("there").blocks();
    let before = blocks();
    assert_eq!(
        bench.run(StoreOp::Discard { offset, len }),
        Ok(StoreReply::Done)
    );
    assert_eq!((before - blocks()) * 512, len);
}

/// Something that can be neither written at a place nor flushed.
fn no_file() -> OwnedFd {
    std::io::pipe().expect("a pipe").1.into()
}

/// A store over something else, and what makes a plain file of it.
#[allow(unsafe_code, reason = "a descriptor is replaced under its number")]
fn broken_store(broken: OwnedFd) -> (tempfile::TempDir, Bench, impl FnOnce()) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("disk");
    let mut backing = Backing::open(&path, Some(MIB), Access::ReadWrite).expect("made");
    let file = std::fs::File::options().read(true).write(true).open(&path);
    let file = file.expect("opens");
    let number = broken.as_raw_fd();
    backing.data = broken.into();
    let mend = move || {
        // SAFETY: two open descriptors; the second is the store's, which has no operation under way.
        assert!(unsafe { libc::dup2(file.as_raw_fd(), number) } == number);
    };
    let bench = Bench::with(backing, hasty_to_the_disk);
    (folder, bench, mend)
}

#[test]
fn after_a_failed_flush_no_flush_is_good() {
    let (_folder, bench, mend) = broken_store(no_file());
    assert_eq!(bench.run(StoreOp::Flush), Err(StoreError::Hardware));
    mend();
    assert_eq!(bench.run(StoreOp::Flush), Err(StoreError::Medium));
    assert_eq!(bench.run(write(0, 1, 4096, true)), Err(StoreError::Medium));
    let (offset, len, fua) = (0, 4096, true);
    let zeros = StoreOp::WriteZeros { offset, len, fua };
    assert_eq!(bench.run(zeros), Err(StoreError::Medium));
    assert_eq!(bench.run(write(0, 1, 4096, false)), Ok(StoreReply::Done));
    assert_eq!(bench.read(0, 4096), vec![1; 4096]);
}

#[test]
fn after_a_failed_stable_write_no_flush_is_good() {
    let (_folder, bench, mend) = broken_store(no_file());
    assert_eq!(
        bench.run(write(0, 1, 4096, true)),
        Err(StoreError::Hardware)
    );
    mend();
    assert_eq!(bench.run(StoreOp::Flush), Err(StoreError::Medium));
}

#[test]
fn after_a_failed_sync_of_a_stable_write_no_flush_is_good() {
    // It takes every write and no sync.
    let taker = std::fs::File::options().write(true).open("/dev/null");
    let (_folder, bench, mend) = broken_store(taker.expect("opens").into());
    assert_eq!(
        bench.run(write(0, 1, 4096, true)),
        Err(StoreError::Hardware)
    );
    mend();
    assert_eq!(bench.run(StoreOp::Flush), Err(StoreError::Medium));
}

#[test]
fn a_full_disk_is_told_and_is_good_again_when_there_is_room() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let (_folder, bench, mend) = broken_store(full.expect("opens").into());
    for fua in [false, true] {
        assert_eq!(bench.run(write(0, 1, 4096, fua)), Err(StoreError::NoSpace));
    }
    mend();
    assert_eq!(bench.run(write(0, 1, 4096, true)), Ok(StoreReply::Done));
    assert_eq!(bench.run(StoreOp::Flush), Ok(StoreReply::Done));
}

#[test]
fn after_a_failed_plain_write_a_flush_may_be_good() {
    let (_folder, bench, mend) = broken_store(no_file());
    assert_eq!(
        bench.run(write(0, 1, 4096, false)),
        Err(StoreError::Hardware)
    );
    mend();
    assert_eq!(bench.run(StoreOp::Flush), Ok(StoreReply::Done));
}

#[test]
fn a_write_that_must_be_whole_reaches_the_file_and_leaves_nothing_to_follow() {
    let (folder, pool) = pool();
    pool.create_leg("a", 8 * MIB).expect("made");
    let bench = Bench::new(pool.open_leg("a", 8 * MIB).expect("opens"));
    let atomic = StoreOp::WriteAtomic {
        offset: 4096,
        data: vec![Bytes::from(vec![5; 4096]), Bytes::from(vec![6; 8192])],
    };
    assert_eq!(bench.run(atomic), Ok(StoreReply::Done));
    assert_eq!(bench.run(write(4096, 7, 4096, false)), Ok(StoreReply::Done));
    drop(bench);
    let bench = Bench::new(pool.open_leg("a", 8 * MIB).expect("opens"));
    assert_eq!(bench.read(4096, 4096), vec![7; 4096]);
    assert_eq!(bench.read(8192, 8192), vec![6; 8192]);
    drop(bench);
    pool.delete_leg("a").expect("removed");
    let left = std::fs::read_dir(folder.path().join("legs")).expect("listed");
    assert_eq!(left.count(), 0);
}

#[test]
fn a_file_cut_short_under_a_store_is_a_medium_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("disk");
    let bench = Bench::new(Backing::open(&path, Some(MIB), Access::ReadWrite).expect("made"));
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("opens")
        .set_len(4096)
        .expect("cut");
    assert_eq!(
        bench.run(StoreOp::Read {
            offset: 0,
            len: 8192
        }),
        Err(StoreError::Medium)
    );
}

#[test]
fn a_paced_store_moves_no_more_than_its_rate() {
    let (_folder, pool) = pool();
    pool.create_leg("a", MIB).expect("made");
    let backing = pool.open_leg("a", MIB).expect("opens");
    let bench = Bench::with(backing, |store| store.set_rate(Some(MIB)));
    let started = crate::reactor::boottime();
    for n in 0..5 {
        assert_eq!(
            bench.run(write(n << 16, 1, 1 << 16, false)),
            Ok(StoreReply::Done)
        );
    }
    // The first one begins at once, the fifth after the time of four times 64 KiB.
    assert!(crate::reactor::boottime() - started >= Duration::from_millis(250));
}

#[test]
fn a_read_only_store_refuses_to_change() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![3; 8192]).expect("written");
    let bench = Bench::new(Backing::open(&path, None, Access::ReadOnly).expect("opens"));
    assert_eq!(bench.read(4096, 4096), vec![3; 4096]);
    assert_eq!(
        bench.run(write(0, 1, 512, false)),
        Err(StoreError::ReadOnly)
    );
    assert_eq!(
        bench.run(StoreOp::Discard {
            offset: 0,
            len: 512
        }),
        Err(StoreError::ReadOnly)
    );
}

#[cfg(feature = "test-hooks")]
mod hooks {
    use super::*;

    #[test]
    fn a_volatile_cache_is_read_through_and_lost_without_a_flush() {
        let (_folder, pool) = pool();
        pool.create_leg("a", MIB).expect("made");
        let open = || {
            let backing = pool.open_leg("a", MIB).expect("opens");
            backing.with_volatile_cache().expect("random bytes")
        };
        let backing = open();
        let first_boot = backing.boot_id();
        let bench = Bench::new(backing);
        assert_eq!(bench.run(write(0, 1, 4096, false)), Ok(StoreReply::Done));
        assert_eq!(bench.run(StoreOp::Flush), Ok(StoreReply::Done));
        assert_eq!(bench.run(write(4096, 2, 4096, true)), Ok(StoreReply::Done));
        assert_eq!(bench.run(write(8192, 3, 4096, false)), Ok(StoreReply::Done));
        let all = [vec![1; 4096], vec![2; 4096], vec![3; 4096]].concat();
        assert!(bench.read(0, 12288) == all);
        drop(bench);
        let backing = open();
        assert_ne!(backing.boot_id(), first_boot);
        let bench = Bench::new(backing);
        assert!(bench.read(0, 12288) == [vec![1; 4096], vec![2; 4096], vec![0; 4096]].concat());
    }
}

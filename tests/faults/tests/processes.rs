//! Faults on real processes: two agents, their targets, a witness folder, a real block device.
//!
//! Rows 3 and 99: the writer is stopped for longer than its lease, the other site takes over, the writer wakes up.
//! Row 51: an application changes its buffer while the kernel writes it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twinsite_api::{AttachmentMode, AttachmentState, AttachmentStatus, MoveMode};
use twinsite_tests::needs;
use twinsite_tests::pair::{FileSystem, Pair, Plan};
use twinsite_tests::process::{Signal, sweep};

const SIZE: u64 = 256 << 20;
/// Where the data of a leg begins.
const HEAD: usize = 128 << 20;
const BLOCK: usize = 4096;
/// Longer than the lease (3 s) and its margin.
const LONGER_THAN_THE_LEASE: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(60);

/// The agent of the same build as this test.
fn agent() -> Option<PathBuf> {
    let here = std::env::current_exe().ok()?;
    let agent = here.parent()?.parent()?.join("twinsite-agent");
    agent.exists().then_some(agent)
}

/// A folder of its own, swept whatever happens.
struct Folder(tempfile::TempDir);

impl Drop for Folder {
    fn drop(&mut self) {
        sweep(self.0.path());
    }
}

fn set_up(folder: &Path, agent: PathBuf) -> Result<(Pair, String, File)> {
    let mut pair = Pair::start(Plan {
        folder: folder.to_owned(),
        agent,
        size: SIZE,
        fs: FileSystem::Ext4,
        max_resync_bytes_per_second: None,
    })?;
    pair.birth()?;
    let name = pair.order(0, AttachmentMode::Writer, None)?;
    let status = pair.wait_state(0, &name, AttachmentState::Attached, LIMIT)?;
    Ok((pair, name, open(&status)?))
}

fn open(status: &AttachmentStatus) -> Result<File> {
    let device = status.device.as_ref().context("no device is named")?;
    Ok(OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&device.path)?)
}

/// Memory that other threads may write while the kernel reads it.
struct Shared(Vec<AtomicU64>);

impl Shared {
    fn new(bytes: usize) -> Self {
        let words = (bytes + BLOCK) / 8;
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    fn aligned(&self) -> &[AtomicU64] {
        let address = self.0.as_ptr() as usize;
        &self.0[(address.next_multiple_of(BLOCK) - address) / 8..]
    }

    fn fill(&self, value: u64) {
        self.aligned()
            .iter()
            .for_each(|word| word.store(value, Ordering::Relaxed));
    }

    /// Writes the buffer as it is at each instant.
    #[allow(
        unsafe_code,
        reason = "a buffer that changes under the kernel has no Rust reference"
    )]
    fn write(&self, file: &File, bytes: usize, offset: u64) -> io::Result<()> {
        let from = self.aligned();
        assert!(bytes <= from.len() * 8);
        // SAFETY: the memory is valid for `bytes` and stays so; the kernel only reads it.
        let done = unsafe {
            libc::pwrite(
                file.as_raw_fd(),
                from.as_ptr().cast(),
                bytes,
                offset as libc::off_t,
            )
        };
        if done == bytes as isize {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    #[allow(unsafe_code, reason = "O_DIRECT needs the aligned buffer")]
    fn read(&self, file: &File, bytes: usize, offset: u64) -> io::Result<u64> {
        let into = self.aligned();
        assert!(bytes <= into.len() * 8);
        // SAFETY: the memory is valid for `bytes`, and atomics may be written through a shared reference.
        let done = unsafe {
            libc::pread(
                file.as_raw_fd(),
                into.as_ptr().cast_mut().cast(),
                bytes,
                offset as libc::off_t,
            )
        };
        if done == bytes as isize {
            Ok(into[0].load(Ordering::Relaxed))
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// The data of the leg's file.
fn stored(pair: &Pair, site: usize) -> Result<Vec<u8>> {
    let legs = pair.sites[site].pool().join("legs");
    let file = std::fs::read_dir(&legs)?
        .filter_map(|entry| entry.ok())
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "img"))
        .context("the pool holds no leg")?;
    let mut data = vec![0; SIZE as usize];
    File::open(file)?.read_exact_at(&mut data, HEAD as u64)?;
    Ok(data)
}

/// Row 51: both legs hold the same bytes, whatever the application does to its buffer meanwhile.
fn a_buffer_changes_in_flight(pair: &Pair, device: &File) -> Result<()> {
    let buffer = Arc::new(Shared::new(256 << 10));
    let stop = Arc::new(AtomicBool::new(false));
    let scribbler = {
        let (buffer, stop) = (buffer.clone(), stop.clone());
        thread::spawn(move || {
            let mut value = 1;
            while !stop.load(Ordering::Relaxed) {
                value += 1;
                buffer.fill(value);
            }
        })
    };
    for round in 0..600u64 {
        let offset = round % 200 * (256 << 10);
        buffer.write(device, 256 << 10, offset)?;
    }
    device.sync_all()?;
    stop.store(true, Ordering::Relaxed);
    scribbler.join().ok().context("the scribbler fell")?;
    ensure!(
        stored(pair, 0)? == stored(pair, 1)?,
        "the legs differ after writes from a buffer that changed in flight"
    );
    Ok(())
}

/// Rows 3 and 99.
fn a_writer_sleeps_through_a_takeover(pair: &mut Pair, name: &str, device: &File) -> Result<()> {
    let block = Shared::new(BLOCK);
    block.fill(11);
    block.write(device, BLOCK, 0)?;
    device.sync_all()?;
    pair.sites[0]
        .agent()
        .context("no agent")?
        .signal(Signal::Stop);
    thread::sleep(LONGER_THAN_THE_LEASE);
    let order = pair.move_order(MoveMode::Failover)?;
    let other = pair.order(1, AttachmentMode::Writer, Some(order))?;
    let status = pair.wait_state(1, &other, AttachmentState::Attached, LIMIT)?;
    let taken = open(&status)?;
    ensure!(
        block.read(&taken, BLOCK, 0)? == 11,
        "the acknowledged write is missing where the volume was taken over"
    );
    block.fill(12);
    block.write(&taken, BLOCK, 0)?;
    taken.sync_all()?;
    // A write and a read wait in the sleeper's device when it wakes up.
    let sleeper = {
        let device = device.try_clone()?;
        thread::spawn(move || {
            let own = Shared::new(BLOCK);
            own.fill(13);
            let written = own.write(&device, BLOCK, 0);
            let read = own.read(&device, BLOCK, 0);
            (written.is_ok(), read)
        })
    };
    thread::sleep(Duration::from_millis(300));
    pair.sites[0]
        .agent()
        .context("no agent")?
        .signal(Signal::Continue);
    pair.wait_for(
        Duration::from_secs(10),
        "the sleeper to be superseded",
        |p| {
            p.attachment(0, name)
                .is_some_and(|s| s.state == AttachmentState::Superseded)
        },
    )?;
    let (written, read) = sleeper
        .join()
        .ok()
        .context("the sleeper's application fell")?;
    ensure!(
        !written,
        "the sleeper acknowledged a write after the takeover"
    );
    ensure!(
        !matches!(read, Ok(11 | 13)),
        "the sleeper answered a read with an old value: {read:?}"
    );
    ensure!(
        block.read(&taken, BLOCK, 0)? == 12,
        "the sleeper's write reached the volume"
    );
    Ok(())
}

#[test]
fn a_writer_that_sleeps_through_a_takeover_and_a_buffer_that_changes_in_flight() {
    if let Some(why) = needs::missing_for_devices() {
        eprintln!("skipped: {why}");
        return;
    }
    let Some(agent) = agent() else {
        eprintln!("skipped: the agent of this build is missing: cargo build --bin twinsite-agent");
        return;
    };
    let folder = Folder(tempfile::tempdir().expect("a folder"));
    let (mut pair, name, device) = set_up(folder.0.path(), agent).expect("a volume at two sites");
    let scribbled = a_buffer_changes_in_flight(&pair, &device);
    let slept = a_writer_sleeps_through_a_takeover(&mut pair, &name, &device);
    if let Some(agent) = pair.sites[0].agent() {
        agent.signal(Signal::Continue);
    }
    drop(device);
    pair.stop();
    scribbled.expect("row 51");
    slept.expect("rows 3 and 99");
}

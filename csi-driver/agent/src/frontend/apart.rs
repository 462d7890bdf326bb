//! Runs a few system calls in a short-lived child process that shares no file descriptors with us.
//!
//! A call on a loop device or on a file behind our own FUSE mount waits, beyond the reach of signals, for an answer
//! that only this process can give. If such a call ran on a thread of ours, a SIGKILL would take the answering
//! threads and leave the waiting one, which keeps the FUSE descriptor open, so the kernel never gives up on the
//! request: the process can not end. A child has its own descriptor table: when we die, ours is closed, the FUSE
//! connection ends, the child's call returns, and both are gone.
//!
//! Mapped memory counts as well: a ring that a child inherits keeps the files of its pending operations open, the
//! FUSE descriptor among them, which is why rings are not inherited (`reactor`).
//!
//! Invariants: the child closes every inherited descriptor before the chore begins, dies with the thread that made
//! it, and the caller waits no longer than the limit it names.
#![allow(unsafe_code, reason = "fork, pipe and wait have no safe form in std")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// `linux/prctl.h`, since Linux 5.6.
const PR_SET_IO_FLUSHER: i32 = 57;

/// Tells the kernel that this thread serves a block device: memory that it asks for is not made free by writing to a
/// device, which might be its own. Without the capability (CAP_SYS_RESOURCE) it works as long as memory is not short.
pub(super) fn never_wait_for_ourselves() {
    // SAFETY: plain numbers; it concerns the calling thread only.
    if unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) } != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, "cannot mark a data thread as an I/O flusher: short memory may stop its device");
    }
}

/// What a chore answers: a number, or the step that failed and why.
pub(super) type ChoreResult = Result<u32, ChoreError>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChoreError {
    /// Index into the chore's own list of steps.
    pub step: u32,
    pub errno: i32,
}

#[derive(Debug)]
pub(super) enum Apart {
    Answered(ChoreResult),
    /// Not done within the limit; the child was told to die.
    TimedOut,
}

/// Runs `chore` in a child.
///
/// The chore runs between fork and exit of a process with threads: it may make system calls, on memory prepared
/// before, and nothing else. No allocation, no lock, no panic.
pub(super) fn run(limit: Duration, chore: impl FnOnce() -> ChoreResult) -> io::Result<Apart> {
    let (reader, writer) = pipe()?;
    let parent = std::process::id();
    // SAFETY: fork has no memory preconditions; the child only runs `in_child`, which keeps to the rules above.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => in_child(writer.as_raw_fd(), parent, chore),
        pid => {
            drop(writer);
            let answer = read_answer(&reader, limit);
            if matches!(answer, Ok(Apart::TimedOut) | Err(_)) {
                // SAFETY: the pid is our unreaped child, so it cannot belong to anybody else.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            reap(pid);
            answer
        }
    }
}

fn in_child(answer_to: RawFd, parent: u32, chore: impl FnOnce() -> ChoreResult) -> ! {
    let result = if close_all_but(answer_to) && dies_with(parent) {
        chore()
    } else {
        Err(ChoreError {
            step: u32::MAX,
            errno: libc::ESRCH,
        })
    };
    let mut message = [0u8; MESSAGE];
    let (ok, a, b) = match result {
        Ok(value) => (1u32, value, 0),
        Err(error) => (0, error.step, error.errno),
    };
    message[..4].copy_from_slice(&ok.to_ne_bytes());
    message[4..8].copy_from_slice(&a.to_ne_bytes());
    message[8..].copy_from_slice(&b.to_ne_bytes());
    // SAFETY: the buffer outlives the call; _exit runs no destructors of the parent's copied state.
    unsafe {
        libc::write(answer_to, message.as_ptr().cast(), MESSAGE);
        libc::_exit(0)
    }
}

const MESSAGE: usize = 12;

fn close_all_but(keep: RawFd) -> bool {
    let keep = keep.unsigned_abs();
    // Standard input, output and error stay; they are not ours to wait on.
    let below = keep <= 3 || close_range(3, keep - 1);
    below && close_range(keep + 1, u32::MAX)
}

fn close_range(first: u32, last: u32) -> bool {
    // SAFETY: closes descriptors of this child only.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 }
}

fn dies_with(parent: u32) -> bool {
    // SAFETY: plain calls without memory arguments. The parent may be gone before the signal is armed.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::getppid().unsigned_abs() == parent
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the kernel fills the two descriptors, which nobody else owns.
    unsafe {
        if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

fn read_answer(from: &OwnedFd, limit: Duration) -> io::Result<Apart> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Apart::TimedOut);
        }
        let mut poll = libc::pollfd {
            fd: from.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1);
        // SAFETY: one valid pollfd.
        match unsafe { libc::poll(&raw mut poll, 1, milliseconds) } {
            1.. => break,
            0 => {}
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    let mut message = [0u8; MESSAGE];
    // SAFETY: reads into a buffer of that size.
    let got = unsafe { libc::read(from.as_raw_fd(), message.as_mut_ptr().cast(), MESSAGE) };
    if usize::try_from(got) != Ok(MESSAGE) {
        // The child died before it answered.
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    let word = |at: usize| {
        [
            message[at],
            message[at + 1],
            message[at + 2],
            message[at + 3],
        ]
    };
    let value = u32::from_ne_bytes(word(4));
    Ok(Apart::Answered(match u32::from_ne_bytes(word(0)) {
        1 => Ok(value),
        _ => Err(ChoreError {
            step: value,
            errno: i32::from_ne_bytes(word(8)),
        }),
    }))
}

/// Waits for the end of a child that has answered or was killed. A killed child may still sit in a call that waits
/// for a device; only this thread waits for it, killable as any other.
fn reap(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: waits for our own child.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } == -1 {
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chore_answers_with_its_number() {
        let answer = run(Duration::from_secs(5), || Ok(42)).unwrap();
        assert!(matches!(answer, Apart::Answered(Ok(42))));
    }

    #[test]
    fn a_failed_chore_names_its_step() {
        let answer = run(Duration::from_secs(5), || {
            Err(ChoreError {
                step: 3,
                errno: libc::EBUSY,
            })
        })
        .unwrap();
        assert!(matches!(
            answer,
            Apart::Answered(Err(ChoreError {
                step: 3,
                errno: libc::EBUSY
            }))
        ));
    }

    #[test]
    fn a_chore_that_hangs_is_given_up() {
        let begun = Instant::now();
        let answer = run(Duration::from_millis(50), || {
            // SAFETY: pause takes no arguments.
            unsafe { libc::pause() };
            Ok(0)
        });
        assert!(matches!(answer, Ok(Apart::TimedOut)));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_chore_sees_none_of_our_descriptors() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        let answer = run(Duration::from_secs(5), move || {
            // SAFETY: asks for flags of a number that may be closed.
            if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
                Ok(1)
            } else {
                Ok(0)
            }
        })
        .unwrap();
        assert!(matches!(answer, Apart::Answered(Ok(1))));
    }
}

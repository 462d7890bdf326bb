//! Open files and sockets as operations hold them, and the few socket calls that are made outside the ring.
#![allow(
    unsafe_code,
    reason = "socket options and CLOCK_BOOTTIME have no safe form in std"
)]

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// A shared open file or socket. It closes when the last holder is gone, and every operation under way is a holder: its number
/// can not be given to another file in the meantime.
#[derive(Debug, Clone)]
pub struct Descriptor(Arc<OwnedFd>);

impl Descriptor {
    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Ends both directions of a socket at once: what is under way on it completes.
    pub fn shutdown(&self) {
        // SAFETY: a plain system call on a descriptor that `self` keeps open; a file or an unconnected socket only gives an error.
        unsafe { libc::shutdown(self.raw(), libc::SHUT_RDWR) };
    }

    /// The local address of a socket (the portal a connection came in by).
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        let stream = std::net::TcpStream::from(self.0.as_fd().try_clone_to_owned()?);
        stream.local_addr()
    }

    /// Applies the options of a connected TCP socket.
    pub fn set_options(&self, options: &SocketOptions) -> io::Result<()> {
        self.set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        if let Some(limit) = options.user_timeout {
            self.set(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, millis(limit))?;
        }
        if let Some(idle) = options.keepalive_idle {
            self.set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
            self.set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds(idle))?;
            self.set(
                libc::IPPROTO_TCP,
                libc::TCP_KEEPINTVL,
                seconds(options.keepalive_interval),
            )?;
            self.set(
                libc::IPPROTO_TCP,
                libc::TCP_KEEPCNT,
                options.keepalive_probes,
            )?;
        }
        Ok(())
    }

    fn set(&self, level: i32, name: i32, value: i32) -> io::Result<()> {
        let value = value.to_ne_bytes();
        // SAFETY: the option value is a live 4-byte buffer and its length is passed along.
        let rc = unsafe { libc::setsockopt(self.raw(), level, name, value.as_ptr().cast(), 4) };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl From<File> for Descriptor {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl From<TcpListener> for Descriptor {
    fn from(listener: TcpListener) -> Self {
        OwnedFd::from(listener).into()
    }
}

/// How a connected socket finds out that its peer is gone. `TCP_NODELAY` is always set.
#[derive(Debug, Clone)]
pub struct SocketOptions {
    /// Sent data that stays unacknowledged for this long ends the connection.
    pub user_timeout: Option<Duration>,
    /// An idle connection is probed after this time.
    pub keepalive_idle: Option<Duration>,
    pub keepalive_interval: Duration,
    pub keepalive_probes: i32,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            user_timeout: Some(Duration::from_secs(20)),
            keepalive_idle: Some(Duration::from_secs(10)),
            keepalive_interval: Duration::from_secs(5),
            keepalive_probes: 3,
        }
    }
}

/// Opens a listening socket (`SO_REUSEADDR` is set, so a restarted agent gets its port at once).
pub fn listen(address: SocketAddr) -> io::Result<(Descriptor, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    let local = listener.local_addr()?;
    Ok((listener.into(), local))
}

/// Makes an unconnected TCP socket for [`super::Context::connect`].
pub fn connect_socket(peer: &SocketAddr, options: &SocketOptions) -> io::Result<Descriptor> {
    let family = if peer.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was opened just above and nobody else owns it.
    let socket = Descriptor::from(unsafe { OwnedFd::from_raw_fd(fd) });
    socket.set_options(options)?;
    Ok(socket)
}

/// Time since the machine started, sleep included: the clock of everything on the data path.
pub fn boottime() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live timespec for the call to fill in.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(rc, 0, "CLOCK_BOOTTIME exists on every kernel since 2.6.39");
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs().max(1)).unwrap_or(i32::MAX)
}

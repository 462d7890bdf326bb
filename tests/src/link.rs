//! The line between two sites: a TCP proxy that can be cut and mended, for tests on one machine.
//!
//! A cut line is silent, as a cut fibre is: bytes already accepted stay where they are, new connections are taken and hear
//! nothing. After mending, what was held goes on its way (late, as a real network may do), which is the harder case for
//! whoever must not execute it any more.
//!
//! Not here: delay, loss, reordering. The simulator has those in virtual time.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// How often a quiet direction looks whether the line is still whole.
const LOOK: Duration = Duration::from_millis(20);
const BUFFER: usize = 256 << 10;

/// A line from a local port to `target`.
#[derive(Debug, Clone)]
pub struct Link {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
}

impl Link {
    /// Listens on a free loopback port and forwards to `target`.
    ///
    /// # Errors
    /// No port can be had.
    pub fn to(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let link = Self {
            address: listener.local_addr()?,
            cut: Arc::default(),
            bytes: Arc::default(),
        };
        let line = link.clone();
        thread::Builder::new().name("link".into()).spawn(move || {
            for near in listener.incoming().flatten() {
                let line = line.clone();
                let _ = thread::Builder::new()
                    .name("link-connection".into())
                    .spawn(move || line.carry(near, target));
            }
        })?;
        Ok(link)
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    /// The line is whole again.
    pub fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }

    /// Bytes carried so far, both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn wait_whole(&self) {
        while self.cut.load(Ordering::SeqCst) {
            thread::sleep(LOOK);
        }
    }

    fn carry(&self, near: TcpStream, target: SocketAddr) {
        self.wait_whole();
        let Ok(far) = TcpStream::connect(target) else {
            return;
        };
        let (Ok(near_back), Ok(far_back)) = (near.try_clone(), far.try_clone()) else {
            return;
        };
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        let back = self.clone();
        let answer = thread::spawn(move || back.pump(far_back, near_back));
        self.pump(near, far);
        let _ = answer.join();
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            self.wait_whole();
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
            self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        }
        let _ = from.shutdown(Shutdown::Read);
        let _ = to.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_is_silent_and_a_mended_one_delivers_what_was_held() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let link = Link::to(server.local_addr().unwrap()).unwrap();
        let mut near = TcpStream::connect(link.address()).unwrap();
        let (mut far, _) = server.accept().unwrap();
        near.write_all(b"one").unwrap();
        let mut word = [0; 3];
        far.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"one");

        link.cut();
        near.write_all(b"two").unwrap();
        far.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        assert!(far.read(&mut word).is_err());

        link.mend();
        far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        far.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"two");
    }
}

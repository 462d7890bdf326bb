//! A forwarding line to a target that can be frozen or cut.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub(crate) struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    frozen: AtomicBool,
    cut: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Line {
    pub(crate) fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            frozen: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            streams: Mutex::new(Vec::new()),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if accepting.cut.load(Ordering::SeqCst) {
                    return;
                }
                let server = TcpStream::connect(to).expect("the target listens");
                let both = [(&client, &server), (&server, &client)];
                for (from, to) in both {
                    let (from, to) = (from.try_clone().expect("dup"), to.try_clone().expect("dup"));
                    let shared = accepting.clone();
                    thread::spawn(move || shared.forward(from, to));
                }
                accepting
                    .streams
                    .lock()
                    .expect("no panics")
                    .extend([client, server]);
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing goes through any more, and nobody is told.
    pub(crate) fn freeze(&self) {
        self.shared.frozen.store(true, Ordering::SeqCst);
    }

    /// What was held back goes on its way, late.
    pub(crate) fn thaw(&self) {
        self.shared.frozen.store(false, Ordering::SeqCst);
    }

    /// All connections are closed; new ones are refused.
    pub(crate) fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        // Ends the wait for the next connection, and with it the listener.
        let _ = TcpStream::connect(self.address);
        for stream in self.shared.streams.lock().expect("no panics").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    fn forward(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Ok(len) = from.read(&mut buffer) else {
                return;
            };
            while self.frozen.load(Ordering::SeqCst) && !self.cut.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
            // What was held back when the line was cut never arrives.
            if self.cut.load(Ordering::SeqCst) {
                return;
            }
            if len == 0 || to.write_all(&buffer[..len]).is_err() {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

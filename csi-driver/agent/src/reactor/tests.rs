//! A real thread with its ring: sockets, files, mail, alarms, and actors that end in the middle of it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::inbox::{Inbox, Letter};
use super::ring::Ring;
use super::{
    Actor, Clear, Context, Descriptor, Durability, Event, Inlet, OpId, PostError, SocketOptions,
    Stream, StreamEvent, Thread, ThreadConfig, Token, boottime, connect_socket, listen,
};

const PATIENCE: Duration = Duration::from_secs(10);
const ACCEPT: Token = Token(u64::MAX);

fn thread() -> Thread {
    Thread::spawn(ThreadConfig::default()).expect("io_uring is there")
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Sends back what it gets, on any number of connections.
struct Echo {
    listener: Descriptor,
    streams: BTreeMap<u64, Stream>,
    next: u64,
}

impl Actor for Echo {
    fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
        if let Event::Accepted(accepted) = event {
            let (socket, peer) = accepted.expect("accept works");
            assert!(peer.ip().is_loopback());
            self.streams.insert(
                self.next,
                Stream::new(socket, Token(self.next), Token(self.next)),
            );
            self.next += 1;
            cx.accept(&self.listener, ACCEPT);
            return;
        }
        let stream = self
            .streams
            .get_mut(&token.0)
            .expect("events of open streams only");
        match stream.handle(event) {
            StreamEvent::Received(bytes) => stream.queue([bytes]),
            StreamEvent::Sent => {}
            StreamEvent::Closed(_) => drop(self.streams.remove(&token.0)),
        }
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        for stream in self.streams.values_mut() {
            stream.settle(cx);
        }
    }
}

fn start_echo(thread: &Thread) -> SocketAddr {
    let (listener, address) = listen(loopback()).expect("a free port");
    thread.start(thread.reserve(), move |cx| {
        cx.accept(&listener, ACCEPT);
        Box::new(Echo {
            listener,
            streams: BTreeMap::new(),
            next: 0,
        })
    });
    address
}

/// Sends `pieces`, collects as many bytes, reports them.
struct Client {
    stream: Stream,
    peer: SocketAddr,
    pieces: Vec<Bytes>,
    got: BytesMut,
    want: usize,
    report: mpsc::Sender<BytesMut>,
    connected: bool,
}

impl Actor for Client {
    fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
        if token == Token(9) {
            let Event::Connected(result) = event else {
                panic!("not {event:?}")
            };
            result.expect("the echo listens");
            self.connected = true;
            self.stream.queue(std::mem::take(&mut self.pieces));
            return;
        }
        if let StreamEvent::Received(bytes) = self.stream.handle(event) {
            self.got.extend_from_slice(&bytes);
            if self.got.len() == self.want {
                self.report
                    .send(std::mem::take(&mut self.got))
                    .expect("the test waits");
                cx.finish();
            }
        }
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        if self.connected {
            self.stream.settle(cx);
        } else if self.want > 0 && self.got.is_empty() && !self.pieces.is_empty() {
            let peer = self.peer;
            cx.connect(&self.stream.socket().clone(), peer, Token(9));
        }
    }
}

#[test]
fn gathered_sends_of_any_size_arrive_whole_and_in_order() {
    let thread = thread();
    let peer = start_echo(&thread);
    // More pieces than one vector may have, and more bytes than any socket buffer holds.
    let pieces: Vec<Bytes> = (0..3000u32)
        .map(|n| Bytes::from(n.to_be_bytes().repeat(1000)))
        .collect();
    let want = pieces.concat();
    let (report, reported) = mpsc::channel();
    let sent = pieces.clone();
    let len = want.len();
    thread.start(thread.reserve(), move |_| {
        let socket = connect_socket(&peer, &SocketOptions::default()).expect("a socket");
        let stream = Stream::new(socket, Token(1), Token(2));
        Box::new(Client {
            stream,
            peer,
            pieces: sent,
            got: BytesMut::new(),
            want: len,
            report,
            connected: false,
        })
    });
    let got = reported.recv_timeout(PATIENCE).expect("all came back");
    assert!(got == want, "bytes differ");
    thread.stop();
    thread.join();
}

/// Runs a script of file operations one after another and reports their results.
struct Script {
    file: Descriptor,
    steps: Vec<fn(&Descriptor, &mut Context<'_>) -> OpId>,
    report: mpsc::Sender<Event>,
}

impl Actor for Script {
    fn handle(&mut self, cx: &mut Context<'_>, _: Token, event: Event) {
        self.report.send(event).expect("the test waits");
        if !self.steps.is_empty() {
            self.steps.remove(0)(&self.file, cx);
        }
    }
}

#[test]
fn file_operations_do_what_their_names_say() {
    let thread = thread();
    let file: Descriptor = tempfile::tempfile().expect("a temporary file").into();
    let (report, reported) = mpsc::channel();
    thread.start(thread.reserve(), move |cx| {
        cx.write(
            &file,
            0,
            vec![Bytes::from_static(b"0123"), Bytes::from_static(b"456789")],
            Durability::Cached,
            Token(0),
        );
        let steps: Vec<fn(&Descriptor, &mut Context<'_>) -> OpId> = vec![
            |file, cx| {
                cx.write(
                    file,
                    8192,
                    vec![Bytes::from_static(b"end")],
                    Durability::Stable,
                    Token(0),
                )
            },
            |file, cx| cx.sync(file, Token(0)),
            |file, cx| cx.read(file, 2, 6, Token(0)),
            |file, cx| cx.clear(file, 0, 4096, Clear::Punch, Token(0)),
            |file, cx| cx.read(file, 8, 4, Token(0)),
            |file, cx| cx.read(file, 8192, 3, Token(0)),
            |file, cx| cx.read(file, 8192, 4, Token(0)),
        ];
        Box::new(Script {
            file,
            steps,
            report,
        })
    });
    let next = || reported.recv_timeout(PATIENCE).expect("an event");
    assert!(matches!(next(), Event::Written(Ok(()))));
    assert!(matches!(next(), Event::Written(Ok(()))));
    assert!(matches!(next(), Event::Done(Ok(()))));
    assert!(matches!(next(), Event::Read(Ok(bytes)) if bytes == b"234567"[..]));
    assert!(matches!(next(), Event::Done(Ok(()))));
    assert!(matches!(next(), Event::Read(Ok(bytes)) if bytes == [0; 4][..]));
    assert!(matches!(next(), Event::Read(Ok(bytes)) if bytes == b"end"[..]));
    let Event::Read(Err(error)) = next() else {
        panic!("a read past the end fails")
    };
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    thread.stop();
    thread.join();
}

struct Adder {
    inlet: Inlet<u64>,
    sum: u64,
    report: mpsc::Sender<u64>,
}

impl Actor for Adder {
    fn handle(&mut self, _: &mut Context<'_>, _: Token, _: Event) {}

    fn mail(&mut self, _: &mut Context<'_>) {
        while let Some(number) = self.inlet.take() {
            self.sum += number;
        }
    }

    fn settle(&mut self, _: &mut Context<'_>) {
        let _ = self.report.send(self.sum);
    }
}

#[test]
fn mail_from_many_threads_is_never_lost_and_wakes_a_sleeper() {
    let thread = thread();
    let id = thread.reserve();
    let (mailbox, inlet) = thread.mailbox(id, 64);
    let (report, reported) = mpsc::channel();
    thread.start(id, move |_| {
        Box::new(Adder {
            inlet,
            sum: 0,
            report,
        })
    });
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let mailbox = mailbox.clone();
            std::thread::spawn(move || {
                for number in 1..=5000u64 {
                    let mut message = number;
                    while let Err(PostError::Full(back)) = mailbox.post(message) {
                        message = back;
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().expect("senders end");
    }
    let want = 4 * 5000 * 5001 / 2;
    while reported.recv_timeout(PATIENCE).expect("the adder reports") != want {}
    thread.stop();
    thread.join();
    assert!(matches!(mailbox.post(1), Err(PostError::Gone(1))));
}

struct Nobody;

impl Actor for Nobody {
    fn handle(&mut self, _: &mut Context<'_>, _: Token, _: Event) {}
}

#[test]
fn mail_that_came_before_its_actor_is_read_when_the_actor_comes() {
    let thread = thread();
    let id = thread.reserve();
    let (mailbox, inlet) = thread.mailbox(id, 64);
    mailbox.post(1).expect("there is room");
    // The thread has looked for the actor, and found none.
    let (told, heard) = mpsc::channel();
    thread.start(thread.reserve(), move |cx| {
        told.send(()).expect("the test waits");
        cx.finish();
        Box::new(Nobody)
    });
    heard.recv_timeout(PATIENCE).expect("it came to that");
    let (report, reported) = mpsc::channel();
    thread.start(id, move |_| {
        Box::new(Adder {
            inlet,
            sum: 0,
            report,
        })
    });
    while reported.recv_timeout(PATIENCE).expect("the adder reports") != 1 {}
    mailbox.post(2).expect("there is room");
    while reported.recv_timeout(PATIENCE).expect("the adder reports") != 3 {}
    thread.stop();
    thread.join();
}

/// For each letter a sync, then an alarm, then a report; beside a pipe that nobody writes to.
struct Chain {
    file: Descriptor,
    inlet: Inlet<()>,
    report: mpsc::Sender<()>,
}

impl Actor for Chain {
    fn handle(&mut self, cx: &mut Context<'_>, _: Token, event: Event) {
        match event {
            Event::Done(result) => {
                result.expect("syncs");
                cx.alarm(cx.now() + Duration::from_micros(300), Token(2));
            }
            _ => self.report.send(()).expect("the test waits"),
        }
    }

    fn mail(&mut self, cx: &mut Context<'_>) {
        while self.inlet.take().is_some() {
            cx.sync(&self.file, Token(1));
        }
    }
}

#[test]
fn a_thread_that_waits_for_a_silent_descriptor_hears_mail_operations_and_alarms() {
    let thread = thread();
    let id = thread.reserve();
    let (mailbox, inlet) = thread.mailbox(id, 1);
    let (report, reported) = mpsc::channel();
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let file = tempfile::tempfile().expect("a temporary file").into();
    thread.start(id, move |cx| {
        let silent: std::os::fd::OwnedFd = reader.into();
        cx.readable(&silent.into(), Token(0));
        Box::new(Chain {
            file,
            inlet,
            report,
        })
    });
    for _ in 0..200 {
        mailbox.post(()).expect("the actor lives");
        reported.recv_timeout(PATIENCE).expect("heard");
    }
    thread.stop();
    thread.join();
}

struct Waiter {
    file: Descriptor,
    started: Duration,
    report: mpsc::Sender<(Token, bool, Duration)>,
}

impl Actor for Waiter {
    fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
        let canceled = matches!(&event, Event::Done(Err(error)) if error.raw_os_error() == Some(libc::ECANCELED));
        self.report
            .send((token, canceled, cx.now() - self.started))
            .expect("the test waits");
        if token == Token(1) {
            let op = cx.readable(&self.file, Token(2));
            cx.cancel(op);
        }
    }
}

#[test]
fn an_alarm_comes_in_time_and_a_cancelled_operation_completes_once() {
    let thread = thread();
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let (report, reported) = mpsc::channel();
    thread.start(thread.reserve(), move |cx| {
        cx.alarm(cx.now() + Duration::from_millis(30), Token(1));
        let fd: std::os::fd::OwnedFd = reader.into();
        Box::new(Waiter {
            file: fd.into(),
            started: cx.now(),
            report,
        })
    });
    let (token, _, after) = reported.recv_timeout(PATIENCE).expect("the alarm");
    assert_eq!(token, Token(1));
    assert!(after >= Duration::from_millis(30));
    let (token, canceled, _) = reported.recv_timeout(PATIENCE).expect("the cancelled poll");
    assert_eq!((token, canceled), (Token(2), true));
    thread.stop();
    thread.join();
    assert!(reported.try_recv().is_err(), "nothing completes twice");
}

/// Ends at once with a receive under way.
struct Leaver;

impl Actor for Leaver {
    fn handle(&mut self, _: &mut Context<'_>, _: Token, _: Event) {
        panic!("an actor that is gone is not called");
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        cx.finish();
    }
}

#[test]
fn an_operation_outlives_its_actor_and_stopping_waits_for_it() {
    let thread = thread();
    let listener = std::net::TcpListener::bind(loopback()).expect("a free port");
    let client =
        std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let (server, _) = listener.accept().expect("accepts");
    let socket: std::os::fd::OwnedFd = server.into();
    thread.start(thread.reserve(), move |cx| {
        cx.receive(&socket.into(), BytesMut::with_capacity(100), Token(5));
        Box::new(Leaver)
    });
    let started = boottime();
    thread.stop();
    thread.join();
    assert!(
        boottime() - started < Duration::from_secs(4),
        "the receive is cancelled, not waited out"
    );
    drop(client);
}

#[test]
fn a_time_that_the_ring_knows_is_not_told_to_it_again() {
    let inbox = Inbox::new().unwrap();
    let mut ring = Ring::new(8, inbox.bell_descriptor.clone()).unwrap();
    let far = boottime() + Duration::from_secs(600);
    for _ in 0..10 {
        assert!(inbox.may_sleep());
        inbox.push(Letter::Stop);
        inbox.take(&mut Vec::new());
        ring.sleep(Some(far)).unwrap();
        while ring.next().is_some() {}
        let near = boottime() + Duration::from_millis(1);
        while boottime() < near {
            ring.sleep(Some(near)).unwrap();
            while ring.next().is_some() {}
        }
    }
    // The bell, the far time, and the last near one if its end was not looked at.
    assert!(ring.under_way() <= 3, "{} under way", ring.under_way());
    ring.close(Duration::from_secs(5));
}

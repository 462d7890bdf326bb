//! Load on a LUN by our own initiator, as the data path uses it: one reactor thread per session, sockets on io_uring.
//!
//! ```text
//! load iscsi://host:port/iqn/lun read|write|randread|randwrite BYTES DEPTH SECONDS [sessions=N] [span=BYTES] [fua]
//! load pingpong REQUEST RESPONSE DEPTH SECONDS
//! load disk FILE BYTES THREADS SECONDS
//! ```
//! **`write` overwrites the LUN.** It prints one line of JSON: operations per second, latencies, CPU of this process for one operation.
//! With several sessions, number n logs in to `iqn` with `N` replaced by n if the name ends in `-N`, else all to the same.
//! `pingpong` is the floor: two threads that exchange messages of these sizes over loopback TCP and do nothing else. `disk` is
//! that of stable writes: threads that write at random places of a file, each write on the disk (`O_DSYNC`) before the next.
//! **It overwrites the file.**

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use twinsite_agent::qualify::Place;
use twinsite_agent::reactor::{
    Actor, Alarm, Context, Descriptor, Event, Inlet, Mailbox, SocketOptions, Stream, StreamEvent,
    Thread, ThreadConfig, Token, boottime, connect_socket,
};
use twinsite_iscsi::scsi::client::{read_capacity16, test_unit_ready};
use twinsite_iscsi::scsi::{Attribute, Cdb, Lun, Status};
use twinsite_iscsi::session::{
    Command, DataDir, Initiator, InitiatorConfig, InitiatorEvent, InitiatorLimits, Offer,
    SessionKind,
};

type Failure = Box<dyn std::error::Error>;

const CONNECT: Token = Token(0);
const RECEIVE: Token = Token(1);
const SEND: Token = Token(2);
const DEADLINE: Token = Token(3);
/// Unit attentions of a new nexus; more are a broken LUN.
const MAX_ATTENTIONS: u32 = 16;
/// Latencies are counted by microsecond up to this.
const BUCKETS: usize = 200_000;

#[derive(Debug, Clone)]
struct Work {
    write: bool,
    random: bool,
    fua: bool,
    bytes: u32,
    depth: u32,
    time: Duration,
    span: Option<u64>,
}

/// What one session did.
struct Tally {
    done: u64,
    failed: u64,
    elapsed: Duration,
    latencies: Vec<u32>,
}

enum Told {
    /// Logged in, the size of the LUN is known.
    Ready,
    Done(Tally),
    Broken(String),
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Attentions(u32),
    Capacity,
    Ready,
    Running,
    Over,
}

struct Load {
    stream: Option<Stream>,
    initiator: Initiator,
    socket: Descriptor,
    alarm: Alarm,
    lun: Lun,
    work: Work,
    payload: Bytes,
    phase: Phase,
    block: u32,
    places: u64,
    next: u64,
    random: u64,
    begun: Vec<Duration>,
    start: Duration,
    open: u32,
    tally: Tally,
    told: SyncSender<Told>,
    go: Inlet<()>,
}

impl Load {
    fn broken(&mut self, cx: &mut Context<'_>, why: String) {
        if self.phase != Phase::Over {
            self.phase = Phase::Over;
            let _ = self.told.send(Told::Broken(why));
        }
        cx.finish();
    }

    fn command(&self, cdb: Cdb, data: DataDir) -> Command {
        Command {
            lun: self.lun,
            cdb,
            data,
            attr: Attribute::Simple,
        }
    }

    fn submit(&mut self, cx: &mut Context<'_>, tag: u64, command: Command) {
        if self.initiator.submit(cx.now(), tag, command).is_err() {
            self.broken(cx, "the session takes no command".into());
        }
    }

    fn issue(&mut self, cx: &mut Context<'_>, slot: u64) {
        let place = if self.work.random {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % self.places
        } else {
            self.next += 1;
            self.next % self.places
        };
        let blocks = self.work.bytes / self.block;
        let address = place * u64::from(blocks);
        let mut cdb = [0; 16];
        cdb[0] = if self.work.write { 0x8A } else { 0x88 };
        cdb[1] = u8::from(self.work.fua) << 3;
        cdb[2..10].copy_from_slice(&address.to_be_bytes());
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        let data = if self.work.write {
            DataDir::Out(vec![self.payload.clone()])
        } else {
            DataDir::In(self.work.bytes)
        };
        self.begun[slot as usize] = boottime();
        self.open += 1;
        let command = self.command(Cdb::from_field(cdb), data);
        self.submit(cx, slot, command);
    }

    fn events(&mut self, cx: &mut Context<'_>) {
        while let Some(event) = self.initiator.poll_event() {
            match event {
                InitiatorEvent::LoggedIn { .. } => {
                    let command = self.command(test_unit_ready(), DataDir::None);
                    self.submit(cx, 0, command);
                }
                InitiatorEvent::Done { tag, outcome } => {
                    self.done(cx, tag, outcome.status, &outcome.data_in);
                }
                InitiatorEvent::LoggedOut => cx.finish(),
                InitiatorEvent::Dropped(why) => self.broken(cx, format!("{why:?}")),
                _ => {}
            }
        }
    }

    fn done(&mut self, cx: &mut Context<'_>, tag: u64, status: Status, data: &[Bytes]) {
        match self.phase {
            Phase::Attentions(seen) if status == Status::Good || seen > MAX_ATTENTIONS => {
                self.phase = Phase::Capacity;
                let command = self.command(read_capacity16(), DataDir::In(32));
                self.submit(cx, 0, command);
            }
            Phase::Attentions(seen) => {
                self.phase = Phase::Attentions(seen + 1);
                let command = self.command(test_unit_ready(), DataDir::None);
                self.submit(cx, 0, command);
            }
            Phase::Capacity => self.capacity(cx, &data.concat()),
            Phase::Running => self.ended(cx, tag, status),
            Phase::Ready | Phase::Over => {}
        }
    }

    fn capacity(&mut self, cx: &mut Context<'_>, data: &[u8]) {
        let Some(head) = data.first_chunk::<12>() else {
            return self.broken(cx, "no capacity".into());
        };
        let (last, block) = head.split_at(8);
        let last = u64::from_be_bytes(last.try_into().unwrap_or_default());
        self.block = u32::from_be_bytes(block.try_into().unwrap_or_default()).max(1);
        let size = (last + 1) * u64::from(self.block);
        let span = self.work.span.unwrap_or(size).min(size);
        self.places = (span / u64::from(self.work.bytes)).max(1);
        self.phase = Phase::Ready;
        let _ = self.told.send(Told::Ready);
    }

    fn ended(&mut self, cx: &mut Context<'_>, slot: u64, status: Status) {
        let now = boottime();
        let micros = (now - self.begun[slot as usize]).as_micros();
        let bucket = usize::try_from(micros).unwrap_or(BUCKETS).min(BUCKETS - 1);
        self.tally.latencies[bucket] += 1;
        self.tally.done += 1;
        self.tally.failed += u64::from(status != Status::Good);
        self.open -= 1;
        if now - self.start < self.work.time {
            return self.issue(cx, slot);
        }
        if self.open == 0 {
            self.tally.elapsed = now - self.start;
            let latencies = std::mem::take(&mut self.tally.latencies);
            let tally = Tally {
                latencies,
                ..self.tally
            };
            let _ = self.told.send(Told::Done(tally));
            self.phase = Phase::Over;
            self.initiator.logout(cx.now());
        }
    }
}

impl Actor for Load {
    fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
        match (token, event) {
            (CONNECT, Event::Connected(Ok(()))) => {
                self.stream = Some(Stream::new(self.socket.clone(), RECEIVE, SEND));
            }
            (CONNECT, Event::Connected(Err(error))) => self.broken(cx, error.to_string()),
            (DEADLINE, _) => {
                self.alarm.fired();
                self.initiator.handle_timeout(cx.now());
            }
            (_, event) => match self.stream.as_mut().map(|stream| stream.handle(event)) {
                Some(StreamEvent::Received(bytes)) => {
                    if let Err(error) = self.initiator.handle_bytes(cx.now(), bytes) {
                        self.broken(cx, error.to_string());
                    }
                }
                Some(StreamEvent::Closed(_)) => self.broken(cx, "closed by the target".into()),
                Some(StreamEvent::Sent) | None => {}
            },
        }
        self.events(cx);
    }

    fn mail(&mut self, cx: &mut Context<'_>) {
        while self.go.take().is_some() {
            self.phase = Phase::Running;
            self.start = boottime();
            for slot in 0..u64::from(self.work.depth) {
                self.issue(cx, slot);
            }
        }
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        if let Some(stream) = &mut self.stream {
            while let Some(transmit) = self.initiator.poll_transmit() {
                stream.queue(transmit.pieces);
            }
            stream.settle(cx);
        }
        let deadline = self.initiator.deadline();
        self.alarm.set(cx, DEADLINE, deadline);
    }
}

struct Session {
    thread: Thread,
    go: Mailbox<()>,
    told: Receiver<Told>,
}

fn begin(place: &Place, number: usize, work: &Work, payload: &Bytes) -> Result<Session, Failure> {
    let thread = Thread::spawn(ThreadConfig {
        name: format!("load-{number}"),
        ..ThreadConfig::default()
    })?;
    let iqn = match place.iqn.strip_suffix("-N") {
        Some(stem) => format!("{stem}-{number}"),
        None => place.iqn.clone(),
    };
    let mut random = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let config = InitiatorConfig {
        initiator_name: "iqn.2026-01.io.twinsite:load".into(),
        initiator_alias: None,
        kind: SessionKind::Normal { target: iqn },
        isid: [0x80, 0x10, 0, 0, 0, number as u8],
        chap: place.chap.clone(),
        offer: Offer::default(),
        limits: InitiatorLimits::default(),
        random,
    };
    let portal: SocketAddr = place.portal.parse()?;
    let (told, hear) = sync_channel(4);
    let id = thread.reserve();
    let (go, inlet) = thread.mailbox(id, 1);
    let (lun, work, payload) = (place.lun, work.clone(), payload.clone());
    let socket = connect_socket(&portal, &SocketOptions::default())?;
    thread.start(id, move |cx| {
        cx.connect(&socket, portal, CONNECT);
        Box::new(Load {
            stream: None,
            initiator: Initiator::new(config, cx.now()),
            socket,
            alarm: Alarm::default(),
            lun,
            payload,
            phase: Phase::Attentions(0),
            block: 512,
            places: 1,
            next: 0,
            random: u64::from_le_bytes(random[..8].try_into().unwrap_or([1; 8])) | 1,
            begun: vec![Duration::ZERO; work.depth as usize],
            start: Duration::ZERO,
            open: 0,
            tally: Tally {
                done: 0,
                failed: 0,
                elapsed: Duration::ZERO,
                latencies: vec![0; BUCKETS],
            },
            work,
            told,
            go: inlet,
        })
    });
    Ok(Session {
        thread,
        go,
        told: hear,
    })
}

/// User and system time of all threads of this process that live.
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    tasks.flatten().map(|task| cpu_of(&task.path())).sum()
}

/// That of one thread, by its folder in `/proc`.
fn cpu_of(task: &Path) -> Duration {
    let line = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    let nanos = line.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn percentile(latencies: &[u32], done: u64, permille: u64) -> usize {
    let mut seen = 0;
    let at = latencies.iter().position(|count| {
        seen += u64::from(*count);
        seen * 1000 >= done * permille
    });
    at.unwrap_or(0)
}

fn run(place: &Place, sessions: usize, work: &Work) -> Result<(), Failure> {
    let mut bytes = vec![0; work.bytes as usize];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let payload = Bytes::from(bytes);
    let sessions: Vec<Session> = (0..sessions)
        .map(|number| begin(place, number, work, &payload))
        .collect::<Result<_, _>>()?;
    for session in &sessions {
        match session.told.recv()? {
            Told::Ready => {}
            Told::Broken(why) => return Err(why.into()),
            Told::Done(_) => return Err("over before it began".into()),
        }
    }
    let before = cpu();
    for session in &sessions {
        session.go.post(()).map_err(|_| "no thread")?;
    }
    let mut all = Tally {
        done: 0,
        failed: 0,
        elapsed: Duration::ZERO,
        latencies: vec![0; BUCKETS],
    };
    for session in &sessions {
        match session.told.recv()? {
            Told::Done(one) => {
                all.done += one.done;
                all.failed += one.failed;
                all.elapsed = all.elapsed.max(one.elapsed);
                for (sum, count) in all.latencies.iter_mut().zip(one.latencies) {
                    *sum += count;
                }
            }
            Told::Broken(why) => return Err(why.into()),
            Told::Ready => return Err("ready twice".into()),
        }
    }
    let used = cpu() - before;
    for session in &sessions {
        session.thread.stop();
    }
    for session in &sessions {
        session.thread.join();
    }
    let seconds = all.elapsed.as_secs_f64();
    println!(
        "{{\"iops\":{:.0},\"p50_us\":{},\"p99_us\":{},\"cpu_us\":{:.3},\"errors\":{}}}",
        all.done as f64 / seconds,
        percentile(&all.latencies, all.done, 500),
        percentile(&all.latencies, all.done, 990),
        used.as_secs_f64() * 1e6 / all.done as f64,
        all.failed
    );
    Ok(())
}

fn pingpong(request: usize, response: usize, depth: usize, time: Duration) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let (mut question, answer) = (vec![0; request], vec![0; response]);
        // Ends when the other side has closed.
        while socket.read_exact(&mut question).is_ok() {
            if socket.write_all(&answer).is_err() {
                break;
            }
        }
        Ok(())
    });
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let (question, mut answer) = (vec![0; request], vec![0; response]);
    let before = cpu();
    let start = Instant::now();
    for _ in 0..depth {
        socket.write_all(&question)?;
    }
    let mut done = 0u64;
    while start.elapsed() < time {
        socket.read_exact(&mut answer)?;
        done += 1;
        socket.write_all(&question)?;
    }
    let (elapsed, used) = (start.elapsed().as_secs_f64(), cpu() - before);
    socket.shutdown(std::net::Shutdown::Both)?;
    let _ = server.join();
    println!(
        "{{\"iops\":{:.0},\"p50_us\":0,\"p99_us\":0,\"cpu_us\":{:.3},\"errors\":0}}",
        done as f64 / elapsed,
        used.as_secs_f64() * 1e6 / done as f64
    );
    Ok(())
}

/// Stable writes of one thread: the latencies by microsecond, and its CPU time.
fn overwrite(
    file: &Path,
    bytes: usize,
    number: u64,
    end: Instant,
) -> std::io::Result<(Vec<u32>, Duration)> {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open(file)?;
    let places = (file.metadata()?.len() / bytes as u64).max(1);
    let payload = vec![number as u8; bytes];
    let mut latencies = vec![0; BUCKETS];
    let mut random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    loop {
        let begun = Instant::now();
        if begun >= end {
            return Ok((latencies, cpu_of(Path::new("/proc/thread-self"))));
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        file.write_all_at(&payload, random % places * bytes as u64)?;
        let micros = usize::try_from(begun.elapsed().as_micros()).unwrap_or(BUCKETS);
        latencies[micros.min(BUCKETS - 1)] += 1;
    }
}

fn disk(file: &Path, bytes: usize, threads: u64, time: Duration) -> Result<(), Failure> {
    let end = Instant::now() + time;
    let runs = std::thread::scope(|scope| {
        let runs: Vec<_> = (1..=threads)
            .map(|number| scope.spawn(move || overwrite(file, bytes, number, end)))
            .collect();
        let results = runs.into_iter().map(|run| run.join());
        results.collect::<Vec<_>>()
    });
    let (mut latencies, mut used) = (vec![0u32; BUCKETS], Duration::ZERO);
    for run in runs {
        let (one, spent) = run.map_err(|_| "a thread ended early")??;
        used += spent;
        for (sum, count) in latencies.iter_mut().zip(one) {
            *sum += count;
        }
    }
    let done: u64 = latencies.iter().copied().map(u64::from).sum();
    println!(
        "{{\"iops\":{:.0},\"p50_us\":{},\"p99_us\":{},\"cpu_us\":{:.3},\"errors\":0}}",
        done as f64 / time.as_secs_f64(),
        percentile(&latencies, done, 500),
        percentile(&latencies, done, 990),
        used.as_secs_f64() * 1e6 / done.max(1) as f64
    );
    Ok(())
}

fn seconds(text: &str) -> Result<Duration, Failure> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

fn start(words: &[String]) -> Result<(), Failure> {
    match words {
        [word, request, response, depth, time] if word == "pingpong" => pingpong(
            request.parse()?,
            response.parse()?,
            depth.parse()?,
            seconds(time)?,
        ),
        [word, file, bytes, threads, time] if word == "disk" => disk(
            Path::new(file),
            bytes.parse()?,
            threads.parse()?,
            seconds(time)?,
        ),
        [url, kind, bytes, depth, time, options @ ..] => {
            let value = |name: &str| {
                let found = options.iter().find_map(|word| word.strip_prefix(name));
                found.map(str::parse::<u64>).transpose()
            };
            let work = Work {
                write: kind.ends_with("write"),
                random: kind.starts_with("rand"),
                fua: options.iter().any(|word| word == "fua"),
                bytes: bytes.parse()?,
                depth: depth.parse()?,
                time: seconds(time)?,
                span: value("span=")?,
            };
            let sessions = usize::try_from(value("sessions=")?.unwrap_or(1))?;
            let place: Place = url.parse()?;
            run(&place, sessions, &work)
        }
        _ => Err("usage: see the head of this file".into()),
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match start(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

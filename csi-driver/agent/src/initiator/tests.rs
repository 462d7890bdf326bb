//! One leg against a real target on loopback, through lines that can be cut.

pub(crate) mod line;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use twinsite_iscsi::chap::Secret;
use twinsite_iscsi::session::{Account, Acl, Auth, ChapInitiator, Offer, Redirect};
use twinsite_mirror::io::{CmdId, Lane, LegDown, LegError, LegInfo, LegOp, LegReply, Naa, ReqId};

use super::{LegSpec, Link, LinkEvent, Times};
use crate::backend::{Access, Backing};
use crate::reactor::{Actor, Alarm, Context, Event, Inlet, Mailbox, Thread, ThreadConfig, Token};
use crate::target::{
    Export, ExportLun, PortalConfig, Server, ServerConfig, ServerHandle, derived_naa,
};
use line::Line;

const IQN: &str = "iqn.2026-01.io.twinsite:leg";
const SIZE: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

struct Target {
    folder: tempfile::TempDir,
    thread: Thread,
    server: ServerHandle,
}

impl Target {
    fn new(auth: Auth) -> Self {
        Self::with_groups(auth, &[1])
    }

    /// One portal for each portal group.
    fn with_groups(auth: Auth, groups: &[u16]) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), auth, groups)
    }

    fn at(listen: SocketAddr, auth: Auth, groups: &[u16]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let thread = Thread::spawn(ThreadConfig::default()).expect("io_uring");
        let portal = |group: &u16| PortalConfig {
            group: *group,
            ..PortalConfig::new(listen)
        };
        let config = ServerConfig::new(groups.iter().map(portal).collect());
        let server = Server::start(config, vec![thread.clone()]).expect("starts");
        let file = folder.path().join("leg");
        let backing = Backing::open(&file, Some(SIZE), Access::ReadWrite).expect("a file");
        let export = Export {
            iqn: IQN.into(),
            alias: None,
            auth,
            acl: Acl::Any,
            redirect: None,
            luns: vec![ExportLun::new(IQN, 0, backing)],
        };
        server.add_export(export).expect("exports");
        Self {
            folder,
            thread,
            server,
        }
    }

    fn address(&self) -> SocketAddr {
        self.server.addresses()[0]
    }

    fn on_disk(&self, offset: u64, len: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::open(self.folder.path().join("leg")).expect("a file");
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset).expect("reads");
        bytes
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.server.shutdown(Duration::ZERO);
        self.thread.stop();
        self.thread.join();
    }
}

fn spec(portals: Vec<SocketAddr>) -> LegSpec {
    LegSpec {
        portals,
        iqn: IQN.into(),
        lun: 0,
        naa: Some(Naa(derived_naa(IQN, 0))),
        chap: None,
        cache_protected: false,
        initiator_name: "iqn.2026-01.io.twinsite:n1".into(),
        isid: [0x80, 1, 2, 3, 4, 0],
        offer: Offer::default(),
        times: Times {
            portal: Duration::from_secs(3),
            ..Times::default()
        },
    }
}

/// What the test tells the link.
enum Ask {
    Op(CmdId, LegOp, Vec<Bytes>),
    Disconnect,
}

/// A link with an actor of its own.
struct Leg {
    thread: Thread,
    asks: Mailbox<Ask>,
    told: mpsc::Receiver<LinkEvent>,
    news: mpsc::Receiver<Option<String>>,
}

struct LegActor {
    link: Link,
    inlet: Inlet<Ask>,
    told: mpsc::Sender<LinkEvent>,
    news: mpsc::Sender<Option<String>>,
    alarm: Alarm,
}

const ALARM: Token = Token(16 << 48);

impl Actor for LegActor {
    fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
        if token == ALARM {
            self.alarm.fired();
            self.link.tick(cx);
        } else {
            self.link.handle(cx, (token.0 >> 48) as usize, token, event);
        }
    }

    fn mail(&mut self, cx: &mut Context<'_>) {
        while let Some(ask) = self.inlet.take() {
            match ask {
                Ask::Op(cmd, op, payload) => {
                    self.link.submit(cx.now(), cmd, op, Lane::Guest, payload);
                }
                Ask::Disconnect => self.link.disconnect(cx),
            }
        }
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        while let Some(event) = self.link.poll() {
            let _ = self.told.send(event);
        }
        if let Some(news) = self.link.news() {
            let _ = self.news.send(news);
        }
        self.link.settle(cx);
        self.alarm.set(cx, ALARM, self.link.deadline());
    }
}

impl Leg {
    fn open(spec: LegSpec) -> Self {
        let thread = Thread::spawn(ThreadConfig::default()).expect("io_uring");
        let actor = thread.reserve();
        let (asks, inlet) = thread.mailbox(actor, 256);
        let (tell, told) = mpsc::channel();
        let (tell_news, news) = mpsc::channel();
        thread.start(actor, move |cx| {
            let mut link = Link::new(spec, 0);
            link.connect(cx);
            Box::new(LegActor {
                link,
                inlet,
                told: tell,
                news: tell_news,
                alarm: Alarm::default(),
            })
        });
        Self {
            thread,
            asks,
            told,
            news,
        }
    }

    fn next(&self) -> LinkEvent {
        self.told
            .recv_timeout(PATIENCE)
            .expect("the link tells something")
    }

    fn up(&self) -> LegInfo {
        match self.next() {
            LinkEvent::Up(info) => info,
            other => panic!("not up: {other:?}"),
        }
    }

    fn ask(&self, cmd: u64, op: LegOp, payload: Vec<Bytes>) {
        assert!(self.asks.post(Ask::Op(CmdId(cmd), op, payload)).is_ok());
    }

    fn write(&self, cmd: u64, offset: u64, data: Vec<u8>) {
        let op = LegOp::WriteData {
            req: ReqId(cmd),
            skip: 0,
            offset,
            len: u32::try_from(data.len()).expect("small"),
            fua: false,
        };
        self.ask(cmd, op, vec![data.into()]);
    }

    fn done(&self) -> (u64, Result<LegReply, LegError>) {
        match self.next() {
            LinkEvent::Done { cmd, result, .. } => (cmd.0, result),
            other => panic!("not done: {other:?}"),
        }
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        self.thread.stop();
        self.thread.join();
    }
}

/// A port that nobody listens on.
fn refusing() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

#[test]
fn a_leg_tells_what_it_is() {
    let target = Target::new(Auth::None);
    let leg = Leg::open(spec(vec![target.address()]));
    let info = leg.up();
    assert_eq!(info.naa, Naa(derived_naa(IQN, 0)));
    assert_eq!((info.capacity, info.block_size), (SIZE, 512));
    assert!(info.own_target && info.boot_id.is_some() && info.volatile_cache);
    assert!(info.discard_zeroes && info.discard_granularity > 0);
    leg.ask(1, LegOp::Identify, Vec::new());
    assert_eq!(leg.done(), (1, Ok(LegReply::Identity(info))));
}

#[test]
fn a_portal_that_refuses_and_one_that_hangs_are_passed_over() {
    let target = Target::new(Auth::None);
    // Connections are taken by the kernel, nobody ever answers.
    let hanging = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let hangs = hanging.local_addr().expect("an address");
    let mut spec = spec(vec![refusing(), hangs, target.address()]);
    spec.times.portal = Duration::from_millis(400);
    let leg = Leg::open(spec);
    while !matches!(leg.next(), LinkEvent::Up(_)) {}
}

#[test]
fn without_any_portal_each_round_is_told() {
    let leg = Leg::open(spec(vec![refusing(), refusing()]));
    for _ in 0..3 {
        assert!(matches!(leg.next(), LinkEvent::Down(LegDown::Unreachable)));
    }
    assert!(leg.asks.post(Ask::Disconnect).is_ok());
    while !matches!(leg.next(), LinkEvent::Down(LegDown::Closed)) {}
    leg.write(1, 0, vec![1; 512]);
    assert_eq!(leg.done(), (1, Err(LegError::SessionGone)));
}

#[test]
fn a_target_that_sends_us_elsewhere_is_followed_however_long_that_is_down() {
    let away = refusing();
    let guide = Target::new(Auth::None);
    guide.server.remove_export(IQN).expect("removed");
    let redirect = Redirect {
        address: away.to_string(),
        permanent: false,
    };
    let file = guide.folder.path().join("guide");
    let backing = Backing::open(&file, Some(SIZE), Access::ReadWrite).expect("a file");
    guide
        .server
        .add_export(Export {
            iqn: IQN.into(),
            alias: None,
            auth: Auth::None,
            acl: Acl::Any,
            redirect: Some(redirect),
            luns: vec![ExportLun::new(IQN, 0, backing)],
        })
        .expect("exports");
    let mut spec = spec(vec![guide.address()]);
    spec.times.retry = (Duration::from_millis(20), Duration::from_millis(20));
    let leg = Leg::open(spec);
    for _ in 0..8 {
        assert!(matches!(leg.next(), LinkEvent::Down(_)));
    }
    let _back = Target::at(away, Auth::None, &[1]);
    while !matches!(leg.next(), LinkEvent::Up(_)) {}
}

#[test]
fn nonsense_on_one_path_costs_no_other_path_its_turn() {
    use std::io::Write;
    let target = Target::new(Auth::None);
    let liar = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let at = liar.local_addr().expect("an address");
    std::thread::spawn(move || {
        for client in liar.incoming() {
            let _ = client.and_then(|mut client| client.write_all(&[0xFF; 48]));
        }
    });
    let leg = Leg::open(spec(vec![at, target.address()]));
    // Without a word about a round in vain.
    leg.up();
}

#[test]
fn another_lun_is_refused() {
    let target = Target::new(Auth::None);
    let mut spec = spec(vec![target.address()]);
    spec.naa = Some(Naa([0x61; 16]));
    let leg = Leg::open(spec);
    assert!(matches!(leg.next(), LinkEvent::Down(LegDown::OtherLun)));
    let found = leg.news.recv_timeout(PATIENCE).expect("a reason");
    let expected = format!(
        "portal {}: the LUN there is naa.{}, not naa.61616161616161616161616161616161: correct the address, or spec.legs.naa",
        target.address(),
        derived_naa(IQN, 0)
            .map(|byte| format!("{byte:02x}"))
            .concat(),
    );
    assert_eq!(found, Some(expected));
}

#[test]
fn a_target_that_is_not_there_and_one_that_comes_are_told_apart() {
    let target = Target::new(Auth::None);
    let mut elsewhere = spec(vec![target.address()]);
    elsewhere.iqn = "iqn.2026-01.io.twinsite:other".into();
    let leg = Leg::open(elsewhere);
    let found = leg.news.recv_timeout(PATIENCE).expect("a reason");
    let expected =
        "login refused (2.3): no such target there: correct the address or the iSCSI name";
    assert!(found.is_some_and(|found| found.ends_with(expected)));
    let leg = Leg::open(spec(vec![refusing(), target.address()]));
    leg.up();
    while leg.news.recv_timeout(PATIENCE).expect("news").is_some() {}
}

#[test]
fn a_cut_path_gives_way_to_the_next_and_answers_what_was_open() {
    let target = Target::new(Auth::None);
    let (first, second) = (Line::new(target.address()), Line::new(target.address()));
    let leg = Leg::open(spec(vec![first.address(), second.address()]));
    leg.up();
    leg.write(1, 0, vec![1; 4096]);
    assert_eq!(leg.done(), (1, Ok(LegReply::Done)));
    first.freeze();
    for cmd in 2..10 {
        leg.write(cmd, 4096 * cmd, vec![2; 4096]);
    }
    std::thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    first.cut();
    for _ in 2..10 {
        assert_eq!(leg.done().1, Err(LegError::SessionGone));
    }
    assert!(matches!(leg.next(), LinkEvent::Down(LegDown::SessionLost)));
    leg.up();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    leg.write(10, 40960, vec![3; 4096]);
    assert_eq!(leg.done(), (10, Ok(LegReply::Done)));
    assert_eq!(target.on_disk(40960, 4096), vec![3; 4096]);
}

#[test]
fn a_path_through_another_portal_group_is_taken_after_a_reset() {
    let target = Target::with_groups(Auth::None, &[1, 2]);
    let lines: Vec<_> = target
        .server
        .addresses()
        .iter()
        .map(|at| Line::new(*at))
        .collect();
    let leg = Leg::open(spec(lines.iter().map(Line::address).collect()));
    leg.up();
    lines[0].freeze();
    leg.write(1, 0, vec![1; 4096]);
    std::thread::sleep(Duration::from_millis(50));
    lines[0].cut();
    assert_eq!(leg.done(), (1, Err(LegError::SessionGone)));
    assert!(matches!(leg.next(), LinkEvent::Down(LegDown::SessionLost)));
    leg.up();
    // The unit attention of the reset was taken before anything of the mirror was sent.
    leg.write(2, 0, vec![2; 4096]);
    assert_eq!(leg.done(), (2, Ok(LegReply::Done)));
    assert_eq!(target.on_disk(0, 4096), vec![2; 4096]);
}

#[test]
fn a_frozen_path_is_found_dead_by_its_silence() {
    let target = Target::new(Auth::None);
    let (first, second) = (Line::new(target.address()), Line::new(target.address()));
    let mut spec = spec(vec![first.address(), second.address()]);
    spec.times.ping_interval = Duration::from_millis(100);
    spec.times.ping_timeout = Duration::from_millis(200);
    let leg = Leg::open(spec);
    leg.up();
    first.freeze();
    assert!(matches!(leg.next(), LinkEvent::Down(LegDown::SessionLost)));
    leg.up();
    leg.write(1, 0, vec![1; 512]);
    assert_eq!(leg.done(), (1, Ok(LegReply::Done)));
}

#[test]
fn chap_opens_both_ways_and_a_wrong_secret_is_refused() {
    let secret = |text: &str| Secret::new(text.as_bytes()).expect("long enough");
    let account = Account {
        secret: secret("initiator-secret"),
        initiator: None,
    };
    let accounts = BTreeMap::from([("n1".to_owned(), account)]);
    let mutual = Some(("leg".to_owned(), secret("target-secret-1")));
    let target = Target::new(Auth::Chap { accounts, mutual });
    let with = |password: &str, theirs: &str| {
        let chap = ChapInitiator::mutual("n1".into(), secret(password), secret(theirs));
        LegSpec {
            chap: Some(chap.expect("two secrets")),
            ..spec(vec![target.address()])
        }
    };
    Leg::open(with("initiator-secret", "target-secret-1")).up();
    for (password, theirs) in [
        ("another-secret-9", "target-secret-1"),
        ("initiator-secret", "another-secret-9"),
    ] {
        let leg = Leg::open(with(password, theirs));
        let LinkEvent::Down(_) = leg.next() else {
            panic!("a wrong secret opened the leg")
        };
    }
}

#[test]
fn more_than_the_window_waits_its_turn() {
    let target = Target::new(Auth::None);
    let leg = Leg::open(spec(vec![target.address()]));
    leg.up();
    for cmd in 0..200 {
        leg.write(cmd, 4096 * (cmd % 64), vec![1; 4096]);
    }
    for _ in 0..200 {
        assert!(leg.done().1.is_ok());
    }
}

//! Orders to a server one of whose data threads hangs.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use twinsite_iscsi::session::{Acl, Auth, DropReason};

use super::client::Client;
use super::{IQN, PATIENCE, Site, export, open};
use crate::backend::BackendError;
use crate::reactor::{Actor, Context, Event, Thread, Token};
use crate::target::ServerError;

/// A data thread that waits, as for a disk that hangs, until this is dropped.
fn hang(thread: &Thread) -> mpsc::Sender<()> {
    struct Nothing;
    impl Actor for Nothing {
        fn handle(&mut self, _: &mut Context<'_>, _: Token, _: Event) {}
    }
    let (until, dropped) = mpsc::channel::<()>();
    let (begun, hangs) = mpsc::channel();
    thread.start(thread.reserve(), move |_| {
        begun.send(()).expect("the test waits");
        let _ = dropped.recv();
        Box::new(Nothing)
    });
    hangs.recv_timeout(PATIENCE).expect("the thread runs");
    until
}

/// More orders than a mailbox holds; nobody waits for them any more.
fn fill(site: &Site) {
    for _ in 0..300 {
        assert!(matches!(site.server.stats(IQN), Err(ServerError::Busy(_))));
    }
}

#[test]
fn a_target_whose_thread_hangs_is_removed_in_time_and_gone_when_the_thread_goes_on() {
    let other = "iqn.2026-01.io.twinsite:other";
    let mut site = Site::new();
    site.server.set_order_timeout(Duration::from_millis(1));
    let added = site.export(IQN);
    added.expect("added, to the first thread");
    let second = export(other, &site.folder.path().join("second"));
    let added = site.server.add_export(second);
    added.expect("added, to the second thread");
    let hangs = hang(&site.threads[0]);
    fill(&site);
    let begun = Instant::now();
    assert!(matches!(
        site.server.remove_export(IQN),
        Err(ServerError::Busy(_))
    ));
    // More news than the gate has room for, and the last of it counts.
    for _ in 0..100 {
        let set = site.server.set_access(other, Auth::None, Acl::Any);
        set.expect("does not wait");
    }
    let nobody = Acl::Only(["iqn.2026-01.io.twinsite:nobody".to_owned()].into());
    site.server
        .set_access(other, Auth::None, nobody)
        .expect("does not wait");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert!(matches!(open(&site.path()), Err(BackendError::Locked(_))));
    drop(hangs);
    let freed = Instant::now() + PATIENCE;
    while open(&site.path()).is_err() {
        assert!(Instant::now() < freed, "the store is not given free");
        std::thread::sleep(Duration::from_millis(10));
    }
    for (iqn, detail) in [(IQN, 3), (other, 2)] {
        let refused = DropReason::LoginRefused { class: 2, detail };
        let login = Client::login(site.address(), iqn, 1);
        assert_eq!(login.err(), Some(refused), "{iqn}");
    }
}

#[test]
fn a_server_with_a_thread_that_hangs_shuts_down_in_time() {
    let mut site = Site::new();
    site.server.set_order_timeout(Duration::from_millis(1));
    site.export(IQN).expect("added");
    let hangs = hang(&site.threads[0]);
    fill(&site);
    let begun = Instant::now();
    site.server.shutdown(Duration::ZERO);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    drop(hangs);
}

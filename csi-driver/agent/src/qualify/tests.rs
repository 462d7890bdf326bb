//! The whole run against our own target in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use twinsite_iscsi::session::{Acl, Auth};

use super::drain::{Round, drained};
use super::*;
use crate::backend::{Access, Backing};
use crate::reactor::{Thread, ThreadConfig};
use crate::target::{Export, ExportLun, PortalConfig, Server, ServerConfig, ServerHandle};

const IQN: &str = "iqn.2026-01.io.twinsite:qualified";
const BYTES: u64 = 160 << 20;
const EFFORT: Effort = Effort {
    rounds: 4,
    settle: Duration::from_millis(50),
    samples: 20,
};

struct Site {
    folder: tempfile::TempDir,
    thread: Thread,
    server: ServerHandle,
}

impl Site {
    /// A disk of 160 MiB that moves 400 MB/s, so that writes are in flight for a while.
    fn new() -> Self {
        let thread = Thread::spawn(ThreadConfig::default()).expect("io_uring is there");
        let portal = PortalConfig::new((Ipv4Addr::LOCALHOST, 0).into());
        let config = ServerConfig::new(vec![portal]);
        let server = Server::start(config, vec![thread.clone()]).expect("starts");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let backing = Backing::open(&folder.path().join("disk"), Some(BYTES), Access::ReadWrite);
        let mut lun = ExportLun::new(IQN, 1, backing.expect("opens"));
        lun.rate = Some(400 << 20);
        let export = Export {
            iqn: IQN.into(),
            alias: None,
            auth: Auth::None,
            acl: Acl::Any,
            redirect: None,
            luns: vec![lun],
        };
        server.add_export(export).expect("added");
        Self {
            folder,
            thread,
            server,
        }
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn place(&self) -> Place {
        let address: SocketAddr = self.server.addresses()[0];
        format!("iscsi://{address}/{IQN}/1").parse().expect("reads")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.shutdown(Duration::ZERO);
        self.thread.stop();
        self.thread.join();
    }
}

#[test]
fn our_own_target_is_usable_and_left_as_it_was() {
    let site = Site::new();
    let (findings, ended) = qualify(&site.place(), Writes::Blank, EFFORT).expect("runs");
    assert!(ended.is_none(), "{ended:?} {findings:#?}");
    assert_eq!(verdict(&findings), Verdict::Usable, "{findings:#?}");
    let content = std::fs::read(site.disk()).expect("a file");
    assert!(content.iter().all(|byte| *byte == 0), "it is blank again");
    let mut nexus = Nexus::login(&site.place(), 9).expect("logs in");
    let keys = active::read_keys(&mut nexus).expect("reads");
    assert!(keys.is_empty(), "{keys:x?}");
    assert_eq!(active::held_by(&mut nexus).expect("reads"), None);
}

#[test]
fn without_the_write_test_nothing_is_judged_or_changed() {
    let site = Site::new();
    let (findings, ended) = qualify(&site.place(), Writes::None, EFFORT).expect("runs");
    assert!(ended.is_none(), "{ended:?}");
    let Verdict::NotJudged(open) = verdict(&findings) else {
        panic!("{findings:#?}")
    };
    assert!(open.iter().all(|one| one.ends_with("needs --write-test")));
}

#[test]
fn content_is_never_written_over_unasked() {
    let site = Site::new();
    let file = std::fs::File::options()
        .write(true)
        .open(site.disk())
        .expect("opens");
    let places = [
        (0, "not zeros"),
        (64 << 10, "superblock"),
        ((9 << 20) - 512, "not zeros"),
    ];
    for (offset, why) in places {
        file.write_all_at(b"TWINSB01", offset).expect("writes");
        if why == "not zeros" {
            file.write_all_at(b"my data.", offset).expect("writes");
        }
        let before = std::fs::read(site.disk()).expect("a file");
        let (findings, ended) = qualify(&site.place(), Writes::Blank, EFFORT).expect("runs");
        let ended = ended.expect("refused").to_string();
        assert!(ended.contains(why), "{ended}");
        assert!(!matches!(
            verdict(&findings),
            Verdict::Usable | Verdict::WithCacheProtected
        ));
        assert!(std::fs::read(site.disk()).expect("a file") == before);
        file.write_all_at(&[0; 8], offset).expect("writes");
    }
}

#[test]
fn a_registration_of_somebody_else_stops_it_even_where_content_was_given_up() {
    let site = Site::new();
    let mut owner = Nexus::login(&site.place(), 9).expect("logs in");
    let order = twinsite_iscsi::scsi::PrOut::RegisterIgnore {
        new: 0xA1 << 56 | 5,
        aptpl: true,
    };
    assert_eq!(owner.reserve(&order).expect("answers").status, Status::Good);
    let (_, ended) = qualify(&site.place(), Writes::DestroyContents, EFFORT).expect("runs");
    let ended = ended.expect("refused").to_string();
    assert!(ended.contains("in use"), "{ended}");
}

#[test]
fn one_late_write_is_a_no_and_none_in_flight_is_no_answer() {
    let round = |caught, late| Round {
        caught,
        late,
        took: Duration::ZERO,
    };
    assert!(matches!(
        drained(&[round(3, 0), round(0, 0)]),
        Answer::Yes(_)
    ));
    assert!(matches!(
        drained(&[round(3, 0), round(9, 1)]),
        Answer::No(_)
    ));
    assert!(matches!(drained(&[round(0, 0)]), Answer::NotRun(_)));
    assert!(matches!(drained(&[]), Answer::NotRun(_)));
}

#[test]
fn a_cut_that_is_answered_later_than_a_fence_waits_is_told() {
    let slow = Round {
        caught: 1,
        late: 0,
        took: Duration::from_secs(17),
    };
    let Answer::Yes(text) = drained(&[slow]) else {
        panic!("slow is not unsafe");
    };
    assert!(text.ends_with("slowest answer 17 s: a takeover fences again"));
}

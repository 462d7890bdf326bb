//! One agent of a site, its durable record, and the guest on its device.

use std::collections::BTreeMap;
use std::time::Duration;

use twinsite_mirror::config::Config;
use twinsite_mirror::io::{AttachOrder, AttachRecord, Mode, MoveOrder, ReqId};
use twinsite_register::{AttachmentUid, Key, KeyTag, Mark, Site};

use crate::birth::VOLUME;
use crate::random::Random;
use crate::shell::Shell;

/// A guest request that the kernel waits for.
#[derive(Clone, Debug)]
pub enum Request {
    /// Blocks and the values written to them.
    Write {
        first: usize,
        values: Vec<u64>,
        fua: bool,
    },
    /// Blocks that become zeros, and the values this is.
    Discard { first: usize, values: Vec<u64> },
    /// What each block must show at least.
    Read { first: usize, floors: Vec<u64> },
    /// What was acknowledged when it was sent.
    Flush { acked: Vec<u64> },
}

pub struct Agent {
    pub site: Site,
    pub shell: Option<Shell>,
    /// Grows at every start: what was asked by an earlier process is nobody's.
    pub life: u64,
    pub uid: AttachmentUid,
    /// On the disk of the node, by uid: only the present one.
    pub record: AttachRecord,
    /// The kernel shows a device.
    pub shown: bool,
    /// The device takes requests.
    pub ready: bool,
    pub requests: BTreeMap<ReqId, Request>,
    /// Left behind by a dead agent: sent again if the device goes on.
    pub orphans: Vec<Request>,
    pub attach_at: Option<Duration>,
    pub attached: bool,
    pub detaching: bool,
    pub next_request: u64,
    /// The process is stopped: nothing reaches it before then.
    pub stopped_until: Duration,
    /// Bytes of the device as it was shown or resized last.
    pub size: u64,
}

impl Agent {
    pub fn new(site: Site, uid: AttachmentUid) -> Self {
        Self {
            site,
            shell: None,
            life: 0,
            uid,
            record: fresh(uid),
            shown: false,
            ready: false,
            requests: BTreeMap::new(),
            orphans: vec![],
            attach_at: None,
            attached: false,
            detaching: false,
            next_request: 1,
            stopped_until: Duration::ZERO,
            size: 0,
        }
    }

    /// Another Attachment: another pod, its own place in the order.
    pub fn renew(&mut self, uid: AttachmentUid) {
        self.uid = uid;
        self.record = fresh(uid);
    }

    pub fn order(
        &self,
        node: usize,
        mv: Option<MoveOrder>,
        mark: Option<Mark>,
        config: Config,
        random: &mut Random,
    ) -> AttachOrder {
        AttachOrder {
            volume: VOLUME,
            uid: self.uid,
            key: Key::new(KeyTag::Writer(self.site), random.word()),
            seed: random.bytes(),
            site: self.site,
            node: format!("node-{node}"),
            mode: Mode::Writer,
            mv,
            record: self.record.clone(),
            shown: self.shown,
            marks: mark.into_iter().collect(),
            initialize: [None; 2],
            config,
        }
    }
}

pub fn fresh(uid: AttachmentUid) -> AttachRecord {
    AttachRecord {
        uid,
        keys: vec![],
        n: None,
        stale: false,
        flush_owed: false,
    }
}

//! Two sites, the lines between them, a witness that belongs to neither, and one mirrored volume.
//!
//! Stands in for the operator: it writes the objects that an operator would write and looks at the same evidence at the
//! witness before it orders a failover. It decides nothing that the register decides.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use twinsite_api::{
    Attachment, AttachmentLeg, AttachmentMode, AttachmentSpec, AttachmentState, AttachmentStatus,
    DirectoryWitness, Leg, LegIndex, LegSpec, MoveMode, MoveOrder, Quantity, SitePair,
    SitePairSpec, VolumeId, WitnessSpec,
};

use crate::evidence::Reader;
use crate::link::Link;
use crate::process;
use crate::site::Site;

/// Name of the pair and its objects.
pub const PAIR: &str = "ctrc";
/// How often the status files are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// What to build.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything lies below this folder.
    pub folder: PathBuf,
    pub agent: PathBuf,
    pub size: u64,
    pub fs: FileSystem,
    pub max_resync_bytes_per_second: Option<u64>,
}

/// The file system on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

/// The pair. `sites[0]` is medical (A), `sites[1]` research (B).
#[derive(Debug)]
pub struct Pair {
    plan: Plan,
    pub sites: [Site; 2],
    /// `links[i]`: how the other site reaches site i.
    pub links: [Link; 2],
    pub volume: VolumeId,
    attachments: u32,
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

impl Pair {
    /// Makes the folders and starts both agents with their pools and legs.
    ///
    /// # Errors
    /// Whatever of it cannot be made.
    pub fn start(plan: Plan) -> Result<Self> {
        let folder = plan.folder.clone();
        fs::create_dir_all(folder.join("witness"))?;
        let medical = Site::new(
            &folder.join("medical"),
            "medical",
            LegIndex::A,
            free_port()?,
        )?;
        let research = Site::new(
            &folder.join("research"),
            "research",
            LegIndex::B,
            free_port()?,
        )?;
        let links = [Link::to(medical.listen)?, Link::to(research.listen)?];
        let mut pair = Self {
            volume: VolumeId::of(PAIR, "rv", "records"),
            sites: [medical, research],
            links,
            plan,
            attachments: 0,
        };
        for index in 0..2 {
            pair.sites[index].make_pool(&pair.plan.agent)?;
            pair.write_standing_objects(index)?;
            // Sites claim their index in the order of their first start.
            pair.start_agent(index)?;
            pair.wait_for(Duration::from_secs(20), "the leg to be served", |pair| {
                pair.leg_is_served(index)
            })?;
        }
        Ok(pair)
    }

    fn write_standing_objects(&self, index: usize) -> Result<()> {
        let site = &self.sites[index];
        let mut pair = SitePair::new(PAIR, self.site_pair_spec());
        pair.metadata.generation = Some(1);
        site.apply("sitepair", &pair)?;
        site.apply("pool", &site.storage_pool())?;
        site.apply(
            "leg",
            &Leg::new(&self.leg_name(index), self.leg_spec(index)),
        )
    }

    fn site_pair_spec(&self) -> SitePairSpec {
        let site = |name: &str| twinsite_api::Site {
            name: name.to_owned(),
            state: twinsite_api::SiteState::Active,
        };
        SitePairSpec {
            sites: vec![site("medical"), site("research")],
            peer_kubeconfig_secret: None,
            pair_secret: None,
            witness: WitnessSpec {
                directory: Some(DirectoryWitness {
                    path: self.witness().display().to_string(),
                }),
                ..WitnessSpec::default()
            },
            failover: twinsite_api::FailoverSettings::default(),
            node_loss: twinsite_api::NodeLoss::default(),
            resync: twinsite_api::Resync {
                max_bytes_per_second: self
                    .plan
                    .max_resync_bytes_per_second
                    .map(Quantity::from_bytes),
            },
        }
    }

    fn leg_spec(&self, index: usize) -> LegSpec {
        let site = &self.sites[index];
        LegSpec {
            volume: self.volume,
            group: None,
            leg: site.index,
            site: site.name.clone(),
            site_pair: PAIR.into(),
            pool: format!("{}-ssd", site.name),
            node: site.node.clone(),
            size: Quantity::from_bytes(self.plan.size),
            block_size: 4096,
            iqn: None,
            lun: 0,
            naa: None,
            chap: None,
            initiators: Vec::new(),
            removal: twinsite_api::LegRemoval::Retain,
        }
    }

    fn leg_name(&self, index: usize) -> String {
        format!("records-{}", self.sites[index].index.letter())
    }

    fn leg_is_served(&self, index: usize) -> bool {
        self.sites[index]
            .status::<twinsite_api::LegStatus>("leg", &self.leg_name(index))
            .is_some_and(|status| status.state == twinsite_api::LegState::Serving)
    }

    /// The witness folder.
    #[must_use]
    pub fn witness(&self) -> PathBuf {
        self.plan.folder.join("witness")
    }

    /// The witness goes away, as a network path to it would.
    ///
    /// # Errors
    /// The folder cannot be renamed.
    pub fn hide_witness(&self) -> Result<()> {
        Ok(fs::rename(
            self.witness(),
            self.plan.folder.join("witness-away"),
        )?)
    }

    /// The witness is back.
    ///
    /// # Errors
    /// The folder cannot be renamed.
    pub fn show_witness(&self) -> Result<()> {
        Ok(fs::rename(
            self.plan.folder.join("witness-away"),
            self.witness(),
        )?)
    }

    /// Starts the agent of a site (again).
    ///
    /// # Errors
    /// The agent cannot be started.
    pub fn start_agent(&mut self, index: usize) -> Result<()> {
        let agent = self.plan.agent.clone();
        self.sites[index].start(&agent)
    }

    /// The line between the sites is cut, both ways.
    pub fn cut_line(&self) {
        self.links.iter().for_each(Link::cut);
    }

    /// The line is whole again.
    pub fn mend_line(&self) {
        self.links.iter().for_each(Link::mend);
    }

    /// Orders an attachment at a site; its name.
    ///
    /// # Errors
    /// The object cannot be written.
    pub fn order(
        &mut self,
        index: usize,
        mode: AttachmentMode,
        move_: Option<MoveOrder>,
    ) -> Result<String> {
        self.attachments += 1;
        let name = format!("records-{}", self.attachments);
        let site = &self.sites[index];
        let spec = AttachmentSpec {
            volume: self.volume,
            reference: Some("rv/records".into()),
            group: None,
            group_volumes: Vec::new(),
            site_pair: PAIR.into(),
            node: site.node.clone(),
            site: site.name.clone(),
            mode,
            legs: (0..2).map(|leg| self.attachment_leg(index, leg)).collect(),
            size: Quantity::from_bytes(self.plan.size),
            block_size: 4096,
            volume_mode: twinsite_api::VolumeMode::Filesystem,
            fs_type: Some(self.plan.fs.name().into()),
            on_no_quorum: twinsite_api::OnNoQuorum::Suspend,
            move_,
            release: false,
            front_end: twinsite_api::FrontEnd::Auto,
            drop_legs: Vec::new(),
            verify: None,
            max_resync_bytes_per_second: None,
            command_timeout: None,
            lease: None,
            birth: (mode == AttachmentMode::Birth).then(|| twinsite_api::BirthOrder {
                active_site: site.name.clone(),
                create_register: true,
            }),
            reseed: None,
            force: None,
        };
        let mut object = Attachment::new(&name, spec);
        object.metadata.uid = Some(format!("00000000-0000-4000-8000-{:012x}", self.attachments));
        object.metadata.generation = Some(1);
        site.apply(&name, &object)?;
        Ok(name)
    }

    fn attachment_leg(&self, from: usize, leg: usize) -> AttachmentLeg {
        let portal = if from == leg {
            self.sites[leg].listen
        } else {
            self.links[leg].address()
        };
        AttachmentLeg {
            leg: self.sites[leg].index,
            site: self.sites[leg].name.clone(),
            portals: vec![portal.to_string()],
            iqn: None,
            lun: 0,
            naa: None,
            chap: None,
            array: false,
            cache_protected: false,
            initialize: None,
        }
    }

    /// What the agent says of an attachment.
    #[must_use]
    pub fn attachment(&self, index: usize, name: &str) -> Option<AttachmentStatus> {
        self.sites[index].status("attachment", name)
    }

    /// Waits until `done`, looking often; fails with what was waited for and the agents' last words.
    ///
    /// # Errors
    /// The limit is over.
    pub fn wait_for(
        &self,
        limit: Duration,
        what: &str,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<Duration> {
        let start = Instant::now();
        while !done(self) {
            if start.elapsed() > limit {
                bail!(
                    "waited {} s for {what}\n{}",
                    limit.as_secs(),
                    self.last_words()
                );
            }
            thread::sleep(LOOK);
        }
        Ok(start.elapsed())
    }

    fn last_words(&self) -> String {
        self.sites
            .iter()
            .map(|site| {
                let log = fs::read_to_string(site.log()).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(15)..].join("\n  ");
                format!("{}:\n  {tail}\n", site.name)
            })
            .collect()
    }

    /// Makes the volume: both legs initialised, the register live.
    ///
    /// # Errors
    /// The birth fails or takes too long.
    pub fn birth(&mut self) -> Result<()> {
        let name = self.order(0, AttachmentMode::Birth, None)?;
        self.wait_state(0, &name, AttachmentState::Done, Duration::from_secs(60))?;
        self.sites[0].remove(&name);
        Ok(())
    }

    /// Waits for an attachment's state; its status.
    ///
    /// # Errors
    /// It ends in another state or takes too long.
    pub fn wait_state(
        &self,
        index: usize,
        name: &str,
        wanted: AttachmentState,
        limit: Duration,
    ) -> Result<AttachmentStatus> {
        let mut last = AttachmentStatus::default();
        let what = format!("{name} at {} to be {wanted:?}", self.sites[index].name);
        self.wait_for(limit, &what, |pair| {
            if let Some(status) = pair.attachment(index, name) {
                last = status;
            }
            last.state == wanted || last.state == AttachmentState::Failed
        })
        .with_context(|| {
            format!(
                "its last status: {:?} {:?} {:?}",
                last.state, last.reason, last.message
            )
        })?;
        if last.state != wanted {
            bail!(
                "{what}: {:?}: {}",
                last.state,
                last.message.unwrap_or_default()
            );
        }
        Ok(last)
    }

    /// Takes an attachment away and waits for the clean detach.
    ///
    /// # Errors
    /// It takes too long.
    pub fn detach(&self, index: usize, name: &str, limit: Duration) -> Result<Duration> {
        self.sites[index].remove(name);
        self.wait_for(limit, "a clean detach", |pair| {
            pair.attachment(index, name)
                .is_none_or(|s| s.state == AttachmentState::Detached)
        })
    }

    /// An order to move here, for the register as the witness shows it now.
    ///
    /// # Errors
    /// The witness has no readable register.
    pub fn move_order(&self, mode: MoveMode) -> Result<MoveOrder> {
        Ok(MoveOrder {
            mode,
            expect_seq: self.register()?.active.seq,
            by_person: false,
        })
    }

    /// The register as the witness has it now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn register(&self) -> Result<twinsite_witness::register::Register> {
        Reader::open(self)?.register(self.volume)
    }

    /// Where applications of a site see the volume.
    #[must_use]
    pub fn mount_point(&self, index: usize) -> PathBuf {
        self.sites[index].folder.join("mnt")
    }

    /// Makes the file system.
    ///
    /// # Errors
    /// mkfs fails.
    pub fn mkfs(&self, device: &Path) -> Result<()> {
        let mut command = match self.plan.fs {
            FileSystem::Ext4 => {
                let mut command = Command::new("mkfs.ext4");
                command.args([
                    "-q",
                    "-F",
                    "-E",
                    "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
                ]);
                command
            }
            FileSystem::Xfs => {
                let mut command = Command::new("mkfs.xfs");
                command.args(["-q", "-f", "-K"]);
                command
            }
        };
        run(command.arg(device))
    }

    /// Mounts the device at a site.
    ///
    /// # Errors
    /// mount fails.
    pub fn mount(&self, index: usize, device: &Path) -> Result<()> {
        let point = self.mount_point(index);
        fs::create_dir_all(&point)?;
        run(Command::new("mount")
            .args(["-t", self.plan.fs.name()])
            .arg(device)
            .arg(point))
    }

    /// Unmounts at a site.
    ///
    /// # Errors
    /// umount fails.
    pub fn unmount(&self, index: usize) -> Result<()> {
        run(Command::new("umount").arg(self.mount_point(index)))
    }

    /// Every agent stops as an administrator would stop it, then everything below the folder is swept.
    pub fn stop(&mut self) {
        for site in &mut self.sites {
            site.applications.clear();
            let _ = Command::new("umount")
                .arg(site.folder.join("mnt"))
                .stderr(Stdio::null())
                .status();
            site.stop();
        }
        process::sweep(&self.plan.folder);
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

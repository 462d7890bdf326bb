//! Two sites with real agents, and the driver's two services at one of them: what the tests of the driver run against.
//!
//! Everything lies below one folder. Whatever is mounted or shown there is taken away at the end, also after a failure.
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use twinsite_api::{
    DirectoryWitness, FailoverSettings, LegIndex, NodeLoss, Resync, SitePair, SitePairSpec,
    SiteState, StoragePoolStatus, WitnessSpec,
};
use twinsite_csi::proto::csi::{controller_client::ControllerClient, node_client::NodeClient};
use twinsite_tests::{
    process::{self, Group, Signal},
    site::Site,
};

/// Name of the pair.
pub(crate) const PAIR: &str = "ctrc";
/// How long anything may take to come up.
const LIMIT: Duration = Duration::from_secs(30);

/// The sites, the agents, the driver.
pub(crate) struct World {
    pub folder: PathBuf,
    pub sites: [Site; 2],
    controller: Option<Group>,
    node: Option<Group>,
    max_volumes: i64,
    /// Goes last.
    _temporary: tempfile::TempDir,
}

/// The driver's program.
pub(crate) fn driver() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_twinsite-csi"))
}

/// The agent's program, built with the workspace into the same folder.
fn agent() -> PathBuf {
    let agent = driver().with_file_name("twinsite-agent");
    assert!(
        agent.exists(),
        "{} is missing: cargo build --bin twinsite-agent",
        agent.display()
    );
    agent
}

/// A port below those that the kernel gives by itself, so that nobody gets it between our looking and the agent's use of it.
fn free_port() -> Result<SocketAddr> {
    const FIRST: u32 = 20_000;
    const MANY: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..100 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (std::process::id().wrapping_mul(32) + number) % MANY;
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(port)?));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port is free")
}

impl World {
    /// Starts everything; `max_volumes`: as the flag of both services.
    pub(crate) fn start(max_volumes: i64) -> Result<Self> {
        let temporary = tempfile::tempdir()?;
        let folder = temporary.path().canonicalize()?;
        fs::create_dir_all(folder.join("witness"))?;
        let site = |name: &str, index| {
            let listen = free_port()?;
            Site::new(&folder.join(name), name, index, listen).map_err(anyhow::Error::from)
        };
        let sites = [
            site("medical", LegIndex::A)?,
            site("research", LegIndex::B)?,
        ];
        let mut world = Self {
            folder,
            sites,
            controller: None,
            node: None,
            max_volumes,
            _temporary: temporary,
        };
        for number in 0..2 {
            world.write_objects(number)?;
            world.sites[number].make_pool(&agent())?;
            world.sites[number].start(&agent())?;
        }
        until("the agents to open their pools", || {
            world.sites.iter().all(|site| {
                let pool = format!("{}-ssd", site.name);
                let status: Option<StoragePoolStatus> = site.status("storagepool", &pool);
                status.is_some_and(|status| status.free_bytes.is_some())
            })
        })?;
        world.start_controller()?;
        world.start_node()?;
        Ok(world)
    }

    fn write_objects(&self, number: usize) -> Result<()> {
        let site = &self.sites[number];
        let named = |name: &str| twinsite_api::Site {
            name: name.to_owned(),
            state: SiteState::Active,
        };
        let witness = DirectoryWitness {
            path: self.folder.join("witness").display().to_string(),
        };
        let pair = SitePairSpec {
            sites: vec![named("medical"), named("research")],
            peer_kubeconfig_secret: None,
            pair_secret: None,
            witness: WitnessSpec {
                directory: Some(witness),
                ..WitnessSpec::default()
            },
            failover: FailoverSettings::default(),
            node_loss: NodeLoss::default(),
            resync: Resync {
                max_bytes_per_second: None,
            },
        };
        site.apply("sitepair", &SitePair::new(PAIR, pair))?;
        site.apply("pool", &site.storage_pool())
    }

    /// Parameters of the volumes, as a StorageClass would have them.
    pub(crate) fn parameters(&self) -> BTreeMap<String, String> {
        [("sitePair", PAIR), ("poolClass", "ssd")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// The node at which the driver runs.
    pub(crate) fn node_name(&self) -> &str {
        &self.sites[0].node
    }

    pub(crate) fn controller_socket(&self) -> PathBuf {
        self.folder.join("controller.sock")
    }

    pub(crate) fn node_socket(&self) -> PathBuf {
        self.folder.join("node.sock")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    pub(crate) fn start_agent(&mut self, number: usize) -> Result<()> {
        self.sites[number].start(&agent())
    }

    /// The agent ends at once, as after a crash.
    pub(crate) fn kill_agent(&mut self, number: usize) {
        if let Some(agent) = self.sites[number].agent() {
            agent.kill();
        }
    }

    pub(crate) fn start_controller(&mut self) -> Result<()> {
        let [own, peer] = &self.sites;
        let mut command = Command::new(driver());
        command
            .arg("controller")
            .arg(format!(
                "--endpoint=unix://{}",
                self.controller_socket().display()
            ))
            .arg(format!("--site={}", own.name))
            .arg(format!("--max-volumes={}", self.max_volumes))
            .arg(format!("--objects={}", own.objects().display()))
            .arg(format!(
                "--peer-objects={}={}",
                peer.name,
                peer.objects().display()
            ));
        self.controller = Some(Group::start(&mut command, &self.log("controller"))?);
        let socket = self.controller_socket();
        until("the controller", || answers(&socket))
    }

    pub(crate) fn start_node(&mut self) -> Result<()> {
        let own = &self.sites[0];
        let mut command = Command::new(driver());
        command
            .arg("node")
            .arg(format!(
                "--endpoint=unix://{}",
                self.node_socket().display()
            ))
            .arg(format!("--site={}", own.name))
            .arg(format!("--node={}", own.node))
            .arg(format!("--max-volumes={}", self.max_volumes))
            .arg(format!("--agent-socket={}", own.socket().display()))
            .arg("--http=127.0.0.1:0");
        self.node = Some(Group::start(&mut command, &self.log("node"))?);
        let socket = self.node_socket();
        until("the node service", || answers(&socket))
    }

    pub(crate) fn kill_node(&mut self) {
        self.node = None;
    }

    pub(crate) async fn controller(&self) -> Result<ControllerClient<Channel>> {
        Ok(ControllerClient::new(
            connect(self.controller_socket()).await?,
        ))
    }

    pub(crate) async fn node(&self) -> Result<NodeClient<Channel>> {
        Ok(NodeClient::new(connect(self.node_socket()).await?))
    }

    /// The ends of all logs, for a test that fails.
    pub(crate) fn last_words(&self) -> String {
        let logs = self.sites.iter().map(Site::log);
        let logs = logs.chain([self.log("controller"), self.log("node")]);
        let tails = logs.map(|path| {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n  ");
            format!("{}:\n  {tail}\n", path.display())
        });
        tails.collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
        }
        (self.controller, self.node) = (None, None);
        // File systems while their devices still answer: then nothing is left that an agent would have to kill.
        for point in process::mounts_below(&self.folder) {
            let fuse = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let is_ours = fuse.lines().any(|line| {
                line.split(' ').nth(4).map(Path::new) == Some(&point) && line.contains(" - fuse")
            });
            if !is_ours {
                let _ = Command::new("timeout")
                    .args(["10", "umount"])
                    .arg(&point)
                    .stderr(Stdio::null())
                    .status();
            }
        }
        for site in &mut self.sites {
            if let Some(agent) = site.agent() {
                agent.signal(Signal::Term);
            }
        }
        for site in &mut self.sites {
            if let Some(agent) = site.agent() {
                let _ = agent.wait(Duration::from_secs(10));
            }
        }
        for site in &mut self.sites {
            site.pull_the_plug();
        }
        process::sweep(&self.folder);
    }
}

fn answers(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

async fn connect(socket: PathBuf) -> Result<Channel> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint
        .connect_with_connector(connector)
        .await
        .context("cannot connect")
}

/// Waits for something that must come.
pub(crate) fn until(what: &str, mut there: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !there() {
        if begun.elapsed() > LIMIT {
            bail!("waited {} s for {what}", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether the kernel lets this process grow a mounted ext4: CAP_SYS_RESOURCE.
pub(crate) fn may_grow_mounted_ext4() -> bool {
    const SYS_RESOURCE: u64 = 1 << 24;
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    u64::from_str_radix(line.unwrap().trim(), 16).unwrap() & SYS_RESOURCE != 0
}

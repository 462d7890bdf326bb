//! `twinsite-agent --objects DIR`, or `--kubernetes`: the agent itself.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing_subscriber::EnvFilter;

use crate::{
    control::{
        board::Board,
        node::{Node, NodeConfig},
        socket,
        volumes::Volumes,
        witnesses::OwnCluster,
    },
    kubernetes::{self, Bridge, BridgeConfig},
    metrics::Health,
    reactor::{Thread, ThreadConfig},
};

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Folder with the objects of this node as YAML files; status files appear in its `status` folder.
    #[arg(long, value_name = "DIR", conflicts_with = "kubernetes")]
    pub objects: Option<PathBuf>,
    /// Takes the objects from the cluster of this pod, and says there how things stand. They are kept in the state
    /// folder, from which the agent starts when the API server is away.
    #[arg(long)]
    pub kubernetes: bool,
    /// How to reach the cluster from outside of it.
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the release, with the Secrets; else from POD_NAMESPACE.
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    pub namespace: Option<String>,
    /// Name of this node, as the objects call it; else from NODE_NAME.
    #[arg(long)]
    pub node: Option<String>,
    /// Name of the site at which this node is; else from TWINSITE_SITE.
    #[arg(long)]
    pub site: Option<String>,
    /// Folder for what must outlive the agent: records of attachments, marks of registers.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/twinsite/agent")]
    pub state: PathBuf,
    /// Folder for what need not outlive it: mount points of devices.
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Address to serve legs at, instead of the portals of the pools; may be given several times.
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<SocketAddr>,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Unix socket for `twinsite-agent ctl`.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Who this site is, at the witness: the same for all nodes of the site, another one for any other cluster. With
    /// --kubernetes it is the uid of the namespace kube-system.
    #[arg(long, value_name = "ID", conflicts_with = "kubernetes")]
    pub claimant: Option<String>,
    /// Threads for volumes, and as many for legs; default: one per processor.
    #[arg(long)]
    pub threads: Option<usize>,
    /// text or json.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Makes what opens volumes, from the data threads and the folder for what need not outlive the agent.
pub type MakeVolumes = fn(&[Thread], &std::path::Path) -> anyhow::Result<Box<dyn Volumes>>;

/// Runs until SIGTERM or SIGINT; everything is detached cleanly before it returns.
pub fn run(args: RunArgs, make_volumes: MakeVolumes) -> anyhow::Result<()> {
    start_log(args.log_format);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let count = args.threads.unwrap_or(processors).max(1);
    let start = |name: &str| -> anyhow::Result<Vec<Thread>> {
        let threads = (0..count).map(|number| {
            Thread::spawn(ThreadConfig {
                name: format!("{name}-{number}"),
                ..ThreadConfig::default()
            })
        });
        let threads = threads.collect::<Result<_, _>>();
        threads.context("the kernel gives no io_uring: it is needed for the data path")
    };
    let threads = start("data")?;
    // Legs have threads of their own: a write into the page cache may wait for a disk, and no volume shall wait with it.
    let serving = start("serve")?;
    let run_dir = args
        .run_dir
        .clone()
        .unwrap_or_else(|| args.state.join("run"));
    std::fs::create_dir_all(&run_dir)
        .with_context(|| format!("cannot make {}", run_dir.display()))?;
    let volumes = make_volumes(&threads, &run_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let clean = runtime.block_on(control(args, serving.clone(), volumes))?;
    for thread in threads.iter().chain(&serving) {
        thread.stop();
    }
    for thread in threads.iter().chain(&serving) {
        thread.join();
    }
    // A witness that does not answer must not keep the process.
    runtime.shutdown_background();
    anyhow::ensure!(clean, "not everything was detached cleanly");
    Ok(())
}

/// Who this node is, as far as the command line and the environment say.
struct Name {
    node: String,
    site: String,
}

impl Name {
    fn of(args: &RunArgs) -> anyhow::Result<Self> {
        Ok(Self {
            node: named(args.node.as_ref(), "--node", "NODE_NAME")?,
            site: named(args.site.as_ref(), "--site", "TWINSITE_SITE")?,
        })
    }
}

/// A value from the command line, else from the environment.
fn named(given: Option<&String>, option: &str, variable: &str) -> anyhow::Result<String> {
    let given = given.cloned().or_else(|| std::env::var(variable).ok());
    given
        .filter(|value| !value.is_empty())
        .with_context(|| format!("give {option}, or set {variable}"))
}

/// The cluster that the objects come from.
struct Cluster {
    own: OwnCluster,
    client: kube::Client,
    uid: String,
}

impl Cluster {
    async fn find(args: &RunArgs) -> anyhow::Result<Option<Self>> {
        if !args.kubernetes {
            return Ok(None);
        }
        let namespace = named(args.namespace.as_ref(), "--namespace", "POD_NAMESPACE")?;
        let config = kubernetes::config(args.kubeconfig.as_deref()).await?;
        let client = kube::Client::try_from(config.clone()).context("no client for the cluster")?;
        let uid = kubernetes::cluster(&client, &args.state)
            .await
            .with_context(|| format!("cannot use the state folder {}", args.state.display()))?;
        let own = OwnCluster { config, namespace };
        Ok(Some(Self { own, client, uid }))
    }
}

async fn control(
    args: RunArgs,
    serving: Vec<Thread>,
    volumes: Box<dyn Volumes>,
) -> anyhow::Result<bool> {
    let health = Arc::new(Health::default());
    if let Some(address) = args.http {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        let pages: Arc<Health> = Arc::clone(&health);
        tokio::spawn(twinsite_pages::serve(listener, pages));
    }
    let Name { node, site } = Name::of(&args)?;
    let cluster = Cluster::find(&args).await?;
    let objects = match (&args.objects, &cluster) {
        (Some(folder), _) => folder.clone(),
        (None, Some(_)) => args.state.join("objects"),
        (None, None) => anyhow::bail!("give --objects DIR, or --kubernetes"),
    };
    let (board, posted) = Board::new();
    let claimant = match &cluster {
        Some(cluster) => Some(cluster.uid.clone()),
        None => args.claimant,
    };
    let config = NodeConfig {
        claimant: claimant.unwrap_or_else(|| format!("objects:{site}")),
        node,
        site,
        objects,
        state: args.state,
        listen: args.listen,
        cluster: cluster.as_ref().map(|cluster| cluster.own.clone()),
        board: cluster.is_some().then(|| Arc::new(board)),
    };
    tracing::info!(node = config.node, site = config.site, objects = %config.objects.display(), "twinsite-agent {}", env!("CARGO_PKG_VERSION"));
    let bridge = BridgeConfig {
        node: config.node.clone(),
        site: config.site.clone(),
        namespace: cluster
            .as_ref()
            .map(|cluster| cluster.own.namespace.clone())
            .unwrap_or_default(),
        objects: config.objects.clone(),
    };
    let node = Node::new(config, serving, volumes, health)?;
    let (leave, leaving) = watch::channel(false);
    let bridge = match cluster {
        Some(cluster) => {
            let bridge = Bridge::open(cluster.client, &bridge, node.teller(), posted)
                .with_context(|| format!("cannot use {}", bridge.objects.display()))?;
            Some(tokio::spawn(bridge.run(leaving)))
        }
        None => None,
    };
    if let Some(path) = &args.socket {
        let listener =
            socket::listen(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        tokio::spawn(socket::serve(listener, node.teller()));
    }
    let (stop, stopping) = watch::channel(false);
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.send_replace(true) {
                tracing::warn!("told to stop twice: ending at once");
                std::process::exit(1);
            }
        }
    });
    let clean = node.run(stopping).await;
    leave.send_replace(true);
    if let Some(bridge) = bridge {
        // It has a deadline of its own; a panic has been printed.
        let _ended = bridge.await;
    }
    if let Some(path) = &args.socket {
        // A socket file without an agent only confuses.
        let _gone = std::fs::remove_file(path);
    }
    Ok(clean)
}

fn start_log(format: LogFormat) {
    let filter = filter(std::env::var("RUST_LOG").ok());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// What is logged. The client for clusters calls every request that fails an error; who asked says so, once.
fn filter(wanted: Option<String>) -> EnvFilter {
    let wanted = wanted.unwrap_or_else(|| "info".to_owned());
    let quiet = "kube_client=off,kube_runtime=off";
    let text = if wanted.contains("kube_") {
        wanted
    } else {
        format!("{quiet},{wanted}")
    };
    EnvFilter::try_new(text).unwrap_or_else(|_| EnvFilter::new(format!("{quiet},info")))
}

//! `twinsite-agent --objects DIR`: the agent itself.

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
        node::{Node, NodeConfig},
        socket,
        volumes::Volumes,
    },
    metrics::{self, Health},
    reactor::{Thread, ThreadConfig},
};

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Folder with the objects of this node as YAML files; status files appear in its `status` folder.
    #[arg(long, value_name = "DIR", required = true)]
    pub objects: PathBuf,
    /// Name of this node, as the objects call it.
    #[arg(long, required = true)]
    pub node: String,
    /// Name of the site at which this node is.
    #[arg(long, required = true)]
    pub site: String,
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
    /// Who this site is, at the witness: the same for all nodes of the site, another one for any other cluster.
    #[arg(long, value_name = "ID")]
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
        tokio::spawn(metrics::serve(listener, Arc::clone(&health)));
    }
    let config = NodeConfig {
        claimant: args
            .claimant
            .unwrap_or_else(|| format!("objects:{}", args.site)),
        node: args.node,
        site: args.site,
        objects: args.objects,
        state: args.state,
        listen: args.listen,
    };
    tracing::info!(node = config.node, site = config.site, objects = %config.objects.display(), "twinsite-agent {}", env!("CARGO_PKG_VERSION"));
    let node = Node::new(config, serving, volumes, health)?;
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
    if let Some(path) = &args.socket {
        // A socket file without an agent only confuses.
        let _gone = std::fs::remove_file(path);
    }
    Ok(clean)
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

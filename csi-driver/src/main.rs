//! `twinsite-csi controller | node`.

use std::{
    collections::BTreeMap, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;
use tracing_subscriber::EnvFilter;
use twinsite_csi::{
    DRIVER,
    calls::Calls,
    controller::{
        self, ControllerConfig, ControllerService, Objects,
        folder::{Folder, steward},
        kubernetes::Kubernetes,
    },
    http::{self, Pages},
    identity::{Identity, Ready},
    node::{NodeConfig, NodeService},
    proto::csi::{
        controller_server::ControllerServer, identity_server::IdentityServer,
        node_server::NodeServer,
    },
    registration::Registrar,
    serve::{self, Stop},
};

/// Calls at once on one connection; more wait.
const MAX_CALLS: usize = 64;

#[derive(Debug, Parser)]
#[command(
    version,
    about = "CSI driver for volumes that live at two sites at once"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The Controller service: one per cluster, beside the sidecars.
    Controller(ControllerArgs),
    /// The Node service: one per node, beside kubelet.
    Node(NodeArgs),
}

#[derive(Debug, Args)]
struct CommonArgs {
    /// Socket to serve at: unix:///csi/csi.sock.
    #[arg(long)]
    endpoint: String,
    /// Name of the site that this cluster is; TWINSITE_SITE if it is not given.
    #[arg(long)]
    site: Option<String>,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// text or json.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Args)]
struct ControllerArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Namespace of the release; POD_NAMESPACE if it is not given.
    #[arg(long)]
    namespace: Option<String>,
    /// Folder of objects of this site's agent: no Kubernetes then.
    #[arg(long, value_name = "DIR")]
    objects: Option<PathBuf>,
    /// Folder of objects of another site's agent on this machine; with --objects only.
    #[arg(long, value_name = "SITE=DIR", value_parser = site_folder, requires = "objects")]
    peer_objects: Vec<(String, PathBuf)>,
    /// Volumes that may be published to a node; 0: any number.
    #[arg(long, default_value_t = 0)]
    max_volumes: i64,
}

#[derive(Debug, Args)]
struct NodeArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Kubernetes' name of this node; NODE_NAME if it is not given.
    #[arg(long)]
    node: Option<String>,
    /// Socket of this node's agent.
    #[arg(long, default_value = "/run/twinsite/agent.sock")]
    agent_socket: PathBuf,
    /// Folder for the records of what is staged; left out: `volumes` beside the socket.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// kubelet's folder of plugin sockets; left out: a sidecar registers the driver.
    #[arg(long, value_name = "DIR")]
    registration_dir: Option<PathBuf>,
    /// The CSI socket as kubelet sees it; left out: as --endpoint says.
    #[arg(long, value_name = "PATH")]
    kubelet_endpoint: Option<PathBuf>,
    /// Volumes that this node takes; 0: any number.
    #[arg(long, default_value_t = 0)]
    max_volumes: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn site_folder(text: &str) -> Result<(String, PathBuf), String> {
    let (site, folder) = text.split_once('=').ok_or("write SITE=DIR")?;
    Ok((site.to_owned(), PathBuf::from(folder)))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", twinsite_api::told(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let (Command::Controller(ControllerArgs { common, .. })
    | Command::Node(NodeArgs { common, .. })) = &cli.command;
    start_log(common.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let stop = stop_on_signal()?;
        match cli.command {
            Command::Controller(args) => run_controller(args, stop).await,
            Command::Node(args) => run_node(args, stop).await,
        }
    });
    // A program that waits for a dead volume must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
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

fn stop_on_signal() -> anyhow::Result<Stop> {
    let (give, stop) = Stop::channel();
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
            if give.send_replace(true) {
                tracing::warn!("told to stop twice: ending at once");
                std::process::exit(1);
            }
        }
    });
    Ok(stop)
}

/// A flag, or the environment variable that stands for it.
fn given(flag: Option<String>, name: &str, variable: &str) -> anyhow::Result<String> {
    let value = flag.or_else(|| std::env::var(variable).ok());
    let value = value.filter(|value| !value.is_empty());
    value.with_context(|| format!("give --{name}, or set {variable}"))
}

async fn run_controller(args: ControllerArgs, stop: Stop) -> anyhow::Result<()> {
    let common = args.common;
    let site = given(common.site, "site", "TWINSITE_SITE")?;
    let socket = serve::socket_path(&common.endpoint)?;
    let (calls, ready) = (Calls::default(), Ready::default());
    let folder = match args.objects {
        None => None,
        Some(own) => {
            let mut sites: BTreeMap<String, PathBuf> = args.peer_objects.into_iter().collect();
            let named = sites.insert(site.clone(), own);
            ensure!(named.is_none(), "--peer-objects names the own site {site}");
            Some(Arc::new(Folder::open(&site, sites)?))
        }
    };
    let config = ControllerConfig {
        site: site.clone(),
        max_volumes: args.max_volumes,
        default_namespace: folder.as_ref().map(|_| "default".to_owned()),
    };
    let objects: Arc<dyn Objects> = match folder {
        Some(folder) => {
            tokio::spawn(steward::tend(folder.clone(), stop.clone()));
            ready.set(true);
            folder
        }
        None => Arc::new(Kubernetes::start(client().await?, ready.clone())),
    };
    let keeper = objects.clone();
    let until = stop.clone();
    tokio::spawn(async move { controller::keep(&*keeper, until).await });
    if let Some(address) = common.http {
        let (calls, ready) = (calls.clone(), ready.clone());
        let pages = Pages {
            metrics: Box::new(move || calls.page()),
            not_ready: Box::new(move || {
                (!ready.is_set()).then(|| "the volumes are not known yet".to_owned())
            }),
        };
        serve_pages(address, pages).await?;
    }
    tracing::info!(site, socket = %socket.display(), namespace = args.namespace, "{DRIVER} controller {}", env!("CARGO_PKG_VERSION"));
    let router = Server::builder()
        .concurrency_limit_per_connection(MAX_CALLS)
        .add_service(IdentityServer::new(Identity {
            calls: calls.clone(),
            ready,
        }))
        .add_service(ControllerServer::new(ControllerService::new(
            config, objects, calls,
        )));
    Ok(serve::serve(&socket, router, stop).await?)
}

async fn client() -> anyhow::Result<kube::Client> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let mut config = kube::Config::infer()
        .await
        .context("neither in a cluster nor with a kubeconfig: give --objects for a folder")?;
    controller::kubernetes::limit(&mut config);
    Ok(kube::Client::try_from(config)?)
}

async fn run_node(args: NodeArgs, stop: Stop) -> anyhow::Result<()> {
    let common = args.common;
    let site = given(common.site, "site", "TWINSITE_SITE")?;
    let node = given(args.node, "node", "NODE_NAME")?;
    let socket = serve::socket_path(&common.endpoint)?;
    let (calls, ready) = (Calls::default(), Ready::default());
    ready.set(true);
    let state = args
        .state
        .unwrap_or_else(|| socket.with_file_name("volumes"));
    let config = NodeConfig {
        node: node.clone(),
        site: site.clone(),
        agent_socket: args.agent_socket,
        state: state.clone(),
        max_volumes: args.max_volumes,
    };
    let service = NodeService::new(config, calls.clone())
        .with_context(|| format!("cannot use {}", state.display()))?;
    let endpoint = args.kubelet_endpoint.unwrap_or_else(|| socket.clone());
    let registrar = args
        .registration_dir
        .map(|folder| (Registrar::new(&endpoint), folder));
    if let Some(address) = common.http {
        let (calls, service) = (calls.clone(), service.clone());
        let registrar = registrar.as_ref().map(|(registrar, _)| registrar.clone());
        let pages = Pages {
            metrics: Box::new(move || calls.page() + &service.page()),
            not_ready: Box::new(move || registrar.as_ref()?.missing()),
        };
        serve_pages(address, pages).await?;
    }
    tracing::info!(site, node, socket = %socket.display(), "{DRIVER} node {}", env!("CARGO_PKG_VERSION"));
    let router = Server::builder()
        .concurrency_limit_per_connection(MAX_CALLS)
        .add_service(IdentityServer::new(Identity { calls, ready }))
        .add_service(NodeServer::new(service));
    let serving = serve::serve(&socket, router, stop.clone());
    match registrar {
        None => serving.await?,
        Some((registrar, folder)) => {
            tokio::try_join!(serving, registrar.run(folder, stop))?;
        }
    }
    Ok(())
}

async fn serve_pages(address: SocketAddr, pages: Pages) -> anyhow::Result<()> {
    let bound = http::listen(address, pages).await;
    bound.with_context(|| format!("cannot listen on {address}"))?;
    Ok(())
}

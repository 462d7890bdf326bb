//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use twinsite_api::{FailoverMode, LegIndex};

/// Volumes that live at two sites at once: what they do, and what you want them to do.
#[derive(Debug, Parser)]
#[command(name = "kubectl-twinsite", bin_name = "kubectl twinsite", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Where {
    /// Contexts of the kubeconfig, one per cluster. Default: the current one, and the one that is called as the other site.
    /// TWINSITE_CONTEXTS says the same.
    #[arg(long, value_delimiter = ',', value_name = "ONE,OTHER")]
    contexts: Vec<String>,
}

impl Where {
    /// What was said, on the command line or in the environment.
    pub(crate) fn contexts(&self) -> Vec<String> {
        if !self.contexts.is_empty() {
            return self.contexts.clone();
        }
        std::env::var("TWINSITE_CONTEXTS")
            .unwrap_or_default()
            .split(',')
            .filter(|context| !context.is_empty())
            .map(str::to_owned)
            .collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Screen,
    Wide,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Both sites on one screen.
    Status {
        #[command(flatten)]
        place: Where,
        /// Only volumes of this namespace.
        #[arg(short, long)]
        namespace: Option<String>,
        #[arg(short, long, value_enum, default_value_t = Output::Screen)]
        output: Output,
        /// End with 1 unless all is well.
        #[arg(long)]
        check: bool,
    },
    /// What moving a volume, or a group, to a site would do, and what it would lose. Writes nothing.
    Plan {
        #[command(flatten)]
        place: Where,
        /// NAMESPACE/NAME, or NAME: of a volume, or of a MirrorGroup.
        volume: String,
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// The site to move to.
        #[arg(long, value_name = "SITE")]
        to: String,
        /// Node whose agent looks at the legs. Default: one with a pool.
        #[arg(long)]
        node: Option<String>,
        #[arg(short, long, value_enum, default_value_t = Output::Screen)]
        output: Output,
    },
    /// Compares both copies of a volume while it is used. Reads only: what differs is listed, never repaired.
    Verify {
        #[command(flatten)]
        place: Where,
        /// The volume.
        volume: String,
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// A word for this comparison; the same word twice is one comparison. Default: the time.
        #[arg(long)]
        request: Option<String>,
    },
    /// Orders a move of volumes to a site by a Failover object there, and watches it.
    Failover(FailoverArgs),
    /// What is missing before volumes can live at two sites.
    Preflight {
        #[command(flatten)]
        place: Where,
        /// Namespace of the release.
        #[arg(short, long, default_value = "twinsite")]
        namespace: String,
        #[arg(short, long, value_enum, default_value_t = Output::Screen)]
        output: Output,
    },
    /// Access to the other cluster, or to the witness.
    #[command(subcommand)]
    Peer(PeerCommand),
    /// The shared key of a pair.
    #[command(subcommand)]
    Pair(PairCommand),
    /// Writes objects, events and logs of both clusters into a folder, without credentials.
    SupportBundle {
        #[command(flatten)]
        place: Where,
        /// Namespace of the release.
        #[arg(short, long, default_value = "twinsite")]
        namespace: String,
        /// Folder; it must not be there yet.
        #[arg(long, value_name = "DIR", default_value = "twinsite-support")]
        folder: std::path::PathBuf,
    },
    /// Ends with 1 while this cluster still has volumes. Run by the chart before it is uninstalled.
    UninstallCheck,
}

#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    #[command(flatten)]
    pub(crate) place: Where,
    /// NAMESPACE/NAME, or NAME: of volumes, or of MirrorGroups.
    pub(crate) volumes: Vec<String>,
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// Every volume of the pair.
    #[arg(long)]
    pub(crate) all: bool,
    /// Volumes of the namespace with these labels.
    #[arg(short = 'l', long, value_name = "KEY=VALUE,..")]
    pub(crate) selector: Option<String>,
    /// The site to move to.
    #[arg(long, value_name = "SITE")]
    pub(crate) to: String,
    /// planned: both sites are up. unplanned: the other one is down. force: its data is given up. reseed: the witness lost
    /// the register, a new one is made of the copies.
    #[arg(long, value_enum)]
    pub(crate) mode: Mode,
    /// The SitePair, where there is more than one.
    #[arg(long)]
    pub(crate) pair: Option<String>,
    /// With force: the epoch that the plan was about.
    #[arg(long, value_name = "N")]
    pub(crate) expect_epoch: Option<u64>,
    /// With force or reseed: the token that the plan printed.
    #[arg(long)]
    pub(crate) token: Option<String>,
    /// With reseed: the copies that the plan named.
    #[arg(long, value_name = "A,B", value_delimiter = ',', value_parser = leg)]
    pub(crate) legs: Vec<LegIndex>,
    /// With force: take a copy that was never completed. With force or reseed: take copies of a group that are not of one moment.
    #[arg(long)]
    pub(crate) inconsistent: bool,
    /// Print the object and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Seconds to watch it; 0: do not.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub(crate) wait: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Planned,
    Unplanned,
    Force,
    Reseed,
}

fn leg(text: &str) -> Result<LegIndex, String> {
    match text {
        "A" => Ok(LegIndex::A),
        "B" => Ok(LegIndex::B),
        _ => Err("the legs are A and B".to_owned()),
    }
}

impl From<Mode> for FailoverMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Planned => Self::Planned,
            Mode::Unplanned => Self::Unplanned,
            Mode::Force => Self::Force,
            Mode::Reseed => Self::Reseed,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeerCommand {
    /// Makes a token in one cluster and puts it, as a kubeconfig, into a Secret of the other one. Run again to renew it.
    CreateSecret {
        /// Context of the cluster that is read.
        #[arg(long, value_name = "CONTEXT")]
        from_context: String,
        /// Context of the cluster that gets the Secret.
        #[arg(long, value_name = "CONTEXT")]
        to_context: String,
        /// Namespace of the release that gets the Secret.
        #[arg(short, long, default_value = "twinsite")]
        namespace: String,
        /// Namespace of the ServiceAccount; default: that of the Secret.
        #[arg(long)]
        from_namespace: Option<String>,
        /// twinsite-peer, or twinsite-witness in the cluster of the witness.
        #[arg(long, default_value = "twinsite-peer")]
        service_account: String,
        /// Name of the Secret.
        #[arg(long, default_value = "twinsite-peer")]
        name: String,
        /// Days that the token lasts; the cluster may grant fewer.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Address of the API as pods of the other cluster reach it. Default: that of the context.
        #[arg(long, value_name = "URL")]
        server: Option<String>,
        /// Print the Secret, credentials included, and send nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PairCommand {
    /// Makes a random key and puts it into both clusters, or copies the one that is there.
    CreateSecret {
        #[command(flatten)]
        place: Where,
        #[arg(short, long, default_value = "twinsite")]
        namespace: String,
        /// Name of the Secret.
        #[arg(long, default_value = "twinsite-pair")]
        name: String,
    },
}

//! `twinsite-agent target`: a target started by hand, for tests, for qualification, for plain use.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use twinsite_iscsi::scsi::BlockSize;
use twinsite_iscsi::session::{Acl, Auth};

use super::{Export, ExportLun, PortalConfig, Server, ServerConfig, read_accounts};
use crate::backend::{Access, Backing};
use crate::reactor::{Spin, Thread, ThreadConfig};

/// How long initiators get to log out at the end.
const GRACE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub struct TargetArgs {
    /// Address and port to listen on; may be given several times.
    #[arg(long, value_name = "ADDR", required = true, value_parser = address)]
    listen: Vec<SocketAddr>,
    /// iSCSI name of the target; several targets share the data threads.
    #[arg(long, required = true)]
    iqn: Vec<String>,
    /// A logical unit: N=PATH[,size=BYTES][,readonly][,removable][,block=512|4096][,writethrough][,rate=BYTES_PER_SECOND][,reservations=PATH]
    /// [,initiator=IQN ..: for these only][,target=IQN: of this target, if not the first]
    #[arg(long = "lun", value_name = "N=PATH[,OPTION..]", required = true)]
    luns: Vec<LunArg>,
    /// CHAP accounts: lines `user NAME SECRET [INITIATOR]` and `target NAME SECRET`.
    #[arg(long, value_name = "FILE")]
    chap: Option<PathBuf>,
    /// Only this initiator may log in; may be given several times.
    #[arg(long, value_name = "IQN")]
    initiator: Vec<String>,
    /// Data threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Look for work so many microseconds before sleeping.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    spin: u64,
}

/// One `--lun`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LunArg {
    number: u16,
    path: PathBuf,
    size: Option<u64>,
    read_only: bool,
    removable: bool,
    write_through: bool,
    block: BlockSize,
    rate: Option<u64>,
    reservations: Option<PathBuf>,
    initiators: BTreeSet<String>,
    target: Option<String>,
}

impl FromStr for LunArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write N=PATH, such as 0=/srv/disk.img,size=10Gi";
        let (number, rest) = text.split_once('=').ok_or(FORM)?;
        let number = number
            .parse()
            .map_err(|_| format!("{number:?} is no LUN: write a number, such as 0"))?;
        let mut parts = rest.split(',');
        let path = parts.next().filter(|path| !path.is_empty()).ok_or(FORM)?;
        let mut lun = Self {
            number,
            path: path.into(),
            size: None,
            read_only: false,
            removable: false,
            write_through: false,
            block: BlockSize::B512,
            rate: None,
            reservations: None,
            initiators: BTreeSet::new(),
            target: None,
        };
        for option in parts {
            match option.split_once('=') {
                Some(("size", size)) => lun.size = Some(parse_size(size)?),
                Some(("rate", rate)) => lun.rate = Some(parse_size(rate)?),
                Some(("block", "512")) => lun.block = BlockSize::B512,
                Some(("block", "4096")) => lun.block = BlockSize::B4096,
                Some(("reservations", path)) => lun.reservations = Some(path.into()),
                Some(("initiator", name)) => drop(lun.initiators.insert(name.into())),
                Some(("target", name)) => lun.target = Some(name.into()),
                None if option == "readonly" => lun.read_only = true,
                None if option == "removable" => lun.removable = true,
                None if option == "writethrough" => lun.write_through = true,
                _ => {
                    return Err(format!(
                        "{option:?} is no option of a LUN: size=, readonly, removable, block=512|4096, writethrough, rate=, \
                         reservations=, initiator=, target="
                    ));
                }
            }
        }
        Ok(lun)
    }
}

/// Where to listen.
fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong = |_| "write ADDRESS:PORT, such as 0.0.0.0:3260 or [::]:3260".to_owned();
    text.parse().map_err(wrong)
}

/// Bytes, or with a suffix K, M, G, T (1024) as in `64M`; an `i` may follow.
fn parse_size(text: &str) -> Result<u64, String> {
    let no_size = || format!("{text:?} is no size: write bytes, or a number such as 64M or 10Gi");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].trim_end_matches('i') {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return Err(no_size()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(no_size)
}

/// Serves until SIGTERM or SIGINT.
pub fn run_cli(args: TargetArgs) -> anyhow::Result<()> {
    let threads = (0..args.threads.max(1))
        .map(|number| {
            let spin = match args.spin {
                0 => Spin::Off,
                micros => Spin::For(Duration::from_micros(micros)),
            };
            let name = format!("data-{number}");
            Thread::spawn(ThreadConfig {
                name,
                spin,
                ..ThreadConfig::default()
            })
        })
        .collect::<Result<Vec<_>, _>>()
        .context("no io_uring")?;
    let portals = args
        .listen
        .iter()
        .map(|address| PortalConfig::new(*address))
        .collect();
    let mut config = ServerConfig::new(portals);
    let auth = match &args.chap {
        Some(path) => read_accounts(path).context("accounts")?,
        None => Auth::None,
    };
    config.discovery_auth = auth.clone();
    let server = Server::start(config, threads.clone())?;
    for lun in &args.luns {
        let target = lun.target.as_ref();
        if let Some(target) = target.filter(|target| !args.iqn.contains(target)) {
            anyhow::bail!("LUN {}: give --iqn {target} too", lun.number);
        }
    }
    let acl = only(&args.initiator.iter().cloned().collect());
    for iqn in &args.iqn {
        let own = |lun: &&LunArg| lun.target.as_ref().unwrap_or(&args.iqn[0]) == iqn;
        let luns = args.luns.iter().filter(own);
        let luns = luns.map(|lun| open_lun(iqn, lun));
        server.add_export(Export {
            iqn: iqn.clone(),
            alias: None,
            auth: auth.clone(),
            acl: acl.clone(),
            redirect: None,
            luns: luns.collect::<anyhow::Result<_>>()?,
        })?;
    }
    for address in server.addresses() {
        println!("listening on {address} as {}", args.iqn.join(", "));
    }
    wait_for_signal()?;
    server.shutdown(GRACE);
    for thread in &threads {
        thread.stop();
    }
    for thread in &threads {
        thread.join();
    }
    Ok(())
}

/// Nobody named: anybody.
fn only(names: &BTreeSet<String>) -> Acl {
    if names.is_empty() {
        Acl::Any
    } else {
        Acl::Only(names.clone())
    }
}

fn open_lun(iqn: &str, lun: &LunArg) -> anyhow::Result<ExportLun> {
    let access = if lun.read_only {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let (number, path, block) = (lun.number, lun.path.display(), u64::from(lun.block.bytes()));
    anyhow::ensure!(
        lun.size.is_some() || lun.path.exists(),
        "LUN {number}: {path} is not there: correct the path, or let it be made by size=, such as {number}={path},size=10Gi"
    );
    anyhow::ensure!(
        lun.size
            .is_none_or(|size| size >= block && size % block == 0),
        "LUN {number}: a size is a multiple of its blocks of {block} bytes, such as size=10Gi"
    );
    let backing =
        Backing::open(&lun.path, lun.size, access).with_context(|| format!("LUN {number}"))?;
    anyhow::ensure!(
        backing.size() >= block,
        "LUN {number}: {path} is shorter than one block of {block} bytes: give a size=, such as size=10Gi"
    );
    let backing = match &lun.reservations {
        Some(path) => backing.with_reservations(path.clone())?,
        None => backing,
    };
    let mut export = ExportLun::new(iqn, lun.number, backing);
    export.block_size = lun.block;
    export.removable = lun.removable;
    export.acl = only(&lun.initiators);
    export.rate = lun.rate;
    // The threads of this process serve its target only.
    export.write_at_once = true;
    export.sync_at_once = true;
    export.write_cache = !lun.write_through;
    Ok(export)
}

fn wait_for_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lun_is_described_in_one_word() {
        let lun: LunArg =
            "3=/dev/sdb,size=64M,readonly,removable,block=4096,initiator=iqn.a,initiator=iqn.b"
                .parse()
                .expect("parses");
        assert_eq!(
            lun,
            LunArg {
                number: 3,
                path: "/dev/sdb".into(),
                size: Some(64 << 20),
                read_only: true,
                removable: true,
                write_through: false,
                block: BlockSize::B4096,
                rate: None,
                reservations: None,
                initiators: ["iqn.a", "iqn.b"].map(str::to_owned).into(),
                target: None,
            }
        );
        for bad in [
            "",
            "x=/a",
            "1",
            "1=",
            "1=/a,size=",
            "1=/a,size=5X",
            "1=/a,block=1",
            "1=/a,blue",
        ] {
            assert!(bad.parse::<LunArg>().is_err(), "{bad:?}");
        }
        assert_eq!(parse_size("2Gi"), Ok(2 << 30));
        assert!(parse_size("99999999T").is_err());
    }

    #[test]
    fn the_threads_of_a_target_by_hand_wait_for_its_disks() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("disk");
        let lun = format!("0={},size=1Mi", path.display());
        let lun = open_lun(
            "iqn.2026-01.io.twinsite:test",
            &lun.parse().expect("parses"),
        );
        let lun = lun.expect("opens");
        assert!(lun.write_at_once && lun.sync_at_once);
    }
}

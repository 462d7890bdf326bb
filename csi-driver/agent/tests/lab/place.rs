//! A site of its own folder with an agent that works from it, and the ground that two of them stand on.

use std::{
    fs::{self, OpenOptions},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_yaml::Value;
use twinsite_witness::{Directory, Witness};

pub(crate) const LIMIT: Duration = Duration::from_secs(90);
pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn missing() -> Option<&'static str> {
    let opens = |path: &str| OpenOptions::new().read(true).write(true).open(path).is_ok();
    let both = opens("/dev/fuse") && opens("/dev/loop-control");
    (!both).then_some("a device takes root, /dev/fuse and /dev/loop-control")
}

/// One site: an agent and its folder.
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) name: &'static str,
    pub(crate) node: &'static str,
    pub(crate) port: u16,
    pub(crate) agent: Option<Child>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            // Cleanly if it can: it takes its device down itself.
            let _told = Command::new("kill").arg(agent.id().to_string()).status();
            let start = Instant::now();
            while matches!(agent.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(8) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _gone = agent.kill();
            let _ended = agent.wait();
        }
    }
}

impl Place {
    pub(crate) fn init_pool(&self) {
        fs::create_dir_all(self.folder.join("pool")).unwrap();
        let init = Command::new(env!("CARGO_BIN_EXE_twinsite-agent"))
            .args(["pool", "init"])
            .arg(self.folder.join("pool"))
            .stdout(Stdio::null())
            .status();
        assert!(init.unwrap().success());
    }

    /// The pair and the pool, as YAML; makes their folders.
    pub(crate) fn standing(&self, ground: &Path) -> String {
        for folder in ["objects", "pool"] {
            fs::create_dir_all(self.folder.join(folder)).unwrap();
        }
        format!(
            "apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {{name: ctrc}}
spec:
  sites: [{{name: medical}}, {{name: research}}]
  witness: {{directory: {{path: {}}}}}
---
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {{name: p}}
spec:
  site: {}
  node: {{name: {}, directory: {}}}
  portals: ['127.0.0.1:{}']
",
            ground.join("witness").display(),
            self.name,
            self.node,
            self.folder.join("pool").display(),
            self.port
        )
    }

    pub(crate) fn start(&mut self) {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_twinsite-agent"))
            .args(["--node", self.node, "--site", self.name, "--threads", "1"])
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .arg("--objects")
            .arg(self.folder.join("objects"))
            .arg("--state")
            .arg(self.folder.join("state"))
            .arg("--socket")
            .arg(self.folder.join("agent.sock"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    pub(crate) fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// `twinsite-agent ctl` of this site.
    pub(crate) fn ctl(&self, args: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_twinsite-agent"))
            .args(["ctl", "--socket"])
            .arg(self.folder.join("agent.sock"))
            .args(args)
            .output()
            .unwrap()
    }

    pub(crate) fn put(&self, file: &str, text: &str) {
        let aside = self.folder.join("aside");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.folder.join("objects").join(file)).unwrap();
    }

    pub(crate) fn take(&self, file: &str) {
        fs::remove_file(self.folder.join("objects").join(file)).unwrap();
    }

    pub(crate) fn status(&self, object: &str) -> Value {
        let path = self.folder.join(format!("objects/status/{object}.yaml"));
        let text = fs::read_to_string(path).unwrap_or_default();
        let object: Value = serde_yaml::from_str(&text).unwrap_or_default();
        object.get("status").cloned().unwrap_or_default()
    }
}

/// Two sites that have not started yet, and the witness of both.
pub(crate) struct Ground {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) places: [Place; 2],
    pub(crate) witness: Witness,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Ground {
    pub(crate) fn lay() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("witness")).unwrap();
        // Held until both are known, or one could be given twice.
        let ports = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let place = |name, node, index: usize| Place {
            folder: dir.path().join(name),
            name,
            node,
            port: ports[index].local_addr().unwrap().port(),
            agent: None,
        };
        let places = [place("medical", "m1", 0), place("research", "r1", 1)];
        drop(ports);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = runtime.block_on(async { Directory::open(&dir.path().join("witness")) });
        let witness = Witness::new(Arc::new(store.unwrap()), "ctrc").unwrap();
        Self {
            dir,
            places,
            witness,
            runtime,
        }
    }
}

/// Waits until it holds; if it never does, tells what the agents said.
#[track_caller]
pub(crate) fn until(places: &[&Place], what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > LIMIT {
            for place in places {
                let log = fs::read_to_string(place.folder.join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(30)..].join("\n");
                println!("--- {}\n{last}", place.name);
                let entries = fs::read_dir(place.folder.join("objects/status"));
                for entry in entries.into_iter().flatten() {
                    let path = entry.unwrap().path();
                    println!("{}", fs::read_to_string(path).unwrap_or_default());
                }
            }
            panic!("never: {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

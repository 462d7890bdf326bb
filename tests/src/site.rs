//! One site: a folder with objects, state and pool, the agent that serves it, and the pulling of its plug.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use twinsite_api::{LegIndex, NodeBackend, StoragePool, StoragePoolSpec};

use crate::process::{self, Group, Signal};

/// How long an agent may take to drain and end.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A site of the pair.
#[derive(Debug)]
pub struct Site {
    pub name: String,
    pub node: String,
    pub index: LegIndex,
    /// Everything of this site lies below this folder.
    pub folder: PathBuf,
    /// Where its own target listens.
    pub listen: SocketAddr,
    agent: Option<Group>,
    /// Applications that run at this site and die with it.
    pub applications: Vec<Group>,
}

impl Site {
    /// Makes the folders of a new site.
    ///
    /// # Errors
    /// The folders cannot be made.
    pub fn new(folder: &Path, name: &str, index: LegIndex, listen: SocketAddr) -> io::Result<Self> {
        let site = Self {
            name: name.to_owned(),
            node: format!("{name}-1"),
            index,
            folder: folder.to_owned(),
            listen,
            agent: None,
            applications: Vec::new(),
        };
        for below in ["objects", "state", "pool", "run"] {
            fs::create_dir_all(folder.join(below))?;
        }
        Ok(site)
    }

    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.folder.join("objects")
    }

    /// The StoragePool of its node.
    #[must_use]
    pub fn storage_pool(&self) -> StoragePool {
        let spec = StoragePoolSpec {
            site: self.name.clone(),
            class: Some("ssd".into()),
            allowed_namespaces: Vec::new(),
            node: Some(NodeBackend {
                name: self.node.clone(),
                directory: Some(self.pool().display().to_string()),
                device: None,
            }),
            array: None,
            portals: vec![self.listen.to_string()],
        };
        StoragePool::new(&format!("{}-ssd", self.name), spec)
    }

    #[must_use]
    pub fn pool(&self) -> PathBuf {
        self.folder.join("pool")
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// Makes the site's folder a pool.
    ///
    /// # Errors
    /// The agent's program cannot be run or refuses.
    pub fn make_pool(&self, agent: &Path) -> Result<()> {
        fs::create_dir_all(self.pool())?;
        let output = Command::new(agent)
            .args(["pool", "init"])
            .arg(self.pool())
            .output()
            .with_context(|| format!("cannot run {}", agent.display()))?;
        ensure!(
            output.status.success(),
            "pool init: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// The binary cannot be started.
    pub fn start(&mut self, agent: &Path) -> Result<()> {
        let mut command = Command::new(agent);
        command
            .arg("--objects")
            .arg(self.objects())
            .args(["--node", &self.node, "--site", &self.name])
            .arg("--state")
            .arg(self.folder.join("state"))
            .args(["--listen", &self.listen.to_string()])
            .arg("--run-dir")
            .arg(self.folder.join("run"))
            .arg("--socket")
            .arg(self.socket());
        let group = Group::start(&mut command, &self.log())
            .with_context(|| format!("cannot start {}", agent.display()))?;
        self.agent = Some(group);
        Ok(())
    }

    #[must_use]
    pub fn agent(&mut self) -> Option<&mut Group> {
        self.agent.as_mut()
    }

    /// Pulls the plug: everything of the site ends at once, and what a dead machine would not have any more (mounts, loop
    /// devices) is cleared away, since both sites share one kernel here.
    pub fn pull_the_plug(&mut self) {
        // The agent first: whatever the application still gets acknowledged after that cannot exist.
        if let Some(agent) = &mut self.agent {
            agent.signal(Signal::Kill);
        }
        for application in &mut self.applications {
            application.signal(Signal::Kill);
        }
        self.agent = None;
        self.applications.clear();
        process::sweep(&self.folder);
    }

    /// Stops the agent as an administrator does; its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let agent = self.agent.as_mut()?;
        agent.signal(Signal::Term);
        let code = agent.wait(STOP_LIMIT);
        self.agent = None;
        code
    }

    /// Puts an object into the watched folder, in one step.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn apply<T: Serialize>(&self, name: &str, object: &T) -> Result<()> {
        let text = serde_yaml::to_string(object)?;
        let target = self.objects().join(format!("{name}.yaml"));
        let draft = self.folder.join(format!(".{name}.draft"));
        fs::write(&draft, text)?;
        fs::rename(&draft, &target).with_context(|| format!("cannot write {}", target.display()))
    }

    /// Takes an object out of the watched folder.
    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.objects().join(format!("{name}.yaml")));
    }

    /// Takes every attachment out of the watched folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn remove_all_attachments(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.objects())? {
            let path = entry?.path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if text.contains("kind: Attachment") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// An object's status as the agent last wrote it.
    #[must_use]
    pub fn status<T: DeserializeOwned>(&self, kind: &str, name: &str) -> Option<T> {
        #[derive(serde::Deserialize)]
        struct Object<T> {
            status: T,
        }
        let path = self
            .objects()
            .join("status")
            .join(format!("{kind}-{name}.yaml"));
        let text = fs::read_to_string(path).ok()?;
        serde_yaml::from_str::<Object<T>>(&text)
            .ok()
            .map(|object| object.status)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.pull_the_plug();
    }
}

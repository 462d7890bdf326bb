//! A site: a cluster with its nodes, or, without nodes, the third place where the witness is.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::control_plane::{ControlPlane, Settings};
use crate::network::{self, CONTROL_PLANE, Subnet};
use crate::node::{Joining, Node};
use crate::process_group::{ProcessGroup, Signal};
use crate::programs::Program;

/// From a node's power to its being Ready; alone it takes 10 s.
const READY_LIMIT: Duration = Duration::from_secs(180);

/// A site of the world.
#[derive(Debug)]
pub struct Site {
    pub name: String,
    pub subnet: Subnet,
    pub nodes: Vec<Node>,
    folder: PathBuf,
    plane: ControlPlane,
    images: Vec<PathBuf>,
}

impl Site {
    /// Builds a site and starts its control plane; its nodes are off.
    ///
    /// # Errors
    /// The control plane does not start.
    pub async fn new(
        folder: &Path,
        name: &str,
        subnet: Subnet,
        nodes: &[&str],
        images: &[PathBuf],
    ) -> Result<Self> {
        let folder = folder.join(name);
        network::add_site(subnet)?;
        let group = ProcessGroup::with_own_network()?;
        network::plug(subnet, CONTROL_PLANE, group.keeper())?;
        let mut settings = Settings::new(name);
        settings.controllers = !nodes.is_empty();
        settings.scheduler = !nodes.is_empty();
        settings.address = subnet.machine(CONTROL_PLANE);
        // Pods reach it as the service `kubernetes` without anybody who rewrites addresses.
        settings.port = 443;
        settings.services = subnet.services();
        settings.folder = Some(folder.join("control-plane"));
        let plane = ControlPlane::start_in(settings, group).await?;
        let nodes = (1..)
            .zip(nodes)
            .map(|(number, node)| {
                Node::new(node, CONTROL_PLANE + number, subnet, &folder.join(node))
            })
            .collect();
        Ok(Self {
            name: name.to_owned(),
            subnet,
            nodes,
            folder,
            plane,
            images: images.to_vec(),
        })
    }

    /// Everything of the site lies below it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A program that runs its arguments in the world, `kubectl` and `helm` speaking to this cluster.
    #[must_use]
    pub fn shell(&self) -> PathBuf {
        self.folder.join("shell")
    }

    /// The control plane.
    #[must_use]
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// The control plane, to stop and start parts of it.
    pub fn plane_mut(&mut self) -> &mut ControlPlane {
        &mut self.plane
    }

    /// Turns on every node that is off, all at once.
    ///
    /// # Errors
    /// One does not start.
    pub fn start_nodes(&mut self) -> Result<()> {
        let url = self.plane.url();
        let joining = joining(&self.plane, &url, &self.images);
        thread::scope(|scope| {
            let off = self
                .nodes
                .iter_mut()
                .filter(|node| node.machine().is_none());
            let starting: Vec<_> = off
                .map(|node| scope.spawn(move || node.power_on(joining)))
                .collect();
            starting.into_iter().try_for_each(|node| {
                node.join()
                    .unwrap_or_else(|_| Err(anyhow!("a node's thread ended")))
            })
        })
    }

    /// Turns on one node.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_node(&mut self, index: usize) -> Result<()> {
        let url = self.plane.url();
        self.nodes[index].power_on(joining(&self.plane, &url, &self.images))
    }

    /// Waits until every node that is on is Ready and pods can be made.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn wait_nodes_ready(&self) -> Result<()> {
        let start = Instant::now();
        let mut said = String::new();
        while start.elapsed() < READY_LIMIT {
            let mut good = self.kubectl(&["get", "serviceaccount", "default"]).is_ok();
            for node in self.nodes.iter().filter(|node| node.machine().is_some()) {
                const READY: &str = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
                match self.kubectl(&["get", "node", &node.name, "-o", READY]) {
                    Ok(status) if status == "True" => {}
                    Ok(status) => (good, said) = (false, format!("{}: Ready={status}", node.name)),
                    Err(error) => (good, said) = (false, error.to_string()),
                }
            }
            if good {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        bail!("the nodes of {} are not Ready: {said}", self.name)
    }

    /// Everything of the site ends at once: every process of every machine.
    pub fn pull_the_plug(&mut self) {
        for node in &self.nodes {
            node.kill();
        }
        self.plane.power_off();
        for node in &mut self.nodes {
            node.pull_the_plug();
        }
    }

    /// Power for a site that was killed; whether its nodes are Ready is asked by [`Site::wait_nodes_ready`].
    ///
    /// # Errors
    /// A program does not start.
    pub async fn power_on(&mut self) -> Result<()> {
        self.plane.power_on().await?;
        self.start_nodes()
    }

    /// The whole site stands still, or goes on.
    pub fn signal(&self, signal: Signal) {
        for machine in self.nodes.iter().filter_map(Node::machine) {
            machine.signal_all(signal);
        }
        self.plane.group_ref().signal_members(signal);
    }

    /// A `kubectl` command with the administrator's kubeconfig.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.plane.programs().path(Program::Kubectl));
        command
            .arg("--kubeconfig")
            .arg(self.plane.kubeconfig())
            .env("HOME", &self.folder);
        command
    }

    /// What `kubectl` says.
    ///
    /// # Errors
    /// It fails; what it said instead.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .kubectl_command()
            .args(["--request-timeout", "20s"])
            .args(arguments)
            .output()
            .context("cannot run kubectl")?;
        if !output.status.success() {
            bail!(
                "{}: kubectl {}: {}",
                self.name,
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A `helm` command for this cluster.
    #[must_use]
    pub fn helm_command(&self) -> Command {
        let mut command = Command::new(self.plane.programs().path(Program::Helm));
        command
            .arg("--kubeconfig")
            .arg(self.plane.kubeconfig())
            .env("HOME", &self.folder);
        command
    }

    /// Where its API server answers.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.subnet.machine(CONTROL_PLANE)
    }
}

fn joining<'a>(plane: &'a ControlPlane, url: &'a str, images: &'a [PathBuf]) -> Joining<'a> {
    Joining {
        programs: plane.programs(),
        certificates: plane.certificates(),
        server: url,
        images,
    }
}

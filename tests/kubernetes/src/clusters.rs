//! Two clusters and a witness: `medical` with two nodes, `research` with one, and a third API server that belongs to neither.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use serde_json::json;
use serde_yaml::Value;

use crate::control_plane::ControlPlane;
use crate::images;
use crate::network::{self, Subnet};
use crate::node;
use crate::programs::{Program, Programs};
use crate::site::Site;

/// The sites' names, the active one of the examples first.
pub const MEDICAL: &str = "medical";
pub const RESEARCH: &str = "research";
pub const WITNESS: &str = "witness";

/// The whole stage.
#[derive(Debug)]
pub struct Clusters {
    pub medical: Site,
    pub research: Site,
    pub witness: Site,
    folder: PathBuf,
}

/// Why tests on whole clusters are not to be run here.
#[must_use]
pub fn unwanted() -> Option<String> {
    std::env::var_os("TWINSITE_CLUSTERS")
        .is_some_and(|value| value == "0")
        .then(|| "TWINSITE_CLUSTERS=0 says so".to_owned())
}

/// Why no clusters can be had here, if so.
#[must_use]
pub fn missing() -> Option<String> {
    ControlPlane::missing()
        .or_else(|| Programs::missing(Program::ALL))
        .or_else(node::missing)
}

impl Clusters {
    /// Starts all of it below `folder`, each node with these images. It must be called in a world ([`crate::world`]).
    ///
    /// # Errors
    /// Something does not start.
    pub async fn start(folder: &Path, images: &[PathBuf]) -> Result<Self> {
        let (mut medical, mut research, witness) = tokio::try_join!(
            Site::new(folder, MEDICAL, Subnet(1), &["m1", "m2"], images),
            Site::new(folder, RESEARCH, Subnet(2), &["r1"], images),
            Site::new(folder, WITNESS, Subnet(3), &[], &[]),
        )?;
        thread::scope(|scope| {
            let there = scope.spawn(|| research.start_nodes());
            medical.start_nodes()?;
            there
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a site's thread ended")))
        })?;
        tokio::try_join!(medical.wait_nodes_ready(), research.wait_nodes_ready())?;
        let clusters = Self {
            medical,
            research,
            witness,
            folder: folder.to_owned(),
        };
        clusters.write_kubeconfig()?;
        for site in clusters.sites() {
            write_shell(site.plane(), &site.plane().kubeconfig(), &site.shell())?;
        }
        write_shell(
            clusters.medical.plane(),
            &clusters.kubeconfig(),
            &folder.join("shell"),
        )?;
        Ok(clusters)
    }

    /// A kubeconfig with a context for each of the three, called as they are.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    fn write_kubeconfig(&self) -> Result<()> {
        let (mut clusters, mut users, mut contexts) = (Vec::new(), Vec::new(), Vec::new());
        for site in self.sites() {
            let name = site.name.as_str();
            let text = fs::read_to_string(site.plane().kubeconfig())?;
            let own: Value = serde_yaml::from_str(&text)?;
            let inner = |list: &str, what: &str| {
                let found = own.get(list).and_then(|list| list.get(0)?.get(what));
                found
                    .cloned()
                    .with_context(|| format!("the kubeconfig of {name} has no {what}"))
            };
            clusters.push(json!({"name": name, "cluster": inner("clusters", "cluster")?}));
            users.push(json!({"name": name, "user": inner("users", "user")?}));
            contexts.push(json!({"name": name, "context": {"cluster": name, "user": name}}));
        }
        let merged = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": MEDICAL,
            "clusters": clusters, "users": users, "contexts": contexts,
        });
        Ok(fs::write(
            self.kubeconfig(),
            serde_yaml::to_string(&merged)?,
        )?)
    }

    /// All three.
    #[must_use]
    pub fn sites(&self) -> [&Site; 3] {
        [&self.medical, &self.research, &self.witness]
    }

    /// Cuts the line between the two sites; both still reach the witness.
    ///
    /// # Errors
    /// The network refuses.
    pub fn cut_line(&self) -> Result<()> {
        network::cut(self.medical.subnet, self.research.subnet)
    }

    /// Makes the line whole again.
    ///
    /// # Errors
    /// The network refuses.
    pub fn mend_line(&self) -> Result<()> {
        network::mend(self.medical.subnet, self.research.subnet)
    }

    /// Cuts a site off the witness.
    ///
    /// # Errors
    /// The network refuses.
    pub fn hide_witness(&self, site: Subnet) -> Result<()> {
        network::cut(site, self.witness.subnet)
    }

    /// Lets a site reach the witness again.
    ///
    /// # Errors
    /// The network refuses.
    pub fn show_witness(&self, site: Subnet) -> Result<()> {
        network::mend(site, self.witness.subnet)
    }
}

/// A program for a person at another terminal: its arguments run in the world, with this kubeconfig.
fn write_shell(plane: &ControlPlane, kubeconfig: &Path, shell: &Path) -> Result<()> {
    let mut folders = vec![images::built()?];
    for program in [Program::Kubectl, Program::Helm] {
        let path = plane.programs().path(program);
        folders.extend(path.parent().map(Path::to_owned));
    }
    let mut own = String::new();
    for kind in ["net", "pid", "mnt"] {
        let link = fs::read_link(format!("/proc/self/ns/{kind}"))?;
        own.push_str(&format!("{} ", link.display()));
    }
    let folders: Vec<String> = folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    // Process ids differ inside and outside; namespaces have one name. Machines have others for processes and mounts.
    let text = format!(
        "#!/bin/sh\n\
         for process in /proc/[0-9]*; do\n\
         \x20 if [ \"$(readlink $process/ns/net $process/ns/pid $process/ns/mnt 2>/dev/null | tr '\\n' ' ')\" = \"{1}\" ]; then first=${{process#/proc/}}; break; fi\n\
         done\n\
         export KUBECONFIG={2} PATH={3}:$PATH HOME={0}\n\
         exec nsenter -t \"$first\" --mount --net --pid --wd=\"$PWD\" \"$@\"\n",
        shell.parent().unwrap_or(shell).display(),
        own,
        kubeconfig.display(),
        folders.join(":"),
    );
    fs::write(shell, text)?;
    fs::set_permissions(shell, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Where the work of one kind of run lies.
///
/// # Errors
/// This program's own place is not known.
pub fn work_folder(kind: &str) -> Result<PathBuf> {
    Ok(images::built()?
        .parent()
        .map(|target| target.join(kind))
        .unwrap_or_default())
}

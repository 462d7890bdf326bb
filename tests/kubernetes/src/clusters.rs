//! Two clusters and a witness: `medical` with two nodes, `research` with one, and a third API server that belongs to neither.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Result, anyhow};

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
}

/// Whether tests on whole clusters were asked for.
#[must_use]
pub fn wanted() -> bool {
    std::env::var_os("TWINSITE_CLUSTERS").is_some()
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
        };
        for site in clusters.sites() {
            write_shell(site)?;
        }
        Ok(clusters)
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

/// A program for a person at another terminal: its arguments run in the world, with this cluster's kubeconfig.
fn write_shell(site: &Site) -> Result<()> {
    let programs = site.plane().programs();
    let mut path = String::new();
    for &program in &[Program::Kubectl, Program::Helm] {
        if let Some(folder) = programs.path(program).parent() {
            path.push_str(&format!("{}:", folder.display()));
        }
    }
    // Process ids differ inside and outside; the network namespace has one name.
    let folder = site.folder();
    let text = format!(
        "#!/bin/sh\n\
         for process in /proc/[0-9]*; do\n\
         \x20 if [ \"$(readlink $process/ns/net 2>/dev/null)\" = \"{1}\" ]; then first=${{process#/proc/}}; break; fi\n\
         done\n\
         export KUBECONFIG={2} PATH={3}$PATH HOME={0}\n\
         exec nsenter -t \"$first\" --mount --net --pid \"$@\"\n",
        folder.display(),
        fs::read_link("/proc/self/ns/net")?.display(),
        site.plane().kubeconfig().display(),
        path,
    );
    fs::write(site.shell(), text)?;
    fs::set_permissions(site.shell(), fs::Permissions::from_mode(0o755))?;
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

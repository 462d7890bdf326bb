//! A node: a machine with containerd and a kubelet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::certificates::Certificates;
use crate::machine::Machine;
use crate::network::{self, Subnet};
use crate::process_group::until;
use crate::programs::{Program, Programs};

const CONTAINERD_LIMIT: Duration = Duration::from_secs(60);

const CONTAINERD: &str = r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:dev"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE runc cannot lower a score and fails with "can't get final child's PID from pipe".
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "FOLDER/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#;

const PODS: &str = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "pods0", "isGateway": true,
  "ipMasq": false, "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": "/run/cni",
  "ranges": [[{"subnet": "SUBNET"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
"#;

const KUBELET: &str = "\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
readOnlyPort: 0
healthzBindAddress: 127.0.0.1
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
cgroupsPerQOS: false
enforceNodeAllocatable: [none]
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: CA}}
authorization: {mode: AlwaysAllow}
tlsCertFile: CERTIFICATE
tlsPrivateKeyFile: KEY
evictionHard: {memory.available: \"0%\", nodefs.available: \"0%\", nodefs.inodesFree: \"0%\", imagefs.available: \"0%\"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
resolvConf: \"\"
nodeStatusUpdateFrequency: 5s
registryPullQPS: 0
";

/// A node that runs, or could.
#[derive(Debug)]
pub struct Node {
    pub name: String,
    /// Of its site: the last number of its address.
    pub number: u8,
    site: Subnet,
    folder: PathBuf,
    machine: Option<Machine>,
}

/// What a node needs to join its cluster.
#[derive(Debug, Clone, Copy)]
pub struct Joining<'a> {
    pub programs: &'a Programs,
    pub certificates: &'a Certificates,
    /// Where the API server answers.
    pub server: &'a str,
    /// Archives that every node has.
    pub images: &'a [PathBuf],
}

/// A program that is started again whenever it ends.
const AGAIN: &str = r#"while :; do "$0" "$@"; sleep 1; done"#;

impl Node {
    /// A node that is off; everything of it lies in `folder`.
    #[must_use]
    pub fn new(name: &str, number: u8, site: Subnet, folder: &Path) -> Self {
        Self {
            name: name.to_owned(),
            number,
            site,
            folder: folder.to_owned(),
            machine: None,
        }
    }

    /// The machine, while it is on.
    #[must_use]
    pub fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref()
    }

    /// Turns it on; a disk that was used before is used again.
    ///
    /// # Errors
    /// A program does not start.
    pub fn power_on(&mut self, joining: Joining<'_>) -> Result<()> {
        ensure!(self.machine.is_none(), "{} is on", self.name);
        let first_time = !self.folder.exists();
        fs::create_dir_all(&self.folder)?;
        let mut machine = Machine::power_on(&self.name, &self.folder)?;
        network::plug(self.site, self.number, machine.first())?;
        self.configure(joining)?;
        let containerd = self.folder.join("containerd.toml");
        let mut command = machine.command(Path::new("containerd"));
        machine.start(
            command.arg("-c").arg(containerd),
            &self.folder.join("containerd.log"),
        )?;
        until(CONTAINERD_LIMIT, "containerd", || {
            machine
                .command(Path::new("ctr"))
                .arg("version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })?;
        if first_time {
            for image in joining.images {
                import(&machine, image)?;
            }
        }
        // containerd answers before it has all its services; whoever runs a kubelet starts it again.
        let mut command = machine.command(Path::new("bash"));
        command
            .args(["-c", AGAIN])
            .arg(joining.programs.path(Program::Kubelet))
            .arg(format!(
                "--config={}",
                self.folder.join("kubelet.yaml").display()
            ))
            .arg(format!(
                "--kubeconfig={}",
                self.folder.join("kubeconfig").display()
            ))
            .arg(format!("--hostname-override={}", self.name))
            .arg(format!("--node-ip={}", self.site.machine(self.number)))
            .arg("--v=2");
        machine.start(&mut command, &self.folder.join("kubelet.log"))?;
        self.machine = Some(machine);
        Ok(())
    }

    fn configure(&self, joining: Joining<'_>) -> Result<()> {
        let pki = joining.certificates;
        let (client, server) = (
            format!("node-{}", self.name),
            format!("kubelet-{}", self.name),
        );
        let subject = format!("/O=system:nodes/CN=system:node:{}", self.name);
        pki.sign(&client, &subject, &[])?;
        pki.sign(
            &server,
            &format!("/CN={}", self.name),
            &[self.site.machine(self.number)],
        )?;
        fs::write(
            self.folder.join("kubeconfig"),
            pki.kubeconfig(joining.server, &client)?,
        )?;
        fs::write(
            self.folder.join("kubelet.yaml"),
            KUBELET
                .replace("CA}", &format!("{}}}", pki.certificate("ca").display()))
                .replace(
                    "CERTIFICATE",
                    &pki.certificate(&server).display().to_string(),
                )
                .replace("KEY", &pki.key(&server).display().to_string()),
        )?;
        fs::write(
            self.folder.join("containerd.toml"),
            CONTAINERD.replace("FOLDER", &self.folder.display().to_string()),
        )?;
        fs::create_dir_all(self.folder.join("cni"))?;
        fs::write(
            self.folder.join("cni/10-pods.conflist"),
            PODS.replace("SUBNET", &self.site.pods(self.number)),
        )?;
        Ok(())
    }

    /// Tells the machine to die, without waiting for it: [`Node::pull_the_plug`] does.
    pub fn kill(&self) {
        if let Some(machine) = &self.machine {
            machine.kill();
        }
    }

    /// Ends everything on the node at once.
    pub fn pull_the_plug(&mut self) {
        if let Some(machine) = self.machine.take() {
            machine.pull_the_plug();
        }
    }
}

fn import(machine: &Machine, image: &Path) -> Result<()> {
    let output = machine
        .command(Path::new("ctr"))
        .args(["-n", "k8s.io", "images", "import"])
        .arg(image)
        .output()
        .context("cannot run ctr: the package containerd has it")?;
    ensure!(
        output.status.success(),
        "ctr images import {}: {}",
        image.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// What a node takes from this machine beside the programs of Kubernetes, if it is missing.
#[must_use]
pub fn missing() -> Option<String> {
    let absent: Vec<&str> = ["containerd", "runc", "ip", "nsenter", "unshare", "busybox"]
        .into_iter()
        .filter(|program| {
            !Command::new("sh")
                .args(["-c", &format!("command -v {program} >/dev/null")])
                .status()
                .is_ok_and(|status| status.success())
        })
        .collect();
    if !absent.is_empty() {
        return Some(format!(
            "{} missing: make setup-kubernetes installs it",
            absent.join(", ")
        ));
    }
    if !Path::new("/usr/lib/cni/bridge").exists() {
        return Some("the CNI plugins are missing: make setup-kubernetes installs them".into());
    }
    None
}

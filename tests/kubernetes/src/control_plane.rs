//! A control plane: etcd and a real API server, with a controller-manager and a scheduler where they are asked for.
//!
//! For tests that need no kubelet:
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! use twinsite_kubernetes::control_plane::ControlPlane;
//! if let Some(reason) = ControlPlane::missing() {
//!     eprintln!("skipped: {reason}");
//!     return Ok(());
//! }
//! let medical = ControlPlane::start("medical").await?; // loopback, free ports, everything in a temporary folder
//! medical.apply(&std::fs::read_to_string("crds/legs.yaml")?).await?;
//! let client = medical.client().await?;
//! # Ok(()) }
//! ```
//!
//! Dropping it ends its processes and removes its folder. Without a controller-manager no namespace is ever gone, no owner's
//! children are collected, and there are no default service accounts (their admission is off then).

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config, discovery};
use serde::Deserialize as _;
use tokio::time::Instant;

use crate::certificates::Certificates;
use crate::process_group::ProcessGroup;
use crate::programs::{Program, Programs};

/// From start to ready: seconds alone, more beside other work.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// One question whether it is ready.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Attempts when somebody else took a port between our looking and our using it.
const ATTEMPTS: u32 = 3;

/// How to build a control plane.
#[derive(Debug, Clone)]
pub struct Settings {
    pub name: String,
    /// Also the controller-manager: garbage collection, namespaces that end, service accounts, workloads.
    pub controllers: bool,
    /// Also the scheduler.
    pub scheduler: bool,
    /// Where it listens.
    pub address: Ipv4Addr,
    /// 0: any that is free.
    pub port: u16,
    /// First three numbers of the addresses of services; the API server itself gets `.1`.
    pub services: [u8; 3],
    /// Further arguments of the API server.
    pub arguments: Vec<String>,
    /// Where everything lies; none: a temporary folder that goes with it.
    pub folder: Option<PathBuf>,
}

impl Settings {
    /// On loopback, any free ports, etcd and API server alone.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            controllers: false,
            scheduler: false,
            address: Ipv4Addr::LOCALHOST,
            port: 0,
            services: [10, 96, 0],
            arguments: Vec::new(),
            folder: None,
        }
    }
}

/// A control plane that runs.
#[derive(Debug)]
pub struct ControlPlane {
    settings: Settings,
    programs: Programs,
    certificates: Certificates,
    etcd: (u16, u16),
    port: u16,
    // Before the folder: fields are dropped in this order.
    group: ProcessGroup,
    folder: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl ControlPlane {
    /// Why none can be started here, if so.
    #[must_use]
    pub fn missing() -> Option<String> {
        if Command::new("openssl").arg("version").output().is_err() {
            return Some("openssl is missing: tests/setup.sh openssl installs it".into());
        }
        Programs::missing(Program::CONTROL_PLANE)
    }

    /// Starts etcd and an API server on loopback and waits until it is ready. Builds them first if they are absent.
    ///
    /// # Errors
    /// A program cannot be had or does not become ready; the end of its log is in the message.
    pub async fn start(name: &str) -> Result<Self> {
        Self::start_with(Settings::new(name)).await
    }

    /// Starts as the settings say.
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub async fn start_with(settings: Settings) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::start_in(settings.clone(), ProcessGroup::new()?).await {
                Err(_) if attempt < ATTEMPTS && settings.port == 0 => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// Starts as the settings say, in a group that may have a network of its own.
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub async fn start_in(settings: Settings, group: ProcessGroup) -> Result<Self> {
        let mut wanted = Program::CONTROL_PLANE.to_vec();
        if settings.controllers {
            wanted.push(Program::KubeControllerManager);
        }
        if settings.scheduler {
            wanted.push(Program::KubeScheduler);
        }
        let programs = Programs::obtain(&wanted)?;
        let (folder, temporary) = match &settings.folder {
            Some(folder) => (folder.clone(), None),
            None => {
                let made = tempfile::Builder::new()
                    .prefix(&format!("twinsite-{}-", settings.name))
                    .tempdir()?;
                (made.path().to_owned(), Some(made))
            }
        };
        fs::create_dir_all(&folder)?;
        let certificates = Certificates::make(&folder.join("pki"), &settings.name)?;
        let [etcd, peer, port] = free_ports()?;
        let mut plane = Self {
            etcd: (etcd, peer),
            port: if settings.port == 0 {
                port
            } else {
                settings.port
            },
            settings,
            programs,
            certificates,
            group,
            folder,
            _temporary: temporary,
        };
        plane.sign()?;
        plane.power_on().await?;
        Ok(plane)
    }

    fn sign(&self) -> Result<()> {
        let [a, b, c] = self.settings.services;
        let addresses = [
            Ipv4Addr::LOCALHOST,
            self.settings.address,
            Ipv4Addr::new(a, b, c, 1),
        ];
        self.certificates
            .sign("apiserver", "/CN=kube-apiserver", &addresses)?;
        for (name, subject) in [
            ("admin", "/O=system:masters/CN=admin"),
            ("controllers", "/CN=system:kube-controller-manager"),
            ("scheduler", "/CN=system:kube-scheduler"),
        ] {
            self.certificates.sign(name, subject, &[])?;
            let text = self.certificates.kubeconfig(&self.url(), name)?;
            fs::write(self.kubeconfig_of(name), text)?;
        }
        Ok(())
    }

    /// Starts all processes and waits until the API server is ready: also after [`ControlPlane::power_off`].
    ///
    /// # Errors
    /// One does not start; the end of its log is in the message.
    pub async fn power_on(&mut self) -> Result<()> {
        self.start_etcd()?;
        self.start_api_server().await?;
        if self.settings.controllers {
            self.start_controllers()?;
        }
        if self.settings.scheduler {
            self.start_scheduler()?;
        }
        Ok(())
    }

    /// Kills all processes at once; the disk keeps what it had.
    pub fn power_off(&mut self) {
        self.group.kill_members();
    }

    fn start_etcd(&mut self) -> Result<()> {
        let client = format!("http://127.0.0.1:{}", self.etcd.0);
        let peer = format!("http://127.0.0.1:{}", self.etcd.1);
        let mut command = self.group.command(&self.programs.path(Program::Etcd));
        command
            .arg("--data-dir")
            .arg(self.folder.join("etcd"))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--unsafe-no-fsync", "--log-level", "warn"]);
        self.spawn("etcd", &mut command)
    }

    /// Starts the API server and waits until it is ready: also after [`ControlPlane::stop_api_server`].
    ///
    /// # Errors
    /// It does not become ready; the end of its log is in the message.
    pub async fn start_api_server(&mut self) -> Result<()> {
        let pki = &self.certificates;
        let [a, b, c] = self.settings.services;
        let mut command = self
            .group
            .command(&self.programs.path(Program::KubeApiserver));
        command
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd.0))
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--advertise-address={}", self.settings.address))
            .arg(format!("--bind-address={}", self.bind_address()))
            .arg(format!("--service-cluster-ip-range={a}.{b}.{c}.0/24"))
            .arg("--allow-privileged=true")
            .arg("--authorization-mode=Node,RBAC")
            .arg("--endpoint-reconciler-type=none")
            .arg("--kubelet-preferred-address-types=InternalIP")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg("--profiling=false");
        for (option, path) in [
            ("client-ca-file", pki.certificate("ca")),
            ("tls-cert-file", pki.certificate("apiserver")),
            ("tls-private-key-file", pki.key("apiserver")),
            ("kubelet-client-certificate", pki.certificate("admin")),
            ("kubelet-client-key", pki.key("admin")),
            ("service-account-key-file", pki.public_key("tokens")),
            ("service-account-signing-key-file", pki.key("tokens")),
        ] {
            command.arg(format!("--{option}={}", path.display()));
        }
        if !self.settings.controllers {
            command.arg("--disable-admission-plugins=ServiceAccount");
        }
        command.args(&self.settings.arguments);
        self.spawn("kube-apiserver", &mut command)?;
        self.wait_ready().await
    }

    fn start_controllers(&mut self) -> Result<()> {
        let pki = &self.certificates;
        let mut command = self
            .group
            .command(&self.programs.path(Program::KubeControllerManager));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig_of("controllers"))
            .arg("--service-account-private-key-file")
            .arg(pki.key("tokens"))
            .arg("--root-ca-file")
            .arg(pki.certificate("ca"))
            .args(["--use-service-account-credentials", "--leader-elect=false"])
            .arg("--secure-port=0");
        self.spawn("kube-controller-manager", &mut command)
    }

    fn start_scheduler(&mut self) -> Result<()> {
        let mut command = self
            .group
            .command(&self.programs.path(Program::KubeScheduler));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig_of("scheduler"))
            .args(["--leader-elect=false", "--secure-port=0"]);
        self.spawn("kube-scheduler", &mut command)
    }

    fn spawn(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let log = self.log(name);
        self.group.start(name, command, &log)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let client = self.client().await?;
        let start = Instant::now();
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let answer = tokio::time::timeout(PROBE_LIMIT, client.request_text(request)).await;
            if matches!(&answer, Ok(Ok(text)) if text == "ok") {
                return Ok(());
            }
            let alive = self.group.running("kube-apiserver") && self.group.running("etcd");
            if !alive || start.elapsed() > READY_LIMIT {
                bail!(
                    "the API server of {} did not become ready: {answer:?}\nit said:\n{}\netcd said:\n{}",
                    self.settings.name,
                    tail(&self.log("kube-apiserver")),
                    tail(&self.log("etcd"))
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the API server; etcd keeps what it had.
    pub fn stop_api_server(&mut self) {
        self.group.kill("kube-apiserver");
    }

    /// The process group, to signal a member by name: `etcd`, `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`.
    pub fn group(&mut self) -> &mut ProcessGroup {
        &mut self.group
    }

    /// The process group, to signal all of it.
    #[must_use]
    pub fn group_ref(&self) -> &ProcessGroup {
        &self.group
    }

    /// Where the API server answers.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.settings.address, self.port)
    }

    /// Everything of this control plane lies below it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The programs, for further ones: `kubectl`, `helm`.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The authority of the cluster, to sign for further users and nodes.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// File with the administrator's kubeconfig; certificates are inside it.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of("admin")
    }

    fn kubeconfig_of(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.kubeconfig"))
    }

    /// A kubeconfig, as text, of any user: for RBAC tests and peers' credentials.
    ///
    /// # Errors
    /// The certificate cannot be signed.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<String> {
        let mut subject = String::new();
        for group in groups {
            subject.push_str(&format!("/O={group}"));
        }
        subject.push_str(&format!("/CN={user}"));
        let name = format!("user-{}", user.replace([':', '/'], "-"));
        self.certificates.sign(&name, &subject, &[])?;
        self.certificates.kubeconfig(&self.url(), &name)
    }

    /// The administrator's client.
    ///
    /// # Errors
    /// The kubeconfig is not usable.
    pub async fn client(&self) -> Result<Client> {
        let text = fs::read_to_string(self.kubeconfig())?;
        client_of(&text).await
    }

    /// Applies every object of a YAML text as `kubectl apply --server-side` does, and waits until definitions among them are
    /// established.
    ///
    /// # Errors
    /// The text cannot be read, a kind is not known, or the server refuses.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let client = self.client().await?;
        for document in serde_yaml::Deserializer::from_str(yaml) {
            let value = serde_yaml::Value::deserialize(document)?;
            if value.is_null() {
                continue;
            }
            let object: DynamicObject = serde_yaml::from_value(value)?;
            apply_one(&client, &object).await?;
        }
        Ok(())
    }

    fn bind_address(&self) -> Ipv4Addr {
        if self.settings.address.is_loopback() {
            self.settings.address
        } else {
            Ipv4Addr::UNSPECIFIED
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }
}

/// A client with the kubeconfig in `text`.
///
/// # Errors
/// The kubeconfig is not usable.
pub async fn client_of(text: &str) -> Result<Client> {
    // Somebody else in this process may have chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::from_yaml(text)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn apply_one(client: &Client, object: &DynamicObject) -> Result<()> {
    let types = object.types.as_ref().context("an object without kind")?;
    let kind = GroupVersionKind::try_from(types)?;
    let name = object
        .metadata
        .name
        .clone()
        .with_context(|| format!("a {} without a name", kind.kind))?;
    let (resource, capabilities) = discovery::pinned_kind(client, &kind)
        .await
        .with_context(|| format!("the server knows no {}", kind.kind))?;
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let api: Api<DynamicObject> = match capabilities.scope {
        discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
        discovery::Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let manager = PatchParams::apply("kubectl").force();
    api.patch(&name, &manager, &Patch::Apply(object))
        .await
        .with_context(|| format!("{} {name}", kind.kind))?;
    if kind.kind == "CustomResourceDefinition" {
        wait_established(&api, &name).await?;
    }
    Ok(())
}

async fn wait_established(definitions: &Api<DynamicObject>, name: &str) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < READY_LIMIT {
        let definition = definitions.get(name).await?;
        let conditions = definition.data["status"]["conditions"].as_array();
        let established = conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Established" && condition["status"] == "True");
        if established {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the definition {name} was not established")
}

fn free_ports() -> Result<[u16; 3]> {
    // All are held until all are known, or one could be given twice.
    let held = [free()?, free()?, free()?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

fn free() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 15;
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

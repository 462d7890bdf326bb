//! Three control planes, the operators in front of them, and what people apply.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use kube::Client;
use twinsite_api::Condition;
use twinsite_kubernetes::control_plane::ControlPlane;

use crate::agent::Agent;

pub(crate) struct World {
    pub(crate) medical: Cluster,
    pub(crate) research: Cluster,
    pub(crate) witness: Cluster,
    began: Instant,
}

pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) client: Client,
    pub(crate) agent: Agent,
    operator: Option<Running>,
    standby: Option<Running>,
    lease: String,
    // Last: everything above uses it.
    pub(crate) plane: ControlPlane,
}

struct Running {
    child: Child,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        if std::thread::panicking() {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("---- {}\n{tail}", self.log.display());
        }
    }
}

const DEFINITIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds");

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let began = Instant::now();
        let (medical, research, witness) = tokio::try_join!(
            Cluster::start("medical"),
            Cluster::start("research"),
            Cluster::start("third"),
        )?;
        let world = Self {
            medical,
            research,
            witness,
            began,
        };
        let peers = [
            (&world.medical, &world.research),
            (&world.research, &world.medical),
        ];
        for (site, peer) in peers {
            peer.plane.apply(READER).await?;
            let reader = peer.plane.kubeconfig_for("twinsite-peer", &[])?;
            site.secret("twinsite-peer", &reader).await?;
            site.secret("twinsite-witness", &world.witness_kubeconfig()?)
                .await?;
            site.plane.apply(&site.objects()).await?;
            let witness = world.witness_kubeconfig()?;
            site.agent.start(&site.client, &witness).await?;
        }
        world.step("three control planes are up");
        Ok(world)
    }

    pub(crate) fn step(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    fn witness_kubeconfig(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.witness.plane.kubeconfig())?)
    }

    pub(crate) async fn apply_volume(&self) -> Result<()> {
        for site in [&self.medical, &self.research] {
            site.plane.apply(&site.volume("records")).await?;
        }
        Ok(())
    }

    /// A third cluster with the same SitePair, whose operator says that it is medical.
    pub(crate) async fn impostor(&mut self) -> Result<()> {
        let witness = self.witness_kubeconfig()?;
        self.witness.secret("twinsite-witness", &witness).await?;
        self.witness.secret("twinsite-peer", &witness).await?;
        self.witness.plane.apply(PAIR).await?;
        self.witness
            .plane
            .apply(&self.witness.volume("records"))
            .await?;
        self.witness.name = "medical".to_owned();
        self.witness.start_operator("impostor")
    }
}

impl Cluster {
    async fn start(name: &str) -> Result<Self> {
        let plane = ControlPlane::start(name).await?;
        for entry in std::fs::read_dir(Path::new(DEFINITIONS))? {
            plane
                .apply(&std::fs::read_to_string(entry?.path())?)
                .await?;
        }
        plane.apply(NAMESPACES).await?;
        Ok(Self {
            name: name.to_owned(),
            client: plane.client().await?,
            agent: Agent::new(name),
            operator: None,
            standby: None,
            lease: String::new(),
            plane,
        })
    }

    async fn secret(&self, name: &str, kubeconfig: &str) -> Result<()> {
        let object = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name, "namespace": "twinsite" },
            "stringData": { "kubeconfig": kubeconfig },
        });
        self.plane.apply(&object.to_string()).await
    }

    /// What an administrator applies at one site.
    fn objects(&self) -> String {
        format!(
            "{PAIR}---
apiVersion: v1
kind: Node
metadata: {{name: {name}-1}}
---
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {{name: {name}-ssd}}
spec:
  site: {name}
  class: ssd
  node: {{name: {name}-1, directory: /pool}}
  portals: ['127.0.0.1:3260']
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: records, namespace: rv}}
spec:
  serviceName: records
  replicas: 0
  selector: {{matchLabels: {{app: records}}}}
  template:
    metadata: {{labels: {{app: records}}}}
    spec:
      containers: [{{name: writer, image: none}}]
",
            name = self.name
        )
    }

    /// The volume as it stands in Git: the same for both sites.
    pub(crate) fn volume(&self, name: &str) -> String {
        format!(
            "apiVersion: twinsite.io/v1alpha1
kind: MirroredVolume
metadata: {{name: {name}, namespace: rv}}
spec:
  sitePair: ctrc
  activeSite: medical
  capacity: 64Mi
  fsType: ext4
  claim: {{name: {name}}}
  workloads: [{{apiVersion: apps/v1, kind: StatefulSet, name: records, replicas: 1}}]
  legs:
    - {{site: medical, poolClass: ssd}}
    - {{site: research, poolClass: ssd}}
"
        )
    }

    pub(crate) fn lease(&self) -> &str {
        &self.lease
    }

    pub(crate) fn start_operator(&mut self, lease: &str) -> Result<()> {
        self.operator = Some(self.run("operator", lease)?);
        self.lease = lease.to_owned();
        Ok(())
    }

    pub(crate) fn start_standby(&mut self, lease: &str) -> Result<()> {
        self.standby = Some(self.run("standby", lease)?);
        Ok(())
    }

    fn run(&self, pod: &str, lease: &str) -> Result<Running> {
        let log = self.plane.folder().join(format!("{pod}-{lease}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_twinsite-operator"))
            .args([
                "--site",
                &self.name,
                "--namespace",
                "twinsite",
                "--pod",
                pod,
                "--lease",
                lease,
            ])
            .args(["--http", "127.0.0.1:0", "--taint-lost-nodes"])
            .arg("--kubeconfig")
            .arg(self.plane.kubeconfig())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start the operator")?;
        Ok(Running { child, log })
    }

    pub(crate) fn operator_pid(&self) -> Option<u32> {
        self.operator.as_ref().map(|running| running.child.id())
    }

    /// As kill -9.
    pub(crate) fn kill_operator(&mut self) {
        self.operator = None;
    }

    pub(crate) fn terminate_operator(&mut self) -> Result<()> {
        let mut running = self.operator.take().context("no operator runs")?;
        let status = Command::new("kill")
            .arg(running.child.id().to_string())
            .status()?;
        anyhow::ensure!(status.success());
        let ended = running.child.wait()?;
        anyhow::ensure!(ended.success(), "{ended}");
        Ok(())
    }
}

/// Repeats a look until it is good; the last look is in the message.
pub(crate) async fn eventually<F>(what: &str, seconds: u64, look: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<(bool, String)>>,
{
    let began = Instant::now();
    loop {
        let seen = match look().await {
            Ok((true, _)) => return Ok(()),
            Ok((false, seen)) => seen,
            Err(error) => format!("{error:#}"),
        };
        if began.elapsed() > Duration::from_secs(seconds) {
            bail!("not within {seconds} s: {what}\nseen last: {seen}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a str> {
    let found = conditions.iter().find(|one| one.type_ == type_)?;
    Some(&found.status)
}

const NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: twinsite}
---
apiVersion: v1
kind: Namespace
metadata: {name: rv}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-node-lease}
";

const PAIR: &str = "apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {name: ctrc}
spec:
  sites: [{name: medical}, {name: research}]
  peerKubeconfigSecret: twinsite-peer
  witness: {kubernetes: {kubeconfigSecret: twinsite-witness, namespace: twinsite}}
";

/// What a peer may do: read what is ours.
const READER: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: twinsite-peer}
rules: [{apiGroups: [twinsite.io], resources: ['*'], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: twinsite-peer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: twinsite-peer}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: twinsite-peer}]
";

//! The stage: start, install, apply, write, verify, return, edit the manifest. The moves that are measured are in [`super::moves`].

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use twinsite_api::{MirroredVolume, VolumeLegState};
use twinsite_tests::history::{self, Event, History};
use twinsite_tests::timeline::Timeline;
use twinsite_tests::workload::MACHINES;
use twinsite_tests::workload::ledger::Ledger;

use super::report::Report;
use super::trace::Trace;
use crate::clusters::{Clusters, MEDICAL, RESEARCH};
use crate::images;
use crate::install;
use crate::network;
use crate::process_group::until;
use crate::programs::{KUBERNETES, Program, Programs};
use crate::site::Site;

/// kubectl reads an object twice for a diff: a status that changed in between is no drift, and not there at the next look.
const DRIFT_LOOKS: u32 = 3;
/// Outside both sites: an address of the router itself. The example's workload names it.
const LEDGER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 80, 0, 1)), 7000);
/// Namespace and name of the example's volume and workload.
pub(super) const VOLUME: (&str, &str) = ("rv", "records");
pub(super) const POD: &str = "records-0";

const BIRTH_LIMIT: Duration = Duration::from_secs(180);
const RETURN_LIMIT: Duration = Duration::from_secs(300);
pub(super) const MOVE_LIMIT: Duration = Duration::from_secs(120);
const RECORDS_LIMIT: Duration = Duration::from_secs(120);

/// Everything on stage.
#[derive(Debug)]
pub struct Stage {
    pub clusters: Clusters,
    pub timeline: Timeline,
    pub ledger: Ledger,
    pub report: Report,
    /// Where the volume is, by what was done to it.
    pub active: &'static str,
    pub(super) trace: Trace,
    manifests: PathBuf,
    history: History,
    history_file: PathBuf,
    began: Instant,
}

impl Stage {
    /// Starts the clusters and installs twinsite on both. It must be called in a world ([`crate::world`]).
    ///
    /// # Errors
    /// Something does not start.
    pub async fn set(folder: &Path) -> Result<Self> {
        let began = Instant::now();
        let mut timeline = Timeline::default();
        timeline.act("The stage: two clusters, and a third API server for the witness");
        let programs = Programs::obtain(Program::ALL)?;
        let archives = images::make(&folder.join("images"), &programs)?;
        timeline.event("images made");
        network::add_address(match LEDGER {
            SocketAddr::V4(address) => *address.ip(),
            SocketAddr::V6(_) => Ipv4Addr::LOCALHOST,
        })?;
        let history_file = folder.join("history.jsonl");
        let history = History::create(&history_file)?;
        let ledger = Ledger::listen_at(LEDGER, history.clone())?;
        let start = Instant::now();
        let clusters = Clusters::start(folder, &archives).await?;
        let mut report = Report {
            kubernetes: KUBERNETES.to_owned(),
            clusters_seconds: start.elapsed().as_secs_f64(),
            ..Report::default()
        };
        timeline.event(&format!(
            "medical has nodes m1 and m2, research has r1; all Ready after {:.1} s",
            report.clusters_seconds
        ));
        timeline.event(&format!(
            "to look around: {} kubectl get pods -A",
            clusters.medical.shell().display()
        ));
        let start = Instant::now();
        install::install(&clusters)?;
        report.install_seconds = start.elapsed().as_secs_f64();
        timeline.event(&format!(
            "twinsite installed by its chart, all pods ready after {:.1} s",
            report.install_seconds
        ));
        let trace = Trace::start(&[&clusters.medical, &clusters.research], VOLUME.0).await?;
        let manifests = folder.join("manifests");
        fs::create_dir_all(&manifests)?;
        for name in ["pair.yaml", "pools.yaml", "records.yaml"] {
            fs::copy(install::examples().join(name), manifests.join(name))?;
        }
        Ok(Self {
            clusters,
            timeline,
            ledger,
            report,
            active: MEDICAL,
            trace,
            manifests,
            history,
            history_file,
            began,
        })
    }

    /// A site by its name.
    #[must_use]
    pub fn site(&self, name: &str) -> &Site {
        if name == MEDICAL {
            &self.clusters.medical
        } else {
            &self.clusters.research
        }
    }

    /// A site by its name, to do something to it.
    pub fn site_mut(&mut self, name: &str) -> &mut Site {
        if name == MEDICAL {
            &mut self.clusters.medical
        } else {
            &mut self.clusters.research
        }
    }

    /// The other site's name.
    #[must_use]
    pub fn other(&self) -> &'static str {
        if self.active == MEDICAL {
            RESEARCH
        } else {
            MEDICAL
        }
    }

    /// Makes the pools and applies the example to both clusters; until the first record is acknowledged.
    ///
    /// # Errors
    /// The volume is not born in time.
    pub fn open(&mut self) -> Result<()> {
        let start = Instant::now();
        install::make_pool(&self.clusters.medical, "m1")?;
        install::make_pool(&self.clusters.research, "r1")?;
        self.timeline.event("a pool on m1 and one on r1");
        self.ledger.mark();
        for name in [MEDICAL, RESEARCH] {
            install::apply(self.site(name), &self.manifests)?;
        }
        self.timeline
            .event("kubectl apply -f examples/two-cluster, the same files to both clusters");
        let ledger = self.ledger.clone();
        until(BIRTH_LIMIT, "the first record", || ledger.total() > 0)
            .with_context(|| self.state())?;
        self.report.birth_seconds = start.elapsed().as_secs_f64();
        self.timeline.event(&format!(
            "the volume is born, the pod runs and writes, {:.1} s after the manifests",
            start.elapsed().as_secs_f64()
        ));
        self.wait_in_sync(BIRTH_LIMIT)
    }

    /// What is applied to both clusters.
    #[must_use]
    pub fn manifests(&self) -> &Path {
        &self.manifests
    }

    /// Waits for so many more acknowledged records.
    ///
    /// # Errors
    /// They do not come.
    pub fn write_records(&mut self, count: u64) -> Result<()> {
        let ledger = self.ledger.clone();
        let target = ledger.total() + count;
        until(RECORDS_LIMIT, "records", || ledger.total() >= target)
            .with_context(|| self.state())?;
        let (total, active) = (self.ledger.total(), self.active);
        self.timeline
            .event(&format!("{total} records acknowledged at {active}"));
        Ok(())
    }

    /// Reads every record back in the pod and compares with the ledger.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn verify(&mut self) -> Result<()> {
        let acknowledged = self.ledger.acknowledged();
        let began = history::event::now();
        let (namespace, _) = VOLUME;
        let said = self
            .site(self.active)
            .kubectl(&[
                "-n", namespace, "exec", POD, "--", "/records", "count", "/data",
            ])
            .with_context(|| self.state())?;
        let found: Vec<u64> = said.lines().map(str::parse).collect::<Result<_, _>>()?;
        if found.len() != usize::from(MACHINES) {
            bail!("the reading back named {} machines: {said}", found.len());
        }
        let at = history::event::now();
        let mut lost = 0;
        for (item, (&found, &acknowledged)) in (0..).zip(found.iter().zip(&acknowledged)) {
            lost += acknowledged.saturating_sub(found);
            self.history.add(&Event::Read {
                began,
                at,
                reader: self.active.to_owned(),
                item,
                value: found,
            })?;
        }
        self.report.acknowledged = acknowledged.iter().sum();
        self.report.found = found.iter().sum();
        self.report.lost += lost;
        let (acknowledged, found, active) =
            (self.report.acknowledged, self.report.found, self.active);
        self.timeline.event(&format!(
            "{active}: {acknowledged} acknowledged records, {found} found, {lost} lost"
        ));
        Ok(())
    }

    /// Asks both living clusters whether they are what the manifests say.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn diff(&mut self, sites: &[&str]) -> Result<()> {
        for name in sites {
            self.report.diffs += 1;
            let mut drift = install::drift(self.site(name), &self.manifests)?;
            for _ in 1..DRIFT_LOOKS {
                if drift.is_empty() {
                    break;
                }
                drift = install::drift(self.site(name), &self.manifests)?;
            }
            if drift.is_empty() {
                self.timeline
                    .event(&format!("{name}: kubectl diff shows nothing"));
            } else {
                self.report.drifts += 1;
                self.timeline
                    .event(&format!("{name}: kubectl diff shows:\n{drift}"));
            }
        }
        Ok(())
    }

    /// Power for the site that was killed; shows what `kubectl get mirroredvolumes -w` shows until both legs are members.
    ///
    /// # Errors
    /// It is not rebuilt in time.
    pub async fn bring_back(&mut self, name: &str) -> Result<()> {
        let start = Instant::now();
        self.site_mut(name).power_on().await?;
        self.timeline.event(&format!("{name} has power again"));
        let mut watch = Watch::start(self.site(self.active))?;
        let outcome = self.wait_watched(&mut watch, RETURN_LIMIT);
        watch.end();
        outcome?;
        let seconds = start.elapsed().as_secs_f64();
        if let Some(round) = self.report.rounds.last_mut() {
            round.resync_seconds = seconds;
        }
        self.timeline.event(&format!(
            "{name} is a member again, {seconds:.1} s after its power"
        ));
        self.site(name).wait_nodes_ready().await
    }

    fn wait_watched(&mut self, watch: &mut Watch, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            for line in watch.lines() {
                self.timeline.event(&format!("| {line}"));
            }
            if self
                .volume(self.active)
                .is_ok_and(|volume| in_sync(&volume))
            {
                return Ok(());
            }
            if start.elapsed() > limit {
                return Err(anyhow::anyhow!(
                    "the legs are not both members after {} s",
                    limit.as_secs()
                ))
                .with_context(|| self.state());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until both legs are members.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_in_sync(&mut self, limit: Duration) -> Result<()> {
        let active = self.active;
        until(limit, "both legs to be members", || {
            self.volume(active).is_ok_and(|volume| in_sync(&volume))
        })
        .with_context(|| self.state())
    }

    /// Writes another active site into the manifest and applies it to both clusters, as a Git commit would.
    ///
    /// # Errors
    /// It cannot be written or applied.
    pub fn commit_active(&mut self, name: &str) -> Result<()> {
        let path = self.manifests.join("records.yaml");
        let text = fs::read_to_string(&path)?;
        let mut edited = String::new();
        for line in text.lines() {
            if line.trim_start().starts_with("activeSite:") {
                edited.push_str(&format!("  activeSite: {name}\n"));
            } else {
                edited.push_str(line);
                edited.push('\n');
            }
        }
        fs::write(&path, edited)?;
        for site in [MEDICAL, RESEARCH] {
            install::apply(self.site(site), &path)?;
        }
        self.timeline.event(&format!(
            "commit: activeSite: {name}, applied to both clusters"
        ));
        Ok(())
    }

    /// Whether the volume accepted where it is: nothing of an unplanned move binds it any more.
    ///
    /// # Errors
    /// It stays latched.
    pub fn wait_unlatched(&mut self) -> Result<()> {
        let active = self.active;
        until(MOVE_LIMIT, "the volume to accept where it is", || {
            self.volume(active).is_ok_and(|volume| {
                volume
                    .status
                    .and_then(|status| status.active_site)
                    .is_some_and(|site| !site.latched && site.name == active)
            })
        })
        .with_context(|| self.state())?;
        self.timeline
            .event("nothing moves: Git has accepted where the volume is");
        Ok(())
    }

    /// The volume as one cluster shows it.
    ///
    /// # Errors
    /// It is not there.
    pub fn volume(&self, name: &str) -> Result<MirroredVolume> {
        let (namespace, volume) = VOLUME;
        let text = self.site(name).kubectl(&[
            "-n",
            namespace,
            "get",
            "mirroredvolume",
            volume,
            "-o",
            "json",
        ])?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(super) fn pod(&self, name: &str) -> Result<k8s_openapi::api::core::v1::Pod> {
        let (namespace, _) = VOLUME;
        let text = self
            .site(name)
            .kubectl(&["-n", namespace, "get", "pod", POD, "-o", "json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(super) fn state(&self) -> String {
        self.state_of(self.active)
    }

    /// What a person would look at first.
    pub(super) fn state_of(&self, name: &str) -> String {
        let site = self.site(name);
        let mut text = String::new();
        for arguments in [
            [
                "get",
                "mirroredvolumes,legs,attachments,pv,pvc,volumeattachments",
                "-A",
                "-o",
                "wide",
            ]
            .as_slice(),
            &["-n", "rv", "get", "pods,statefulsets", "-o", "wide"],
            &["-n", "rv", "get", "events"],
            &[
                "-n",
                "rv",
                "get",
                "mirroredvolumes",
                "-o",
                "jsonpath={.items[*].status}",
            ],
        ] {
            let said = site
                .kubectl(arguments)
                .unwrap_or_else(|error| error.to_string());
            text.push_str(&format!(
                "{name}$ kubectl {}\n{said}\n",
                arguments.join(" ")
            ));
        }
        text
    }

    /// The end: a last look, and the judgement of the history.
    ///
    /// # Errors
    /// The history cannot be read.
    pub fn close(&mut self) -> Result<()> {
        self.verify()?;
        self.history.flush()?;
        let verdict = history::check(&history::event::read(&self.history_file)?);
        self.report.history_writes = verdict.issued;
        self.report.history_reads = verdict.reads;
        self.report.violations = verdict.violations.iter().map(ToString::to_string).collect();
        self.report.seconds = self.began.elapsed().as_secs_f64();
        Ok(())
    }
}

fn in_sync(volume: &MirroredVolume) -> bool {
    volume.status.as_ref().is_some_and(|status| {
        status.legs.len() == 2
            && status
                .legs
                .iter()
                .all(|leg| leg.state == VolumeLegState::Member)
    })
}

/// `kubectl get mirroredvolumes -w`, line by line.
struct Watch {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Watch {
    fn start(site: &Site) -> Result<Self> {
        let mut command: Command = site.kubectl_command();
        let mut child = command
            .args(["-n", VOLUME.0, "get", "mirroredvolumes", "-w", "-o", "wide"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = child.stdout.take().context("a pipe")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

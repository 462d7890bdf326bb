//! The stage itself: clusters become Ready, pods run and reach their API server, the plug and the line do what they say, and power
//! that returns finds the disks as they were.
//!
//! Not run by the usual test harness: all of it happens in a world of its own, which a thread of a harness cannot enter.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use twinsite_kubernetes::clusters::{self, Clusters};
use twinsite_kubernetes::machine::Machine;
use twinsite_kubernetes::process_group::{Signal, until};
use twinsite_kubernetes::programs::{Program, Programs};
use twinsite_kubernetes::site::Site;
use twinsite_kubernetes::world::{self, Here};
use twinsite_kubernetes::{images, install};

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: probe}
spec:
  nodeName: m2
  terminationGracePeriodSeconds: 1
  containers:
    - name: probe
      image: localhost/pause:dev
      imagePullPolicy: Never
";

fn main() -> ExitCode {
    // What cargo's harness would be asked.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("stage: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    if let Some(reason) = clusters::unwanted().or_else(clusters::missing) {
        eprintln!("skipped: {reason}");
        return Ok(ExitCode::SUCCESS);
    }
    Programs::obtain(Program::ALL)?;
    let folder = clusters::work_folder("test-stage")?;
    if let Here::Ended(code) = world::inside("stage", &folder)? {
        return Ok(code);
    }
    tokio::runtime::Runtime::new()?.block_on(play(&folder))?;
    Ok(ExitCode::SUCCESS)
}

async fn play(folder: &Path) -> Result<()> {
    let start = Instant::now();
    let pause = images::pause(&folder.join("images"))?;
    let mut clusters = Clusters::start(folder, &[pause]).await?;
    told("two clusters are Ready", start);

    install::apply_text(&clusters.medical, POD)?;
    wait_running(&clusters.medical)?;
    let said = clusters.medical.kubectl(&[
        "exec",
        "probe",
        "--",
        "/bin/sh",
        "-c",
        "echo $KUBERNETES_SERVICE_HOST",
    ])?;
    ensure!(said == "10.81.96.1", "the pod was told {said}");
    told("a pod runs and can be entered", start);

    the_line(&clusters)?;
    told("the line between the sites was cut and mended", start);

    let m2 = clusters.medical.nodes[1]
        .machine()
        .map(|machine| machine.signal("kubelet", Signal::Kill));
    ensure!(m2 == Some(1), "there were {m2:?} kubelets on m2");
    told("a kubelet was killed by its name", start);

    let first = clusters.medical.nodes[0].machine().map(Machine::first);
    clusters.medical.pull_the_plug();
    ensure!(
        clusters.medical.kubectl(&["get", "nodes"]).is_err(),
        "a dead API server answered"
    );
    ensure!(
        clusters.research.kubectl(&["get", "nodes"]).is_ok(),
        "the other cluster died too"
    );
    if let Some(first) = first {
        ensure!(
            !Path::new(&format!("/proc/{first}")).exists(),
            "a machine outlived its plug"
        );
    }
    told("the plug of a site was pulled", start);

    clusters.medical.power_on().await?;
    clusters.medical.wait_nodes_ready().await?;
    wait_running(&clusters.medical)?;
    told(
        "power returned, the nodes are Ready, the pod runs again",
        start,
    );

    clusters.research.plane_mut().stop_api_server();
    ensure!(
        clusters.research.kubectl(&["get", "nodes"]).is_err(),
        "a stopped API server answered"
    );
    clusters.research.plane_mut().start_api_server().await?;
    clusters.research.wait_nodes_ready().await?;
    told("an API server was away and came back", start);
    Ok(())
}

fn told(what: &str, start: Instant) {
    println!("{:>6.1} s  {what}", start.elapsed().as_secs_f64());
}

fn wait_running(site: &Site) -> Result<()> {
    until(Duration::from_secs(90), "a running pod", || {
        const READY: &str = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        site.kubectl(&["get", "pod", "probe", "-o", READY])
            .is_ok_and(|ready| ready == "True")
    })
}

/// From a machine of one site, the other site's API server is out of reach while the line is cut, and the witness is not.
fn the_line(clusters: &Clusters) -> Result<()> {
    let reaches = |there: &Site| {
        let Some(machine) = clusters.medical.nodes[0].machine() else {
            return false;
        };
        machine
            .command(Path::new("bash"))
            .args([
                "-c",
                &format!(
                    "exec timeout 2 bash -c '</dev/tcp/{}/443' 2>/dev/null",
                    there.address()
                ),
            ])
            .status()
            .is_ok_and(|status| status.success())
    };
    ensure!(
        reaches(&clusters.research),
        "the sites do not reach each other"
    );
    clusters.cut_line()?;
    let (peer, witness) = (reaches(&clusters.research), reaches(&clusters.witness));
    clusters.mend_line()?;
    ensure!(!peer, "a cut line carried something");
    ensure!(witness, "the cut took the witness too");
    ensure!(reaches(&clusters.research), "a mended line carries nothing");
    Ok(())
}

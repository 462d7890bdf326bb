//! Two clusters and a third API server to look at and to try things on: `make clusters`. They go with Ctrl-C.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use twinsite_kubernetes::clusters::{self, Clusters};
use twinsite_kubernetes::images;
use twinsite_kubernetes::programs::{Program, Programs};
use twinsite_kubernetes::world::{self, Here};

/// Without the sidecars: for trying things by hand, the clusters are enough.
const CLUSTER: &[Program] = &[
    Program::Etcd,
    Program::KubeApiserver,
    Program::KubeControllerManager,
    Program::KubeScheduler,
    Program::Kubelet,
    Program::Kubectl,
];

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("clusters: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode> {
    anyhow::ensure!(
        std::env::args_os().len() == 1,
        "no arguments are taken: it runs until Ctrl-C"
    );
    if let Some(reason) = clusters::missing() {
        eprintln!("clusters: {reason}");
        return Ok(ExitCode::FAILURE);
    }
    let programs = Programs::obtain(CLUSTER)?;
    let folder = clusters::work_folder("clusters")?;
    if let Here::Ended(code) = world::inside("clusters", &folder)? {
        return Ok(code);
    }
    tokio::runtime::Runtime::new()?.block_on(async {
        let start = Instant::now();
        let archives = folder.join("images");
        let images = images::make(&archives, &programs).or_else(|error| {
            eprintln!("clusters: without our images: {error:#}");
            images::pause(&archives).map(|pause| vec![pause])
        })?;
        let clusters = Clusters::start(&folder, &images).await?;
        println!(
            "ready after {:.1} s; from another terminal:",
            start.elapsed().as_secs_f64()
        );
        for site in clusters.sites() {
            println!("  {} kubectl get nodes", site.shell().display());
        }
        println!(
            "or with all three contexts, helm and the plugin beside it:\n  {} kubectl twinsite status",
            folder.join("shell").display()
        );
        std::future::pending::<()>().await;
        Ok(ExitCode::SUCCESS)
    })
}

//! `make demo-kubernetes`: two real clusters, a pod that writes, and the plug pulled on one of them.

use std::env;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use twinsite_kubernetes::clusters;
use twinsite_kubernetes::demo::stage::Stage;
use twinsite_kubernetes::demo::story;
use twinsite_kubernetes::programs::{Program, Programs};
use twinsite_kubernetes::world::{self, Here};

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("demo-kubernetes: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode> {
    anyhow::ensure!(
        env::args_os().len() == 1,
        "no arguments are taken: options come as in: make demo-kubernetes ROUNDS=3 NODE=1"
    );
    if let Some(reason) = clusters::missing() {
        eprintln!("demo-kubernetes: {reason}");
        return Ok(ExitCode::FAILURE);
    }
    let rounds = match env::var("ROUNDS").ok().filter(|text| !text.is_empty()) {
        Some(text) => text
            .parse()
            .with_context(|| format!("ROUNDS={text}: say a number"))?,
        None => 1,
    };
    let node = env::var_os("NODE").is_some_and(|text| !text.is_empty() && text != "0");
    Programs::obtain(Program::ALL)?;
    let folder = clusters::work_folder("demo-kubernetes")?;
    let work = folder.join("work");
    if let Here::Ended(code) = world::inside("demo-kubernetes", &work)? {
        return Ok(code);
    }
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut stage = Stage::set(&work).await?;
        let outcome = story::tell(&mut stage, rounds, node).await;
        stage.report.save(&folder)?;
        outcome?;
        println!("\n{}\n\n{}", stage.report.table(), stage.report.line());
        Ok(if stage.report.good() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

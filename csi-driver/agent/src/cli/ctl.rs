//! `twinsite-agent ctl`: asks a running agent over its socket. Answers are JSON on standard output.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use twinsite_api::{LegIndex, Quantity};

use crate::control::{
    requests::{Answer, FormatStep, Request},
    socket,
};

const DEFAULT_SOCKET: &str = "/run/twinsite/agent.sock";
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub struct CtlArgs {
    /// Socket of the agent.
    #[arg(long, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Ctl,
}

#[derive(Debug, clap::Subcommand)]
enum Ctl {
    /// Everything that this node does, or one attachment.
    Status { name: Option<String> },
    /// What is wrong with the objects' files.
    Problems,
    /// Detach a volume; it stays so until its object changes, or until `attach`.
    Detach { name: String },
    /// Undo a detach by hand.
    Attach { name: String },
    /// Take a leg (A or B) out of the membership; it does not come back by itself.
    DropLeg {
        name: String,
        #[arg(value_parser = parse_leg)]
        leg: LegIndex,
    },
    /// Grow a volume whose legs are large enough.
    Expand { name: String, size: Quantity },
    /// Record on both legs that a file system is being made, or is made.
    Format {
        name: String,
        #[arg(value_parser = parse_step)]
        state: FormatStep,
        fs_type: String,
    },
    /// Compare both copies of a volume while it is used. Reads only: what differs is listed, never repaired.
    Verify {
        /// The attachment, or the volume by id or `namespace/name`.
        name: String,
        /// Stay until it has ended; differences are an error.
        #[arg(long)]
        wait: bool,
        /// End the comparison under way.
        #[arg(long, conflicts_with = "wait")]
        stop: bool,
    },
    /// Read the superblocks of a volume's legs; writes nothing, fences nobody.
    Inspect { name: String },
    /// Wait until an attachment is in a state, such as Attached or Detached.
    Wait {
        name: String,
        #[arg(long, default_value = "Attached")]
        state: String,
        #[arg(long, default_value = "60s")]
        timeout: twinsite_api::Span,
    },
}

fn parse_leg(text: &str) -> Result<LegIndex, String> {
    match text {
        "A" | "a" => Ok(LegIndex::A),
        "B" | "b" => Ok(LegIndex::B),
        _ => Err("a leg is A or B".to_owned()),
    }
}

fn parse_step(text: &str) -> Result<FormatStep, String> {
    match text {
        "started" => Ok(FormatStep::Started),
        "done" => Ok(FormatStep::Done),
        _ => Err("started or done".to_owned()),
    }
}

pub fn run(args: CtlArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let request = match args.command {
        Ctl::Wait {
            name,
            state,
            timeout,
        } => {
            return runtime.block_on(wait(&args.socket, &name, &state, timeout.length()));
        }
        Ctl::Status { name } => Request::Status { name },
        Ctl::Problems => Request::Problems,
        Ctl::Detach { name } => Request::Detach { name },
        Ctl::Attach { name } => Request::Attach { name },
        Ctl::DropLeg { name, leg } => Request::DropLeg { name, leg },
        Ctl::Expand { name, size } => Request::Expand { name, size },
        Ctl::Format {
            name,
            state,
            fs_type,
        } => Request::Format {
            name,
            state,
            fs_type,
        },
        Ctl::Inspect { name } => Request::Inspect { name },
        Ctl::Verify {
            name,
            wait: true,
            stop: _,
        } => return runtime.block_on(verify(&args.socket, name)),
        Ctl::Verify { name, stop, .. } => Request::Verify { name, stop },
    };
    let answer = runtime.block_on(ask(&args.socket, &request))?;
    print(&answer)
}

async fn ask(path: &std::path::Path, request: &Request) -> anyhow::Result<Answer> {
    let asked = socket::ask(path, request).await;
    asked.with_context(|| {
        format!(
            "no agent answers on {}: give the --socket with which it runs, and see that it runs",
            path.display()
        )
    })
}

fn print(answer: &Answer) -> anyhow::Result<()> {
    if !answer.ok {
        bail!("{}", answer.error.as_deref().unwrap_or("refused"));
    }
    if !answer.result.is_null() {
        println!("{}", serde_json::to_string_pretty(&answer.result)?);
    }
    Ok(())
}

/// Orders a comparison and follows it to its end; also over a time in which a copy is away.
async fn verify(path: &std::path::Path, name: String) -> anyhow::Result<()> {
    let request = Request::Verify { name, stop: false };
    let begun = ask(path, &request).await?;
    if !begun.ok {
        return print(&begun);
    }
    let name = begun.result["attachment"].as_str().unwrap_or_default();
    let request = Request::Status {
        name: Some(name.to_owned()),
    };
    loop {
        tokio::time::sleep(LOOK).await;
        let answer = ask(path, &request).await?;
        let status: twinsite_api::AttachmentStatus = serde_json::from_value(answer.result)
            .with_context(|| format!("no status of {name}: was it detached?"))?;
        let report = status.verify.context("the agent knows of no comparison")?;
        if report.is_open() {
            continue;
        }
        println!("{}", serde_json::to_string_pretty(&report)?);
        let whole = report.state == twinsite_api::VerifyState::Done;
        if !whole || report.found_difference() || report.unreadable_bytes > 0 {
            bail!("{name}: {}", report.sentence());
        }
        return Ok(());
    }
}

async fn wait(
    path: &std::path::Path,
    name: &str,
    wanted: &str,
    limit: Duration,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let request = Request::Status {
        name: Some(name.to_owned()),
    };
    loop {
        // An agent that is being started does not answer yet.
        let asked = ask(path, &request).await;
        let state = match &asked {
            Ok(answer) => answer.result.get("state").and_then(|state| state.as_str()),
            Err(_) => None,
        };
        let state = state.map(str::to_owned);
        match &asked {
            Ok(answer) if state.as_deref() == Some(wanted) => return print(answer),
            // One that was removed and has detached is gone.
            Ok(answer) if !answer.ok && wanted == "Detached" => return Ok(()),
            _ => {}
        }
        if start.elapsed() >= limit {
            let answer = asked?;
            let message = answer.result.get("message").and_then(|text| text.as_str());
            let why = message
                .or(answer.error.as_deref())
                .unwrap_or("no reason is given");
            bail!(
                "{name} is {} and not {wanted} after {} s: {why}",
                state.as_deref().unwrap_or("unknown"),
                limit.as_secs()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

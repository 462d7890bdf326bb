//! How a day looks at a cluster: one field, one condition, and what a person would look at when it does not come.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use twinsite_kubernetes::clusters::{self, Clusters};
use twinsite_kubernetes::demo::stage::Stage;
use twinsite_kubernetes::images;
use twinsite_kubernetes::node::Node;
use twinsite_kubernetes::process_group::{Signal, until};
use twinsite_kubernetes::site::Site;

/// Records between two events.
pub(crate) const A_WHILE: u64 = 200;
/// A gap that means somebody waited for what was away. On a starved machine a leg can time out for a few seconds by itself.
pub(crate) const NO_GAP: Duration = Duration::from_secs(20);
pub(crate) const SHORT: Duration = Duration::from_secs(60);
pub(crate) const LONG: Duration = Duration::from_secs(150);

/// A runtime that is already there, for the few calls that wait.
pub(crate) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(future)
}

/// Records go on, without anybody having waited.
pub(crate) fn no_gap(stage: &mut Stage) -> Result<()> {
    stage.ledger.mark();
    stage.write_records(A_WHILE)?;
    let gap = stage.ledger.longest_gap();
    ensure!(gap < NO_GAP, "no record for {:.1} s", gap.as_secs_f64());
    Ok(())
}

/// `kubectl get WHAT -o jsonpath=PATH`.
pub(crate) fn field(site: &Site, what: &[&str], path: &str) -> Result<String> {
    let path = format!("jsonpath={path}");
    let mut arguments = vec!["get"];
    arguments.extend(what);
    arguments.extend(["-o", &path]);
    site.kubectl(&arguments)
}

/// The status of one condition.
pub(crate) fn condition(site: &Site, what: &[&str], kind: &str) -> Result<String> {
    let path = format!("{{.status.conditions[?(@.type==\"{kind}\")].status}}");
    field(site, what, &path)
}

/// Waits until a field is as wanted; else the object is in the message.
pub(crate) fn until_field(
    site: &Site,
    limit: Duration,
    what: &[&str],
    path: &str,
    good: impl Fn(&str) -> bool,
) -> Result<()> {
    let told = format!("{} {path} at {}", what.join(" "), site.name);
    until(limit, &told, || {
        field(site, what, path).is_ok_and(|text| good(&text))
    })
    .with_context(|| whole(site, what))
}

/// Waits until a condition has this status.
pub(crate) fn until_condition(
    site: &Site,
    limit: Duration,
    what: &[&str],
    kind: &str,
    status: &str,
) -> Result<()> {
    let path = format!("{{.status.conditions[?(@.type==\"{kind}\")].status}}");
    until_field(site, limit, what, &path, |text| text == status)
}

/// Waits until the words of a status say this.
pub(crate) fn until_said(site: &Site, limit: Duration, what: &[&str], words: &str) -> Result<()> {
    until_field(site, limit, what, "{.status.conditions}", |text| {
        text.contains(words)
    })
}

/// An object, and what the operator last said.
pub(crate) fn whole(site: &Site, what: &[&str]) -> String {
    let mut arguments = vec!["get"];
    arguments.extend(what);
    arguments.extend(["-o", "yaml"]);
    let mut text = site.kubectl(&arguments).unwrap_or_default();
    for arguments in [
        ["get", "attachments,legs", "-o", "wide"].as_slice(),
        &["get", "attachments", "-o", "jsonpath={.items[*].status}"],
        &[
            "-n",
            "twinsite",
            "logs",
            "-l",
            "app.kubernetes.io/component=operator",
            "--tail=15",
        ],
    ] {
        text.push_str(&format!(
            "\n{}$ kubectl {}\n",
            site.name,
            arguments.join(" ")
        ));
        text.push_str(
            &site
                .kubectl(arguments)
                .unwrap_or_else(|error| error.to_string()),
        );
    }
    text
}

/// What a person would look at now, in both clusters, kept as `target/seen/NAME.txt`.
pub(crate) fn keep(stage: &Stage, name: &str) -> Result<()> {
    const LOOKS: &[&str] = &[
        "get mirroredvolumes,mirrorgroups -A",
        "get mirroredvolumes -A -o wide",
        "get sitepairs,storagepools,failovers,legs,attachments",
        "describe mirrorgroups -A",
        "describe mirroredvolumes -A",
        "describe sitepairs,storagepools,failovers",
        "get events -A --sort-by=.metadata.creationTimestamp -o custom-columns=AT:.metadata.creationTimestamp,TYPE:.type,KIND:.involvedObject.kind,NAME:.involvedObject.name,REASON:.reason,NOTE:.message",
        "-n twinsite logs -l app.kubernetes.io/component=operator --tail=200 --timestamps",
    ];
    let mut text = String::new();
    for site in [&stage.clusters.medical, &stage.clusters.research] {
        for look in LOOKS {
            let arguments: Vec<&str> = look.split(' ').collect();
            let said = site.kubectl(&arguments);
            let said = said.unwrap_or_else(|error| format!("{error:#}"));
            text.push_str(&format!("\n{}$ kubectl {look}\n{said}\n", site.name));
        }
    }
    for look in ["status", "status -o wide", "preflight"] {
        let arguments: Vec<&str> = look.split(' ').collect();
        let said = plugin(&stage.clusters, &arguments).unwrap_or_else(|error| format!("{error:#}"));
        text.push_str(&format!("\n$ kubectl twinsite {look}\n{said}\n"));
    }
    let folder = clusters::work_folder("seen")?;
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("{name}.txt")), text)?;
    Ok(())
}

/// Waits until nothing has this name.
pub(crate) fn until_gone(site: &Site, limit: Duration, what: &[&str]) -> Result<()> {
    let mut arguments = vec!["get"];
    arguments.extend(what);
    until(
        limit,
        &format!("{} to go at {}", what.join(" "), site.name),
        || {
            site.kubectl(&arguments)
                .is_err_and(|error| error.to_string().contains("NotFound"))
        },
    )
    .with_context(|| whole(site, what))
}

/// Kills the processes of this name on all nodes of a site, or on one.
pub(crate) fn kill_process(site: &Site, node: Option<&str>, name: &str) -> usize {
    let machines = site
        .nodes
        .iter()
        .filter(|one| node.is_none_or(|node| one.name == node))
        .filter_map(Node::machine);
    machines
        .map(|machine| machine.signal(name, Signal::Kill))
        .sum()
}

/// What `kubectl twinsite` says; an error if it does not end well.
pub(crate) fn plugin(clusters: &Clusters, arguments: &[&str]) -> Result<String> {
    let output = Command::new(images::built()?.join("kubectl-twinsite"))
        .args(arguments)
        .env("KUBECONFIG", clusters.kubeconfig())
        .env("HOME", clusters.medical.folder())
        .env_remove("TWINSITE_CONTEXTS")
        .output()
        .context("kubectl-twinsite is not built")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(
        output.status.success(),
        "kubectl twinsite {}: {text}",
        arguments.join(" ")
    );
    Ok(text)
}

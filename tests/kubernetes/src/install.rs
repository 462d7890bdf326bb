//! Installing twinsite as its guide says: the chart once per cluster, three Secrets, a pool per site.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::certificates::base64;
use crate::clusters::Clusters;
use crate::site::Site;

/// Namespace of the release, in all three clusters.
pub const NAMESPACE: &str = "twinsite";
/// From the chart to every pod being ready.
const READY_LIMIT: Duration = Duration::from_secs(180);

/// The root of the source tree: charts and examples lie there.
#[must_use]
pub fn tree() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .and_then(Path::parent)
        .unwrap_or(here)
        .to_owned()
}

/// The folder of the examples that are applied.
#[must_use]
pub fn examples() -> PathBuf {
    tree().join("examples/two-cluster")
}

/// Installs everything and waits until every pod of it is ready.
///
/// # Errors
/// Helm refuses, or a pod does not become ready; which, and why, is in the message.
pub fn install(clusters: &Clusters) -> Result<()> {
    helm(&clusters.witness, &["--set", "mode=witness"])?;
    let witness = access(&clusters.witness, "twinsite-witness")?;
    let sites = [&clusters.medical, &clusters.research];
    for site in sites {
        let values = examples().join(format!("values-{}.yaml", site.name));
        helm(site, &["--values", &values.display().to_string()])?;
    }
    // A key that both sites share; in a test it need not be secret.
    let key = base64(&[0x42; 32]);
    for (site, peer) in [(sites[0], sites[1]), (sites[1], sites[0])] {
        secret(site, "twinsite-witness", "kubeconfig", &witness)?;
        secret(
            site,
            "twinsite-peer",
            "kubeconfig",
            &access(peer, "twinsite-peer")?,
        )?;
        secret(site, "twinsite-pair", "key", &key)?;
    }
    for site in sites {
        wait_ready(site)?;
    }
    Ok(())
}

/// Installs or upgrades the release of one cluster.
///
/// # Errors
/// Helm refuses.
pub fn helm(site: &Site, arguments: &[&str]) -> Result<()> {
    let output = site
        .helm_command()
        .args(["upgrade", "--install", "twinsite"])
        .arg(tree().join("charts/twinsite"))
        .args(["--namespace", NAMESPACE, "--create-namespace"])
        .args(arguments)
        .output()
        .context("cannot run helm")?;
    ensure!(
        output.status.success(),
        "helm at {}: {}",
        site.name,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A kubeconfig that logs in to `site` as one of the release's service accounts.
///
/// # Errors
/// The cluster gives no token.
pub fn access(site: &Site, account: &str) -> Result<String> {
    let token = site.kubectl(&[
        "-n",
        NAMESPACE,
        "create",
        "token",
        account,
        "--duration",
        "24h",
    ])?;
    let authority = fs::read(site.plane().certificates().certificate("ca"))?;
    Ok(format!(
        "apiVersion: v1\nkind: Config\n\
         clusters: [{{name: there, cluster: {{server: \"{}\", certificate-authority-data: {}}}}}]\n\
         users: [{{name: us, user: {{token: {token}}}}}]\n\
         contexts: [{{name: there, context: {{cluster: there, user: us}}}}]\n\
         current-context: there\n",
        site.plane().url(),
        base64(&authority)
    ))
}

/// Makes or replaces a Secret of the release with one key.
///
/// # Errors
/// The API server refuses.
pub fn secret(site: &Site, name: &str, key: &str, value: &str) -> Result<()> {
    let text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\ndata: {{{key}: {}}}\n",
        base64(value.as_bytes())
    );
    apply_text(site, &text)
}

/// Applies objects given as text, as `kubectl apply --server-side` does.
///
/// # Errors
/// The API server refuses one.
pub fn apply_text(site: &Site, text: &str) -> Result<()> {
    let path = site.folder().join("applied.yaml");
    fs::write(&path, text)?;
    apply(site, &path)
}

/// Applies a file or a folder.
///
/// # Errors
/// The API server refuses an object.
pub fn apply(site: &Site, path: &Path) -> Result<()> {
    let path = path.display().to_string();
    site.kubectl(&["apply", "--server-side", "-f", &path])?;
    Ok(())
}

/// What `kubectl diff` shows between a file and the cluster; empty if nothing.
///
/// # Errors
/// It cannot be asked.
pub fn drift(site: &Site, path: &Path) -> Result<String> {
    let output = site
        .kubectl_command()
        .args(["diff", "--server-side", "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .output()?;
    match output.status.code() {
        Some(0) => Ok(String::new()),
        Some(1) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => bail!(
            "kubectl diff: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    }
}

/// Makes the pool's folder of a node a pool, by the agent that runs there.
///
/// # Errors
/// The agent refuses.
pub fn make_pool(site: &Site, node: &str) -> Result<()> {
    let field = format!("spec.nodeName={node}");
    let pod = site.kubectl(&[
        "-n",
        NAMESPACE,
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/component=agent",
        "--field-selector",
        &field,
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ])?;
    site.kubectl(&[
        "-n",
        NAMESPACE,
        "exec",
        &pod,
        "--",
        "twinsite-agent",
        "pool",
        "init",
        "/var/lib/twinsite/pool",
    ])?;
    Ok(())
}

/// Waits until every pod of the release is ready.
///
/// # Errors
/// One is not in time; the pods and the last words of those that fail are in the message.
pub fn wait_ready(site: &Site) -> Result<()> {
    let start = Instant::now();
    loop {
        let said = site.kubectl(&[
            "-n", NAMESPACE, "get", "pods", "-o",
            "jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}",
        ])?;
        let pods: Vec<&str> = said.lines().collect();
        if !pods.is_empty() && pods.iter().all(|pod| pod.ends_with(" True")) {
            return Ok(());
        }
        if start.elapsed() > READY_LIMIT {
            let pods = site.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", "wide"])?;
            let events = site
                .kubectl(&[
                    "-n",
                    NAMESPACE,
                    "get",
                    "events",
                    "--field-selector",
                    "type=Warning",
                ])
                .unwrap_or_default();
            let logs = site
                .kubectl(&[
                    "-n",
                    NAMESPACE,
                    "logs",
                    "-l",
                    "app.kubernetes.io/name=twinsite",
                    "--all-containers",
                    "--tail=5",
                    "--prefix",
                ])
                .unwrap_or_else(|error| error.to_string());
            bail!(
                "the release is not ready at {}:\n{pods}\n{events}\n{logs}",
                site.name
            );
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

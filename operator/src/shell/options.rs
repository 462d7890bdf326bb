//! What the process is told at its start.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;

/// Reconciles the resources of twinsite.io in one cluster.
#[derive(Clone, Debug, Parser)]
#[command(name = "twinsite-operator", version)]
pub struct Options {
    /// The site that this cluster is (chart value `site`; environment TWINSITE_SITE).
    #[arg(long, default_value_t = set("TWINSITE_SITE", ""), hide_default_value = true, value_parser = site_name)]
    pub site: String,
    /// The namespace of the release, with the Secrets, the lease and the marks (environment POD_NAMESPACE).
    #[arg(long, default_value_t = set("POD_NAMESPACE", ""), hide_default_value = true, value_parser = namespace)]
    pub namespace: String,
    /// Name of this process among its replicas (environment POD_NAME).
    #[arg(long, default_value_t = set("POD_NAME", "twinsite-operator"), hide_default_value = true)]
    pub pod: String,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0:9808")]
    pub http: SocketAddr,
    /// Kubeconfig of the own cluster. Left out: the service account of the pod, or the usual places.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the lease by which replicas elect a leader.
    #[arg(long, default_value = "twinsite-operator")]
    pub lease: String,
    /// Objects that are reconciled at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// Keep new pods off a node that is lost, by a taint, until it is back (chart value `operator.taintLostNodes`).
    #[arg(long)]
    pub taint_lost_nodes: bool,
    /// How logs are written.
    #[arg(long, default_value = "text")]
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

fn set(variable: &str, otherwise: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| otherwise.to_owned())
}

fn namespace(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("give the namespace of the release, or set POD_NAMESPACE".to_owned());
    }
    Ok(text.to_owned())
}

fn site_name(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| fits(*b))
        && ends(bytes.first())
        && ends(bytes.last())
    {
        Ok(text.to_owned())
    } else {
        Err(
            "give the site's name, or set TWINSITE_SITE: 1 to 63 lower-case letters, digits and '-', such as medical"
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_site_is_refused_at_the_start() {
        assert!(site_name("medical").is_ok());
        for bad in ["", "Medical", "-a", "a-", "a.b", "a b"] {
            assert!(site_name(bad).is_err(), "{bad}");
        }
    }
}

//! The clusters that the plugin talks to, by the contexts of the kubeconfig.
//!
//! Without a word on the command line it takes the current context, and the other site's cluster where the kubeconfig has
//! a context that is called as the site; of a move also that of the site to move to, since the current one may be down.
//!
//! Invariants: every request has a time limit; a cluster that does not answer becomes a sentence, never an end.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::{
    Api, Client, Config, Resource, ResourceExt as _,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use twinsite_api::{Seen, SitePair, Unreadable};

use crate::world::{Cluster, Objects};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const PAGE: u32 = 500;
/// Objects of one kind that are read at most.
const MOST: usize = 100_000;

/// A cluster that can be asked.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) context: String,
    pub(crate) client: Client,
    /// Where its API is, and whom to trust there; for a kubeconfig made from it.
    pub(crate) server: String,
    pub(crate) authority: Option<String>,
}

/// The clusters that `--contexts` names, or those that go without saying; `to` is the site that something moves to.
pub(crate) async fn clusters(named: &[String], to: Option<&str>) -> Result<Vec<Access>> {
    let kubeconfig = Kubeconfig::read().context("no kubeconfig can be read: set KUBECONFIG")?;
    if !named.is_empty() {
        let mut all = Vec::new();
        for context in named {
            all.push(access(&kubeconfig, context).await?);
        }
        return Ok(all);
    }
    let Some(current) = kubeconfig.current_context.clone() else {
        bail!("the kubeconfig has no current context: give --contexts ONE,OTHER");
    };
    let own = access(&kubeconfig, &current).await?;
    let mut all = vec![own.clone()];
    // A cluster that is down cannot say who its peer is; its name in the kubeconfig may.
    let pairs: Vec<SitePair> = list(&Api::all(own.client.clone()))
        .await
        .unwrap_or_default();
    let mut sites: Vec<&str> = Vec::new();
    for pair in &pairs {
        let own_site = pair.status.as_ref().and_then(|status| status.site.clone());
        let names = pair.spec.sites.iter().map(|site| site.name.as_str());
        sites.extend(names.filter(|name| own_site.as_deref() != Some(name)));
    }
    if pairs.is_empty() {
        sites.extend(to);
    }
    for site in sites {
        let known = kubeconfig.contexts.iter().any(|one| one.name == site);
        if known && all.iter().all(|one| one.context != site) {
            all.push(access(&kubeconfig, site).await?);
        }
    }
    Ok(all)
}

/// One cluster, by the name of its context.
pub(crate) async fn one(context: Option<&str>) -> Result<Access> {
    let kubeconfig = Kubeconfig::read().context("no kubeconfig can be read: set KUBECONFIG")?;
    let Some(context) = context
        .map(str::to_owned)
        .or_else(|| kubeconfig.current_context.clone())
    else {
        bail!("the kubeconfig has no current context: name one")
    };
    access(&kubeconfig, &context).await
}

async fn access(kubeconfig: &Kubeconfig, context: &str) -> Result<Access> {
    let options = KubeConfigOptions {
        context: Some(context.to_owned()),
        ..KubeConfigOptions::default()
    };
    let mut config = Config::from_custom_kubeconfig(kubeconfig.clone(), &options)
        .await
        .with_context(|| {
            format!("context {context:?} of the kubeconfig cannot be used (kubectl config get-contexts lists those that are there)")
        })?;
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(ANSWER_LIMIT);
    let server = config
        .cluster_url
        .to_string()
        .trim_end_matches('/')
        .to_owned();
    let authority = config.root_cert.as_ref().map(|certs| pem(certs));
    Ok(Access {
        context: context.to_owned(),
        client: Client::try_from(config)
            .with_context(|| format!("context {context:?} of the kubeconfig cannot be used"))?,
        server,
        authority,
    })
}

/// The cluster that this process runs in, or the current context.
pub(crate) async fn own() -> Result<Client> {
    let mut config = Config::infer()
        .await
        .context("neither a kubeconfig nor a pod's token can be read")?;
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(ANSWER_LIMIT);
    Ok(Client::try_from(config)?)
}

/// Every object of a kind, page by page.
///
/// What this version cannot read is told, and does not hide the others.
pub(crate) async fn list<K>(api: &Api<Seen<K>>) -> kube::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut all = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        all.extend(page.items.into_iter().filter_map(readable));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) if all.len() < MOST => params = params.continue_token(&token),
            _ => return Ok(all),
        }
    }
}

fn readable<K: Resource<DynamicType = ()>>(seen: Seen<K>) -> Option<K> {
    let (namespace, name) = (seen.namespace().unwrap_or_default(), seen.name_any());
    let told = |why: &Unreadable| {
        let kind = K::kind(&());
        eprintln!(
            "warning: {kind} {namespace}/{name} is left out: this version of the plugin cannot read it: {why}; use a newer one"
        );
    };
    seen.read.inspect_err(told).ok()
}

/// Reads all clusters at once.
pub(crate) async fn read_all(all: &[Access]) -> Vec<Cluster> {
    futures::future::join_all(all.iter().map(read)).await
}

async fn read(access: &Access) -> Cluster {
    Cluster {
        context: access.context.clone(),
        objects: objects(&access.client)
            .await
            .map_err(|error| explain(&error)),
    }
}

async fn objects(client: &Client) -> kube::Result<Objects> {
    let (pairs, pools, volumes) = (
        Api::all(client.clone()),
        Api::all(client.clone()),
        Api::all(client.clone()),
    );
    let (attachments, failovers) = (Api::all(client.clone()), Api::all(client.clone()));
    let (pairs, pools, volumes, attachments, failovers) = futures::try_join!(
        list(&pairs),
        list(&pools),
        list(&volumes),
        list(&attachments),
        list(&failovers),
    )?;
    Ok(Objects {
        pairs,
        pools,
        volumes,
        attachments,
        failovers,
    })
}

/// An error in a sentence, with what to do where that is known.
pub(crate) fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            "it has no definitions of twinsite.io: install the chart".to_owned()
        }
        kube::Error::Api(status) if status.code == 401 => {
            "it does not accept the credentials of this context".to_owned()
        }
        other => twinsite_api::told(other),
    }
}

fn pem(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = crate::peer::base64(certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

//! What each command does: read, call the pure part, print.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use twinsite_api::{Attachment, Failover, MirroredVolume};

use crate::{
    bundle,
    cli::{Command, FailoverArgs, Output, PairCommand, PeerCommand},
    cluster::{self, Access},
    failover, inspect, peer, plan, preflight, status, uninstall, verify,
    world::Cluster,
};

const WATCH_STEP: Duration = Duration::from_millis(500);
const SECONDS_PER_DAY: i64 = 86_400;

/// Runs one; whether the process ends well.
pub(crate) async fn run(command: Command) -> Result<bool> {
    match command {
        Command::Status {
            place,
            namespace,
            output,
            check,
        } => {
            let all = cluster::clusters(&place.contexts(), None).await?;
            let report = status::report(&cluster::read_all(&all).await, namespace.as_deref());
            match output {
                Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
                Output::Wide => print!("{}", status::render(&report, status::Detail::Wide)),
                Output::Screen => print!("{}", status::render(&report, status::Detail::Screen)),
            }
            Ok(!check || report.all_well())
        }
        Command::Plan {
            place,
            volume,
            namespace,
            to,
            node,
            output,
        } => {
            let all = cluster::clusters(&place.contexts(), Some(&to)).await?;
            let plan = make_plan(&all, &volume, &namespace, &to, node).await?;
            match output {
                Output::Json => println!("{}", serde_json::to_string_pretty(&plan)?),
                Output::Screen | Output::Wide => print!("{}", plan::render(&plan)),
            }
            Ok(true)
        }
        Command::Verify {
            place,
            volume,
            namespace,
            request,
        } => {
            let all = cluster::clusters(&place.contexts(), None).await?;
            let read = cluster::read_all(&all).await;
            let request = request.unwrap_or_else(|| Timestamp::now().to_string());
            let volume_of = (namespace.as_str(), volume.as_str());
            let context = verify::order(&all, &read, volume_of, &request).await?;
            println!("ordered in {context}; see `kubectl twinsite status -n {namespace}`");
            Ok(true)
        }
        Command::Failover(args) => order_failover(args).await,
        Command::Preflight {
            place,
            namespace,
            output,
        } => {
            let all = cluster::clusters(&place.contexts(), None).await?;
            let read = cluster::read_all(&all).await;
            let mut facts = Vec::new();
            for (access, cluster) in all.iter().zip(read) {
                facts.push(preflight::gather::facts(access, cluster, &namespace).await);
            }
            let checks = preflight::checks(&facts);
            match output {
                Output::Json => println!("{}", serde_json::to_string_pretty(&checks)?),
                Output::Screen | Output::Wide => print!("{}", preflight::render(&checks)),
            }
            Ok(preflight::all_good(&checks))
        }
        Command::Peer(command) => create_peer_secret(command).await,
        Command::Pair(PairCommand::CreateSecret {
            place,
            namespace,
            name,
        }) => {
            let all = cluster::clusters(&place.contexts(), None).await?;
            for line in peer::share_key(&all, &namespace, &name).await? {
                println!("{line}");
            }
            Ok(true)
        }
        Command::SupportBundle {
            place,
            namespace,
            folder,
        } => {
            ensure!(
                !folder.exists(),
                "{} is there already: give another --folder",
                folder.display()
            );
            for access in cluster::clusters(&place.contexts(), None).await? {
                let place = bundle::write(&access, &namespace, &folder).await?;
                println!("{}: {}", access.context, place.display());
            }
            println!(
                "Look it through, then: tar czf twinsite-support.tgz {}",
                folder.display()
            );
            Ok(true)
        }
        Command::UninstallCheck => uninstall_check().await,
    }
}

/// The cluster that is a site in the pair of a volume or group, with its objects of the volumes that move together.
fn at_site<'a>(
    all: &'a [Access],
    read: &'a [Cluster],
    namespace: &str,
    name: &str,
    to: &str,
) -> Result<(&'a Access, &'a Cluster, Vec<&'a MirroredVolume>)> {
    let mut there = None;
    for (access, cluster) in all.iter().zip(read) {
        let volumes = cluster.together(namespace, name);
        let Some(first) = volumes.first() else {
            continue;
        };
        there = Some(first.spec.site_pair.as_str());
        if cluster.site(&first.spec.site_pair) == Some(to) {
            return Ok((access, cluster, volumes));
        }
    }
    let contexts = contexts_of(all);
    let Some(pair) = there else {
        let silent = all
            .iter()
            .zip(read)
            .find(|(_, cluster)| cluster.answer().is_none());
        if let Some((silent, _)) = silent {
            bail!(
                "{} does not answer, and no other cluster of {contexts} has a volume or group {namespace}/{name}: give the context of site {to} \
                 with --contexts",
                silent.context
            )
        }
        bail!(
            "there is no volume or group {namespace}/{name} in {contexts}: `kubectl twinsite status` lists those that are"
        )
    };
    bail!(
        "none of the clusters {contexts} answers as site {to} of pair {pair}, where {namespace}/{name} is: give the contexts of \
         both sites with --contexts, and see `kubectl twinsite status`"
    )
}

fn contexts_of(all: &[Access]) -> String {
    let contexts: Vec<&str> = all.iter().map(|one| one.context.as_str()).collect();
    contexts.join(", ")
}

async fn make_plan(
    all: &[Access],
    volume: &str,
    namespace: &str,
    to: &str,
    node: Option<String>,
) -> Result<plan::Plan> {
    let (namespace, name) = volume.split_once('/').unwrap_or((namespace, volume));
    let read = cluster::read_all(all).await;
    let (access, cluster, volumes) = at_site(all, &read, namespace, name, to)?;
    let spec = volumes.first().map(|volume| &volume.spec);
    let pair = spec.map_or("", |spec| &spec.site_pair);
    let pair = cluster
        .pair(pair)
        .with_context(|| format!("there is no SitePair {pair}"))?;
    let Some(node) = node.or_else(|| inspect::node(cluster.answer()?, to)) else {
        bail!("no pool names a node of {to}: give --node, one with an agent")
    };
    let seen = inspect::inspect(&access.client, &volumes, pair, to, &node).await?;
    let looked: Vec<plan::Looked<'_>> = volumes
        .iter()
        .zip(&seen)
        .map(|(volume, seen)| plan::Looked {
            volume,
            inspected: seen.as_ref(),
        })
        .collect();
    // A volume that is in no group may be called as the group is: an order would name both.
    let group = spec.and_then(|spec| spec.group.as_deref());
    let is_free = |group: &&str| cluster.volume(namespace, group).is_none();
    Ok(plan::plan(
        &looked,
        group.filter(is_free).unwrap_or(name),
        to,
    ))
}

async fn order_failover(args: FailoverArgs) -> Result<bool> {
    let mut wanted = failover::Wanted {
        pair: args.pair.clone().unwrap_or_default(),
        to: args.to.clone(),
        volumes: args.volumes,
        namespace: args.namespace,
        all: args.all,
        selector: args.selector,
        expect_epoch: args.expect_epoch,
        token: args.token,
        inconsistent: args.inconsistent,
        legs: args.legs,
    };
    // What can be refused without a cluster is.
    failover::object(&wanted, args.mode.into())?;
    let all = cluster::clusters(&args.place.contexts(), Some(&args.to)).await?;
    let read = cluster::read_all(&all).await;
    let (access, pair) = target(&all, &read, &args.to, args.pair.as_deref())?;
    wanted.pair = pair;
    let object = failover::object(&wanted, args.mode.into())?;
    if args.dry_run {
        print!("{}", serde_yaml::to_string(&object)?);
        return Ok(true);
    }
    let api: Api<Failover> = Api::all(access.client.clone());
    let made = api
        .create(&PostParams::default(), &object)
        .await
        .with_context(|| format!("{} does not take the Failover", access.context))?;
    let name = made.metadata.name.clone().unwrap_or_default();
    println!("failover/{name} ordered in {}", access.context);
    watch(&api, &name, &access.context, Duration::from_secs(args.wait)).await
}

/// The cluster of the target site, and the pair that it is a site of.
fn target<'a>(
    all: &'a [Access],
    read: &[Cluster],
    to: &str,
    pair: Option<&str>,
) -> Result<(&'a Access, String)> {
    let mut found = Vec::new();
    for (access, cluster) in all.iter().zip(read) {
        let pairs = cluster
            .answer()
            .into_iter()
            .flat_map(|objects| &objects.pairs);
        for name in pairs.filter_map(|pair| pair.metadata.name.clone()) {
            let is_wanted = pair.is_none_or(|pair| pair == name);
            if is_wanted && cluster.site(&name) == Some(to) {
                found.push((access, name));
            }
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => bail!(
            "none of the clusters {} answers as site {to}: the order is made at the site to move to, give its context \
             with --contexts",
            contexts_of(all)
        ),
        _ => bail!("{to} is a site of several pairs: name one with --pair"),
    }
}

async fn watch(api: &Api<Failover>, name: &str, context: &str, limit: Duration) -> Result<bool> {
    let began = Instant::now();
    let mut shown = String::new();
    while began.elapsed() < limit {
        let object = api.get(name).await?;
        let text = failover::progress(&object);
        if text != shown && object.status.is_some() {
            print!("{text}");
            shown = text;
        }
        if let Some(good) = failover::is_over(&object) {
            println!("{}", if good { "done" } else { "failed" });
            return Ok(good);
        }
        tokio::time::sleep(WATCH_STEP).await;
    }
    if !limit.is_zero() {
        println!(
            "still under way, and carried out as soon as it can be:\n  kubectl --context {context} get failover {name} -w"
        );
        println!("or take it back:\n  kubectl --context {context} delete failover {name}");
    }
    Ok(true)
}

async fn create_peer_secret(command: PeerCommand) -> Result<bool> {
    let PeerCommand::CreateSecret {
        from_context,
        to_context,
        namespace,
        from_namespace,
        service_account,
        name,
        days,
        server,
        dry_run,
    } = command;
    ensure!(
        from_context != to_context,
        "a cluster is no peer of itself: --from-context and --to-context are the same"
    );
    let from = cluster::one(Some(&from_context)).await?;
    let wanted = peer::PeerSecret {
        from_namespace: from_namespace.unwrap_or_else(|| namespace.clone()),
        namespace,
        service_account,
        name,
        seconds: i64::from(days) * SECONDS_PER_DAY,
        server,
    };
    let (secret, ends) = peer::peer_secret(&from, &wanted).await?;
    if dry_run {
        print!("{}", serde_yaml::to_string(&secret)?);
        return Ok(true);
    }
    let to = cluster::one(Some(&to_context)).await?;
    peer::apply(&to, &secret).await?;
    println!(
        "{to_context}: Secret {}/{} gives access to {from_context} until {ends}; run this again before",
        wanted.namespace, wanted.name
    );
    Ok(true)
}

async fn uninstall_check() -> Result<bool> {
    let client = cluster::own().await?;
    // A definition that was never installed has no objects.
    let absent =
        |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
    // Names are enough, and what cannot be read counts too.
    let volumes = match Api::<MirroredVolume>::all(client.clone())
        .list_metadata(&ListParams::default())
        .await
    {
        Ok(list) => list.items,
        Err(error) if absent(&error) => Vec::new(),
        Err(error) => return Err(error).context("MirroredVolumes cannot be listed"),
    };
    let attachments = match Api::<Attachment>::all(client)
        .list_metadata(&ListParams::default())
        .await
    {
        Ok(list) => list.items,
        Err(error) if absent(&error) => Vec::new(),
        Err(error) => return Err(error).context("Attachments cannot be listed"),
    };
    let volumes: Vec<_> = volumes
        .iter()
        .map(|volume| {
            format!(
                "{}/{}",
                volume.metadata.namespace.as_deref().unwrap_or_default(),
                volume.metadata.name.as_deref().unwrap_or_default()
            )
        })
        .collect();
    let attachments: Vec<_> = attachments
        .into_iter()
        .filter_map(|attachment| attachment.metadata.name)
        .collect();
    match uninstall::objection(&volumes, &attachments) {
        Some(text) => {
            eprint!("{text}");
            Ok(false)
        }
        None => {
            println!("no volumes: the chart may go");
            Ok(true)
        }
    }
}

//! The operator against real API servers: two sites, and a third cluster as witness.
//!
//! A stand-in of the agent answers Legs and Birth; everything else is the product. Skipped with one line where the programs
//! of Kubernetes cannot be had.

mod agent;
mod newer;
mod silent;
mod thousand;
mod world;

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    coordination::v1::Lease,
    core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim},
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use twinsite_api::{Attachment, Leg, MirroredVolume, Role, SitePair, StoragePool, VolumeId};
use twinsite_kubernetes::control_plane::ControlPlane;
use world::{Cluster, World, condition, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_bear_a_volume_and_go_on_without_each_other_and_without_the_witness() -> Result<()>
{
    if let Some(reason) = ControlPlane::missing() {
        eprintln!("skipped: {reason}");
        return Ok(());
    }
    let mut world = World::start().await?;
    world.step("the definitions are there; their rules hold on the real server");
    rules_hold(&world.medical).await?;

    world.step("both sites claim their names");
    world.medical.start_operator("one")?;
    world.research.start_operator("one")?;
    for site in [&world.medical, &world.research] {
        for type_ in ["SiteClaimed", "WitnessReachable", "PeerReachable", "Ready"] {
            pair_says(site, type_, "True").await?;
        }
    }
    let pair: Api<SitePair> = Api::all(world.medical.client.clone());
    eventually("both claims show, with their indexes", 20, || async {
        let claims = pair.get("ctrc").await?.status.unwrap_or_default().claims;
        let mut indexes: Vec<String> = claims.iter().map(|claim| claim.index.to_string()).collect();
        indexes.sort();
        Ok((indexes == ["A", "B"], format!("{claims:?}")))
    })
    .await?;

    world.step("a volume is born although the operators are killed again and again");
    world.apply_volume().await?;
    for n in 0..8u64 {
        tokio::time::sleep(Duration::from_millis(150 + 70 * n)).await;
        let site = if n % 2 == 0 {
            &mut world.medical
        } else {
            &mut world.research
        };
        site.kill_operator();
        // A lease of its own: nobody here waits for the dead one's to run out.
        site.start_operator(&format!("life-{n}"))?;
    }
    for (site, role) in [
        (&world.medical, Role::Active),
        (&world.research, Role::Standby),
    ] {
        volume_is_ready(site, role).await?;
        exactly_one_of_each(site).await?;
    }
    workloads_run_at(&world, 1, 0).await?;
    marks_are_kept(&world.medical).await?;

    world.step("a change at the other site shows here within a moment");
    shows_soon(&world).await?;

    world.step("a node is silent: what its agent said is taken back, and given back by it");
    silent::what_a_silent_agent_said_is_taken_back(&world).await?;

    world.step("the peer is away: said, and nothing else");
    world.research.plane.stop_api_server();
    pair_says(&world.medical, "PeerReachable", "False").await?;
    pair_says(&world.medical, "Ready", "True").await?;
    local_work_goes_on(&world.medical).await?;
    world.research.plane.start_api_server().await?;
    pair_says(&world.medical, "PeerReachable", "True").await?;

    world.step("the witness is away: said, and the volume stays as it is");
    world.witness.plane.stop_api_server();
    pair_says(&world.medical, "WitnessReachable", "False").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    workloads_run_at(&world, 1, 0).await?;
    exactly_one_of_each(&world.medical).await?;
    world.witness.plane.start_api_server().await?;
    pair_says(&world.medical, "WitnessReachable", "True").await?;

    world.step("a second cluster says that it is medical");
    world.impostor().await?;
    pair_says(&world.witness, "SiteClaimed", "False").await?;
    pair_says(&world.witness, "Ready", "False").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let legs: Api<Leg> = Api::all(world.witness.client.clone());
    assert!(
        legs.list(&Default::default()).await?.items.is_empty(),
        "an impostor makes nothing"
    );
    volume_is_ready(&world.medical, Role::Active).await?;

    world.step("a definition of a later version: what is newer stops nothing else");
    newer::what_is_newer_stops_nothing_else(&mut world.medical).await?;

    world.step("SIGTERM hands the lease over at once");
    hands_over(&mut world.medical).await?;
    world.step("done");
    Ok(())
}

async fn rules_hold(site: &Cluster) -> Result<()> {
    let good = site.volume("probe");
    site.plane.apply(&good).await?;
    for (what, bad) in [
        ("a smaller capacity", good.replace("64Mi", "32Mi")),
        ("another file system", good.replace("ext4", "xfs")),
        (
            "another pair",
            good.replace("sitePair: ctrc", "sitePair: other"),
        ),
        (
            "an active site without a leg",
            good.replace("activeSite: medical", "activeSite: moon"),
        ),
        ("an unknown field", good.replace("fsType:", "fstype:")),
    ] {
        assert!(
            site.plane.apply(&bad).await.is_err(),
            "{what} must be refused"
        );
    }
    site.plane.apply(&good.replace("64Mi", "128Mi")).await?;
    let api: Api<MirroredVolume> = Api::namespaced(site.client.clone(), "rv");
    api.delete("probe", &Default::default()).await?;
    Ok(())
}

async fn pair_says(site: &Cluster, type_: &str, status: &str) -> Result<()> {
    let api: Api<SitePair> = Api::all(site.client.clone());
    eventually(
        &format!("{}: {type_} is {status}", site.name),
        40,
        || async {
            let pair = api.get("ctrc").await?;
            let conditions = pair.status.unwrap_or_default().conditions;
            Ok((
                condition(&conditions, type_) == Some(status),
                format!("{conditions:?}"),
            ))
        },
    )
    .await
}

async fn volume_is_ready(site: &Cluster, role: Role) -> Result<()> {
    let api: Api<MirroredVolume> = Api::namespaced(site.client.clone(), "rv");
    eventually(
        &format!("{}: the volume is ready", site.name),
        40,
        || async {
            let status = api.get("records").await?.status.unwrap_or_default();
            let ready =
                condition(&status.conditions, "Ready") == Some("True") && status.role == Some(role);
            let active = status
                .active_site
                .as_ref()
                .is_some_and(|active| active.name == "medical");
            Ok((ready && active, format!("{status:#?}")))
        },
    )
    .await
}

async fn exactly_one_of_each(site: &Cluster) -> Result<()> {
    let id = VolumeId::of("ctrc", "rv", "records");
    let client = || site.client.clone();
    let legs: Api<Leg> = Api::all(client());
    let legs = legs.list(&Default::default()).await?.items;
    assert_eq!(legs.len(), 1, "{}: {legs:?}", site.name);
    let volumes: Api<PersistentVolume> = Api::all(client());
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client(), "rv");
    eventually(
        &format!("{}: volume and claim are there", site.name),
        20,
        || async {
            let volumes = volumes.list(&Default::default()).await?.items;
            let claims = claims.list(&Default::default()).await?.items;
            let names: Vec<String> = volumes.iter().map(|one| one.name_any()).collect();
            let good =
                names == [id.to_string()] && claims.len() == 1 && claims[0].name_any() == "records";
            Ok((good, format!("{names:?} {}", claims.len())))
        },
    )
    .await
}

async fn workloads_run_at(world: &World, medical: i32, research: i32) -> Result<()> {
    for (site, wanted) in [(&world.medical, medical), (&world.research, research)] {
        let api: Api<StatefulSet> = Api::namespaced(site.client.clone(), "rv");
        eventually(&format!("{}: {wanted} replicas", site.name), 20, || async {
            let replicas = api
                .get("records")
                .await?
                .spec
                .and_then(|spec| spec.replicas);
            Ok((replicas == Some(wanted), format!("{replicas:?}")))
        })
        .await?;
    }
    Ok(())
}

async fn marks_are_kept(site: &Cluster) -> Result<()> {
    let id = VolumeId::of("ctrc", "rv", "records").to_string();
    let group = id.trim_start_matches("ts-").to_owned();
    let api: Api<ConfigMap> = Api::namespaced(site.client.clone(), "twinsite");
    let name = format!("twinsite-marks-ctrc-{}", &group[..1]);
    eventually(
        "the mark of the register is in the own cluster",
        20,
        || async {
            let map = api.get_opt(&name).await?;
            let text = map.and_then(|map| map.data?.get(&group).cloned());
            let good = text
                .as_deref()
                .is_some_and(|text| text.contains("register_id"));
            Ok((good, format!("{text:?}")))
        },
    )
    .await
}

/// Another address of the pool at research stands in the volume's status at medical.
async fn shows_soon(world: &World) -> Result<()> {
    let pools: Api<StoragePool> = Api::all(world.research.client.clone());
    let began = std::time::Instant::now();
    let patch = json!({ "spec": { "portals": ["127.0.0.1:9999"] } });
    pools
        .patch(
            "research-ssd",
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await?;
    let api: Api<MirroredVolume> = Api::namespaced(world.medical.client.clone(), "rv");
    eventually("the new portal shows at the other site", 10, || async {
        let status = api.get("records").await?.status.unwrap_or_default();
        let theirs = status.legs.iter().find(|leg| leg.site == "research");
        let good = theirs.is_some_and(|leg| leg.portals == ["127.0.0.1:9999"]);
        Ok((good, format!("{theirs:?}")))
    })
    .await?;
    eprintln!("    shown after {:.2} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// A workload that somebody scaled up too far is brought back.
async fn local_work_goes_on(site: &Cluster) -> Result<()> {
    let api: Api<StatefulSet> = Api::namespaced(site.client.clone(), "rv");
    let patch = json!({ "spec": { "replicas": 3 } });
    api.patch_scale("records", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    // Something changes, so that nobody waits for the minute.
    let touch = json!({ "metadata": { "annotations": { "touched": format!("{:?}", std::time::Instant::now()) } } });
    let volumes: Api<MirroredVolume> = Api::namespaced(site.client.clone(), "rv");
    volumes
        .patch("records", &PatchParams::default(), &Patch::Merge(&touch))
        .await?;
    eventually(
        &format!("{}: local work goes on", site.name),
        20,
        || async {
            let replicas = api
                .get("records")
                .await?
                .spec
                .and_then(|spec| spec.replicas);
            Ok((replicas == Some(1), format!("{replicas:?}")))
        },
    )
    .await
}

async fn hands_over(site: &mut Cluster) -> Result<()> {
    let lease = site.lease().to_owned();
    site.start_standby(&lease)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = std::time::Instant::now();
    site.terminate_operator()?;
    let api: Api<Lease> = Api::namespaced(site.client.clone(), "twinsite");
    eventually("the standby leads", 10, || async {
        let holder = api
            .get(&lease)
            .await?
            .spec
            .and_then(|spec| spec.holder_identity);
        Ok((
            holder
                .as_deref()
                .is_some_and(|name| name.starts_with("standby_")),
            format!("{holder:?}"),
        ))
    })
    .await?;
    eprintln!(
        "    handed over after {:.2} s",
        began.elapsed().as_secs_f64()
    );
    let attachments: Api<Attachment> = Api::all(site.client.clone());
    let left = attachments.list(&Default::default()).await?.items;
    assert!(left.len() <= 1, "{left:?}");
    Ok(())
}

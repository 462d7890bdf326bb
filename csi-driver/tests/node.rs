//! The driver on real agents, devices and mounts: calls in every order, and the bad days of a node.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod world;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tonic::{Code, Request, Status, transport::Channel};
use twinsite_api::AttachmentStatus;
use twinsite_csi::{
    mount::Mounts,
    proto::csi::{
        CapacityRange, ControllerExpandVolumeRequest, ControllerPublishVolumeRequest,
        ControllerUnpublishVolumeRequest, CreateVolumeRequest, DeleteVolumeRequest,
        NodeExpandVolumeRequest, NodeGetStorageHealthRequest, NodeGetVolumeHealthRequest,
        NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeStageVolumeRequest,
        NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, VolumeCapability, VolumeHealth,
        controller_client::ControllerClient,
        node_client::NodeClient,
        volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode},
    },
};
use twinsite_tests::needs;
use world::World;

/// One volume and everything that is asked about it.
struct Volume {
    id: String,
    context: HashMap<String, String>,
    capability: VolumeCapability,
    node_name: String,
    staging: PathBuf,
    folder: PathBuf,
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
}

type Answer<T> = Result<T, Status>;

fn capability(fs_type: Option<&str>, mode: Mode) -> VolumeCapability {
    let access_type = match fs_type {
        Some(name) => AccessType::Mount(MountVolume {
            fs_type: name.to_owned(),
            ..MountVolume::default()
        }),
        None => AccessType::Block(BlockVolume {}),
    };
    VolumeCapability {
        access_type: Some(access_type),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

fn within<T>(seconds: u64, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(seconds));
    request
}

fn code<T>(answer: &Answer<T>) -> Code {
    answer.as_ref().err().map_or(Code::Ok, Status::code)
}

impl Volume {
    /// Creates a volume and publishes it to the node.
    async fn published(
        world: &World,
        name: &str,
        capability: VolumeCapability,
        bytes: i64,
    ) -> Self {
        let mut controller = world.controller().await.unwrap();
        let request = CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(CapacityRange {
                required_bytes: bytes,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![capability.clone()],
            parameters: world.parameters().into_iter().collect(),
            ..CreateVolumeRequest::default()
        };
        let made = controller.create_volume(within(40, request)).await.unwrap();
        let mut volume = Self {
            id: made.into_inner().volume.unwrap().volume_id,
            context: HashMap::new(),
            capability,
            node_name: world.node_name().to_owned(),
            staging: world.folder.join(format!("staging-{name}")),
            folder: world.folder.join(format!("pods-{name}")),
            controller,
            node: world.node().await.unwrap(),
        };
        volume.publish_to_node().await.unwrap();
        volume
    }

    async fn publish_to_node(&mut self) -> Answer<()> {
        let request = ControllerPublishVolumeRequest {
            volume_id: self.id.clone(),
            node_id: self.node_name.clone(),
            volume_capability: Some(self.capability.clone()),
            ..ControllerPublishVolumeRequest::default()
        };
        let request = within(30, request);
        let answer = self.controller.controller_publish_volume(request).await?;
        self.context = answer.into_inner().publish_context;
        Ok(())
    }

    async fn unpublish_from_node(&mut self) -> Answer<()> {
        let request = ControllerUnpublishVolumeRequest {
            volume_id: self.id.clone(),
            node_id: self.node_name.clone(),
            ..ControllerUnpublishVolumeRequest::default()
        };
        let request = within(30, request);
        let answer = self.controller.controller_unpublish_volume(request).await;
        answer.map(drop)
    }

    async fn delete(&mut self) -> Answer<()> {
        let request = DeleteVolumeRequest {
            volume_id: self.id.clone(),
            ..DeleteVolumeRequest::default()
        };
        let answer = self.controller.delete_volume(within(30, request)).await;
        answer.map(drop)
    }

    async fn stage_as(&self, capability: VolumeCapability, seconds: u64) -> Answer<()> {
        let request = NodeStageVolumeRequest {
            volume_id: self.id.clone(),
            publish_context: self.context.clone(),
            staging_target_path: self.staging.display().to_string(),
            volume_capability: Some(capability),
            ..NodeStageVolumeRequest::default()
        };
        let request = within(seconds, request);
        let mut node = self.node.clone();
        node.node_stage_volume(request).await.map(drop)
    }

    async fn stage(&self) -> Answer<()> {
        self.stage_as(self.capability.clone(), 30).await
    }

    async fn unstage(&self) -> Answer<()> {
        let request = NodeUnstageVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: self.staging.display().to_string(),
        };
        let mut node = self.node.clone();
        let answer = node.node_unstage_volume(within(30, request));
        answer.await.map(drop)
    }

    fn pod(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("mount")
    }

    async fn publish(&self, pod: &str, read_only: bool) -> Answer<()> {
        let request = NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            publish_context: self.context.clone(),
            staging_target_path: self.staging.display().to_string(),
            target_path: self.pod(pod).display().to_string(),
            volume_capability: Some(self.capability.clone()),
            readonly: read_only,
            ..NodePublishVolumeRequest::default()
        };
        let mut node = self.node.clone();
        let answer = node.node_publish_volume(within(30, request));
        answer.await.map(drop)
    }

    async fn unpublish(&self, pod: &str) -> Answer<()> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: self.id.clone(),
            target_path: self.pod(pod).display().to_string(),
        };
        let mut node = self.node.clone();
        let answer = node.node_unpublish_volume(within(30, request));
        answer.await.map(drop)
    }

    async fn total_bytes(&self, pod: &str) -> i64 {
        let request = NodeGetVolumeStatsRequest {
            volume_id: self.id.clone(),
            volume_path: self.pod(pod).display().to_string(),
            ..NodeGetVolumeStatsRequest::default()
        };
        let mut node = self.node.clone();
        let answer = node.node_get_volume_stats(within(30, request));
        answer.await.unwrap().into_inner().usage[0].total
    }

    async fn health(&self) -> VolumeHealth {
        let request = NodeGetVolumeHealthRequest {
            volume_id: self.id.clone(),
            ..NodeGetVolumeHealthRequest::default()
        };
        let mut node = self.node.clone();
        let answer = node.node_get_volume_health(within(30, request));
        answer.await.unwrap().into_inner().volume_health.unwrap()
    }

    async fn reasons(&self) -> Vec<String> {
        let health = self.health().await.health_statuses;
        health.into_iter().map(|entry| entry.reason).collect()
    }

    /// Waits until exactly this is wrong.
    async fn has_reasons(&self, expected: &[&str]) {
        let begun = std::time::Instant::now();
        while self.reasons().await != expected {
            let health = self.health().await;
            assert!(begun.elapsed() < Duration::from_secs(30), "{health:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn device(&self, world: &World) -> PathBuf {
        let name = format!("{}-writer", self.id);
        let status: AttachmentStatus = world.sites[0].status("attachment", &name).unwrap();
        status.device.unwrap().path.into()
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status();
    assert!(status.unwrap().success(), "{program} {arguments:?}");
}

fn is_mounted(path: &Path) -> bool {
    Mounts::read().unwrap().at(path).is_some()
}

fn can_run() -> bool {
    if let Some(why) = needs::missing_for_devices() {
        eprintln!("skipped: {why}");
        return false;
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_come_in_every_order_and_twice() {
    if !can_run() {
        return;
    }
    let mut world = World::start(0).unwrap();
    let single = capability(Some("xfs"), Mode::SingleNodeSingleWriter);
    let mut volume = Volume::published(&world, "one", single, 320 << 20).await;
    let early = volume.publish("a", false).await;
    assert_eq!(code(&early), Code::FailedPrecondition, "not staged yet");
    volume.unpublish("a").await.unwrap();
    volume.unstage().await.unwrap();

    // Two at once: one does it, the other is told to ask again; asked again, all is well.
    let (one, two) = tokio::join!(volume.stage(), volume.stage());
    let codes = [code(&one), code(&two)];
    assert!(codes.contains(&Code::Ok), "{codes:?}");
    assert!(codes.contains(&Code::Aborted), "{codes:?}");
    volume.stage().await.unwrap();
    let other = capability(Some("ext4"), Mode::SingleNodeSingleWriter);
    let other = volume.stage_as(other, 10).await;
    assert_eq!(code(&other), Code::AlreadyExists);

    for _ in 0..2 {
        volume.publish("a", false).await.unwrap();
    }
    fs::write(volume.pod("a").join("record"), "1").unwrap();
    assert_eq!(code(&volume.publish("a", true).await), Code::AlreadyExists);
    let second = volume.publish("b", false).await;
    assert_eq!(code(&second), Code::FailedPrecondition, "ReadWriteOncePod");
    assert_eq!(code(&volume.unstage().await), Code::FailedPrecondition);

    // A service that starts anew knows what it had done.
    world.kill_node();
    world.start_node().unwrap();
    volume.node = world.node().await.unwrap();
    volume.stage().await.unwrap();
    volume.publish("a", false).await.unwrap();
    assert_eq!(
        code(&volume.publish("b", false).await),
        Code::FailedPrecondition
    );
    assert_eq!(volume.reasons().await, [""; 0]);

    for _ in 0..2 {
        volume.unpublish("a").await.unwrap();
    }
    assert!(!volume.pod("a").exists());
    volume.publish("b", true).await.unwrap();
    let written = fs::write(volume.pod("b").join("record"), "2");
    assert!(written.is_err(), "it is read only there");
    assert_eq!(
        fs::read_to_string(volume.pod("b").join("record")).unwrap(),
        "1"
    );
    volume.unpublish("b").await.unwrap();
    for _ in 0..2 {
        volume.unstage().await.unwrap();
    }
    // As kubelet does after an unstage that failed: nothing of the node's own disk may be shown.
    let late = volume.publish("c", false).await;
    assert_eq!(code(&late), Code::FailedPrecondition);

    volume.unpublish_from_node().await.unwrap();
    let gone = volume.stage_as(volume.capability.clone(), 2).await;
    assert_eq!(code(&gone), Code::FailedPrecondition, "not published here");
    volume.publish_to_node().await.unwrap();
    volume.stage().await.unwrap();
    assert_eq!(
        fs::read_to_string(volume.staging.join("record")).unwrap(),
        "1"
    );
    volume.unstage().await.unwrap();
    volume.unpublish_from_node().await.unwrap();
    volume.delete().await.unwrap();
    volume.delete().await.unwrap();
    let pools = world
        .sites
        .iter()
        .flat_map(|site| fs::read_dir(site.pool()).unwrap());
    let left = pools
        .flatten()
        .filter(|file| file.metadata().unwrap().len() > 1 << 20);
    assert_eq!(left.count(), 0, "no leg is left in a pool");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_under_its_pod() {
    if !can_run() {
        return;
    }
    let world = World::start(0).unwrap();
    let mut volumes = Vec::new();
    for (name, fs_type, bytes) in [
        ("e", Some("ext4"), 64 << 20),
        ("x", Some("xfs"), 320 << 20),
        ("b", None, 64 << 20),
    ] {
        let capability = capability(fs_type, Mode::SingleNodeMultiWriter);
        let volume = Volume::published(&world, name, capability, bytes).await;
        volume.stage().await.unwrap();
        volume.publish("a", false).await.unwrap();
        volumes.push((volume, bytes));
    }
    let ext4 = volumes[0].0.capability.clone();
    for (volume, bytes) in &mut volumes {
        let before = volume.total_bytes("a").await;
        let wanted = *bytes * 2;
        let range = Some(CapacityRange {
            required_bytes: wanted,
            limit_bytes: 0,
        });
        let request = ControllerExpandVolumeRequest {
            volume_id: volume.id.clone(),
            capacity_range: range,
            ..ControllerExpandVolumeRequest::default()
        };
        let request = within(40, request);
        let answer = volume.controller.controller_expand_volume(request).await;
        assert_eq!(answer.unwrap().into_inner().capacity_bytes, wanted);
        let request = NodeExpandVolumeRequest {
            volume_id: volume.id.clone(),
            volume_path: volume.pod("a").display().to_string(),
            capacity_range: range,
            ..NodeExpandVolumeRequest::default()
        };
        let mut answer = volume
            .node
            .node_expand_volume(within(40, request.clone()))
            .await;
        if volume.capability == ext4 && !world::may_grow_mounted_ext4() {
            assert_eq!(code(&answer), Code::FailedPrecondition);
            volume.unpublish("a").await.unwrap();
            volume.unstage().await.unwrap();
            volume.stage().await.unwrap();
            volume.publish("a", false).await.unwrap();
            answer = volume.node.node_expand_volume(within(40, request)).await;
        }
        assert!(answer.unwrap().into_inner().capacity_bytes >= wanted);
        let after = volume.total_bytes("a").await;
        assert!(after > before + *bytes * 8 / 10, "{before} -> {after}");
        // Two pods of one node, as ReadWriteOnce allows.
        volume.publish("b", false).await.unwrap();
    }
    for (volume, _) in &mut volumes {
        volume.unpublish("a").await.unwrap();
        volume.unpublish("b").await.unwrap();
        volume.unstage().await.unwrap();
        volume.unpublish_from_node().await.unwrap();
    }
}

/// A Deployment's new pod comes before the old one has ended, and kubelet takes the volume for staged.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_comes_while_an_old_one_still_has_a_dead_device_gets_the_present_one() {
    if !can_run() {
        return;
    }
    let mut world = World::start(0).unwrap();
    let shared = capability(Some("ext4"), Mode::SingleNodeMultiWriter);
    let volume = Volume::published(&world, "shared", shared, 64 << 20).await;
    volume.stage().await.unwrap();
    volume.publish("old", false).await.unwrap();
    let record = |pod: &str| volume.pod(pod).join("record");
    fs::write(record("old"), "1").unwrap();
    run("sync", &["-f"], &record("old"));
    world.kill_agent(0);
    world.start_agent(0).unwrap();
    volume.has_reasons(&["StaleDevice"]).await;

    volume.publish("new", false).await.unwrap();
    assert_eq!(fs::read_to_string(record("new")).unwrap(), "1");
    fs::write(record("new"), "2").unwrap();
    run("sync", &["-f"], &record("new"));
    for pod in ["old", "new"] {
        volume.unpublish(pod).await.unwrap();
    }
    volume.unstage().await.unwrap();
    assert!(!is_mounted(&volume.staging));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_on_a_node_is_told_and_gets_well_again() {
    if !can_run() {
        return;
    }
    let mut world = World::start(0).unwrap();
    let ext4 = || capability(Some("ext4"), Mode::SingleNodeSingleWriter);

    // Something else is on the device: it is never formatted over.
    let strange = Volume::published(&world, "strange", ext4(), 320 << 20).await;
    let device = strange.device(&world);
    run("mkfs.xfs", &["-q", "-f", "-K"], &device);
    let refused = strange.stage().await;
    assert_eq!(code(&refused), Code::FailedPrecondition);
    let text = refused.unwrap_err().message().to_owned();
    assert!(text.contains("carries xfs"), "{text}");
    run("wipefs", &["-q", "-a"], &device);
    strange.stage().await.unwrap();
    strange.unstage().await.unwrap();
    // Made, mounted once, and now its beginning is gone: that is lost data, not a new volume.
    run("wipefs", &["-q", "-a"], &device);
    let vanished = strange.stage().await;
    let text = vanished.unwrap_err().message().to_owned();
    assert!(text.contains("not formatted again"), "{text}");

    let volume = Volume::published(&world, "good", ext4(), 64 << 20).await;
    volume.stage().await.unwrap();
    volume.publish("a", false).await.unwrap();
    let record = volume.pod("a").join("record");
    fs::write(&record, "1").unwrap();
    run("sync", &["-f"], &record);

    // The agent dies: the device is dead under the mount.
    world.kill_agent(0);
    assert_eq!(volume.reasons().await, ["AgentUnreachable"]);
    let mut node = volume.node.clone();
    let storage = node.node_get_storage_health(within(30, NodeGetStorageHealthRequest::default()));
    let storage = storage.await.unwrap().into_inner().backend_health;
    assert_eq!(storage[0].reason, "AgentUnreachable");
    let away = strange.stage_as(ext4(), 2).await;
    assert_eq!(code(&away), Code::Unavailable);

    // It starts again: the volume has another device, the pod still sees the dead one.
    world.start_agent(0).unwrap();
    volume.has_reasons(&["StaleDevice"]).await;

    // The pod goes and comes again, as a person, or the one who restarted the agent, sees to.
    volume.unpublish("a").await.unwrap();
    volume.stage().await.unwrap();
    volume.publish("a", false).await.unwrap();
    assert_eq!(fs::read_to_string(&record).unwrap(), "1");
    assert_eq!(volume.reasons().await, [""; 0]);

    // The other site goes: one copy, and the pod goes on.
    world.kill_agent(1);
    fs::write(&record, "2").unwrap();
    run("sync", &["-f"], &record);
    volume.has_reasons(&["LegUnreachable"]).await;
    fs::write(&record, "3").unwrap();

    // Dead for good: everything can still be taken away.
    world.kill_agent(0);
    volume.unpublish("a").await.unwrap();
    volume.unstage().await.unwrap();
    assert!(!is_mounted(&volume.staging) && !volume.pod("a").exists());
    world.start_agent(0).unwrap();
    world.start_agent(1).unwrap();
}

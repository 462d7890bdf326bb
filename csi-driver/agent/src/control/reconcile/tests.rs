//! Worlds as YAML, plans as text. `World` does what a plan says, so that every story can be told on,
//! and after each step planning again must give nothing to do.

mod attaching;
mod groups;
mod legs;
mod orders;

use twinsite_api::{AttachmentMode, AttachmentSpec};

use super::*;
use crate::objects::parse_file;

const PAIR: &str = "
apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {name: ctrc}
spec:
  sites: [{name: medical}, {name: research}]
  witness: {directory: {path: /w}}
---
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {name: p1}
spec:
  site: medical
  node: {name: m1, directory: /pool}
  portals: ['127.0.0.1:3260']
---
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {name: p2}
spec:
  site: research
  node: {name: r1, directory: /pool}
  portals: ['127.0.0.1:3261']
";

fn leg(name: &str, rest: &str) -> String {
    format!(
        "---
apiVersion: twinsite.io/v1alpha1
kind: Leg
metadata: {{name: {name}}}
spec:
  volume: ts-000102030405060708090a0b0c0d0e0f
  leg: A
  site: medical
  sitePair: ctrc
  node: m1
{rest}
"
    )
}

fn attachment(name: &str, rest: &str) -> String {
    format!(
        "---
apiVersion: twinsite.io/v1alpha1
kind: Attachment
metadata: {{name: {name}, uid: {name}-uid}}
spec:
  volume: ts-000102030405060708090a0b0c0d0e0f
  sitePair: ctrc
  node: m1
  site: medical
  legs:
  - {{leg: A, site: medical, portals: ['127.0.0.1:3260']}}
  - {{leg: B, site: research, portals: ['127.0.0.1:3261']}}
{rest}
"
    )
}

fn writer(name: &str) -> String {
    attachment(name, "  mode: Writer\n  size: 2Gi")
}

struct World {
    desired: Desired,
    observed: Observed,
    now: Duration,
}

impl World {
    fn new(manifests: &[&str]) -> Self {
        let mut world = Self {
            desired: Desired::default(),
            observed: Observed::default(),
            now: Duration::ZERO,
        };
        world.desired.node = "m1".to_owned();
        world.desired.site = "medical".to_owned();
        world.want(manifests);
        world
    }

    fn want(&mut self, manifests: &[&str]) {
        let parsed = parse_file("world", &manifests.concat());
        assert_eq!(parsed.problems, []);
        self.desired.objects = Objects::default();
        self.desired.uids.clear();
        for (_, object) in parsed.objects {
            self.desired.objects.add(object).unwrap();
        }
        for (name, attachment) in &self.desired.objects.attachments {
            self.desired
                .uids
                .insert(name.clone(), attachment.metadata.uid.clone().unwrap());
        }
    }

    /// The plan as text; then does it and sees that nothing is left to do.
    fn step(&mut self, expected: &str) {
        let plan = reconcile(&self.desired, &self.observed, self.now);
        let actions = plan.actions.iter().map(Action::to_string);
        let waits = plan.waits.iter().map(Wait::to_string);
        let text: Vec<String> = actions.chain(waits).collect();
        assert_eq!(text.join("\n"), expected.trim_matches('\n'));
        for action in plan.actions {
            self.apply(action);
        }
    }

    /// Steps until nothing is left to do; every plan as one block of lines.
    fn settle(&mut self, expected: &str) {
        let mut text = Vec::new();
        for _ in 0..10 {
            let plan = reconcile(&self.desired, &self.observed, self.now);
            if plan.actions.is_empty() {
                assert_eq!(text.join("\n"), expected.trim_matches('\n'));
                return;
            }
            for action in plan.actions {
                text.push(action.to_string());
                self.apply(action);
            }
        }
        panic!("never settles: {text:#?}");
    }

    fn apply(&mut self, action: Action) {
        let volumes = &mut self.observed.volumes;
        match action {
            Action::OpenPool { pool, backend } => {
                self.observed.pools.insert(
                    pool,
                    PoolSeen {
                        backend,
                        failed_at: None,
                    },
                );
            }
            Action::ClosePool { pool } => {
                assert!(
                    !self
                        .observed
                        .legs
                        .values()
                        .any(|leg| leg.served && leg.spec.pool == pool),
                    "closed under a leg"
                );
                self.observed.pools.remove(&pool).unwrap();
            }
            Action::StopLeg { leg } => {
                self.observed.legs.remove(&leg).unwrap();
            }
            Action::ServeLeg { leg, spec } => {
                assert!(
                    self.observed.pools.contains_key(&spec.pool),
                    "no pool to serve from"
                );
                self.observed.legs.insert(
                    leg,
                    LegSeen {
                        spec: *spec,
                        failed_at: None,
                        served: true,
                    },
                );
            }
            Action::GrowLeg { leg, spec } | Action::SetAccess { leg, spec } => {
                self.observed.legs.get_mut(&leg).unwrap().spec = *spec;
            }
            Action::Detach { attachment } => {
                volumes.get_mut(&attachment).unwrap().phase = Phase::Closing
            }
            Action::Close { attachment } => {
                let seen = volumes.remove(&attachment).unwrap();
                assert!(
                    matches!(seen.phase, Phase::Over { .. }),
                    "closed while it runs"
                );
            }
            Action::Forget { attachment, .. } => assert!(!volumes.contains_key(&attachment)),
            Action::Open {
                attachment,
                uid,
                spec,
            } => {
                let reads = |spec: &AttachmentSpec| spec.mode == AttachmentMode::Inspect;
                let same = volumes.values().any(|seen| {
                    seen.spec.volume == spec.volume
                        && reads(&seen.spec) == reads(&spec)
                        && !matches!(seen.phase, Phase::Over { .. })
                });
                assert!(!same, "two volumes of one id");
                let seen = VolumeSeen {
                    uid,
                    spec: *spec,
                    phase: Phase::Opening,
                    size: None,
                    order: OrderSeen::None,
                    dropped: Vec::new(),
                    verify: VerifySeen::default(),
                };
                assert!(volumes.insert(attachment, seen).is_none());
            }
            Action::OpenGroup { members } => {
                for member in members {
                    let seen = VolumeSeen {
                        uid: member.uid,
                        spec: *member.spec,
                        phase: Phase::Opening,
                        size: None,
                        order: OrderSeen::None,
                        dropped: Vec::new(),
                        verify: VerifySeen::default(),
                    };
                    assert!(volumes.insert(member.attachment, seen).is_none());
                }
            }
            Action::Readdress { attachment, spec } => {
                volumes.get_mut(&attachment).unwrap().spec.legs = spec.legs;
            }
            Action::DropLeg { attachment, .. }
            | Action::Expand { attachment, .. }
            | Action::Verify { attachment, .. } => {
                volumes.get_mut(&attachment).unwrap().order = OrderSeen::UnderWay;
            }
        }
    }

    fn volume(&mut self, name: &str) -> &mut VolumeSeen {
        self.observed.volumes.get_mut(name).unwrap()
    }

    fn opened(&mut self, name: &str) {
        let seen = self.volume(name);
        seen.phase = Phase::Open;
        seen.size = Some(2 << 30);
    }

    fn over(&mut self, name: &str, how: Over) {
        let at = self.now;
        self.volume(name).phase = Phase::Over { how, at };
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

#[test]
fn an_empty_folder_is_nothing_to_do() {
    World::new(&[]).step("");
    World::new(&[PAIR]).settle("open pool p1 at /pool");
}

#[test]
fn a_site_comes_up_from_the_pool_to_the_device() {
    let leg = leg("a", "  pool: p1\n  size: 2Gi");
    let writer = writer("w");
    let mut world = World::new(&[PAIR, &leg, &writer]);
    world.settle(
        "
open pool p1 at /pool
open w (w-uid) as Writer
serve leg a from p1 with 2Gi
",
    );
    world.opened("w");
    world.step("");
}

#[test]
fn what_belongs_elsewhere_is_ignored_and_what_cannot_be_says_why() {
    let other_node = writer("w").replace("node: m1", "node: m2");
    World::new(&[&other_node]).step("");
    let other_site = writer("w").replace("  site: medical\n", "  site: research\n");
    World::new(&[PAIR, &other_site]).step(
        "
open pool p1 at /pool
Attachment/w waits: Pending: it names site research, this node is at medical: correct spec.site or spec.node
",
    );
    World::new(&[&writer("w")]).step(
        "Attachment/w waits: Pending: SitePair ctrc is not there: add it, or correct spec.sitePair",
    );
    World::new(&[&leg("a", "  pool: p9\n  size: 2Gi")]).step(
        "Leg/a waits: Pending: StoragePool p9 is not there, or is not at site medical on node m1: add it, or correct spec.pool or spec.node",
    );
}

#[test]
fn an_agent_that_stops_detaches_first_and_serves_its_legs_to_the_end() {
    let mut world = World::new(&[PAIR, &leg("a", "  pool: p1\n  size: 2Gi"), &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer\nserve leg a from p1 with 2Gi");
    world.opened("w");
    world.desired.stopping = true;
    world.settle("detach w");
    world.over("w", Over::Detached);
    world.settle("close w\nstop leg a\nclose pool p1");
}

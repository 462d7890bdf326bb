//! Worlds as YAML, plans as text. `World` does what a plan says, so that every story can be told on,
//! and after each step planning again must give nothing to do.

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
fn a_removed_attachment_is_detached_and_then_forgotten() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    world.want(&[PAIR]);
    world.settle("detach w");
    world.over("w", Over::Detached);
    world.settle("close w\nforget w (w-uid)");
}

#[test]
fn an_attachment_put_back_with_another_uid_waits_for_the_end_of_the_first() {
    let again = writer("w").replace("w-uid", "new-uid");
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.want(&[PAIR, &again]);
    world.settle("detach w");
    world.over("w", Over::Never);
    world.settle("close w\nforget w (w-uid)\nopen w (new-uid) as Writer");
}

#[test]
fn a_refused_attach_is_tried_again_after_five_seconds_or_at_once_with_a_new_order() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.over("w", Over::Refused);
    world.step("");
    assert_eq!(
        reconcile(&world.desired, &world.observed, world.now).wake_at,
        Some(RETRY)
    );
    world.later(5);
    world.settle("close w\nopen w (w-uid) as Writer");
    world.over("w", Over::Refused);
    let moving = attachment(
        "w",
        "  mode: Writer\n  size: 2Gi\n  move: {mode: Failover, expectSeq: 1}",
    );
    world.want(&[PAIR, &moving]);
    world.settle("close w\nopen w (w-uid) as Writer");
}

#[test]
fn what_an_order_names_and_is_not_there_yet_is_looked_for_again_at_once() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.over("w", Over::Waiting);
    world.step("");
    assert_eq!(
        reconcile(&world.desired, &world.observed, world.now).wake_at,
        Some(world.now + AGAIN)
    );
    world.now += AGAIN;
    world.settle("close w\nopen w (w-uid) as Writer");
}

#[test]
fn one_that_may_never_attach_again_is_left_alone() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.over("w", Over::Never);
    world.later(3600);
    world.step("");
    let birth = attachment(
        "w",
        "  mode: Birth\n  size: 2Gi\n  birth: {activeSite: medical}",
    );
    let mut world = World::new(&[PAIR, &birth]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Birth");
    world.over("w", Over::Done);
    world.later(3600);
    world.step("");
}

#[test]
fn a_volume_has_one_attachment_on_a_node() {
    let mut world = World::new(&[PAIR, &writer("w1"), &writer("w2")]);
    world.step(
        "
open pool p1 at /pool
open w1 (w1-uid) as Writer
Attachment/w2 waits: AlreadyAttached: the volume is held by Attachment w1 on this node: remove one of the two, a volume has one writer
",
    );
    world.opened("w1");
    world.want(&[PAIR, &writer("w0"), &writer("w1")]);
    world.step(
        "Attachment/w0 waits: AlreadyAttached: the volume is held by Attachment w1 on this node: remove one of the two, a volume has one writer",
    );
    world.want(&[PAIR, &writer("w0")]);
    world.step(
        "
detach w1
Attachment/w0 waits: AlreadyAttached: the volume is held by Attachment w1 on this node: remove one of the two, a volume has one writer
",
    );
    world.over("w1", Over::Detached);
    world.settle("close w1\nforget w1 (w1-uid)\nopen w0 (w0-uid) as Writer");
}

#[test]
fn a_volume_is_looked_at_beside_its_writer_on_the_same_node() {
    let inspect = |name: &str| attachment(name, "  mode: Inspect\n  size: 2Gi");
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    world.want(&[PAIR, &writer("w"), &inspect("i")]);
    world.settle("open i (i-uid) as Inspect");
    world.want(&[PAIR, &writer("w"), &inspect("i"), &inspect("j")]);
    world.step(
        "Attachment/j waits: AlreadyAttached: the volume is held by Attachment i on this node: remove one of the two, a volume has one writer",
    );
}

#[test]
fn a_birth_that_is_done_makes_room_for_the_writer() {
    let birth = attachment(
        "birth",
        "  mode: Birth\n  size: 2Gi\n  birth: {activeSite: medical}",
    );
    let mut world = World::new(&[PAIR, &birth, &writer("w")]);
    world.step(
        "
open pool p1 at /pool
open birth (birth-uid) as Birth
Attachment/w waits: AlreadyAttached: the volume is held by Attachment birth on this node: remove one of the two, a volume has one writer
",
    );
    world.over("birth", Over::Done);
    world.settle("open w (w-uid) as Writer");
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
fn orders_to_an_open_volume_go_one_at_a_time() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    let more = attachment("w", "  mode: Writer\n  size: 3Gi\n  dropLegs: [B]");
    world.want(&[PAIR, &more]);
    world.step("");
    world.opened("w");
    world.step("drop leg B of w");
    world.step("");
    world.volume("w").dropped = vec![LegIndex::B];
    world.volume("w").order = OrderSeen::None;
    world.step("expand w to 3221225472");
    world.volume("w").order = OrderSeen::FailedAt(world.now);
    world.step("");
    world.later(5);
    world.step("expand w to 3221225472");
    world.volume("w").order = OrderSeen::None;
    world.volume("w").size = Some(3 << 30);
    world.step("");
    world.want(&[PAIR, &writer("w")]);
    world.step("Attachment/w waits: InvalidSpec: the volume has 3221225472 bytes and never shrinks: set spec.size back");
}

#[test]
fn a_drop_that_the_order_came_with_is_given_and_one_that_holds_is_not_repeated() {
    let drop = attachment("w", "  mode: Caretaker\n  size: 2Gi\n  dropLegs: [B]");
    let mut world = World::new(&[PAIR, &drop]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Caretaker");
    world.opened("w");
    world.step("drop leg B of w");
    world.volume("w").order = OrderSeen::None;
    world.volume("w").dropped = vec![LegIndex::B];
    world.step("");
    // It came back, and the order still stands.
    world.volume("w").dropped.clear();
    world.step("drop leg B of w");
}

#[test]
fn a_verify_begins_once_for_each_order_when_the_copies_are_in_sync_and_goes_on_by_itself() {
    let asked = attachment("w", "  mode: Writer\n  size: 2Gi\n  verify: monday");
    let mut world = World::new(&[PAIR, &asked]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    // Not in sync.
    world.step("");
    world.volume("w").verify.ready = true;
    world.step("verify w for monday");
    world.volume("w").order = OrderSeen::None;
    world.volume("w").verify.answered = Some("monday".to_owned());
    world.step("");
    world.volume("w").verify.waits = Some("monday".to_owned());
    world.step("go on with the verify of w");
    world.volume("w").order = OrderSeen::None;
    world.volume("w").verify.waits = Some("sunday".to_owned());
    world.step("");
    world.volume("w").verify.waits = Some("by hand".to_owned());
    world.step("go on with the verify of w");
    world.volume("w").order = OrderSeen::None;
    let again = attachment("w", "  mode: Writer\n  size: 2Gi\n  verify: tuesday");
    world.want(&[PAIR, &again]);
    world.step("verify w for tuesday");
}

#[test]
fn an_open_volume_learns_of_new_addresses() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    world.step("");
    world.want(&[
        PAIR,
        &writer("w").replace("portals: ['", "portals: ['192.0.2.9:3260', '"),
    ]);
    world.step("readdress the legs of w");
    world.step("");
}

#[test]
fn a_leg_grows_changes_its_access_and_never_shrinks() {
    let two = leg("a", "  pool: p1\n  size: 2Gi");
    let mut world = World::new(&[PAIR, &two]);
    world.settle("open pool p1 at /pool\nserve leg a from p1 with 2Gi");
    world.want(&[PAIR, &leg("a", "  pool: p1\n  size: 3Gi")]);
    world.settle("grow leg a to 3Gi");
    world.want(&[
        PAIR,
        &leg(
            "a",
            "  pool: p1\n  size: 3Gi\n  initiators: ['iqn.2026-11.io.twinsite:m1']",
        ),
    ]);
    world.settle("set access of leg a");
    world.want(&[PAIR, &two]);
    world.step("Leg/a waits: InvalidSpec: the leg has 3Gi and never shrinks: set spec.size back");
}

#[test]
fn a_leg_that_becomes_another_unit_is_served_anew() {
    let mut world = World::new(&[PAIR, &leg("a", "  pool: p1\n  size: 2Gi")]);
    world.settle("open pool p1 at /pool\nserve leg a from p1 with 2Gi");
    world.want(&[PAIR, &leg("a", "  pool: p1\n  size: 2Gi\n  lun: 3")]);
    world.settle("stop leg a\nserve leg a from p1 with 2Gi");
    world.want(&[
        &PAIR.replace("/pool", "/other"),
        &leg("a", "  pool: p1\n  size: 2Gi\n  lun: 3"),
    ]);
    world.settle("stop leg a\nclose pool p1\nopen pool p1 at /other\nserve leg a from p1 with 2Gi");
    world.want(&[PAIR.split("---").next().unwrap()]);
    world.settle("stop leg a\nclose pool p1");
}

#[test]
fn what_failed_is_tried_again_and_holds_nothing_else_up() {
    let mut world = World::new(&[PAIR, &leg("a", "  pool: p1\n  size: 2Gi"), &writer("w")]);
    world.step("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.observed.pools.get_mut("p1").unwrap().failed_at = Some(world.now);
    world.step("Leg/a waits: Pending: StoragePool p1 cannot be opened");
    world.later(5);
    world.step(
        "
open pool p1 at /pool
Leg/a waits: Pending: StoragePool p1 cannot be opened
",
    );
    world.step("serve leg a from p1 with 2Gi");
    let leg = world.observed.legs.get_mut("a").unwrap();
    (leg.served, leg.failed_at) = (false, Some(world.now));
    world.step("");
    world.later(5);
    world.settle("serve leg a from p1 with 2Gi");
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

#[test]
fn one_that_was_detached_by_hand_stays_so_until_it_is_let_go() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    world.desired.held.insert("w".to_owned());
    world.settle("detach w");
    world.over("w", Over::Detached);
    world.settle("close w");
    world.later(3600);
    world.step("");
    world.desired.held.clear();
    world.settle("open w (w-uid) as Writer");
}

#[test]
fn a_volume_that_leaves_is_detached_once_the_node_does_not_use_it_and_is_not_opened_again() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    let leaves = attachment("w", "  mode: Writer\n  size: 2Gi\n  release: true");
    world.want(&[PAIR, &leaves]);
    world.step("");
    world.desired.unused.insert("w".to_owned());
    world.settle("detach w");
    world.over("w", Over::Detached);
    world.later(3600);
    world.step("Attachment/w waits: NotActive: the volume leaves this site: it is not opened here any more");
    // It stays after all: its next user finds a device.
    world.desired.unused.clear();
    world.want(&[PAIR, &writer("w")]);
    world.settle("close w\nopen w (w-uid) as Writer");
    world.opened("w");
    world.want(&[PAIR]);
    world.settle("detach w");
}

#[test]
fn a_volume_that_comes_is_not_opened_before_the_other_site_has_let_go() {
    let moving = attachment(
        "w",
        "  mode: Writer\n  size: 2Gi\n  move: {mode: Planned, expectSeq: 1}",
    );
    let waits = "Attachment/w waits: HeldElsewhere: the other site still holds the volume: it is taken as soon as that lets go";
    let mut world = World::new(&[PAIR, &moving]);
    world.desired.held_elsewhere.insert("w".to_owned());
    world.step(&format!("open pool p1 at /pool\n{waits}"));
    world.later(3600);
    world.step(waits);
    world.desired.held_elsewhere.clear();
    world.settle("open w (w-uid) as Writer");
    // The other site was quicker and attached again: no five seconds pass once it lets go.
    world.over("w", Over::Refused);
    world.desired.held_elsewhere.insert("w".to_owned());
    world.settle("close w");
    world.desired.held_elsewhere.clear();
    world.settle("open w (w-uid) as Writer");
    // One that can never attach again says so, and does not wait.
    world.over("w", Over::Never);
    world.desired.held_elsewhere.insert("w".to_owned());
    world.step("");
}

#[test]
fn nothing_attaches_before_the_claim_of_the_site_was_tried() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.desired.untried.insert("ctrc".to_owned());
    world.step(
        "
open pool p1 at /pool
Attachment/w waits: Pending: the witness is asked whose the site's name is
",
    );
    world.desired.untried.clear();
    world.settle("open w (w-uid) as Writer");
}

#[test]
fn one_whose_device_was_taken_away_attaches_again() {
    let mut world = World::new(&[PAIR, &writer("w")]);
    world.settle("open pool p1 at /pool\nopen w (w-uid) as Writer");
    world.opened("w");
    world.over("w", Over::Detached);
    world.step("");
    world.later(5);
    world.settle("close w\nopen w (w-uid) as Writer");
}

// --- Groups ---------------------------------------------------------------------------------------------------------------

const JOURNAL: &str = "ts-000102030405060708090a0b0c0d0e0f";
const DATA: &str = "ts-ff0102030405060708090a0b0c0d0e0f";

/// An Attachment of the group of two volumes.
fn of_group(name: &str, volume: &str, rest: &str) -> String {
    attachment(
        name,
        &format!(
            "  mode: Writer\n  size: 2Gi\n  group: tg-aa0102030405060708090a0b0c0d0e0f\n  groupVolumes: [{JOURNAL}, {DATA}]\n{rest}"
        ),
    )
    .replace(&format!("  volume: {JOURNAL}"), &format!("  volume: {volume}"))
}

fn pair_of_group() -> [String; 2] {
    [of_group("j", JOURNAL, ""), of_group("d", DATA, "")]
}

#[test]
fn a_group_is_opened_when_there_is_an_attachment_for_each_volume() {
    let [j, d] = pair_of_group();
    let mut world = World::new(&[PAIR, &j]);
    world.settle("open pool p1 at /pool");
    world.step(&format!("Attachment/j waits: Pending: volume {DATA} of the group has no Attachment on this node: the volumes of a group are opened together, when there is one for each"));
    world.want(&[PAIR, &j, &d]);
    world.settle("open j and d together as Writer");
    world.step("");
}

#[test]
fn a_group_is_detached_when_the_last_of_its_attachments_is_gone() {
    let [j, d] = pair_of_group();
    let mut world = World::new(&[PAIR, &j, &d]);
    world.settle("open pool p1 at /pool\nopen j and d together as Writer");
    for seen in world.observed.volumes.values_mut() {
        seen.phase = Phase::Open;
    }
    world.want(&[PAIR, &d]);
    world.step("");
    world.want(&[PAIR]);
    world.settle("detach d\ndetach j");
}

#[test]
fn a_group_that_ended_is_tried_again_as_a_whole() {
    let [j, d] = pair_of_group();
    let mut world = World::new(&[PAIR, &j, &d]);
    world.settle("open pool p1 at /pool\nopen j and d together as Writer");
    let over = |how| Phase::Over {
        how,
        at: Duration::ZERO,
    };
    world.observed.volumes.get_mut("j").unwrap().phase = over(Over::Refused);
    // The other one has not ended yet.
    world.now = RETRY;
    assert_eq!(
        reconcile(&world.desired, &world.observed, world.now).actions,
        []
    );
    world.observed.volumes.get_mut("d").unwrap().phase = over(Over::Refused);
    world.now = Duration::from_secs(1);
    assert_eq!(
        reconcile(&world.desired, &world.observed, world.now).actions,
        []
    );
    world.now = RETRY;
    world.settle("close j\nclose d\nopen j and d together as Writer");
    // One that a later one has passed holds the others back.
    world.observed.volumes.get_mut("j").unwrap().phase = over(Over::Refused);
    world.observed.volumes.get_mut("d").unwrap().phase = over(Over::Never);
    world.now = RETRY * 3;
    let never = "Pending: Attachment d of the group will never attach again: remove all Attachments of the group and make new ones";
    world.step(&format!(
        "Attachment/j waits: {never}\nAttachment/d waits: {never}"
    ));
}

#[test]
fn orders_that_cannot_be_those_of_one_group_say_why() {
    let [j, d] = pair_of_group();
    let waits = |manifests: &[&str]| -> String {
        let mut all = vec![PAIR];
        all.extend(manifests);
        let world = World::new(&all);
        let plan = reconcile(&world.desired, &world.observed, world.now);
        let opens = plan
            .actions
            .iter()
            .any(|action| matches!(action, Action::OpenGroup { .. } | Action::Open { .. }));
        assert!(!opens, "nothing is opened");
        let texts: Vec<String> = plan.waits.iter().map(Wait::to_string).collect();
        texts.join("\n")
    };
    let text = waits(&[&j, &d.replace("  node: m1", "  node: m2")]);
    assert!(
        text.contains("is for node m2: all volumes of a group are opened on one node"),
        "{text}"
    );
    let text = waits(&[
        &j,
        &of_group("d", DATA, "  move: {mode: Failover, expectSeq: 3}"),
    ]);
    assert!(text.contains("differ in spec.move"), "{text}");
    let text = waits(&[&j, &d, &of_group("e", DATA, "")]);
    assert!(text.contains("has two Attachments"), "{text}");
    let text = waits(&[&j.replace("  mode: Writer", "  mode: Wipe"), &d]);
    assert!(
        text.contains("mode Wipe is not offered for a volume of a group"),
        "{text}"
    );
    let text = waits(&[
        &j.replace(&format!(", {DATA}]"), "]")
            .replace(&format!("[{JOURNAL}"), &format!("[{DATA}")),
        &d,
    ]);
    assert!(
        text.contains("spec.groupVolumes names every volume of the group once"),
        "{text}"
    );
    let text = waits(&[&j.replace("  group: tg-aa0102030405060708090a0b0c0d0e0f\n", "")]);
    assert!(text.contains("name the group in spec.group"), "{text}");
    let array = "portals: ['127.0.0.1:3261'], array: true, iqn: iqn.2001-05.com.example:x, naa: naa.6006000000000001}";
    let text = waits(&[&j.replace("portals: ['127.0.0.1:3261']}", array), &d]);
    assert!(text.contains("our own target only"), "{text}");
}

#[test]
fn a_volume_of_a_group_is_inspected_alone() {
    let j = of_group("j", JOURNAL, "").replace("  mode: Writer", "  mode: Inspect");
    let mut world = World::new(&[PAIR, &j]);
    world.settle("open pool p1 at /pool\nopen j (j-uid) as Inspect");
}

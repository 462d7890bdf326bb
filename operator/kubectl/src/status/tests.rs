//! The screen of `status` for what two clusters say: golden texts.

use super::{Detail, render, report};
use crate::fixture::{cluster, golden, silent};

/// The pair as one of its clusters sees it.
fn pair(site: &str, peer: &str, conditions: &str) -> String {
    format!(
        "---
apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {{name: ctrc, generation: 1}}
spec:
  sites: [{{name: medical}}, {{name: research}}]
  peerKubeconfigSecret: twinsite-peer
  witness: {{kubernetes: {{kubeconfigSecret: twinsite-witness, namespace: twinsite}}}}
  failover: {{policy: Automatic}}
status:
  observedGeneration: 1
  site: {site}
  claims: [{{name: medical, index: A, claimant: u1}}, {{name: research, index: B, claimant: u2}}]
  conditions:
  - {{type: Ready, status: \"True\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}}
  - {{type: PeerReachable, status: \"{peer}\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}}
  - {{type: WitnessReachable, status: \"True\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}}
{conditions}---
apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {{name: {site}-ssd}}
spec: {{site: {site}, class: ssd, node: {{name: n1, directory: /var/lib/twinsite/pool}}, portals: [\"192.0.2.11:3260\"]}}
status:
  freeBytes: 1319413953331
  conditions:
  - {{type: Ready, status: \"True\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}}
"
    )
}

fn volume(name: &str, wanted: &str, status: &str) -> String {
    format!(
        "---
apiVersion: twinsite.io/v1alpha1
kind: MirroredVolume
metadata: {{name: {name}, namespace: rv, generation: 2}}
spec:
  sitePair: ctrc
  activeSite: {wanted}
  capacity: 100Gi
  fsType: xfs
  claim: {{name: {name}}}
  legs: [{{site: medical, poolClass: ssd}}, {{site: research, poolClass: ssd}}]
status:
  observedGeneration: 2
{status}"
    )
}

const SYNCED: &str = "  volumeId: ts-000102030405060708090a0b0c0d0e0f
  role: Active
  activeSite: {name: medical, seq: 4, latched: false}
  epoch: 17
  attached: {site: medical, node: m1}
  legs: [{site: medical, leg: A, state: Member}, {site: research, leg: B, state: Member}]
  lastMove: {from: research, to: medical, mode: Planned, reason: spec, seconds: 2.25}
  conditions:
  - {type: Ready, status: \"True\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}
  - {type: InSync, status: \"True\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}
  - {type: FailoverReady, status: \"True\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}
";

const ORDERS: &str = "---
apiVersion: twinsite.io/v1alpha1
kind: Failover
metadata: {name: to-medical-old}
spec: {sitePair: ctrc, to: medical, mode: Planned, volumes: {all: true}}
status: {state: Done}
---
apiVersion: twinsite.io/v1alpha1
kind: Failover
metadata: {name: to-medical-x7k2}
spec: {sitePair: ctrc, to: medical, mode: Unplanned, volumes: {all: true}}
status:
  state: Running
  volumes:
  - {namespace: rv, name: images, state: Running, message: waits for the fence}
";

fn standby(of: &str) -> String {
    of.replace("role: Active", "role: Standby")
}

#[test]
fn a_pair_in_which_all_is_well_says_so_in_a_few_lines() {
    let clusters = [
        cluster(
            "medical",
            &(pair("medical", "True", "") + &volume("records", "medical", SYNCED)),
        ),
        cluster(
            "research",
            &(pair("research", "True", "") + &volume("records", "medical", &standby(SYNCED))),
        ),
    ];
    let report = report(&clusters, None);
    assert!(report.all_well());
    golden("status-well.txt", &render(&report, Detail::Screen));
    golden("status-wide.txt", &render(&report, Detail::Wide));
}

#[test]
fn a_dead_site_shows_what_the_other_one_knows_and_what_the_manifest_still_says() {
    let solo = "  volumeId: ts-000102030405060708090a0b0c0d0e0f
  role: Active
  activeSite: {name: research, seq: 5, latched: true}
  epoch: 18
  attached: {site: research, node: r1}
  legs: [{site: medical, leg: A, state: Unreachable}, {site: research, leg: B, state: Member}]
  lastMove: {from: medical, to: research, mode: Unplanned, reason: 'policy Automatic: no sign of life of medical for 5s', detectedAt: 2026-11-28T05:59:41Z, seconds: 11.5}
  conditions:
  - {type: Ready, status: \"True\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}
  - {type: InSync, status: \"False\", reason: LegAway, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}
  - {type: Degraded, status: \"True\", reason: LegAway, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}
  - {type: FailoverReady, status: \"False\", reason: LegAway, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}
";
    let clusters = [
        silent("medical", "connection refused"),
        cluster(
            "research",
            &(pair("research", "False", "") + &volume("records", "medical", solo)),
        ),
    ];
    let report = report(&clusters, None);
    assert!(!report.all_well());
    golden("status-site-down.txt", &render(&report, Detail::Wide));
    // One that goes back by itself asks nobody for that.
    let text = volume("records", "medical", solo);
    let text = text.replace("  capacity:", "  failback: WhenInSync\n  capacity:");
    let clusters = [cluster(
        "research",
        &(pair("research", "False", "") + &text),
    )];
    let text = render(&super::report(&clusters, None), Detail::Wide);
    assert!(
        text.contains("or, it goes back by itself once it is in sync (failback: WhenInSync)"),
        "{text}"
    );
}

#[test]
fn the_active_site_speaks_and_every_difference_is_named() {
    let resync = "  role: Active
  activeSite: {name: medical, seq: 4, latched: false}
  epoch: 19
  legs:
  - {site: medical, leg: A, state: Member}
  - {site: research, leg: B, state: Resyncing, resyncPercent: 43, dirtyBytes: 13207024435, etaSeconds: 312}
  conditions:
  - {type: Ready, status: \"True\", reason: AsDesired, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}
  - {type: FailoverReady, status: \"False\", reason: Resync, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}
";
    let waiting = "  role: Active
  epoch: 3
  conditions:
  - {type: LegLost, status: \"True\", reason: NoLeg, message: \"\", lastTransitionTime: 2026-11-28T06:00:00Z}
  - {type: Ready, status: \"False\", reason: NoLeg, message: no leg that has every write answers, lastTransitionTime: 2026-11-28T06:00:00Z}
";
    let clusters = [
        cluster(
            "m-admin",
            &(pair("medical", "True", "")
                + ORDERS
                + &volume("records", "medical", resync)
                + &volume("images", "medical", waiting)
                + &volume("plans", "medical", SYNCED)),
        ),
        cluster(
            "r-admin",
            &(pair("research", "True", "").replace("Automatic", "Manual")
                + &volume("records", "research", &standby(SYNCED))
                + &volume("plans", "medical", &standby(SYNCED))
                    .replace("generation: 2}", "generation: 3}")),
        ),
    ];
    let report = report(&clusters, None);
    golden("status-differences.txt", &render(&report, Detail::Screen));
    let json = serde_json::to_string_pretty(&report).unwrap();
    golden("status-differences.json", &(json + "\n"));
}

#[test]
fn what_waits_for_a_person_stands_below_its_volume() {
    let waits = "  role: Standby
  activeSite: {name: medical, seq: 4, latched: false}
  conditions:
  - {type: Ready, status: Unknown, reason: AgentSilent, message: attached on m1, lastTransitionTime: 2026-11-28T06:00:00Z}
  - {type: AutomaticFailover, status: \"True\", reason: PersonNeeded, message: no sign of life of medical, lastTransitionTime: 2026-11-28T06:00:00Z}
  - {type: RequestRefused, status: \"True\", reason: StillMember, message: leg B is a member, lastTransitionTime: 2026-11-28T06:00:00Z}
";
    let objects = pair("research", "False", "") + &volume("records", "medical", waits);
    let report = report(&[cluster("research", &objects)], None);
    let text = render(&report, Detail::Screen);
    for note in [
        "attached on m1",
        "no sign of life of medical",
        "leg B is a member",
    ] {
        let line = format!("! rv/records: research: {note}\n");
        assert!(text.contains(&line), "{text}");
    }
    let over = waits.replace("\"True\"", "\"False\"");
    let objects = pair("research", "False", "") + &volume("records", "medical", &over);
    let text = render(
        &super::report(&[cluster("research", &objects)], None),
        Detail::Screen,
    );
    assert!(!text.contains("no sign of life"), "{text}");
}

#[test]
fn without_any_object_it_says_what_is_missing() {
    assert_eq!(
        render(&report(&[cluster("one", "")], None), Detail::Screen),
        "No SitePair: this cluster has the chart but no pair of sites yet.\n\nNo MirroredVolume.\n"
    );
}

/// The current context is that of the site that is down.
#[test]
fn where_nobody_answers_it_says_how_to_name_the_other_cluster() {
    let text = render(
        &report(&[silent("medical", "connection refused")], None),
        Detail::Screen,
    );
    assert!(
        text.contains("medical does not answer") && text.contains("--contexts ONE,OTHER"),
        "{text}"
    );
    assert!(!text.contains("No MirroredVolume"), "{text}");
}

#[test]
fn volumes_of_a_group_are_shown_as_one() {
    let grouped = |name: &str, status: &str| {
        let text = volume(name, "medical", status);
        text.replace("  activeSite: medical\n", "  group: ledger\n")
    };
    let text = [
        pair("medical", "True", ""),
        grouped("journal", SYNCED),
        grouped("data", SYNCED),
    ]
    .concat();
    let report = report(&[cluster("medical", &text)], None);
    assert_eq!(report.groups.len(), 1);
    assert_eq!(report.groups[0].volumes, ["data", "journal"]);
    let screen = render(&report, Detail::Screen);
    assert!(
        screen.contains("GROUP rv/ledger: data, journal move and fail as one; active at medical"),
        "{screen}"
    );
}

#[test]
fn a_field_that_a_site_does_not_know_is_named() {
    let newer = SYNCED.to_owned()
        + "  - {type: SpecUnderstood, status: \"False\", reason: UnknownFields, message: \"spec.tomorrow: not known\", lastTransitionTime: 2026-11-28T06:00:00Z}\n";
    let clusters = [
        cluster(
            "medical",
            &(pair("medical", "True", "") + &volume("records", "medical", &newer)),
        ),
        cluster(
            "research",
            &(pair("research", "True", "") + &volume("records", "medical", &standby(SYNCED))),
        ),
    ];
    let text = render(&report(&clusters, None), Detail::Screen);
    assert!(
        text.contains("! rv/records: medical: spec.tomorrow: not known"),
        "{text}"
    );
}

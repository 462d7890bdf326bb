//! The screen of `status`.

use std::fmt::Write as _;

use super::{GroupReport, Mirror, OrderReport, PairReport, Report, VolumeReport};
use crate::table::{bytes, table};

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    Screen,
    Wide,
}

/// The report as text.
pub(crate) fn render(report: &Report, detail: Detail) -> String {
    let mut text = String::new();
    for cluster in &report.unreachable {
        let _ = writeln!(
            text,
            "! {} does not answer: {}",
            cluster.context, cluster.error
        );
    }
    for pair in &report.pairs {
        separate(&mut text);
        text.push_str(&self::pair(pair));
    }
    if report.pairs.is_empty() && report.unreachable.is_empty() {
        text.push_str("No SitePair: this cluster has the chart but no pair of sites yet.\n");
    }
    if !report.orders.is_empty() {
        separate(&mut text);
        text.push_str(&orders(&report.orders));
    }
    separate(&mut text);
    if report.volumes.is_empty() {
        text.push_str(
            if report.pairs.is_empty() && !report.unreachable.is_empty() {
                "No cluster that answers has a pair of sites: name the contexts of both with --contexts ONE,OTHER, or in TWINSITE_CONTEXTS.\n"
            } else {
                "No MirroredVolume.\n"
            },
        );
        return text;
    }
    text.push_str(&volumes(&report.volumes, detail));
    for volume in &report.volumes {
        for note in &volume.notes {
            let _ = writeln!(text, "! {}/{}: {note}", volume.namespace, volume.name);
        }
    }
    for group in &report.groups {
        text.push_str(&self::group(group));
    }
    separate(&mut text);
    text.push_str(&sum(&report.volumes));
    text
}

fn separate(text: &mut String) {
    if !text.is_empty() {
        text.push('\n');
    }
}

fn yes(value: Option<bool>) -> String {
    match value {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "?",
    }
    .to_owned()
}

fn or_dash(value: Option<&str>) -> String {
    value.unwrap_or("-").to_owned()
}

fn pair(pair: &PairReport) -> String {
    let mut text = format!(
        "PAIR {}: failover {}, after {} without a sign of life; the witness is {}\n",
        pair.name, pair.policy, pair.detect_after, pair.witness
    );
    let rows: Vec<_> = pair
        .sites
        .iter()
        .map(|site| {
            let drained = if site.drained { " (drained)" } else { "" };
            vec![
                format!("{}{drained}", site.name),
                or_dash(site.context.as_deref()),
                or_dash(site.index.as_deref()),
                yes(site.ready),
                yes(site.peer_reachable),
                yes(site.witness_reachable),
                format!("{}/{}", site.pools_ready, site.pools),
                bytes(site.free_bytes),
            ]
        })
        .collect();
    text.push_str(&table(
        2,
        &[
            "SITE",
            "CONTEXT",
            "LEG",
            "READY",
            "SEES PEER",
            "SEES WITNESS",
            "POOLS",
            "FREE",
        ],
        &rows,
    ));
    for note in &pair.notes {
        let _ = writeln!(text, "! {note}");
    }
    text
}

fn orders(orders: &[OrderReport]) -> String {
    let rows: Vec<_> = orders
        .iter()
        .map(|order| {
            vec![
                order.name.clone(),
                order.context.clone(),
                order.to.clone(),
                format!("{:?}", order.mode),
                format!("{:?}", order.state),
            ]
        })
        .collect();
    let mut text = table(0, &["ORDER", "CONTEXT", "TO", "MODE", "STATE"], &rows);
    for message in orders.iter().flat_map(|order| &order.messages) {
        let _ = writeln!(text, "! {message}");
    }
    text
}

fn volumes(volumes: &[VolumeReport], detail: Detail) -> String {
    let mut header = vec![
        "VOLUME",
        "SIZE",
        "ACTIVE AT",
        "ATTACHED",
        "MIRROR",
        "FAILOVER",
    ];
    if detail == Detail::Wide {
        header.extend(["EPOCH", "SEQ", "ID", "LAST MOVE"]);
    }
    let rows: Vec<_> = volumes
        .iter()
        .map(|volume| {
            let latched = if volume.latched { " *" } else { "" };
            let mut row = vec![
                format!("{}/{}", volume.namespace, volume.name),
                volume.capacity.clone(),
                format!("{}{latched}", or_dash(volume.active_site.as_deref())),
                or_dash(volume.attached.as_deref()),
                volume.mirror_text.clone(),
                match volume.failover_ready {
                    Some(true) => "ready",
                    Some(false) => "NOT READY",
                    None => "?",
                }
                .to_owned(),
            ];
            if detail == Detail::Wide {
                let figure =
                    |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |v| v.to_string());
                row.extend([
                    figure(volume.epoch),
                    figure(volume.seq),
                    or_dash(volume.id.as_deref()),
                    volume.last_move.as_ref().map_or_else(
                        || "-".to_owned(),
                        |last| {
                            let took = last
                                .seconds
                                .map_or_else(String::new, |seconds| format!(" in {seconds:.1} s"));
                            format!("{} -> {} {}{took}", last.from, last.to, last.mode)
                        },
                    ),
                ]);
            }
            row
        })
        .collect();
    table(0, &header, &rows)
}

/// The volumes of a group stand in the table; here is what they are together.
fn group(group: &GroupReport) -> String {
    let latched = if group.latched {
        ", which its manifest does not say: write that site into spec.activeSite of the MirrorGroup to accept it (with failback: WhenInSync it goes back by itself)"
    } else {
        ""
    };
    format!(
        "GROUP {}/{}: {} move and fail as one; active at {}{latched}; {}\n",
        group.namespace,
        group.name,
        group.volumes.join(", "),
        or_dash(group.active_site.as_deref()),
        group.mirror_text
    )
}

fn sum(volumes: &[VolumeReport]) -> String {
    let count = |mirror| {
        volumes
            .iter()
            .filter(|volume| volume.mirror == mirror)
            .count()
    };
    let parts: Vec<String> = [
        (Mirror::InSync, "in sync"),
        (Mirror::Resyncing, "resyncing"),
        (Mirror::OneSite, "on one site only"),
        (Mirror::Waiting, "with waiting I/O"),
        (Mirror::SplitBrain, "in split brain"),
        (Mirror::Unknown, "unknown"),
    ]
    .into_iter()
    .filter_map(|(mirror, words)| match count(mirror) {
        0 => None,
        number => Some(format!("{number} {words}")),
    })
    .collect();
    let noun = if volumes.len() == 1 {
        "volume"
    } else {
        "volumes"
    };
    format!("{} {noun}: {}.\n", volumes.len(), parts.join(", "))
}

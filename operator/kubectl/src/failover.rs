//! `kubectl twinsite failover`: the Failover object that orders a move.
//!
//! The object is all that is written: the operator at the target site does the rest, and keeps it as a record.
//!
//! Invariants: pure. A Force names one volume or group and carries the token of a plan; nothing else carries one.
//! Not here: sending it and watching it (`commands`).

use anyhow::{Result, bail, ensure};
use twinsite_api::{
    Failover, FailoverMode, FailoverSpec, FailoverState, ForceToken, LegIndex, ReseedToken,
    VolumeSelection,
};

use crate::table::table;

/// What the command line asked for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) pair: String,
    pub(crate) to: String,
    /// `namespace/name`, or `name` in `namespace`.
    pub(crate) volumes: Vec<String>,
    pub(crate) namespace: String,
    pub(crate) all: bool,
    /// `key=value` pairs.
    pub(crate) selector: Option<String>,
    pub(crate) expect_epoch: Option<u64>,
    pub(crate) token: Option<String>,
    pub(crate) inconsistent: bool,
    pub(crate) legs: Vec<LegIndex>,
}

/// The object for it.
pub(crate) fn object(wanted: &Wanted, mode: FailoverMode) -> Result<Failover> {
    let reseed = reseed(wanted, mode)?;
    let force = match (mode, wanted.expect_epoch, &wanted.token) {
        (FailoverMode::Reseed, None, _) => None,
        (FailoverMode::Force, Some(expect_epoch), Some(token)) => Some(ForceToken {
            expect_epoch,
            token: token.clone(),
            inconsistent: wanted.inconsistent,
        }),
        (FailoverMode::Force, ..) => bail!(
            "a force needs --expect-epoch and --token, as `kubectl twinsite plan NAMESPACE/NAME --to {}` prints them \
             beside what would be lost",
            wanted.to
        ),
        (_, None, None) if !wanted.inconsistent => None,
        _ => bail!(
            "--expect-epoch, --token and --inconsistent stand only with --mode force, --token and --inconsistent also with reseed"
        ),
    };
    let volumes = selection(wanted)?;
    ensure!(
        !matches!(mode, FailoverMode::Force | FailoverMode::Reseed)
            || volumes.names.as_ref().is_some_and(|names| names.len() == 1),
        "a force or reseed names exactly one volume, or group: each is looked at on its own"
    );
    let mut object = Failover::new(
        "",
        FailoverSpec {
            site_pair: wanted.pair.clone(),
            to: wanted.to.clone(),
            mode,
            volumes,
            force,
            reseed,
        },
    );
    object.metadata.name = None;
    object.metadata.generate_name = Some(format!("to-{}-", wanted.to));
    Ok(object)
}

fn reseed(wanted: &Wanted, mode: FailoverMode) -> Result<Option<ReseedToken>> {
    match (mode, &wanted.token, wanted.legs.as_slice()) {
        (FailoverMode::Reseed, Some(token), [_, ..]) => Ok(Some(ReseedToken {
            legs: wanted.legs.clone(),
            token: token.clone(),
            inconsistent: wanted.inconsistent,
        })),
        (FailoverMode::Reseed, ..) => bail!(
            "a reseed needs --legs and --token, as `kubectl twinsite plan NAMESPACE/NAME --to {}` prints them",
            wanted.to
        ),
        (_, _, []) => Ok(None),
        _ => bail!("--legs stands only with --mode reseed"),
    }
}

fn selection(wanted: &Wanted) -> Result<VolumeSelection> {
    let ways = [
        wanted.all,
        !wanted.volumes.is_empty(),
        wanted.selector.is_some(),
    ];
    ensure!(
        ways.iter().filter(|way| **way).count() == 1,
        "say which volumes: NAMESPACE/NAME ..., or --all, or --selector KEY=VALUE"
    );
    if wanted.all {
        return Ok(VolumeSelection {
            all: Some(true),
            ..VolumeSelection::default()
        });
    }
    if let Some(text) = &wanted.selector {
        let mut labels = std::collections::BTreeMap::new();
        for part in text.split(',') {
            let Some((key, value)) = part.split_once('=') else {
                bail!("{part:?} is no KEY=VALUE");
            };
            labels.insert(
                key.trim().to_owned(),
                value.trim_start_matches('=').trim().to_owned(),
            );
        }
        return Ok(VolumeSelection {
            namespace: Some(wanted.namespace.clone()),
            selector: Some(
                k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
                    match_labels: Some(labels),
                    match_expressions: None,
                },
            ),
            ..VolumeSelection::default()
        });
    }
    let mut namespace = None;
    let mut names = Vec::new();
    for volume in &wanted.volumes {
        let (own, name) = volume
            .split_once('/')
            .unwrap_or((wanted.namespace.as_str(), volume.as_str()));
        ensure!(
            *namespace.get_or_insert(own) == own,
            "the volumes of one order are in one namespace: {:?} is in another than {:?}",
            volume,
            wanted.volumes[0]
        );
        names.push(name.to_owned());
    }
    Ok(VolumeSelection {
        namespace: namespace.map(str::to_owned),
        names: Some(names),
        ..VolumeSelection::default()
    })
}

/// How far an order is, in lines; the same lines again when nothing changed.
pub(crate) fn progress(object: &Failover) -> String {
    let status = object.status.clone().unwrap_or_default();
    let rows: Vec<_> = status
        .volumes
        .iter()
        .map(|volume| {
            let took = volume
                .timeline
                .as_ref()
                .and_then(|timeline| timeline.seconds)
                .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}s"));
            vec![
                format!("{}/{}", volume.namespace, volume.name),
                format!("{:?}", volume.state),
                took,
                volume.message.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let mut text = table(0, &["VOLUME", "STATE", "TOOK", ""], &rows);
    for condition in &status.conditions {
        if condition.status == "False" && !condition.message.is_empty() {
            text.push_str(&format!("! {}: {}\n", condition.reason, condition.message));
        }
    }
    text
}

/// Whether nothing more will come.
pub(crate) fn is_over(object: &Failover) -> Option<bool> {
    match object.status.as_ref()?.state {
        FailoverState::Done => Some(true),
        FailoverState::Failed => Some(false),
        FailoverState::Pending | FailoverState::Running => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::golden;

    fn wanted() -> Wanted {
        Wanted {
            pair: "ctrc".into(),
            to: "research".into(),
            namespace: "default".into(),
            ..Wanted::default()
        }
    }

    #[test]
    fn the_object_says_which_volumes_and_nothing_more() {
        let mut text = String::new();
        for (wanted, mode) in [
            (
                Wanted {
                    all: true,
                    ..wanted()
                },
                FailoverMode::Unplanned,
            ),
            (
                Wanted {
                    volumes: vec!["rv/records".into(), "rv/images".into()],
                    ..wanted()
                },
                FailoverMode::Planned,
            ),
            (
                Wanted {
                    selector: Some("app=rv,tier=gold".into()),
                    namespace: "rv".into(),
                    ..wanted()
                },
                FailoverMode::Planned,
            ),
            (
                Wanted {
                    volumes: vec!["records".into()],
                    namespace: "rv".into(),
                    expect_epoch: Some(17),
                    token: Some("17-1f2e".into()),
                    ..wanted()
                },
                FailoverMode::Force,
            ),
            (
                Wanted {
                    volumes: vec!["rv/records".into()],
                    legs: vec![LegIndex::A, LegIndex::B],
                    token: Some("1f2e".into()),
                    ..wanted()
                },
                FailoverMode::Reseed,
            ),
        ] {
            let object = object(&wanted, mode).unwrap();
            text.push_str("---\n");
            text.push_str(&serde_yaml::to_string(&object).unwrap());
        }
        golden("failover-objects.yaml", &text);
    }

    #[test]
    fn an_order_that_is_not_clear_is_refused_with_what_to_do() {
        let refused = |wanted: Wanted, mode| object(&wanted, mode).unwrap_err().to_string();
        assert!(refused(wanted(), FailoverMode::Planned).contains("say which volumes"));
        let both = Wanted {
            all: true,
            volumes: vec!["rv/records".into()],
            ..wanted()
        };
        assert!(refused(both, FailoverMode::Planned).contains("say which volumes"));
        let far = Wanted {
            volumes: vec!["rv/records".into(), "other/images".into()],
            ..wanted()
        };
        assert!(refused(far, FailoverMode::Planned).contains("one namespace"));
        let bare = Wanted {
            volumes: vec!["rv/records".into()],
            ..wanted()
        };
        assert!(refused(bare, FailoverMode::Force).contains("kubectl twinsite plan"));
        let many = Wanted {
            all: true,
            expect_epoch: Some(1),
            token: Some("t".into()),
            ..wanted()
        };
        assert!(refused(many, FailoverMode::Force).contains("exactly one"));
        let stray = Wanted {
            all: true,
            token: Some("t".into()),
            ..wanted()
        };
        assert!(refused(stray, FailoverMode::Planned).contains("only with --mode force"));
        let unread = Wanted {
            volumes: vec!["rv/records".into()],
            token: Some("t".into()),
            ..wanted()
        };
        assert!(refused(unread, FailoverMode::Reseed).contains("--legs"));
        let legs = Wanted {
            all: true,
            legs: vec![LegIndex::A],
            ..wanted()
        };
        assert!(refused(legs, FailoverMode::Planned).contains("only with --mode reseed"));
        let odd = Wanted {
            selector: Some("app".into()),
            ..wanted()
        };
        assert!(refused(odd, FailoverMode::Planned).contains("KEY=VALUE"));
    }

    #[test]
    fn progress_names_each_volume_and_what_it_waits_for() {
        let object: Failover = serde_yaml::from_str(
            "
apiVersion: twinsite.io/v1alpha1
kind: Failover
metadata: {name: to-research-x}
spec: {sitePair: ctrc, to: research, mode: Unplanned, volumes: {all: true}}
status:
  state: Running
  volumes:
  - {namespace: rv, name: records, state: Done, timeline: {from: medical, to: research, mode: Unplanned, reason: x, seconds: 11.52}}
  - {namespace: rv, name: images, state: Running, message: waits for the fence}
",
        )
        .unwrap();
        assert_eq!(is_over(&object), None);
        assert_eq!(
            progress(&object),
            "VOLUME      STATE    TOOK\nrv/records  Done     11.5s\nrv/images   Running  -      waits for the fence\n"
        );
    }
}

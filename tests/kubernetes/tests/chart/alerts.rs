//! The alerts, judged by Prometheus' own tool: each fires when it should and not before, and none while all is well.
//!
//! What they are tried on are series of the pages that agent and operator show (their `metrics/sample.txt`, held to the code by their
//! own tests), with the labels that a scrape by the rendered ServiceMonitors puts beside ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize as _;
use serde_json::json;
use serde_yaml::Value;
use twinsite_kubernetes::programs;

use crate::helm::{SITE, helm, template, tree};

type Labels = BTreeMap<String, String>;

/// Where a series comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Agent,
    Operator,
    CsiNode,
    CsiController,
}

impl Of {
    const ALL: [Self; 4] = [
        Self::Agent,
        Self::Operator,
        Self::CsiNode,
        Self::CsiController,
    ];

    const fn component(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::CsiNode => "csi-node",
            Self::CsiController => "csi-controller",
        }
    }

    const fn page(self) -> Option<&'static str> {
        match self {
            Self::Agent => Some("csi-driver/agent/src/metrics/sample.txt"),
            Self::Operator => Some("operator/src/metrics/sample.txt"),
            Self::CsiNode | Self::CsiController => None,
        }
    }
}

/// One series of a page, by its name and as many labels as it takes, and its values in promtool's notation, each half
/// minute, or each 10 minutes of what takes days.
struct Input {
    of: Of,
    series: &'static str,
    /// Labels that are otherwise than on the page.
    but: &'static [(&'static str, &'static str)],
    values: &'static str,
}

const fn of(of: Of, series: &'static str, values: &'static str) -> Input {
    Input {
        of,
        series,
        but: &[],
        values,
    }
}

const fn agent(series: &'static str, values: &'static str) -> Input {
    of(Of::Agent, series, values)
}

const fn operator(series: &'static str, values: &'static str) -> Input {
    of(Of::Operator, series, values)
}

/// What must happen.
struct Try {
    alert: &'static str,
    input: &'static [Input],
    /// The last time at which nothing is said, and one at which it is.
    quiet: &'static str,
    fires: &'static str,
    /// The alert's labels but its severity; None: those of the first input.
    labels: Option<&'static [(&'static str, &'static str)]>,
    summary: &'static str,
    /// Its description, where it is made of what was seen.
    description: Option<&'static str>,
}

const WELL: Try = Try {
    alert: "",
    input: &[],
    quiet: "0m",
    fires: "",
    labels: None,
    summary: "",
    description: None,
};

const VOLUME: &[(&str, &str)] = &[("namespace", "rv"), ("name", "records")];
const PAIR: &[(&str, &str)] = &[("pair", "ctrc")];

/// In most of them it begins at 5 minutes.
const TRIES: &[Try] = &[
    Try {
        alert: "TwinsiteNotMirrored",
        input: &[
            agent(
                r#"twinsite_mirror_leg_state{volume="rv/records",leg="A",state="Member"}"#,
                "1x60",
            ),
            agent(
                r#"twinsite_mirror_leg_state{volume="rv/records",leg="B",state="Member"}"#,
                "1x9 0x50",
            ),
            agent(r#"twinsite_mirror_attached{volume="rv/records"}"#, "1x60"),
        ],
        quiet: "9m30s",
        fires: "10m",
        labels: Some(&[
            ("volume", "rv/records"),
            ("attachment", "records-writer"),
            ("instance", "192.0.2.11:9810"),
        ]),
        summary: "Volume rv/records has been on one site only for 5 minutes.",
        ..WELL
    },
    // A writer that lost its device says nothing of the copies.
    Try {
        alert: "TwinsiteNotMirrored",
        input: &[
            agent(
                r#"twinsite_mirror_leg_state{volume="rv/records",leg="A",state="Member"}"#,
                "0x60",
            ),
            agent(
                r#"twinsite_mirror_leg_state{volume="rv/records",leg="B",state="Member"}"#,
                "0x60",
            ),
            agent(r#"twinsite_mirror_attached{volume="rv/records"}"#, "0x60"),
        ],
        quiet: "29m",
        ..WELL
    },
    Try {
        alert: "TwinsiteIoSuspended",
        input: &[agent(
            r#"twinsite_mirror_io_suspended{volume="rv/records"}"#,
            "0x9 1x20",
        )],
        quiet: "5m30s",
        fires: "6m",
        summary: "Reads and writes of volume rv/records wait.",
        ..WELL
    },
    // What is left has been the same since 2 minutes.
    Try {
        alert: "TwinsiteResyncStalled",
        input: &[agent(
            "twinsite_mirror_resync_left_bytes",
            "3221225472-268435456x4 2147483648x40",
        )],
        quiet: "11m30s",
        fires: "12m",
        summary: "The resync of volume rv/images does not get on.",
        description: Some("2GiB are left and it has not become less for 5 minutes."),
        ..WELL
    },
    Try {
        alert: "TwinsiteResyncStalled",
        input: &[agent("twinsite_mirror_resync_left_bytes", "30720-256x60")],
        quiet: "30m",
        ..WELL
    },
    Try {
        alert: "TwinsiteSplitBrain",
        input: &[agent(
            r#"twinsite_mirror_split_brain{volume="rv/records"}"#,
            "0x9 1x20",
        )],
        quiet: "4m30s",
        fires: "5m",
        summary: "Volume rv/records has a lost branch that waits for a person.",
        ..WELL
    },
    Try {
        alert: "TwinsiteLatched",
        input: &[agent(
            r#"twinsite_mirror_latched{volume="rv/records"}"#,
            "0x9 1x100",
        )],
        quiet: "34m30s",
        fires: "35m",
        summary: "Volume rv/records is not where its manifest says.",
        ..WELL
    },
    Try {
        alert: "TwinsiteSuperseded",
        input: &[agent(
            r#"twinsite_mirror_superseded{volume="rv/records"}"#,
            "0x9 1x40",
        )],
        quiet: "14m30s",
        fires: "15m",
        summary: "A writer of volume rv/records was superseded and is still there.",
        description: Some(
            "Its device gives errors. The pod that uses it on 192.0.2.11:9810 has to go.",
        ),
        ..WELL
    },
    Try {
        alert: "TwinsiteFlushFailed",
        input: &[agent(
            r#"twinsite_mirror_flush_failures_total{volume="rv/records"}"#,
            "0x9 1x60",
        )],
        quiet: "4m30s",
        fires: "5m",
        summary: "A flush of volume rv/records failed.",
        ..WELL
    },
    // It fails before anybody has read the counter.
    Try {
        alert: "TwinsiteFlushFailed",
        input: &[agent(
            r#"twinsite_mirror_flush_failures_total{volume="rv/records"}"#,
            "_x10 1x60",
        )],
        quiet: "4m30s",
        fires: "15m",
        summary: "A flush of volume rv/records failed.",
        ..WELL
    },
    // What failed long ago is over.
    Try {
        alert: "TwinsiteFlushFailed",
        input: &[agent(
            r#"twinsite_mirror_flush_failures_total{volume="rv/records"}"#,
            "_x10 1x60",
        )],
        quiet: "21m",
        ..WELL
    },
    Try {
        alert: "TwinsiteReadRepaired",
        input: &[agent(
            r#"twinsite_mirror_read_repairs_total{volume="rv/records"}"#,
            "0x9 3x60",
        )],
        quiet: "4m30s",
        fires: "5m",
        summary: "Reads of volume rv/records failed on one leg and were answered from the other.",
        ..WELL
    },
    Try {
        alert: "TwinsiteReadRepaired",
        input: &[agent(
            r#"twinsite_mirror_read_repairs_total{volume="rv/records"}"#,
            "_x10 3x60",
        )],
        quiet: "4m30s",
        fires: "20m",
        summary: "Reads of volume rv/records failed on one leg and were answered from the other.",
        ..WELL
    },
    Try {
        alert: "TwinsiteLegsDiffer",
        input: &[agent(
            "twinsite_mirror_verify_differing_bytes",
            "0x9 4096x20",
        )],
        quiet: "4m30s",
        fires: "5m",
        summary: "The copies of volume rv/records are not the same.",
        description: Some(
            "A comparison found 4096 bytes of blocks that differ. Nothing was changed; the volume goes on with the copy of the active site.",
        ),
        ..WELL
    },
    Try {
        alert: "TwinsiteVolumeStalled",
        input: &[Input {
            but: &[("status", "True")],
            ..operator(
                r#"twinsite_volume_condition{condition="Stalled"}"#,
                "_x10 1x30",
            )
        }],
        quiet: "6m30s",
        fires: "7m",
        labels: Some(VOLUME),
        summary: "Volume rv/records waits for a person.",
        ..WELL
    },
    Try {
        alert: "TwinsiteFailoverNotReady",
        input: &[Input {
            but: &[("status", "False")],
            ..operator(
                r#"twinsite_volume_condition{condition="FailoverReady"}"#,
                "_x10 1x60",
            )
        }],
        quiet: "19m30s",
        fires: "20m",
        labels: Some(VOLUME),
        summary: "The other site could not take over volume rv/records.",
        ..WELL
    },
    Try {
        alert: "TwinsiteFailoverAdvised",
        input: &[Input {
            but: &[("status", "True")],
            ..operator(
                r#"twinsite_volume_condition{condition="AutomaticFailover"}"#,
                "_x10 1x30",
            )
        }],
        quiet: "5m",
        fires: "5m30s",
        labels: Some(VOLUME),
        summary: "The site where volume rv/records is active shows no sign of life, and nothing moves it.",
        ..WELL
    },
    Try {
        alert: "TwinsitePoolNotServing",
        input: &[agent("twinsite_pool_open", "1x9 0x30")],
        quiet: "6m30s",
        fires: "7m",
        summary: "Pool ssd-m1 on 192.0.2.11:9810 serves nothing.",
        ..WELL
    },
    Try {
        alert: "TwinsitePoolNearFull",
        input: &[
            agent("twinsite_pool_free_bytes", "60x9 10x60"),
            agent("twinsite_pool_capacity_bytes", "100x70"),
        ],
        quiet: "19m30s",
        fires: "20m",
        summary: "Pool ssd-m1 has 10% left.",
        ..WELL
    },
    Try {
        alert: "TwinsiteLegStoreErrors",
        input: &[agent("twinsite_leg_store_errors_total", "0x9 2x60")],
        quiet: "4m30s",
        fires: "12m",
        summary: "The disk under leg records-a gives errors.",
        description: Some("2 reads or writes of its store failed in 10 minutes."),
        ..WELL
    },
    Try {
        alert: "TwinsiteLegStoreErrors",
        input: &[agent("twinsite_leg_store_errors_total", "_x10 2x60")],
        quiet: "4m30s",
        fires: "12m",
        summary: "The disk under leg records-a gives errors.",
        description: Some("2 reads or writes of its store failed in 10 minutes."),
        ..WELL
    },
    Try {
        alert: "TwinsiteObjectProblems",
        input: &[agent("twinsite_object_problems", "0x9 2x40")],
        quiet: "14m30s",
        fires: "15m",
        summary: "The agent on 192.0.2.11:9810 cannot use 2 of its objects.",
        ..WELL
    },
    Try {
        alert: "TwinsiteWitnessUnreachable",
        input: &[agent("twinsite_witness_reachable", "1x9 0x30")],
        quiet: "6m30s",
        fires: "7m",
        labels: Some(&[("pair", "ctrc"), ("job", "twinsite-agent-metrics")]),
        summary: "The witness of pair ctrc does not answer.",
        ..WELL
    },
    Try {
        alert: "TwinsitePeerUnreachable",
        input: &[operator("twinsite_peer_reachable", "1x9 0x40")],
        quiet: "9m30s",
        fires: "10m",
        labels: Some(PAIR),
        summary: "The API of the other site of pair ctrc does not answer.",
        ..WELL
    },
    Try {
        alert: "TwinsiteSiteNotClaimed",
        input: &[operator("twinsite_site_claimed", "1x9 0x30")],
        quiet: "6m30s",
        fires: "7m",
        labels: Some(PAIR),
        summary: "This cluster does not own the name of its site in pair ctrc.",
        ..WELL
    },
    Try {
        alert: "TwinsiteAgentDown",
        input: &[agent("up", "1x9 0x20")],
        quiet: "5m30s",
        fires: "6m",
        summary: "The agent on 192.0.2.11:9810 does not answer.",
        ..WELL
    },
    Try {
        alert: "TwinsiteOperatorDown",
        input: &[operator("up", "1x9 0x30")],
        quiet: "6m30s",
        fires: "7m",
        labels: Some(&[]),
        summary: "No operator of twinsite answers in this cluster.",
        ..WELL
    },
    // There is no pod of it at all; Prometheus forgets the last one after 5 minutes.
    Try {
        alert: "TwinsiteOperatorDown",
        input: &[operator("up", "1x9 _x40")],
        quiet: "11m",
        fires: "12m",
        labels: Some(&[("job", "twinsite-operator-metrics")]),
        summary: "No operator of twinsite answers in this cluster.",
        ..WELL
    },
    // One replica of two is enough.
    Try {
        alert: "TwinsiteOperatorDown",
        input: &[
            operator("up", "1x60"),
            Input {
                but: &[("instance", "10.81.0.9:9808")],
                ..operator("up", "0x60")
            },
        ],
        quiet: "30m",
        ..WELL
    },
    Try {
        alert: "TwinsiteCsiDown",
        input: &[of(Of::CsiNode, "up", "1x9 0x30")],
        quiet: "9m30s",
        fires: "10m",
        summary: "The CSI driver on 192.0.2.11:9811 does not answer.",
        ..WELL
    },
    Try {
        alert: "TwinsiteCsiDown",
        input: &[of(Of::CsiController, "up", "1x9 0x30")],
        quiet: "9m30s",
        fires: "10m",
        summary: "The CSI driver on 192.0.2.11:9809 does not answer.",
        ..WELL
    },
    Try {
        alert: "TwinsiteVersionSkew",
        input: &[
            agent("twinsite_agent_info", "1x1100"),
            Input {
                but: &[
                    ("version", "0.0.9"),
                    ("instance", "192.0.2.12:9810"),
                    ("node", "m2"),
                ],
                ..agent("twinsite_agent_info", "1x1100")
            },
        ],
        quiet: "167h50m",
        fires: "168h",
        labels: Some(&[]),
        summary: "Agents of different versions have run side by side for a week.",
        ..WELL
    },
];

/// The rules, and how Prometheus gets at each component, as the chart renders them.
struct Rendered {
    rules: Value,
    scrapes: BTreeMap<Of, Scrape>,
}

struct Scrape {
    /// The Service's name: the label `job` unless the ServiceMonitor names another.
    job: String,
    port: u64,
    honor_labels: bool,
}

impl Rendered {
    fn new(helm: &Path) -> Self {
        let values = [
            SITE[0],
            SITE[1],
            "crds.enabled=false",
            "monitoring.serviceMonitor.enabled=true",
            "monitoring.prometheusRule.enabled=true",
            "monitoring.force=true",
        ];
        let said = template(helm, &values);
        assert!(said.good, "{}", said.error);
        let objects: Vec<Value> = serde_yaml::Deserializer::from_str(&said.out)
            .map(|document| Value::deserialize(document).expect("YAML"))
            .collect();
        let of_kind = |kind: &'static str| {
            let objects = objects.iter();
            objects.filter(move |object| object["kind"].as_str() == Some(kind))
        };
        let rules = of_kind("PrometheusRule").next().expect("rules")["spec"].clone();
        let scrape = |of: Of| {
            let name = format!("twinsite-{}", of.component());
            let monitor = of_kind("ServiceMonitor")
                .find(|monitor| monitor["metadata"]["name"].as_str() == Some(&name))
                .expect("a ServiceMonitor");
            assert!(monitor["spec"]["jobLabel"].is_null(), "{name}");
            let selector = monitor["spec"]["selector"]["matchLabels"]
                .as_mapping()
                .expect("labels");
            let services: Vec<&Value> = of_kind("Service")
                .filter(|service| {
                    let labels = &service["metadata"]["labels"];
                    selector.iter().all(|(key, value)| labels[key] == *value)
                })
                .collect();
            assert_eq!(services.len(), 1, "{name} selects one Service");
            let endpoint = &monitor["spec"]["endpoints"][0];
            let ports = services[0]["spec"]["ports"].as_sequence().expect("ports");
            let port = ports.iter().find(|port| port["name"] == endpoint["port"]);
            Scrape {
                job: services[0]["metadata"]["name"]
                    .as_str()
                    .expect("a name")
                    .to_owned(),
                port: port.and_then(|port| port["port"].as_u64()).expect("a port"),
                honor_labels: endpoint["honorLabels"].as_bool() == Some(true),
            }
        };
        Self {
            rules,
            scrapes: Of::ALL.map(|of| (of, scrape(of))).into(),
        }
    }

    fn alerts(&self) -> impl Iterator<Item = &Value> {
        let groups = self.rules["groups"].as_sequence().expect("groups").iter();
        groups.flat_map(|group| group["rules"].as_sequence().expect("rules"))
    }

    fn alert(&self, name: &str) -> &Value {
        self.alerts()
            .find(|rule| rule["alert"].as_str() == Some(name))
            .unwrap_or_else(|| panic!("there is no alert {name}"))
    }

    /// A series as Prometheus keeps it: with the labels of its target, which take the place of ours unless those are honoured.
    fn stored(&self, of: Of, name: &str, ours: &Labels, but: &[(&str, &str)]) -> String {
        let scrape = &self.scrapes[&of];
        let instance = format!("192.0.2.11:{}", scrape.port);
        let pod = format!("twinsite-{}-x", of.component());
        let mut labels = ours.clone();
        for (key, value) in [
            ("job", scrape.job.as_str()),
            ("service", &scrape.job),
            ("instance", &instance),
            ("namespace", "twinsite"),
            ("pod", &pod),
            ("endpoint", "http"),
        ] {
            match labels.remove(key) {
                Some(value) if scrape.honor_labels => drop(labels.insert(key.to_owned(), value)),
                ours => {
                    labels.extend(ours.map(|value| (format!("exported_{key}"), value)));
                    labels.insert(key.to_owned(), value.to_owned());
                }
            }
        }
        for (key, value) in but {
            labels.insert((*key).to_owned(), (*value).to_owned());
        }
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect();
        format!("{name}{{{}}}", labels.join(","))
    }

    fn input(&self, input: &Input) -> String {
        let (name, wanted) = read_series(input.series);
        if name == "up" {
            return self.stored(input.of, &name, &wanted, input.but);
        }
        let page = page(input.of);
        let fits = |(one, labels): &&(String, Labels)| {
            *one == name
                && wanted
                    .iter()
                    .all(|(key, value)| labels.get(key) == Some(value))
        };
        let found: Vec<_> = page.iter().map(|(series, _)| series).filter(fits).collect();
        assert_eq!(found.len(), 1, "{}: {found:?}", input.series);
        for (key, _) in input.but {
            assert!(*key == "instance" || found[0].1.contains_key(*key), "{key}");
        }
        self.stored(input.of, &name, &found[0].1, input.but)
    }

    fn said(&self, attempt: &Try) -> serde_json::Value {
        let rule = self.alert(attempt.alert);
        let mut labels: Labels = match attempt.labels {
            Some(labels) => labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            None => read_series(&self.input(&attempt.input[0])).1,
        };
        let text = |of: &Value| of.as_str().expect("text").to_owned();
        labels.insert("severity".to_owned(), text(&rule["labels"]["severity"]));
        let annotations = &rule["annotations"];
        let told = text(&annotations["description"]);
        let description = attempt.description.map_or(told, str::to_owned);
        assert!(
            !description.contains("{{"),
            "{}: {description}",
            attempt.alert
        );
        json!({ "exp_labels": labels, "exp_annotations": {
            "summary": attempt.summary,
            "description": description,
            "runbook_url": text(&annotations["runbook_url"]),
        }})
    }
}

/// A series and its labels; there are no commas or quotes in those of the samples.
fn read_series(series: &str) -> (String, Labels) {
    let (name, rest) = series.split_once('{').unwrap_or((series, "}"));
    let labels = rest.strip_suffix('}').expect("a brace");
    let labels = labels.split(',').filter(|label| !label.is_empty());
    let pair = |label: &str| {
        let (key, value) = label.split_once('=').expect("a label");
        (key.to_owned(), value.trim_matches('"').to_owned())
    };
    (name.to_owned(), labels.map(pair).collect())
}

/// The series of a page with their values.
fn page(of: Of) -> Vec<((String, Labels), String)> {
    let file = of.page().expect("a page");
    let text =
        fs::read_to_string(tree().join(file)).unwrap_or_else(|_| panic!("{file} is missing"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let line = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        (read_series(series), value.to_owned())
    };
    lines.map(line).collect()
}

fn promtool() -> Option<PathBuf> {
    match programs::promtool() {
        Ok(program) => Some(program),
        Err(error) => {
            eprintln!("skipped: no promtool: {error:#}");
            None
        }
    }
}

/// Runs promtool on these tests, or on the rules alone.
fn judge(promtool: &Path, rendered: &Rendered, tests: Option<serde_json::Value>) {
    let folder = tempfile::tempdir().expect("a folder");
    let write =
        |name: &str, text: String| fs::write(folder.path().join(name), text).expect("a file");
    write(
        "rules.yaml",
        serde_yaml::to_string(&rendered.rules).expect("YAML"),
    );
    let mut command = Command::new(promtool);
    match tests {
        None => command.args(["check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"]),
        Some(tests) => {
            write("tests.yaml", tests.to_string());
            command.args(["test", "rules", "tests.yaml"])
        }
    };
    let output = command
        .current_dir(folder.path())
        .output()
        .expect("promtool runs");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn file_of(step: &str, tests: &[serde_json::Value]) -> serde_json::Value {
    json!({ "rule_files": ["rules.yaml"], "evaluation_interval": step, "tests": tests })
}

#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    let (Some(helm), Some(promtool)) = (helm(), promtool()) else {
        return;
    };
    let rendered = Rendered::new(&helm);
    judge(&promtool, &rendered, None);
    let tried: BTreeSet<&str> = TRIES.iter().map(|one| one.alert).collect();
    for rule in rendered.alerts() {
        let name = rule["alert"].as_str().expect("a name");
        let fires = TRIES
            .iter()
            .any(|one| one.alert == name && !one.fires.is_empty());
        assert!(tried.contains(name) && fires, "nobody has tried {name}");
    }
    let test = |step: &str, one: &Try| {
        let series: Vec<_> = one
            .input
            .iter()
            .map(|input| json!({ "series": rendered.input(input), "values": input.values }))
            .collect();
        let mut asked =
            vec![json!({ "eval_time": one.quiet, "alertname": one.alert, "exp_alerts": [] })];
        if !one.fires.is_empty() {
            let said = [rendered.said(one)];
            asked.push(
                json!({ "eval_time": one.fires, "alertname": one.alert, "exp_alerts": said }),
            );
        }
        json!({ "interval": step, "input_series": series, "alert_rule_test": asked })
    };
    // What takes days is looked at in longer steps.
    let (long, short): (Vec<&Try>, Vec<&Try>) =
        TRIES.iter().partition(|one| one.fires.ends_with('h'));
    for (step, tries) in [("30s", short), ("10m", long)] {
        let tests: Vec<_> = tries.into_iter().map(|one| test(step, one)).collect();
        judge(&promtool, &rendered, Some(file_of(step, &tests)));
    }
}

#[test]
fn none_fires_while_all_is_well() {
    let (Some(helm), Some(promtool)) = (helm(), promtool()) else {
        return;
    };
    let rendered = Rendered::new(&helm);
    let mut series = Vec::new();
    for of in Of::ALL {
        let up = rendered.stored(of, "up", &Labels::new(), &[]);
        series.push(json!({ "series": up, "values": "1x300" }));
        if of.page().is_none() {
            continue;
        }
        for ((name, labels), value) in page(of) {
            // The one that is being rebuilt is not well.
            if labels
                .get("volume")
                .is_none_or(|volume| volume != "rv/images")
            {
                let stored = rendered.stored(of, &name, &labels, &[]);
                series.push(json!({ "series": stored, "values": format!("{value}x300") }));
            }
        }
    }
    assert!(series.len() > 80, "{}", series.len());
    let names = rendered
        .alerts()
        .map(|rule| rule["alert"].as_str().expect("a name"));
    let asked: Vec<_> = names
        .map(|name| json!({ "eval_time": "2h", "alertname": name, "exp_alerts": [] }))
        .collect();
    let test = json!({ "interval": "30s", "input_series": series, "alert_rule_test": asked });
    judge(&promtool, &rendered, Some(file_of("30s", &[test])));
}

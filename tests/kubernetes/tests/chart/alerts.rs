//! The alerts, judged by Prometheus' own tool: each fires when it should and not before, and none while all is well.
//!
//! What they are tried on are series of the pages that agent and operator show (their `metrics/sample.txt`, held to the code by their
//! own tests), with the labels that a scrape by the rendered ServiceMonitors puts beside ours. What is tried stands in [`tries`].

mod tries;

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
use tries::{Input, TRIES, Try};

type Labels = BTreeMap<String, String>;

/// Where a series comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
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

//! What the documents list is what is there: each metric, each field of each kind, each thing to make.
//!
//! `GOLDEN=write cargo test --package twinsite-tests --test documents` writes docs/reference/metrics.md and objects.md anew.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_yaml::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn golden(path: &str, text: &str) {
    if std::env::var_os("GOLDEN").is_some_and(|mode| mode == "write") {
        fs::write(root().join(path), text).expect("a golden file");
    }
    let kept = fs::read_to_string(root().join(path)).unwrap_or_default();
    if let Some((one, other)) = kept.lines().zip(text.lines()).find(|(a, b)| a != b) {
        panic!("{path} has\n- {one}\n+ {other}\nGOLDEN=write writes it anew");
    }
    assert!(
        kept == text,
        "{path} is not as long as it should be; GOLDEN=write writes it anew"
    );
}

/// The texts between double quotes, with what is escaped in them as it stands.
fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find('"') {
        rest = &rest[start + 1..];
        let mut end = 0;
        while rest.as_bytes().get(end).is_some_and(|byte| *byte != b'"') {
            end += if rest.as_bytes()[end] == b'\\' { 2 } else { 1 };
        }
        let end = end.min(rest.len());
        found.push(rest[..end].to_owned());
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    found
}

struct Metric {
    name: String,
    kind: String,
    help: String,
}

/// Code up to its tests.
fn shipped(path: &str) -> String {
    let text = read(path);
    text.split("mod tests {")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn of_the_agent() -> Vec<Metric> {
    let words = literals(&shipped("csi-driver/agent/src/metrics/page.rs"));
    let metric = |three: &[String]| Metric {
        name: three[0].clone(),
        kind: three[1].clone(),
        help: three[2].clone(),
    };
    words
        .windows(3)
        .filter(|three| three[0].starts_with("twinsite_"))
        .map(metric)
        .collect()
}

/// The registry puts the prefix before each name, and `_total` behind that of a counter.
fn of_the_operator() -> Vec<Metric> {
    let code = shipped("operator/src/metrics.rs");
    let kinds: Vec<(&str, &str)> = code
        .lines()
        .filter_map(|line| line.trim().trim_end_matches(',').split_once(": "))
        .collect();
    let kind_of = |field: &str| {
        let (_, kind) = kinds
            .iter()
            .find(|(name, _)| name.trim_start_matches("pub ") == field)?;
        Some(match *kind {
            kind if kind.contains("Counter") => "counter",
            kind if kind.contains("Gauge") => "gauge",
            _ => "histogram",
        })
    };
    let mut metrics = Vec::new();
    for call in code.split("registry.register(").skip(1) {
        let words = literals(call);
        let field = call
            .split("self.")
            .nth(1)
            .and_then(|rest| rest.split('.').next());
        let kind = kind_of(field.expect("a field")).expect("a kind");
        let behind = if kind == "counter" { "_total" } else { "" };
        metrics.push(Metric {
            name: format!("twinsite_{}{behind}", words[0]),
            kind: kind.to_owned(),
            help: format!("{}.", words[1]),
        });
    }
    metrics
}

fn of_the_driver() -> Vec<Metric> {
    let mut metrics = Vec::new();
    for file in ["csi-driver/src/calls.rs", "csi-driver/src/node/mod.rs"] {
        for help in shipped(file).split("# HELP ").skip(1) {
            let (name, rest) = help.split_once(' ').expect("a name");
            let (help, rest) = rest.split_once("\\n# TYPE ").expect("a type");
            let kind = rest.split_once(' ').expect("a type").1;
            let kind = kind.split(|byte: char| !byte.is_ascii_lowercase()).next();
            metrics.push(Metric {
                name: name.to_owned(),
                kind: kind.unwrap_or_default().to_owned(),
                help: help.to_owned(),
            });
        }
    }
    metrics
}

#[test]
fn the_list_of_metrics_is_what_the_programs_show() {
    let mut page = String::from(
        "# Metrics\n\n\
         Made from the code by a test. Each process serves them at `/metrics`; `volume` is `namespace/name` in those of the agent, the\n\
         volume's id in those of the operator, beside `namespace` and `name`. A state is one series per value, 1 for the present one. The alerts made of them:\n\
         [runbooks](../runbooks/README.md).\n",
    );
    let mut names = BTreeSet::new();
    for (title, metrics) in [
        ("The agent, port 9810", of_the_agent()),
        ("The operator, port 9808", of_the_operator()),
        ("The CSI driver, ports 9809 and 9811", of_the_driver()),
    ] {
        assert!(
            metrics.len() > 3,
            "{title}: the code is written otherwise than this test reads it"
        );
        let _ = write!(
            page,
            "\n## {title}\n\n| metric | type | what it is |\n|---|---|---|\n"
        );
        for Metric { name, kind, help } in metrics {
            assert!(
                ["gauge", "counter", "histogram"].contains(&kind.as_str()),
                "{name}: {kind}"
            );
            let _ = writeln!(page, "| `{name}` | {kind} | {help} |");
            names.insert(name);
        }
    }
    golden("docs/reference/metrics.md", &page);

    let ends = ["_bucket", "_sum", "_count"];
    let known = |name: &str| {
        names.contains(name)
            || ends.iter().any(|end| {
                name.strip_suffix(end)
                    .is_some_and(|name| names.contains(name))
            })
    };
    let mut places = vec![PathBuf::from("charts/twinsite/templates/monitoring.yaml")];
    for folder in ["docs", "docs/runbooks"] {
        let pages = fs::read_dir(root().join(folder)).expect("a folder");
        places.extend(pages.map(|page| Path::new(folder).join(page.expect("a page").file_name())));
    }
    for place in places.iter().filter(|place| place.extension().is_some()) {
        let text = read(&place.to_string_lossy());
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            // A crate has one underscore, a metric more.
            let metric = word.starts_with("twinsite_")
                && word.matches('_').count() > 1
                && !word.ends_with('_');
            assert!(
                !metric || known(word),
                "{} names the metric {word}, which nobody shows",
                place.display()
            );
        }
    }
}

/// A line per field, the deeper ones below it.
fn fields(page: &mut String, path: &str, schema: &Value) {
    let required: Vec<&str> = schema["required"]
        .as_sequence()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let Some(properties) = schema["properties"].as_mapping() else {
        return;
    };
    for (name, field) in properties {
        let name = name.as_str().unwrap_or_default();
        let path = if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        };
        let inner = if field["items"].is_null() {
            field
        } else {
            &field["items"]
        };
        let mut kind = match (
            field["type"].as_str(),
            field["x-kubernetes-int-or-string"].as_bool(),
        ) {
            (_, Some(true)) => "number or text".to_owned(),
            (Some("array"), _) => format!("list of {}", inner["type"].as_str().unwrap_or("object")),
            (Some(kind), _) => kind.to_owned(),
            (None, _) => String::new(),
        };
        if let Some(values) = inner["enum"].as_sequence() {
            let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            kind = values.join(", ");
        }
        let default = match &field["default"] {
            Value::Null => String::new(),
            value => format!("`{}`", serde_json::to_string(value).expect("JSON")),
        };
        let default = if required.contains(&name) {
            "required".to_owned()
        } else {
            default
        };
        let about = field["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ")
            .replace('|', "\\|");
        let _ = writeln!(page, "| `{path}` | {kind} | {default} | {about} |");
        let path = if std::ptr::eq(inner, field) {
            path
        } else {
            format!("{path}[]")
        };
        // The conditions are those of Kubernetes.
        if name != "conditions" {
            fields(page, &path, inner);
        }
    }
}

#[test]
fn the_reference_of_the_kinds_is_that_of_their_definitions() {
    let mut page = String::from(
        "# Kinds of twinsite.io/v1alpha1\n\n\
         Made from `crds/` by a test; `kubectl explain KIND.spec` says the same. People write SitePair, StoragePool, MirroredVolume, MirrorGroup and\n\
         Failover; Leg and Attachment are made by the operator and the CSI driver, and by hand on bare metal.\n",
    );
    for kind in [
        "sitepairs",
        "storagepools",
        "mirroredvolumes",
        "mirrorgroups",
        "failovers",
        "legs",
        "attachments",
    ] {
        let crd: Value = serde_yaml::from_str(&read(&format!("crds/{kind}.yaml"))).expect("YAML");
        let names = &crd["spec"]["names"];
        let version = &crd["spec"]["versions"][0];
        let schema = &version["schema"]["openAPIV3Schema"];
        let scope = match crd["spec"]["scope"].as_str() {
            Some("Namespaced") => "In a namespace",
            _ => "Cluster-scoped",
        };
        let short: Vec<&str> = names["shortNames"]
            .as_sequence()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let _ = write!(
            page,
            "\n## {}\n\n{}\n\n{scope}; `kubectl get {kind}`{}.\n\n",
            names["kind"].as_str().unwrap_or_default(),
            schema["description"].as_str().unwrap_or_default(),
            short
                .iter()
                .map(|name| format!(", `{name}`"))
                .collect::<String>(),
        );
        for part in ["spec", "status"] {
            let _ = write!(
                page,
                "| field | type | default | what it is |\n|---|---|---|---|\n"
            );
            fields(&mut page, part, &schema["properties"][part]);
            page.push('\n');
        }
        let rules: Vec<&str> = rules_of(schema);
        if !rules.is_empty() {
            page.push_str("What the API server refuses:\n\n");
            for rule in rules {
                let _ = writeln!(page, "- {rule}");
            }
        }
    }
    golden("docs/reference/objects.md", &page);
}

/// The messages of the rules, from the outside inwards.
fn rules_of(schema: &Value) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    for rule in schema["x-kubernetes-validations"]
        .as_sequence()
        .into_iter()
        .flatten()
    {
        found.extend(rule["message"].as_str());
    }
    let inner = schema["properties"]
        .as_mapping()
        .into_iter()
        .flat_map(|fields| fields.values());
    for schema in inner
        .chain(std::iter::once(&schema["items"]))
        .filter(|schema| !schema.is_null())
    {
        for rule in rules_of(schema) {
            if !found.contains(&rule) {
                found.push(rule);
            }
        }
    }
    found
}

#[test]
fn everything_there_is_to_make_is_listed_with_what_it_does() {
    let listed = Command::new("make")
        .arg("--no-print-directory")
        .arg("help")
        .current_dir(root())
        .output()
        .expect("make");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        .collect();
    let phony = makefile
        .split(".PHONY: ")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .expect("a list");
    let phony: BTreeSet<&str> = phony
        .split_whitespace()
        .filter(|word| *word != "\\")
        .collect();
    assert_eq!(targets, phony, "the list behind .PHONY");
    for target in targets {
        let line = listed
            .lines()
            .find(|line| line.split(' ').next() == Some(target));
        let text = line.unwrap_or_else(|| {
            panic!("`make help` lacks {target}: a comment above it in the Makefile")
        });
        assert!(text.len() > 40, "{text}");
    }
    // What the documents tell people to make.
    for page in ["README.md", "ARCHITECTURE.md"]
        .into_iter()
        .map(PathBuf::from)
        .chain(
            fs::read_dir(root().join("docs"))
                .expect("docs")
                .map(|page| Path::new("docs").join(page.expect("a page").file_name())),
        )
    {
        if page.extension().is_none() {
            continue;
        }
        for rest in read(&page.to_string_lossy()).split("`make ").skip(1) {
            let target = rest
                .split(|c: char| !c.is_ascii_lowercase() && c != '-')
                .next()
                .unwrap_or_default();
            assert!(
                phony.contains(target),
                "{} says `make {target}`",
                page.display()
            );
        }
    }
}

/// The commands of a page that begin with the name of this program, each up to its end, in words.
fn commands<'a>(text: &'a str, program: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    text.match_indices(program).filter_map(move |(at, _)| {
        let alone = text[..at]
            .chars()
            .last()
            .is_none_or(|c| !c.is_alphanumeric() && !"./-_".contains(c));
        let rest = text[at + program.len()..]
            .strip_prefix(' ')
            .filter(|_| alone)?;
        let end = rest
            .find(['`', '\n', ';', '|', '#', ')', '"', '&', '>'])
            .unwrap_or(rest.len());
        let mut words: Vec<&str> = Vec::new();
        for word in rest[..end].split_whitespace() {
            let word = word.trim_matches(['[', ']', ',', ':']);
            match word {
                // What stands for something else.
                ".." | "..." if words.last().is_some_and(|word| word.starts_with("--")) => {
                    words.push("x")
                }
                ".." | "..." => {}
                "N" => words.push("1"),
                word => words.push(word),
            }
        }
        Some(words)
    })
}

#[test]
fn what_the_documents_say_to_type_is_understood() {
    let programs = std::env::current_exe().expect("this program");
    let programs = programs
        .parent()
        .and_then(Path::parent)
        .expect("a folder")
        .to_owned();
    let mut pages = vec![PathBuf::from("README.md")];
    for folder in [
        "docs",
        "docs/runbooks",
        "examples/bare-metal",
        "examples/bare-metal-group",
        "examples/two-cluster",
    ] {
        let inside = fs::read_dir(root().join(folder)).expect("a folder");
        let inside = inside.map(|page| Path::new(folder).join(page.expect("a page").file_name()));
        pages.extend(inside.filter(|page| page.extension().is_some_and(|end| end == "md")));
    }
    let mut tried = BTreeSet::new();
    for (said, program) in [
        ("kubectl twinsite", "kubectl-twinsite"),
        ("twinsite-agent", "twinsite-agent"),
        ("twinsite-csi", "twinsite-csi"),
    ] {
        if !programs.join(program).exists() {
            eprintln!("skipped: {program} is not built; cargo build --workspace --bins");
            return;
        }
        for page in &pages {
            let text = read(&page.to_string_lossy()).replace("\\\n", " ");
            for words in commands(&text, said) {
                // With --help behind it all is read and nothing is done.
                if words.is_empty() || !tried.insert(format!("{program} {}", words.join(" "))) {
                    continue;
                }
                let output = Command::new(programs.join(program))
                    .args(&words)
                    .arg("--help")
                    .output()
                    .expect("it runs");
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                // An option that is only named, as in `--objects`.
                let named = words.last().is_some_and(|word| word.starts_with("--"))
                    && error.contains("a value is required");
                assert!(
                    output.status.success() || named,
                    "{}: {said} {}: {error}",
                    page.display(),
                    words.join(" ")
                );
            }
        }
    }
    assert!(tried.len() > 30, "{tried:?}");
}

/// Reads an object of ours as what it says that it is.
fn read_as(kind: &str, object: serde_json::Value) -> Result<(), serde_json::Error> {
    use twinsite_api as api;
    match kind {
        "SitePair" => serde_json::from_value::<api::SitePair>(object).map(drop),
        "StoragePool" => serde_json::from_value::<api::StoragePool>(object).map(drop),
        "MirroredVolume" => serde_json::from_value::<api::MirroredVolume>(object).map(drop),
        "MirrorGroup" => serde_json::from_value::<api::MirrorGroup>(object).map(drop),
        "Failover" => serde_json::from_value::<api::Failover>(object).map(drop),
        "Leg" => serde_json::from_value::<api::Leg>(object).map(drop),
        "Attachment" => serde_json::from_value::<api::Attachment>(object).map(drop),
        other => panic!("{other} is no kind of twinsite.io"),
    }
}

#[test]
fn the_yaml_that_people_copy_has_no_field_that_is_not_known() {
    let listed = Command::new("git")
        .args(["ls-files", "README.md", "docs", "examples"])
        .current_dir(root())
        .output()
        .expect("git");
    let mut objects = 0;
    for page in String::from_utf8_lossy(&listed.stdout).lines() {
        let text = fs::read_to_string(root().join(page)).unwrap_or_default();
        let parts: Vec<&str> = match Path::new(page).extension().and_then(|end| end.to_str()) {
            Some("md") => text
                .split("```yaml\n")
                .skip(1)
                .filter_map(|rest| rest.split("```").next())
                .collect(),
            Some("yaml") => vec![&text],
            _ => continue,
        };
        for document in parts.iter().flat_map(|part| part.split("\n---\n")) {
            // What is cut short ends in dots.
            let document: String = document
                .lines()
                .filter(|line| line.trim() != "...")
                .map(|line| format!("{line}\n"))
                .collect();
            let mut object: serde_json::Value =
                serde_yaml::from_str(&document).unwrap_or_else(|error| panic!("{page}: {error}"));
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            let ours = [
                "SitePair",
                "StoragePool",
                "MirroredVolume",
                "MirrorGroup",
                "Failover",
                "Leg",
                "Attachment",
            ];
            if !ours.contains(&kind.as_str()) {
                continue;
            }
            objects += 1;
            let unknown = twinsite_api::unknown::unknown_fields(&kind, &object);
            assert!(
                unknown.is_empty(),
                "{page}: {kind} has {}",
                twinsite_api::unknown::listed(&unknown)
            );
            let whole = !object["apiVersion"].is_null();
            object["apiVersion"] = "twinsite.io/v1alpha1".into();
            if whole {
                read_as(&kind, object).unwrap_or_else(|error| panic!("{page}: {kind}: {error}"));
            }
        }
    }
    assert!(objects > 15, "{objects}");
}

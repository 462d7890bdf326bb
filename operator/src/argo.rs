//! What Argo CD shows of our objects: the rules of `examples/argocd/health.yaml`, run in the Lua of Argo CD (gopher-lua).
//!
//! The volumes, groups and pairs that are judged come from their own tests. Here are what no planner makes.

use std::{
    collections::BTreeMap, fmt::Write as _, fs, path::Path, path::PathBuf, process::Command,
};

use serde::Serialize;
use serde_json::Value;
use twinsite_kubernetes::programs::{Program, Programs};

const KEY: &str = "resource.customizations.health.twinsite.io_";

pub(crate) struct Argo {
    lua: PathBuf,
    /// By kind.
    rules: BTreeMap<String, String>,
}

impl Argo {
    /// None, and a line that says why, where there is no such Lua.
    pub(crate) fn new() -> Option<Self> {
        if let Some(reason) = Programs::missing(&[Program::Glua]) {
            eprintln!("skipped: {reason}");
            return None;
        }
        let programs = Programs::obtain(&[Program::Glua]).unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/argocd/health.yaml");
        let map: Value = serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let rules = map["data"].as_object().unwrap().iter().map(|(key, rule)| {
            let kind = key.strip_prefix(KEY).unwrap();
            (kind.to_owned(), rule.as_str().unwrap().to_owned())
        });
        Some(Self {
            lua: programs.path(Program::Glua),
            rules: rules.collect(),
        })
    }

    /// Status and message.
    pub(crate) fn health(&self, object: &impl Serialize) -> (String, String) {
        let object = serde_json::to_value(object).unwrap();
        let kind = object["kind"].as_str().unwrap();
        let rule = &self.rules[kind];
        // Argo CD opens the libraries of tables and packages, and the clock of `os`; a rule that uses another one does not run there.
        let script = format!(
            "local say = io.write\n\
             io, string, math, debug, coroutine, channel, dofile, loadfile = nil\n\
             os = {{time = os.time, date = os.date}}\n\
             obj = {}\n\
             local health = (function()\n{rule}\nend)()\n\
             say(health.status, '\\t', health.message)\n",
            lua(&object)
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("health.lua");
        fs::write(&file, &script).unwrap();
        let output = Command::new(&self.lua).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        let (status, message) = said
            .split_once('\t')
            .unwrap_or_else(|| panic!("{kind}: {error}{said}\n{script}"));
        // What Argo CD does not know it shows as Unknown.
        assert!(
            ["Healthy", "Progressing", "Degraded", "Suspended"].contains(&status),
            "{kind}: {said}"
        );
        (status.to_owned(), message.to_owned())
    }

    /// The status alone.
    pub(crate) fn word(&self, object: &impl Serialize) -> String {
        self.health(object).0
    }

    fn of_yaml(&self, yaml: &str) -> (String, String) {
        self.health(&serde_yaml::from_str::<Value>(yaml).unwrap())
    }
}

/// A value as Argo CD hands it to a rule: null is nil.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(lua).collect();
            format!("{{{}}}", items.join(", "))
        }
        Value::Object(fields) => {
            let mut text = "{".to_owned();
            for (key, value) in fields {
                let _ = write!(text, "[{}] = {}, ", quoted(key), lua(value));
            }
            text + "}"
        }
    }
}

fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('\n', "\\n"))
}

fn pool(status: &str) -> String {
    format!("{{kind: StoragePool, metadata: {{name: ssd, generation: 3}}, status: {status}}}")
}

#[test]
fn the_kinds_with_conditions_have_one_rule() {
    let Some(argo) = Argo::new() else { return };
    let kinds: Vec<&str> = argo.rules.keys().map(String::as_str).collect();
    let wanted = [
        "Failover",
        "MirrorGroup",
        "MirroredVolume",
        "SitePair",
        "StoragePool",
    ];
    assert_eq!(kinds, wanted);
    for kind in &wanted[1..] {
        assert_eq!(argo.rules[*kind], argo.rules["SitePair"], "{kind}");
    }
}

#[test]
fn a_pool_is_judged_by_what_its_agent_or_the_operator_says() {
    let Some(argo) = Argo::new() else { return };
    for (status, word, message) in [
        ("{}", "Progressing", "Not looked at yet"),
        // Of its agent.
        (
            "{observedGeneration: 3, conditions: [{type: Ready, status: 'True', reason: AsDesired, message: ''}]}",
            "Healthy",
            "",
        ),
        (
            "{observedGeneration: 2, conditions: [{type: Ready, status: 'True', reason: AsDesired, message: ''}]}",
            "Progressing",
            "The last edit was not looked at yet",
        ),
        (
            "{observedGeneration: 3, conditions: [{type: Ready, status: 'False', reason: PoolNotMounted, message: no marker file}]}",
            "Degraded",
            "PoolNotMounted: no marker file",
        ),
        // Of the operator alone, which says in its conditions what it looked at.
        (
            "{conditions: [{type: Ready, status: 'True', reason: Array, observedGeneration: 3, message: served by the array}]}",
            "Healthy",
            "served by the array",
        ),
        (
            "{conditions: [{type: Ready, status: 'True', reason: OtherSite, observedGeneration: 3, message: it is served at site research}]}",
            "Healthy",
            "it is served at site research",
        ),
        (
            "{conditions: [{type: Ready, status: 'True', reason: Array, observedGeneration: 2, message: ''}]}",
            "Progressing",
            "The last edit was not looked at yet",
        ),
        (
            "{conditions: [{type: Accepted, status: 'False', reason: NoNode}, {type: Ready, status: 'False', reason: NoNode, observedGeneration: 3, message: there is no node m9}]}",
            "Degraded",
            "NoNode: there is no node m9",
        ),
        (
            "{conditions: [{type: Ready, status: Unknown, reason: Pending, observedGeneration: 3, message: the agent has not said anything yet}]}",
            "Progressing",
            "the agent has not said anything yet",
        ),
        (
            "{observedGeneration: 3, conditions: [{type: Ready, status: Unknown, reason: AgentSilent, message: nothing was heard of it}]}",
            "Degraded",
            "AgentSilent: nothing was heard of it",
        ),
    ] {
        let said = argo.of_yaml(&pool(status));
        assert_eq!(
            (said.0.as_str(), said.1.as_str()),
            (word, message),
            "{status}"
        );
    }
}

#[test]
fn an_object_that_goes_is_under_way() {
    let Some(argo) = Argo::new() else { return };
    let said = argo.of_yaml(
        "{kind: SitePair, metadata: {name: ctrc, deletionTimestamp: '2026-11-28T12:00:00Z'}}",
    );
    assert_eq!(said, ("Progressing".to_owned(), "Being deleted".to_owned()));
}

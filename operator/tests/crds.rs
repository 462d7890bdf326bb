//! `crds/`, and the chart's copy of it, hold what the types say, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[test]
fn the_definitions_in_the_tree_are_those_of_the_types() {
    for folder in ["crds", "charts/twinsite/files/crds"] {
        check(folder);
    }
}

fn check(folder: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let stored: BTreeMap<String, String> = fs::read_dir(path)
        .expect("the folder of definitions")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            (name, fs::read_to_string(&path).expect("text"))
        })
        .collect();
    let generated: BTreeMap<String, String> = twinsite_operator::files()
        .expect("YAML")
        .into_iter()
        .collect();
    assert_eq!(
        stored.keys().collect::<Vec<_>>(),
        generated.keys().collect::<Vec<_>>(),
        "run: make crds"
    );
    for (name, text) in generated {
        assert!(
            stored[&name] == text,
            "{folder}/{name} is not what the types say: run make crds"
        );
    }
}

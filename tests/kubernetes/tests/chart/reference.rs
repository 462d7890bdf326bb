//! docs/reference/values.md says what values.yaml says.

use std::fmt::Write as _;

use crate::helm::{chart, golden};

struct Entry {
    path: String,
    default: String,
    about: String,
}

/// Every value with its default and the `# --` comment above it. What stands in the lines below a key without children of
/// its own, a list, is its default.
fn entries(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut stack: Vec<(usize, String)> = Vec::new();
    let mut about = String::new();
    let mut in_about = false;
    for line in text.lines() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        if let Some(words) = bare.strip_prefix("# -- ") {
            words.clone_into(&mut about);
            in_about = true;
        } else if let Some(words) = bare.strip_prefix('#') {
            if in_about {
                about.push(' ');
                about.push_str(words.trim());
            }
        } else if let Some(item) = bare.strip_prefix("- ") {
            let default = &mut entries.last_mut().expect("a key before its list").default;
            if !default.is_empty() {
                default.push_str(", ");
            }
            default.push_str(item);
        } else if let Some((key, value)) = bare.split_once(':') {
            while stack.last().is_some_and(|(outer, _)| *outer >= indent) {
                stack.pop();
            }
            let outer: String = stack.iter().map(|(_, key)| format!("{key}.")).collect();
            let path = format!("{outer}{key}");
            // A key of its own line below another one makes that one a folder.
            if let Some(last) = entries.last()
                && format!("{}.", last.path) == outer
                && last.default.is_empty()
            {
                let folder = entries.pop().expect("the last one");
                if !folder.about.is_empty() {
                    entries.push(Entry {
                        path: format!("{}.*", folder.path),
                        ..folder
                    });
                }
            }
            entries.push(Entry {
                path,
                default: value.trim().to_owned(),
                about: std::mem::take(&mut about),
            });
            stack.push((indent, key.to_owned()));
            in_about = false;
        } else {
            about.clear();
            in_about = false;
        }
    }
    entries
}

#[test]
fn the_reference_of_the_values_is_that_of_the_chart() {
    let text = std::fs::read_to_string(chart().join("values.yaml")).expect("values");
    let mut page = String::from(
        "# Values of the chart\n\n\
         Made from the comments of `charts/twinsite/values.yaml` by a test. A name that is not here is refused by the\n\
         chart's schema. Two have no default in mode `site`: `site` and `image.repository`.\n\n\
         | value | default | what it is |\n|---|---|---|\n",
    );
    for entry in entries(&text) {
        let escape = |text: &str| text.replace('|', "\\|");
        let default = if entry.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", escape(&entry.default))
        };
        let _ = writeln!(
            page,
            "| `{}` | {default} | {} |",
            entry.path,
            escape(&entry.about)
        );
    }
    golden("docs/reference/values.md", &page);
}

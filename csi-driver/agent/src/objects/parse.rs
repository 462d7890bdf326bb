//! A file of YAML documents becomes objects, or problems.
//!
//! Documents are read one by one, so that one that is broken does not hide the others.

use serde::{Deserialize, de::DeserializeOwned};
use twinsite_api::{API_VERSION, Attachment, Leg, SitePair, StoragePool, unknown::unknown_fields};

use super::{
    check,
    problem::{Complaint, Problem, advice},
    secret::Secret,
};

/// A file that is larger holds something else.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 20;
const ROOT_FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
const KINDS: &str = "SitePair, StoragePool, Leg, Attachment and Secret";

/// One object of a kind that a node reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    SitePair(Box<SitePair>),
    StoragePool(Box<StoragePool>),
    Leg(Box<Leg>),
    Attachment(Box<Attachment>),
    Secret(Secret),
}

impl Object {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SitePair(_) => "SitePair",
            Self::StoragePool(_) => "StoragePool",
            Self::Leg(_) => "Leg",
            Self::Attachment(_) => "Attachment",
            Self::Secret(_) => "Secret",
        }
    }

    pub fn name(&self) -> &str {
        let name = match self {
            Self::SitePair(object) => &object.metadata.name,
            Self::StoragePool(object) => &object.metadata.name,
            Self::Leg(object) => &object.metadata.name,
            Self::Attachment(object) => &object.metadata.name,
            Self::Secret(secret) => return &secret.name,
        };
        // Checked when it was read.
        name.as_deref().unwrap_or_default()
    }

    /// `Kind/name`.
    pub fn label(&self) -> String {
        format!("{}/{}", self.kind(), self.name())
    }
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// Each with the line on which its document starts.
    pub objects: Vec<(usize, Object)>,
    pub problems: Vec<Problem>,
}

/// Reads all documents of a file.
pub fn parse_file(file: &str, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (line, document) in documents(text) {
        let reader = Reader {
            file,
            line,
            document: &document,
        };
        match reader.object() {
            Ok(None) => {}
            Ok(Some(object)) => {
                let label = object.label();
                let found = check::object(&object);
                if found.is_empty() {
                    parsed.objects.push((line, object));
                }
                parsed
                    .problems
                    .extend(found.into_iter().map(|fault| Problem {
                        file: file.to_owned(),
                        line: reader.line_of(&fault.field),
                        object: Some(label.clone()),
                        field: Some(fault.field),
                        message: fault.message,
                        advice: fault.advice,
                    }));
            }
            Err(problem) => parsed.problems.push(*problem),
        }
    }
    parsed
}

/// Parts a file at its `---` lines; each part with the line it starts on.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut documents = Vec::new();
    let (mut start, mut document) = (1, String::new());
    for (number, line) in (1..).zip(text.lines()) {
        if line == "---" || line.starts_with("--- ") {
            documents.push((start, std::mem::take(&mut document)));
            start = number + 1;
        } else {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents.push((start, document));
    documents
}

struct Reader<'a> {
    file: &'a str,
    /// On which the document starts.
    line: usize,
    document: &'a str,
}

/// What every document says first.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: HeadMetadata,
}

#[derive(Deserialize, Default)]
struct HeadMetadata {
    #[serde(default)]
    name: Option<String>,
}

impl Reader<'_> {
    fn object(&self) -> Result<Option<Object>, Box<Problem>> {
        let value: serde_yaml::Value =
            serde_yaml::from_str(self.document).map_err(|error| self.complain(None, &error))?;
        if value.is_null() {
            return Ok(None);
        }
        let head: Head =
            serde_yaml::from_str(self.document).map_err(|error| self.complain(None, &error))?;
        let label = format!(
            "{}/{}",
            head.kind,
            head.metadata.name.as_deref().unwrap_or("?")
        );
        let api_version = if head.kind == "Secret" {
            "v1"
        } else {
            API_VERSION
        };
        if !matches!(
            head.kind.as_str(),
            "SitePair" | "StoragePool" | "Leg" | "Attachment" | "Secret"
        ) {
            let message = if head.kind.is_empty() {
                "no kind".to_owned()
            } else {
                format!("{} is not read here", head.kind)
            };
            return Err(self.fault(
                &label,
                "kind",
                message,
                format!("the kinds read here are {KINDS}"),
            ));
        }
        if head.api_version != api_version {
            let message = format!("{:?} is not known for this kind", head.api_version);
            return Err(self.fault(
                &label,
                "apiVersion",
                message,
                format!("write {api_version}"),
            ));
        }
        if !head.metadata.name.as_deref().is_some_and(is_name) {
            let advice = "give it a name of lower-case letters, digits, '-' and '.'".to_owned();
            return Err(self.fault(&label, "metadata.name", "no usable name".to_owned(), advice));
        }
        if head.kind != "Secret" {
            self.root_fields(&label, &value)?;
            self.spec_fields(&head.kind, &label)?;
        }
        let object = match head.kind.as_str() {
            "SitePair" => Object::SitePair(self.read(&label)?),
            "StoragePool" => Object::StoragePool(self.read(&label)?),
            "Leg" => Object::Leg(self.read(&label)?),
            "Attachment" => Object::Attachment(self.read(&label)?),
            _ => Object::Secret(*self.read(&label)?),
        };
        Ok(Some(object))
    }

    fn read<T: DeserializeOwned>(&self, label: &str) -> Result<Box<T>, Box<Problem>> {
        serde_yaml::from_str(self.document)
            .map(Box::new)
            .map_err(|error| self.complain(Some(label), &error))
    }

    fn root_fields(&self, label: &str, value: &serde_yaml::Value) -> Result<(), Box<Problem>> {
        let keys = value
            .as_mapping()
            .into_iter()
            .flat_map(serde_yaml::Mapping::keys);
        for key in keys.filter_map(serde_yaml::Value::as_str) {
            if !ROOT_FIELDS.contains(&key) {
                let advice = "remove it, or move it under spec".to_owned();
                return Err(self.fault(label, key, "unknown field".to_owned(), advice));
            }
        }
        Ok(())
    }

    /// A typing error must not become a default.
    fn spec_fields(&self, kind: &str, label: &str) -> Result<(), Box<Problem>> {
        // What cannot be looked through is refused, or its typing errors would go unseen.
        let value: serde_json::Value = serde_yaml::from_str(self.document)
            .map_err(|error| self.complain(Some(label), &error))?;
        let Some(unknown) = unknown_fields(kind, &value).into_iter().next() else {
            return Ok(());
        };
        let known: Vec<String> = unknown.known.iter().map(|one| format!("`{one}`")).collect();
        let expected = match known.as_slice() {
            [] => "there are no fields".to_owned(),
            [one] => format!("expected {one}"),
            [one, other] => format!("expected {one} or {other}"),
            many => format!("expected one of {}", many.join(", ")),
        };
        let message = format!("unknown field `{}`, {expected}", unknown.name);
        let advice = advice(&message);
        let mut problem = self.fault(label, &unknown.to_string(), message, advice);
        problem.field = Some(unknown.parent);
        Err(problem)
    }

    fn complain(&self, label: Option<&str>, error: &serde_yaml::Error) -> Box<Problem> {
        let complaint = Complaint::of(error);
        let inside = error.location().map_or(1, |at| at.line().max(1));
        Box::new(Problem {
            file: self.file.to_owned(),
            line: self.line + inside - 1,
            object: label.map(str::to_owned),
            field: complaint.field,
            message: complaint.message,
            advice: complaint.advice,
        })
    }

    fn fault(&self, label: &str, field: &str, message: String, advice: String) -> Box<Problem> {
        Box::new(Problem {
            file: self.file.to_owned(),
            line: self.line_of(field),
            object: Some(label.to_owned()),
            field: Some(field.to_owned()),
            message,
            advice,
        })
    }

    /// The line on which a path stands, as far down as its words can be followed.
    fn line_of(&self, field: &str) -> usize {
        let lines: Vec<&str> = self.document.lines().collect();
        let (mut first, mut end) = (0, lines.len());
        for word in field.split('.') {
            let word = word.split('[').next().unwrap_or(word);
            let Some(found) = (first..end).find(|line| names(lines[*line], word)) else {
                break;
            };
            first = found;
            let below = (found + 1..end).find(|line| !is_below(lines[found], lines[*line]));
            end = below.unwrap_or(end);
        }
        self.line + first
    }
}

/// Whether a line belongs to the block that a line above it opens.
fn is_below(head: &str, line: &str) -> bool {
    let indent = |text: &str| text.len() - text.trim_start().len();
    let item = line.trim_start().starts_with("- ");
    line.trim().is_empty() || indent(line) > indent(head) || (item && indent(line) == indent(head))
}

/// Whether a line has this key.
fn names(line: &str, key: &str) -> bool {
    let key = format!("{key}:");
    line.match_indices(&key)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric()))
}

fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !name.is_empty() && name.len() <= 253 && !name.starts_with(['.', '-']) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "apiVersion: twinsite.io/v1alpha1
kind: StoragePool
metadata: {name: m1}
spec:
  site: medical
  node: {name: m1, directory: /srv/pool}
  portals: ['127.0.0.1:3260']
";

    fn check(text: &str, expected: &[&str]) {
        let parsed = parse_file("f.yaml", text);
        let mut found: Vec<String> = parsed
            .objects
            .iter()
            .map(|(line, o)| format!("{line} {}", o.label()))
            .collect();
        found.extend(parsed.problems.iter().map(Problem::to_string));
        assert_eq!(found, expected);
    }

    #[test]
    fn documents_are_read_one_by_one() {
        check(
            &format!(
                "# a comment\n---\n{POOL}---\n---\n{}",
                POOL.replace("{name: m1}", "{name: m2}")
            ),
            &["3 StoragePool/m1", "12 StoragePool/m2"],
        );
        check("", &[]);
        check("---\n# nothing\n", &[]);
    }

    #[test]
    fn one_that_is_broken_does_not_hide_the_others() {
        let text = format!("{}---\n{POOL}", POOL.replace("directory", "directry"));
        let parsed = parse_file("f.yaml", &text);
        assert_eq!(parsed.objects.len(), 1);
        assert_eq!(parsed.problems.len(), 1);
    }

    #[test]
    fn no_typing_error_hides_behind_what_cannot_be_looked_through() {
        let text = POOL.replace("spec:", "spec:\n  color: red");
        let parsed = parse_file("f.yaml", &text.replace("medical", "!odd medical"));
        assert!(parsed.objects.is_empty());
        assert_eq!(parsed.problems.len(), 1, "{:?}", parsed.problems);
    }

    #[test]
    fn a_problem_names_file_line_field_and_what_to_do() {
        check(
            &POOL.replace("directory", "directry"),
            &[
                "f.yaml:6: StoragePool/m1: spec.node: unknown field `directry`, expected one of `device`, `directory`, `name`; write `directory`, or remove the field",
            ],
        );
        check(
            &POOL.replace("spec:", "spec:\n  color: red"),
            &[
                "f.yaml:5: StoragePool/m1: spec: unknown field `color`, expected one of `allowedNamespaces`, `array`, `class`, `node`, `portals`, `site`; remove the field, or correct its name",
            ],
        );
        check(
            &POOL.replace("spec:", "colour: red\nspec:"),
            &["f.yaml:4: StoragePool/m1: colour: unknown field; remove it, or move it under spec"],
        );
        check(
            &POOL.replace("  site: medical\n", ""),
            &["f.yaml:5: StoragePool/m1: spec: missing field `site`; add the field"],
        );
        check(
            &POOL.replace("StoragePool", "Pool"),
            &[
                "f.yaml:2: Pool/m1: kind: Pool is not read here; the kinds read here are SitePair, StoragePool, Leg, Attachment and Secret",
            ],
        );
        check(
            &POOL.replace("v1alpha1", "v1"),
            &[
                "f.yaml:1: StoragePool/m1: apiVersion: \"twinsite.io/v1\" is not known for this kind; write twinsite.io/v1alpha1",
            ],
        );
        check(
            &POOL.replace("{name: m1}", "{}"),
            &[
                "f.yaml:3: StoragePool/?: metadata.name: no usable name; give it a name of lower-case letters, digits, '-' and '.'",
            ],
        );
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let parsed = parse_file("f.yaml", &POOL.replace("{name: m1}", "{name: m1"));
        assert_eq!((parsed.objects.len(), parsed.problems.len()), (0, 1));
        assert!(parsed.problems[0].line >= 3, "{}", parsed.problems[0]);
    }
}

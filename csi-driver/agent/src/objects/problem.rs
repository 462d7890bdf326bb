//! What is wrong with a file, in words that say where and what to do.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Name of the file in the folder.
    pub file: String,
    /// Line in it; 0: the whole file.
    pub line: usize,
    /// `Kind/name`, as far as it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Path of the field, such as `spec.failover.detectAfter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        write!(f, ": {}; {}", self.message, self.advice)
    }
}

/// What the reader of YAML says, taken apart: `spec.legs[0].lun: unknown field ... at line 3 column 5`.
pub(super) struct Complaint {
    pub(super) field: Option<String>,
    pub(super) message: String,
    pub(super) advice: String,
}

impl Complaint {
    pub(super) fn of(error: &serde_yaml::Error) -> Self {
        let text = error.to_string();
        let text = match text.rfind(" at line ") {
            Some(at) => &text[..at],
            None => &text,
        };
        let (field, message) = match text.split_once(": ") {
            Some((path, rest)) if is_path(path) => (Some(path.to_owned()), rest),
            _ => (None, text),
        };
        // What was expected is advice: it is taken off the message.
        let advice = advice(message);
        Self {
            field,
            message: message.to_owned(),
            advice,
        }
    }
}

fn is_path(text: &str) -> bool {
    let start = text.split(['.', '[']).next().unwrap_or_default();
    matches!(
        start,
        "spec" | "metadata" | "status" | "kind" | "apiVersion" | "stringData" | "data"
    ) && !text.contains(' ')
}

pub(super) fn advice(message: &str) -> String {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let quoted: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        if let [wrong, known @ ..] = quoted.as_slice()
            && let near = nearest(wrong, known)
            && !near.is_empty()
        {
            return format!("write `{}`, or remove the field", near.join("` or `"));
        }
        return "remove the field, or correct its name".to_owned();
    }
    if message.starts_with("missing field ") {
        return "add the field".to_owned();
    }
    if message.starts_with("unknown variant ") {
        return "write one of the expected words".to_owned();
    }
    "correct it".to_owned()
}

/// The known words that are most like the wrong one, if any is like it at all.
fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Vec<&'a str> {
    let far = |word: &&str| distance(wrong, word);
    let least = known.iter().map(far).min().unwrap_or(usize::MAX);
    let near = known.iter().filter(|word| far(word) == least).copied();
    near.filter(|_| least <= 1 + wrong.len() / 4).collect()
}

/// Letters to change, add or take away.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_known_word_is_advised() {
        assert_eq!(distance("detectAftr", "detectAfter"), 1);
        assert_eq!(
            nearest("detectAftr", &["policy", "detectAfter"]),
            ["detectAfter"]
        );
        assert_eq!(nearest("sitepair", &["sitePair", "site"]), ["sitePair"]);
        assert_eq!(nearest("sise", &["site", "size", "node"]), ["site", "size"]);
        assert!(nearest("colour", &["policy", "detectAfter"]).is_empty());
    }
}

//! All mutants in one program: each function that a patch changes is there twice, and an environment variable says which
//! runs. So the tests are compiled once, not once per mutant.
//!
//! ```text
//! fn f(&self, x: u8) -> u8 {            fn f(&self, x: u8) -> u8 { if crate::mutant_is(7) { return self.f_mutant_7(x); } .. }
//!     ..                         =>     fn f_mutant_7(&self, x: u8) -> u8 { .. with the patch .. }
//! }
//! ```

use std::fmt::Write;
use std::ops::Range;

use super::Mutant;

/// The variable that names the mutant that runs.
pub const VARIABLE: &str = "TWINSITE_MUTANT";

/// What every crate gets at its end.
pub const SWITCH: &str = r#"
#[allow(dead_code)]
pub(crate) fn mutant_is(number: usize) -> bool {
    static MUTANT: std::sync::OnceLock<Option<usize>> = std::sync::OnceLock::new();
    *MUTANT.get_or_init(|| std::env::var("TWINSITE_MUTANT").ok()?.parse().ok()) == Some(number)
}
"#;

struct Function {
    name: Range<usize>,
    /// From the first token of the signature; a leading `const` is left out of what is woven.
    start: usize,
    is_const: Option<Range<usize>>,
    body: Range<usize>,
    call: String,
}

/// The file with both forms of every function that one of these changes.
pub fn weave(whole: &str, mutants: &[(usize, &Mutant)]) -> Result<String, String> {
    let mut places: Vec<(usize, usize, &Mutant)> = vec![];
    for (number, m) in mutants {
        let at = whole
            .find(m.find)
            .ok_or_else(|| format!("{}: the place is not found", m.name))?;
        places.push((at, *number, m));
    }
    // (where, what to put in), applied from the end.
    let mut edits: Vec<(usize, usize, String)> = vec![];
    for (at, number, m) in places {
        let f = enclosing(whole, at).ok_or_else(|| format!("{}: not in a function", m.name))?;
        let end = at + m.find.len();
        if !(f.body.start <= at && end <= f.body.end) {
            return Err(format!("{}: not within one function", m.name));
        }
        let name = &whole[f.name.clone()];
        let mut copy = String::from("\n\n#[allow(unused, clippy::all)]\n");
        let from = f.is_const.as_ref().map_or(f.start, |c| c.end);
        if let Some(c) = &f.is_const {
            copy.push_str(&whole[f.start..c.start]);
            edits.push((c.start, c.end, String::new()));
        }
        copy.push_str(&whole[from..f.name.start]);
        let _ = write!(copy, "{name}_mutant_{number}");
        copy.push_str(&whole[f.name.end..at]);
        copy.push_str(m.put);
        copy.push_str(&whole[end..f.body.end]);
        let indented = whole[..f.start].ends_with(' ');
        let of = if indented && !f.call.starts_with("self.") {
            "Self::"
        } else {
            ""
        };
        let call = f
            .call
            .replacen("NAME", &format!("{of}{name}_mutant_{number}"), 1);
        let switch = format!(" if crate::mutant_is({number}) {{ return {call}; }} ");
        edits.push((f.body.start + 1, f.body.start + 1, switch));
        edits.push((f.body.end, f.body.end, copy));
    }
    edits.sort();
    edits.dedup();
    let mut out = whole.to_owned();
    for (from, to, text) in edits.into_iter().rev() {
        out.replace_range(from..to, &text);
    }
    Ok(out)
}

/// The function whose body has this place.
fn enclosing(text: &str, at: usize) -> Option<Function> {
    let mut end = at;
    loop {
        let found = text[..end].rfind("fn ")?;
        end = found;
        let line = text[..found].rfind('\n').map_or(0, |n| n + 1);
        let before = text[line..found].trim();
        let words = before.split_whitespace();
        let head = words.clone().all(|w| w == "const" || w.starts_with("pub"));
        if !head {
            continue;
        }
        if let Some(f) = function(text, line, found)
            && f.body.contains(&at)
        {
            return Some(f);
        }
    }
}

fn function(text: &str, line: usize, keyword: usize) -> Option<Function> {
    let name_at = keyword + 3;
    let length = text[name_at..].find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    let name = name_at..name_at + length;
    let mut at = name.end;
    if text[at..].starts_with('<') {
        at = closing(text, at)? + 1;
    }
    if !text[at..].starts_with('(') {
        return None;
    }
    let close = closing(text, at)?;
    let call = call(&text[at + 1..close])?;
    let open = close + text[close..].find('{')?;
    let body = open..closing(text, open)? + 1;
    let start = line + (text[line..].len() - text[line..].trim_start().len());
    let is_const = text[start..keyword]
        .find("const ")
        .map(|c| start + c..start + c + 6);
    Some(Function {
        name,
        start,
        is_const,
        body,
        call,
    })
}

/// How a function with these parameters is called under the name NAME; `None`: one of them has no name.
fn call(parameters: &str) -> Option<String> {
    let (mut depth, mut last, mut parts) = (0i32, 0, vec![]);
    let bytes = parameters.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'(' | b'[' | b'{' | b'<' => depth += 1,
            b'>' if at > 0 && bytes[at - 1] == b'-' => {}
            b')' | b']' | b'}' | b'>' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&parameters[last..at]);
                last = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&parameters[last..]);
    let (mut receiver, mut names) = ("", vec![]);
    for part in parts.into_iter().map(str::trim).filter(|p| !p.is_empty()) {
        let pattern = part.split(':').next()?.trim();
        let word = pattern.rsplit([' ', '&']).next()?;
        if word == "self" {
            receiver = "self.";
        } else if word.starts_with(|c: char| c.is_alphabetic())
            && word.chars().all(|c| c.is_alphanumeric() || c == '_')
        {
            names.push(word);
        } else {
            return None;
        }
    }
    Some(format!("{receiver}NAME({})", names.join(", ")))
}

/// The bracket that closes the one at `open`; strings, characters and comments are passed over.
fn closing(text: &str, open: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let (opening, close) = match bytes[open] {
        b'(' => (b'(', b')'),
        b'<' => (b'<', b'>'),
        _ => (b'{', b'}'),
    };
    let (mut depth, mut at) = (0, open);
    while at < bytes.len() {
        match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += text[at..].find('\n')?;
            }
            b'"' => {
                at += 1;
                while *bytes.get(at)? != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'\'' if bytes.get(at + 1) == Some(&b'\\') => at += 3,
            b'\'' if bytes.get(at + 2) == Some(&b'\'') => at += 2,
            b'>' if opening == b'<' && bytes[at - 1] == b'-' => {}
            b if b == opening => depth += 1,
            b if b == close => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::By;

    const TEXT: &str = "impl X {\n    pub(super) const fn f(&mut self, leg: Leg, mut n: Option<u8>) -> u8 {\n        \
                        let c = '{';\n        if n == 0 { 1 } else { 2 }\n    }\n}\n";

    #[test]
    fn a_function_is_there_with_and_without_the_patch() {
        let m = Mutant {
            name: "m",
            rule: "R1",
            by: By::Tests,
            file: "",
            find: "n == 0",
            put: "n == 9",
        };
        let woven = weave(TEXT, &[(7, &m)]).unwrap();
        assert!(woven.contains("pub(super) fn f(&mut self"), "{woven}");
        assert!(
            woven.contains("if crate::mutant_is(7) { return self.f_mutant_7(leg, n); }"),
            "{woven}"
        );
        assert!(woven.contains("fn f_mutant_7(&mut self, leg: Leg"));
        assert_eq!(woven.matches("n == 0").count(), 1);
        assert_eq!(woven.matches("n == 9").count(), 1);
    }
}

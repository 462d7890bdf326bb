//! What `iscsi-test-cu -v` printed, as results of single tests.

use serde::Serialize;

/// Results of one suite.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) passed: u32,
    pub(crate) failed: Vec<Failure>,
    pub(crate) skipped: Vec<Skip>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    pub(crate) test: String,
    pub(crate) why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Skip {
    pub(crate) test: String,
    pub(crate) why: String,
}

/// A test that skipped anything counts as skipped; one without a verdict (a hang, a crash) as failed.
pub(crate) fn parse(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let body = text.split("Run Summary").next().unwrap_or(text);
    let mut sections = body.split("\n  Test: ");
    let head = sections.next().unwrap_or_default();
    let mut any = false;
    for section in sections {
        any = true;
        let (test, rest) = section.split_once(" ...").unwrap_or((section.trim(), ""));
        let test = test.to_owned();
        let without_marks = rest.replace("[FAILED]", "").replace("[SKIPPED]", "");
        if without_marks.contains("FAILED") {
            outcome.failed.push(Failure {
                test,
                why: first_mark(rest, "[FAILED]", "    1. "),
            });
        } else if !rest.contains("passed") {
            outcome.failed.push(Failure {
                test,
                why: "no verdict".into(),
            });
        } else if rest.contains("[SKIPPED]") {
            outcome.skipped.push(Skip {
                test,
                why: first_mark(rest, "[SKIPPED]", "[SKIPPED]"),
            });
        } else {
            outcome.passed += 1;
        }
    }
    if !any {
        let why = head
            .trim()
            .lines()
            .last()
            .unwrap_or("nothing was printed")
            .to_owned();
        outcome.failed.push(Failure {
            test: "all".into(),
            why,
        });
    }
    outcome
}

fn first_mark(text: &str, mark: &str, other: &str) -> String {
    let find = |mark| {
        text.lines()
            .find_map(|line| Some(line.split_once(mark)?.1.trim()))
    };
    find(mark)
        .or_else(|| find(other))
        .unwrap_or("no reason was printed")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_verdict_is_told_apart() {
        let text = "\nSuite: S\n  Test: A ...passed\n  Test: B ...    [SKIPPED] Media is not removable.\npassed\n  \
                    Test: C ...    [FAILED] wrong sense\nFAILED\n    1. test.c:98  - CU_ASSERT\n  Test: D ...";
        let outcome = parse(text);
        assert_eq!(outcome.passed, 1);
        assert_eq!(
            outcome.skipped,
            [Skip {
                test: "B".into(),
                why: "Media is not removable.".into()
            }]
        );
        assert_eq!(
            outcome.failed,
            [
                Failure {
                    test: "C".into(),
                    why: "wrong sense".into()
                },
                Failure {
                    test: "D".into(),
                    why: "no verdict".into()
                }
            ]
        );
    }

    #[test]
    fn a_suite_that_ran_nothing_has_failed() {
        let outcome = parse("Failed to login\n");
        assert_eq!(outcome.failed[0].why, "Failed to login");
    }
}

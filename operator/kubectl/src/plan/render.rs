//! The text of a plan.

use std::fmt::Write as _;

use super::{Plan, Verdict};
use crate::table::table;

/// The plan as text, with the command that carries it out.
pub(crate) fn render(plan: &Plan) -> String {
    let mut text = format!("Moving {}/{} to {}\n", plan.namespace, plan.name, plan.to);
    if let Some(group) = &plan.group {
        let names: Vec<&str> = plan.volumes.iter().map(|one| one.name.as_str()).collect();
        let _ = writeln!(
            text,
            "All volumes of MirrorGroup {group} have one register and move as one: {}",
            names.join(", ")
        );
    }
    text.push('\n');
    match &plan.register {
        Some(register) => {
            let members: Vec<_> = register
                .members
                .iter()
                .map(|member| format!("{member:?}"))
                .collect();
            let _ = writeln!(
                text,
                "  register  {}, epoch {}, members {}, active at {} (move {}), {}",
                register.state,
                register.epoch,
                members.join(" and "),
                register.active_site.name,
                register.active_site.seq,
                register.holder.as_ref().map_or_else(
                    || "held by nobody".to_owned(),
                    |key| format!("held by {key}")
                ),
            );
        }
        None => text.push_str("  register  not known\n"),
    }
    let mut rows = Vec::new();
    for volume in &plan.volumes {
        for leg in &volume.legs {
            let mut row = vec![
                format!("leg {:?}", leg.leg),
                leg.site.clone(),
                leg.text.clone(),
            ];
            if plan.group.is_some() {
                row.insert(0, volume.name.clone());
            }
            rows.push(row);
        }
    }
    let columns = if plan.group.is_some() { 4 } else { 3 };
    if let Some((_, lines)) = table(2, &[""; 4][..columns], &rows).split_once('\n') {
        text.push_str(lines);
    }
    text.push('\n');
    for (name, verdict) in [
        ("Planned", &plan.planned),
        ("Unplanned", &plan.unplanned),
        ("Force", &plan.force),
    ] {
        self::verdict(&mut text, name, verdict);
    }
    if let Some(reseed) = &plan.reseed {
        let word = if reseed.whole { "" } else { "  LOSES" };
        let _ = writeln!(text, "  {:<10}makes a new register{word}", "Reseed");
        for line in &reseed.what {
            let _ = writeln!(text, "            - {line}");
        }
    }
    text.push('\n');
    text.push_str(&next(plan));
    text
}

fn verdict(text: &mut String, name: &str, verdict: &Verdict) {
    let _ = match verdict {
        Verdict::Safe { what } => writeln!(text, "  {name:<10}loses nothing: {what}"),
        Verdict::Impossible { why } => writeln!(text, "  {name:<10}not possible: {why}"),
        Verdict::Needless { why } => writeln!(text, "  {name:<10}not needed: {why}"),
        Verdict::Loses { what } => {
            let _ = writeln!(text, "  {name:<10}LOSES");
            for line in what {
                let _ = writeln!(text, "            - {line}");
            }
            Ok(())
        }
    };
}

fn next(plan: &Plan) -> String {
    let order = format!(
        "kubectl twinsite failover {}/{} --to {}",
        plan.namespace, plan.name, plan.to
    );
    if let Some(reseed) = &plan.reseed {
        let legs: Vec<String> = reseed.legs.iter().map(ToString::to_string).collect();
        return format!(
            "Only if the witness cannot be brought back as it was. Whatever has the volume open is stopped first:\n  \
             {order} --mode reseed --legs {} --token {}{}\n",
            legs.join(","),
            reseed.token,
            if reseed.inconsistent {
                " --inconsistent"
            } else {
                ""
            }
        );
    }
    if let Verdict::Safe { .. } = plan.planned {
        return format!("Next: edit spec.activeSite in Git, or\n  {order} --mode planned\n");
    }
    if let Verdict::Safe { .. } = plan.unplanned {
        return format!("Next:\n  {order} --mode unplanned\n");
    }
    if let Some(token) = &plan.token {
        let inconsistent = if token.inconsistent {
            " --inconsistent"
        } else {
            ""
        };
        return format!(
            "Only if the leg that has the writes is gone for good. To accept the loss named above:\n  \
             {order} --mode force --expect-epoch {} --token {}{inconsistent}\n",
            token.expect_epoch, token.token
        );
    }
    "Nothing to do now.\n".to_owned()
}

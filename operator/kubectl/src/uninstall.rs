//! `kubectl twinsite uninstall-check`: whether the chart can go without taking volumes from people.
//!
//! The chart runs it before `helm uninstall` deletes anything.

use std::fmt::Write as _;

/// Why the chart must stay, if it must.
pub(crate) fn objection(volumes: &[String], attachments: &[String]) -> Option<String> {
    const SHOWN: usize = 20;
    if volumes.is_empty() && attachments.is_empty() {
        return None;
    }
    let mut text = String::new();
    let mut part = |count: usize, noun: &str, names: &[String]| {
        if count > 0 {
            let _ = writeln!(text, "{count} {noun} exist in this cluster:");
            for name in names.iter().take(SHOWN) {
                let _ = writeln!(text, "  {name}");
            }
            if count > SHOWN {
                let _ = writeln!(text, "  and {} more", count - SHOWN);
            }
        }
    };
    part(volumes.len(), "MirroredVolumes", volumes);
    part(attachments.len(), "Attachments", attachments);
    text.push_str(
        "Without the chart nobody serves their legs here, and the other site loses its copies. Move the volumes away, \
         then delete the objects in this cluster (their data stays), or upgrade with uninstall.guard=false first.\n",
    );
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_may_go_only_when_nothing_is_left() {
        assert_eq!(objection(&[], &[]), None);
        let volumes: Vec<_> = (0..22).map(|number| format!("rv/v{number:02}")).collect();
        let text = objection(&volumes, &["ts-1-writer".to_owned()]).unwrap();
        assert!(text.starts_with("22 MirroredVolumes exist in this cluster:\n  rv/v00\n"));
        assert!(text.contains("  rv/v19\n  and 2 more\n1 Attachments exist"));
        assert!(text.contains("uninstall.guard=false"));
    }
}

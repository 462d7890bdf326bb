//! What a golden text shows: what was done, in order, and what each cluster says of the volume at the end.

use super::World;

impl World {
    pub(in crate::volume::tests) fn transcript(&self) -> String {
        let mut text = self.lines.join("\n");
        let id = self.id().to_string();
        text = text.replace(&id, "ID");
        text.push('\n');
        for cluster in &self.clusters {
            text.push_str(&format!(
                "\n{} {}\n",
                cluster.site,
                if cluster.up { "" } else { "(down)" }
            ));
            let Some(volume) = &cluster.volume else {
                text.push_str("  no MirroredVolume\n");
                continue;
            };
            let status = volume.status.clone().unwrap_or_default();
            let active = status.active_site.map(|active| {
                format!(
                    "{} seq={}{}",
                    active.name,
                    active.seq,
                    if active.latched { " latched" } else { "" }
                )
            });
            text.push_str(&format!(
                "  role={:?} active={} epoch={} attached={}\n",
                status.role,
                active.unwrap_or_default(),
                status.epoch.unwrap_or_default(),
                status
                    .attached
                    .map(|at| format!("{}/{}", at.site, at.node))
                    .unwrap_or_default()
            ));
            for leg in &status.legs {
                text.push_str(&format!("  leg {} {:?}\n", leg.site, leg.state));
            }
            for condition in &status.conditions {
                text.push_str(&format!(
                    "  {}={} {} {}\n",
                    condition.type_, condition.status, condition.reason, condition.message
                ));
            }
        }
        text
    }
}

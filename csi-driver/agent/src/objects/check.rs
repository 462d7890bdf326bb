//! What must be true of an object beyond the types of its fields: the same rules that the API server
//! applies, for those who have none.

use std::path::Path;

use twinsite_api::{
    AttachmentMode, AttachmentSpec, LegSpec, SitePairSpec, SiteState, StoragePoolSpec, WitnessSpec,
    parse_naa,
};

use super::parse::Object;

/// A field that cannot be used.
pub(super) struct Fault {
    pub(super) field: String,
    pub(super) message: String,
    pub(super) advice: String,
}

/// The engine's block: sizes are multiples of it.
const BLOCK: u64 = 4096;

pub(super) fn object(object: &Object) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    match object {
        Object::SitePair(pair) => site_pair(&pair.spec, &mut faults),
        Object::StoragePool(pool) => pool_spec(&pool.spec, &mut faults),
        Object::Leg(leg) => leg_spec(&leg.spec, &mut faults),
        Object::Attachment(attachment) => attachment_spec(&attachment.spec, &mut faults),
        Object::Secret(_) => {}
    }
    faults.0
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(
        &mut self,
        field: impl Into<String>,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.0.push(Fault {
            field: field.into(),
            message: message.into(),
            advice: advice.into(),
        });
    }

    fn require(&mut self, holds: bool, field: &str, message: &str, advice: &str) {
        if !holds {
            self.add(field, message, advice);
        }
    }

    fn portals(&mut self, field: &str, portals: &[String]) {
        self.require(
            !portals.is_empty(),
            field,
            "no address",
            "give at least one host:port",
        );
        for portal in portals {
            if !is_address(portal) {
                self.add(
                    field,
                    format!("{portal:?} is no address"),
                    "write host:port; an IPv6 address stands in brackets",
                );
            }
        }
    }

    fn absolute(&mut self, field: &str, path: Option<&str>) {
        if let Some(path) = path
            && !Path::new(path).is_absolute()
        {
            self.add(
                field,
                format!("{path:?} is no absolute path"),
                "write the path from /",
            );
        }
    }

    fn naa(&mut self, field: &str, naa: Option<&str>) {
        if let Some(naa) = naa
            && parse_naa(naa).is_none()
        {
            self.add(
                field,
                format!("{naa:?} is no NAA name"),
                "write naa. and 16 or 32 lower-case hex digits",
            );
        }
    }

    fn size(&mut self, field: &str, bytes: u64) {
        self.require(
            bytes > 0 && bytes.is_multiple_of(BLOCK),
            field,
            "not a multiple of 4096 bytes",
            "use a size in Mi or Gi",
        );
    }
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_fits = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && !host.contains([':', '/', ' ']),
    };
    host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn site_pair(spec: &SitePairSpec, faults: &mut Faults) {
    let [first, second] = spec.sites.as_slice() else {
        return faults.add(
            "spec.sites",
            format!("{} sites", spec.sites.len()),
            "name exactly two",
        );
    };
    faults.require(
        first.name != second.name,
        "spec.sites",
        "two sites of one name",
        "give each its own name",
    );
    let drained = spec
        .sites
        .iter()
        .filter(|site| site.state == SiteState::Drained)
        .count();
    faults.require(
        drained < 2,
        "spec.sites",
        "both sites are Drained",
        "at most one may be",
    );
    let WitnessSpec {
        kubernetes,
        object_store,
        site,
        directory,
    } = &spec.witness;
    let kinds = [
        kubernetes.is_some(),
        object_store.is_some(),
        site.is_some(),
        directory.is_some(),
    ];
    let named = kinds.iter().filter(|named| **named).count();
    faults.require(
        named == 1,
        "spec.witness",
        "not exactly one witness",
        "name one of kubernetes, objectStore, site and directory",
    );
    if let Some(name) = site {
        let known = spec.sites.iter().any(|site| site.name == *name);
        faults.require(
            known,
            "spec.witness.site",
            "not a site of the pair",
            "name one of spec.sites",
        );
    }
    faults.absolute(
        "spec.witness.directory.path",
        directory.as_ref().map(|directory| directory.path.as_str()),
    );
}

fn pool_spec(spec: &StoragePoolSpec, faults: &mut Faults) {
    let one = spec.node.is_some() != spec.array.is_some();
    faults.require(
        one,
        "spec",
        "not exactly one of node and array",
        "name one of them",
    );
    faults.portals("spec.portals", &spec.portals);
    if let Some(node) = &spec.node {
        let one = node.directory.is_some() != node.device.is_some();
        faults.require(
            one,
            "spec.node",
            "not exactly one of directory and device",
            "name one of them",
        );
        faults.absolute("spec.node.directory", node.directory.as_deref());
        faults.absolute("spec.node.device", node.device.as_deref());
    }
}

fn leg_spec(spec: &LegSpec, faults: &mut Faults) {
    faults.size("spec.size", spec.size.bytes());
    faults.require(
        matches!(spec.block_size, 512 | 4096),
        "spec.blockSize",
        "neither 512 nor 4096",
        "use 4096",
    );
    faults.naa("spec.naa", spec.naa.as_deref());
}

fn attachment_spec(spec: &AttachmentSpec, faults: &mut Faults) {
    faults.size("spec.size", spec.size.bytes());
    faults.require(
        matches!(spec.block_size, 512 | 4096),
        "spec.blockSize",
        "neither 512 nor 4096",
        "use 4096",
    );
    match spec.legs.as_slice() {
        [_] => {}
        [first, second] => {
            faults.require(
                first.leg != second.leg,
                "spec.legs",
                "one leg twice",
                "one is A, the other B",
            );
            faults.require(
                first.site != second.site,
                "spec.legs",
                "two legs at one site",
                "a leg stands at each site",
            );
        }
        legs => faults.add(
            "spec.legs",
            format!("{} legs", legs.len()),
            "name one or two",
        ),
    }
    for leg in &spec.legs {
        faults.portals("spec.legs.portals", &leg.portals);
        faults.naa("spec.legs.naa", leg.naa.as_deref());
        faults.naa("spec.legs.initialize", leg.initialize.as_deref());
        let foreign_is_named = !leg.array || leg.iqn.is_some();
        faults.require(
            foreign_is_named,
            "spec.legs.iqn",
            "an array's LUN without the array's iqn",
            "add iqn and naa",
        );
    }
    faults.require(
        spec.own_index().is_some(),
        "spec.site",
        "no leg stands at the agent's site",
        "name one of the legs' sites",
    );
    let birth = spec.mode == AttachmentMode::Birth;
    faults.require(
        birth == spec.birth.is_some(),
        "spec.birth",
        "birth stands exactly with mode Birth",
        "add it or take it away",
    );
    let both = !birth || spec.legs.len() == 2;
    faults.require(
        both,
        "spec.legs",
        "a birth with one leg",
        "name both: a volume is born on both at once",
    );
    if let Some(order) = &spec.birth {
        let known = spec.legs.iter().any(|leg| leg.site == order.active_site);
        faults.require(
            known,
            "spec.birth.activeSite",
            "no leg stands there",
            "name one of the legs' sites",
        );
    }
    let reseed = spec.mode == AttachmentMode::Reseed;
    faults.require(
        reseed == spec.reseed.is_some(),
        "spec.reseed",
        "reseed stands exactly with mode Reseed",
        "add it or take it away",
    );
    let force = spec.mode == AttachmentMode::Force;
    faults.require(
        force == spec.force.is_some(),
        "spec.force",
        "force stands exactly with mode Force",
        "add it or take it away",
    );
    let own_only = !force || (spec.legs.len() == 1 && spec.legs[0].site == spec.site);
    faults.require(
        own_only,
        "spec.legs",
        "a force is of the one leg at its own site",
        "name that leg only",
    );
    let can_move = spec.move_.is_none() || !spec.mode.is_one_shot();
    faults.require(
        can_move,
        "spec.move",
        "a one-shot order cannot move a volume",
        "use it with mode Writer or Caretaker",
    );
    faults.require(
        !spec.release || spec.mode == AttachmentMode::Writer,
        "spec.release",
        "only a Writer has a device that a node uses",
        "delete the object instead",
    );
    if let Some(timeout) = &spec.command_timeout {
        let fits = (2..=30).contains(&timeout.length().as_secs());
        faults.require(
            fits,
            "spec.commandTimeout",
            "not between 2s and 30s",
            "use 3s",
        );
    }
    if let Some(reference) = &spec.reference {
        let fits = !reference.contains(['"', '\\', '\n']);
        faults.require(
            fits,
            "spec.reference",
            "quotes or line ends in it",
            "write namespace/name",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_file;
    use super::is_address;

    const ATTACHMENT: &str = "apiVersion: twinsite.io/v1alpha1
kind: Attachment
metadata: {name: a}
spec:
  volume: ts-000102030405060708090a0b0c0d0e0f
  sitePair: ctrc
  node: m1
  site: medical
  mode: Writer
  size: 2Gi
  legs:
  - {leg: A, site: medical, portals: ['127.0.0.1:3260']}
  - {leg: B, site: research, portals: ['[::1]:3260']}
";

    fn check(text: &str, expected: &str) {
        let problems = parse_file("f", text).problems;
        let found: Vec<String> = problems
            .iter()
            .map(|p| {
                format!(
                    "{} {}: {}",
                    p.line,
                    p.field.as_deref().unwrap_or(""),
                    p.message
                )
            })
            .collect();
        assert_eq!(found.join(" | "), expected);
    }

    #[test]
    fn an_attachment_that_contradicts_itself_is_refused() {
        check(ATTACHMENT, "");
        for (from, to, expected) in [
            (
                "size: 2Gi",
                "size: 1000",
                "10 spec.size: not a multiple of 4096 bytes",
            ),
            ("leg: B", "leg: A", "11 spec.legs: one leg twice"),
            (
                "site: research",
                "site: medical",
                "11 spec.legs: two legs at one site",
            ),
            (
                "site: medical\n",
                "site: moon\n",
                "8 spec.site: no leg stands at the agent's site",
            ),
            (
                "'127.0.0.1:3260'",
                "here",
                "12 spec.legs.portals: \"here\" is no address",
            ),
            (
                "mode: Writer",
                "mode: Birth",
                "4 spec.birth: birth stands exactly with mode Birth",
            ),
            (
                "mode: Writer",
                "mode: Inspect\n  move: {mode: Planned, expectSeq: 1}",
                "10 spec.move: a one-shot order cannot move a volume",
            ),
            (
                "mode: Writer",
                "mode: Writer\n  commandTimeout: 1s",
                "10 spec.commandTimeout: not between 2s and 30s",
            ),
        ] {
            check(&ATTACHMENT.replacen(from, to, 1), expected);
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["127.0.0.1:3260", "[::1]:3260", "storage.example.org:3260"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "host",
            ":3260",
            "host:",
            "host:0",
            "host:99999",
            "::1:3260",
            "[::1]",
            "[x]:1",
            "a b:1",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}

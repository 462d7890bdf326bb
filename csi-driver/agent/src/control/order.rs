//! An Attachment becomes the order that the data path can carry out: names become addresses, secrets
//! become credentials, limits become a configuration of the engine.

use std::time::Duration;

use twinsite_api::{
    AttachmentMode, AttachmentSpec, ForceOrder, LegIndex, MoveMode, OnNoQuorum, ReseedOrder,
    SitePair, attachment_uid, group_uid, parse_naa,
};
use twinsite_mirror::{
    config::{self, Config},
    io::{AttachOrder, AttachRecord, Leg, Mark, Mode, MoveOrder, Naa},
    oneshot::Reseeding,
};
use twinsite_register::{
    AttachmentUid, Epoch, Force, Gen, GroupId, Key, KeyTag, LegSeed, Members, Site, VolumeId,
};

use super::{durable, secrets, storage::Fault, volumes::LegTarget};
use crate::objects::Objects;

/// The part of an order that follows from the objects.
#[derive(Debug)]
pub struct Prepared {
    pub volume: VolumeId,
    pub group: GroupId,
    pub legs: [Option<LegTarget>; 2],
    pub attach: AttachOrder,
    pub reseed: Option<Reseeding>,
    pub force: Option<Box<Force>>,
}

/// What the node adds to it.
#[derive(Debug)]
pub struct Local {
    pub node: String,
    pub record: AttachRecord,
    pub marks: Vec<Mark>,
    /// The kernel still shows a device of an earlier attach of this uid.
    pub shown: bool,
}

/// Uid of an Attachment as the register knows it.
pub fn uid(text: &str) -> AttachmentUid {
    AttachmentUid(attachment_uid(text))
}

/// Whose register decides about a volume.
pub fn group(spec: &AttachmentSpec) -> GroupId {
    GroupId(spec.group_id().bytes())
}

pub fn leg(index: LegIndex) -> Leg {
    match index {
        LegIndex::A => Leg::A,
        LegIndex::B => Leg::B,
    }
}

pub fn leg_index(leg: Leg) -> LegIndex {
    match leg {
        Leg::A => LegIndex::A,
        Leg::B => LegIndex::B,
    }
}

/// Translates an Attachment.
pub fn prepare(
    spec: &AttachmentSpec,
    pair: &SitePair,
    objects: &Objects,
    local: Local,
) -> Result<Prepared, Fault> {
    let invalid = |text: &str| Fault {
        word: twinsite_api::reason::INVALID_SPEC,
        text: text.to_owned(),
    };
    let site = match spec
        .own_index()
        .ok_or_else(|| invalid("no leg stands at the agent's site: correct spec.site"))?
    {
        LegIndex::A => Site::A,
        LegIndex::B => Site::B,
    };
    let legs = targets(spec, objects)?;
    let mut initialize = [None, None];
    for named in &spec.legs {
        let index = leg(named.leg).index();
        initialize[index] = named.initialize.as_deref().map(naa).transpose()?;
    }
    let tag = match spec.mode {
        AttachmentMode::Inspect => KeyTag::Inspect,
        _ => KeyTag::Writer(site),
    };
    let key = Key::new(tag, u64::from_le_bytes(durable::random()?));
    let volume = VolumeId(spec.volume.bytes());
    let attach = AttachOrder {
        volume,
        uid: local.record.uid,
        key,
        seed: durable::random()?,
        site,
        node: local.node,
        mode: if spec.mode == AttachmentMode::Caretaker {
            Mode::Caretaker
        } else {
            Mode::Writer
        },
        mv: spec.move_.as_ref().map(|order| MoveOrder {
            expect_seq: order.expect_seq,
            mode: move_mode(order, pair),
        }),
        record: local.record,
        shown: local.shown,
        marks: local.marks,
        initialize,
        config: config(spec, pair),
    };
    let reseed = spec.reseed.as_ref().map(reseed);
    let force = spec.force.as_ref().map(|order| force(order, &attach));
    Ok(Prepared {
        volume,
        group: group(spec),
        legs,
        attach,
        reseed: reseed.transpose()?,
        force: force.transpose()?,
    })
}

/// Translates a reseed.
fn reseed(order: &ReseedOrder) -> Result<Reseeding, Fault> {
    let invalid = |field: &str, error: &dyn std::fmt::Display| Fault {
        word: twinsite_api::reason::INVALID_SPEC,
        text: format!("spec.reseed.{field}: {error}"),
    };
    let mut expect = [None; 2];
    for seen in &order.expect {
        let generation = seen.generation.parse();
        let generation = generation.map_err(|error| invalid("expect", &error))?;
        expect[leg(seen.leg).index()] = Some((Epoch(seen.epoch), generation));
    }
    let register_id = order.register_id.parse();
    Ok(Reseeding {
        register_id: register_id.map_err(|error| invalid("registerId", &error))?,
        chosen: order
            .legs
            .iter()
            .fold(Members::NONE, |legs, index| legs.with(leg(*index))),
        expect,
        inconsistent: order.inconsistent,
    })
}

/// Makes the orders of the volumes of a group one: one key, one seed, and one uid that follows from all their Attachments.
pub fn make_one(orders: &mut [&mut AttachOrder]) {
    let uids: Vec<[u8; 16]> = orders.iter().map(|order| order.record.uid.0).collect();
    let all = AttachmentUid(group_uid(&uids));
    let Some((key, seed)) = orders.first().map(|first| (first.key, first.seed)) else {
        return;
    };
    for order in orders {
        (order.key, order.seed, order.uid) = (key, seed, all);
    }
}

/// How the legs of an Attachment are reached, by [`Leg::index`].
pub fn targets(spec: &AttachmentSpec, objects: &Objects) -> Result<[Option<LegTarget>; 2], Fault> {
    let mut legs = [None, None];
    for named in &spec.legs {
        let iqn = spec.target_name(named);
        legs[leg(named.leg).index()] = Some(LegTarget {
            portals: named.portals.clone(),
            lun: named.lun,
            naa: naa(&spec.naa_text(named))?,
            chap: secrets::chap(&objects.secrets, named.chap.as_ref(), &iqn)?,
            array: named.array,
            cache_protected: named.cache_protected,
            iqn,
        });
    }
    Ok(legs)
}

/// The generation follows from the Attachment, of a group from those of all: the same order again finds its own force in the
/// register.
pub fn force_generation(attach: &AttachOrder) -> Gen {
    Gen(attach.uid.0)
}

fn force(order: &ForceOrder, attach: &AttachOrder) -> Result<Box<Force>, Fault> {
    let invalid = |field: &str, error: &dyn std::fmt::Display| Fault {
        word: twinsite_api::reason::INVALID_SPEC,
        text: format!("spec.force.{field}: {error}"),
    };
    let txid = order.expect_txid.parse();
    let generation = order.generation.parse();
    Ok(Box::new(Force {
        expect_epoch: Epoch(order.expect_epoch),
        expect_txid: txid.map_err(|error| invalid("expectTxid", &error))?,
        leg: attach.site.leg(),
        seen: LegSeed {
            epoch: Epoch(order.epoch),
            generation: generation.map_err(|error| invalid("generation", &error))?,
            sb_seq: order.sb_seq,
        },
        site: attach.site,
        generation: force_generation(attach),
        inconsistent: order.inconsistent,
        who: order.who.clone(),
        why: "accepted after a plan".to_owned(),
    }))
}

fn naa(text: &str) -> Result<Naa, Fault> {
    let invalid = || Fault {
        word: twinsite_api::reason::INVALID_SPEC,
        text: format!("{text:?} is no NAA name"),
    };
    parse_naa(text).map(Naa).ok_or_else(invalid)
}

/// A failover that a policy ordered is refused while the holder still writes; one that a human ordered is not.
/// A person who orders a failover has looked; the policy has only evidence.
fn move_mode(order: &twinsite_api::MoveOrder, pair: &SitePair) -> twinsite_mirror::io::MoveMode {
    use twinsite_api::FailoverPolicy;
    match (order.mode, pair.spec.failover.policy) {
        (MoveMode::Planned, _) => twinsite_mirror::io::MoveMode::Planned,
        (MoveMode::Failover, FailoverPolicy::Automatic) if !order.by_person => {
            twinsite_mirror::io::MoveMode::Automatic {
                detect_after: pair.spec.failover.detect_after.length(),
            }
        }
        (MoveMode::Failover, _) => twinsite_mirror::io::MoveMode::Failover,
    }
}

fn config(spec: &AttachmentSpec, pair: &SitePair) -> Config {
    let defaults = Config::default();
    let rate = spec.max_resync_bytes_per_second.as_ref().or(pair
        .spec
        .resync
        .max_bytes_per_second
        .as_ref());
    let length = |span: Option<&twinsite_api::Span>, default: Duration| {
        span.map_or(default, twinsite_api::Span::length)
    };
    let t_lease = length(spec.lease.as_ref(), defaults.t_lease);
    Config {
        t_cmd: length(spec.command_timeout.as_ref(), defaults.t_cmd),
        t_lease,
        lease_renew: defaults.lease_renew.min(t_lease / 3),
        on_no_quorum: match spec.on_no_quorum {
            OnNoQuorum::Suspend => config::OnNoQuorum::Suspend,
            OnNoQuorum::Error => config::OnNoQuorum::Error,
        },
        resync_bytes_per_second: rate.map(twinsite_api::Quantity::bytes),
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::parse_file;

    const TEXT: &str = "
apiVersion: twinsite.io/v1alpha1
kind: SitePair
metadata: {name: ctrc}
spec:
  sites: [{name: medical}, {name: research}]
  witness: {directory: {path: /w}}
  resync: {maxBytesPerSecond: 200Mi}
---
apiVersion: twinsite.io/v1alpha1
kind: Attachment
metadata: {name: w, uid: 00000000-0000-4000-8000-000000000001}
spec:
  volume: ts-000102030405060708090a0b0c0d0e0f
  sitePair: ctrc
  node: r1
  site: research
  mode: Writer
  size: 2Gi
  onNoQuorum: Error
  commandTimeout: 5s
  move: {mode: Failover, expectSeq: 3}
  legs:
  - {leg: A, site: medical, portals: ['127.0.0.1:3260']}
  - {leg: B, site: research, portals: ['127.0.0.1:3261'], chap: {pairSecret: s}, naa: naa.6006000000000001}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {key: 0123456789abcdef}
";

    fn prepared(text: &str) -> Result<Prepared, Fault> {
        let mut objects = Objects::default();
        let parsed = parse_file("f", text);
        assert_eq!(parsed.problems, []);
        for (_, object) in parsed.objects {
            objects.add(object).unwrap();
        }
        let attachment = &objects.attachments["w"];
        let uid = uid(attachment.metadata.uid.as_deref().unwrap());
        let record = AttachRecord {
            uid,
            keys: Vec::new(),
            n: None,
            stale: false,
            flush_owed: false,
        };
        let local = Local {
            node: "r1".to_owned(),
            record,
            marks: Vec::new(),
            shown: false,
        };
        prepare(&attachment.spec, &objects.pairs["ctrc"], &objects, local)
    }

    #[test]
    fn an_order_says_everything_that_the_engine_and_its_sessions_need() {
        let order = prepared(TEXT).unwrap();
        let [Some(a), Some(b)] = &order.legs else {
            panic!("two legs")
        };
        assert_eq!(
            a.iqn,
            "iqn.2026-11.io.twinsite:ts-000102030405060708090a0b0c0d0e0f.a"
        );
        assert_eq!((a.chap.is_some(), b.chap.is_some()), (false, true));
        assert_eq!(b.naa.to_string(), "60060000000000010000000000000000");
        assert_eq!(order.attach.site, Site::B);
        assert_eq!(order.attach.key.tag(), KeyTag::Writer(Site::B));
        assert_eq!(
            order.attach.mv,
            Some(MoveOrder {
                mode: twinsite_mirror::io::MoveMode::Failover,
                expect_seq: 3
            })
        );
        assert_eq!(order.attach.config.t_cmd, Duration::from_secs(5));
        assert_eq!(order.attach.config.on_no_quorum, config::OnNoQuorum::Error);
        assert_eq!(
            order.attach.config.resync_bytes_per_second,
            Some(209_715_200)
        );
        assert_eq!(
            order.attach.uid.to_string(),
            "00000000000040008000000000000001"
        );
        assert_eq!(order.group.0, order.volume.0);
    }

    #[test]
    fn every_try_has_its_own_key_and_an_inspection_a_key_that_no_fence_counts() {
        let (one, two) = (prepared(TEXT).unwrap(), prepared(TEXT).unwrap());
        assert_ne!(one.attach.key, two.attach.key);
        assert_ne!(one.attach.seed, two.attach.seed);
        let text = TEXT
            .replace("mode: Writer", "mode: Inspect")
            .replace("  move: {mode: Failover, expectSeq: 3}\n", "");
        assert_eq!(prepared(&text).unwrap().attach.key.tag(), KeyTag::Inspect);
    }

    #[test]
    fn a_policy_does_not_take_over_from_a_holder_that_still_writes() {
        let text = TEXT.replace(
            "  resync:",
            "  failover: {policy: Automatic, detectAfter: 7s}\n  resync:",
        );
        let mode = twinsite_mirror::io::MoveMode::Automatic {
            detect_after: Duration::from_secs(7),
        };
        assert_eq!(prepared(&text).unwrap().attach.mv.unwrap().mode, mode);
        // A person who orders it is not asked for evidence.
        let ordered = text.replace("expectSeq: 3}", "expectSeq: 3, byPerson: true}");
        assert_eq!(
            prepared(&ordered).unwrap().attach.mv.unwrap().mode,
            twinsite_mirror::io::MoveMode::Failover
        );
    }

    #[test]
    fn the_orders_of_a_group_have_one_key_and_a_uid_that_follows_from_all_of_them() {
        let (mut one, mut two) = (
            prepared(TEXT).unwrap().attach,
            prepared(TEXT).unwrap().attach,
        );
        two.record.uid = AttachmentUid([7; 16]);
        let own = [one.record.uid, two.record.uid];
        make_one(&mut [&mut one, &mut two]);
        assert_eq!((one.key, one.seed, one.uid), (two.key, two.seed, two.uid));
        assert!(!own.contains(&one.uid));
        assert_eq!([one.record.uid, two.record.uid], own);
        // Whoever is named first.
        let (mut three, mut four) = (one.clone(), two.clone());
        make_one(&mut [&mut four, &mut three]);
        assert_eq!(three.uid, one.uid);
        four.record.uid = AttachmentUid([8; 16]);
        make_one(&mut [&mut three, &mut four]);
        assert_ne!(three.uid, one.uid);
    }

    #[test]
    fn a_secret_that_is_not_there_is_named() {
        let text = TEXT.replace("pairSecret: s", "pairSecret: other");
        assert_eq!(
            prepared(&text).unwrap_err().text,
            "Secret other is not there: add it"
        );
    }
}

//! Logins of every kind: CHAP, mutual CHAP, access lists, redirects, discovery.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use super::pair::*;
use crate::chap::{Algorithm, Secret, SecretError};

const HOST: &[u8] = b"secret of the host";
const DISK: &[u8] = b"secret of the disk";

fn secret(bytes: &[u8]) -> Secret {
    Secret::new(bytes).unwrap()
}

fn target_with(auth: Auth) -> TargetConfig {
    let mut config = target_config();
    config.targets.get_mut(TARGET).unwrap().auth = auth;
    config
}

fn accounts(name: &str, bytes: &[u8]) -> BTreeMap<String, Account> {
    let account = Account {
        secret: secret(bytes),
        initiator: None,
    };
    BTreeMap::from([(name.to_owned(), account)])
}

fn one_way() -> TargetConfig {
    target_with(Auth::chap(accounts("host", HOST), None).unwrap())
}

fn mutual() -> TargetConfig {
    let own = Some(("disk".to_owned(), secret(DISK)));
    target_with(Auth::chap(accounts("host", HOST), own).unwrap())
}

fn host(chap: ChapInitiator) -> InitiatorConfig {
    InitiatorConfig {
        chap: Some(chap),
        ..initiator_config()
    }
}

fn chap(bytes: &[u8]) -> ChapInitiator {
    ChapInitiator::new("host".to_owned(), secret(bytes))
}

fn mutual_chap(bytes: &[u8]) -> ChapInitiator {
    ChapInitiator::mutual("host".to_owned(), secret(HOST), secret(bytes)).unwrap()
}

fn outcome(initiator: InitiatorConfig, target: TargetConfig) -> (Pair, InitiatorEvent) {
    let mut pair = Pair::new(initiator, target, 1);
    pair.chunk = 40;
    pair.run();
    let event = pair.events.remove(0);
    (pair, event)
}

fn check_in(initiator: InitiatorConfig, target: TargetConfig) -> Pair {
    let (pair, event) = outcome(initiator, target);
    assert!(
        matches!(event, InitiatorEvent::LoggedIn { .. }),
        "{event:?}"
    );
    pair
}

fn check_refused(initiator: InitiatorConfig, target: TargetConfig, class: u8, detail: u8) {
    let (pair, event) = outcome(initiator, target);
    let refused = InitiatorEvent::Dropped(DropReason::LoginRefused { class, detail });
    assert_eq!(event, refused);
    assert_eq!(
        pair.closed,
        Some(CloseReason::LoginRefused { class, detail })
    );
    assert_eq!(pair.login, None);
}

#[test]
fn a_plain_login_tells_who_comes() {
    let pair = check_in(initiator_config(), target_config());
    let info = pair.login.unwrap();
    assert_eq!(info.initiator, INITIATOR);
    assert_eq!(info.target.as_deref(), Some(TARGET));
    assert_eq!(
        (info.isid, info.portal_group, info.tsih),
        ([0x80, 1, 2, 3, 4, 5], 3, 7)
    );
    assert_eq!(info.user, None);
    let agreed = info.negotiated;
    assert!(!agreed.initial_r2t && agreed.immediate_data);
    assert_eq!(
        (
            agreed.max_burst,
            agreed.first_burst,
            agreed.max_send_segment
        ),
        (1 << 20, 256 << 10, 256 << 10)
    );
}

#[test]
fn every_chap_algorithm_works_one_way_and_mutually() {
    for algorithm in Algorithm::ALL {
        let pair = check_in(host(chap(HOST).with_algorithms(&[algorithm])), one_way());
        assert_eq!(pair.login.unwrap().user.as_deref(), Some("host"));
        check_in(
            host(mutual_chap(DISK).with_algorithms(&[algorithm])),
            mutual(),
        );
    }
    // The strongest is chosen of all.
    let pair = check_in(host(chap(HOST)), one_way());
    let text = String::from_utf8_lossy(&pair.to_initiator.seen).into_owned();
    assert!(text.contains("CHAP_A=8\0"));
    check_in(host(chap(HOST)), mutual());
}

#[test]
fn wrong_secrets_names_and_methods_are_refused() {
    check_refused(host(chap(DISK)), one_way(), 2, 1);
    let stranger = ChapInitiator::new("stranger".to_owned(), secret(HOST));
    check_refused(host(stranger), one_way(), 2, 1);
    check_refused(initiator_config(), one_way(), 2, 1);
    // The target has no secret of its own to show.
    check_refused(host(mutual_chap(DISK)), one_way(), 2, 1);
    // A target that asks for nothing is no target with CHAP.
    check_refused(host(chap(HOST)), target_config(), 2, 1);
    let mut bound = accounts("host", HOST);
    bound.get_mut("host").unwrap().initiator = Some("iqn.2026-01.example:other".to_owned());
    check_refused(
        host(chap(HOST)),
        target_with(Auth::chap(bound, None).unwrap()),
        2,
        1,
    );
}

#[test]
fn a_target_with_the_wrong_secret_is_not_believed() {
    let (pair, event) = outcome(host(mutual_chap(b"another secret")), mutual());
    let InitiatorEvent::Dropped(DropReason::Error(SessionError::Login(why))) = event else {
        panic!("{event:?}");
    };
    assert!(why.contains("did not prove"), "{why}");
    assert!(pair.events.is_empty());
}

#[test]
fn no_secret_is_in_a_debug_form_or_on_the_line() {
    let pair = check_in(host(mutual_chap(DISK)), mutual());
    let shown = format!("{:?} {:?} {:?}", pair.initiator, pair.target, mutual());
    for line in [
        shown.as_bytes(),
        &pair.to_target.seen,
        &pair.to_initiator.seen,
    ] {
        for secret in [HOST, DISK] {
            assert!(!line.windows(secret.len()).any(|window| window == secret));
        }
        // Nor as a list of numbers.
        assert!(!String::from_utf8_lossy(line).contains("115, 101, 99, 114, 101, 116"));
    }
}

#[test]
fn equal_secrets_for_both_directions_are_refused_in_the_config() {
    let same = ChapInitiator::mutual("host".to_owned(), secret(HOST), secret(HOST));
    assert_eq!(same.err(), Some(SecretError::Same));
    let own = Some(("disk".to_owned(), secret(HOST)));
    let same = Auth::chap(accounts("host", HOST), own);
    assert_eq!(same.err(), Some(SecretError::Same));
}

#[test]
fn only_names_on_the_list_get_in() {
    let mut target = target_config();
    let entry = target.targets.get_mut(TARGET).unwrap();
    entry.acl = Acl::Only(BTreeSet::from(["iqn.2026-01.example:other".to_owned()]));
    check_refused(initiator_config(), target.clone(), 2, 2);
    let entry = target.targets.get_mut(TARGET).unwrap();
    entry.acl = Acl::Only(BTreeSet::from([INITIATOR.to_owned()]));
    check_in(initiator_config(), target);
}

#[test]
fn an_unknown_target_is_not_found() {
    let mut initiator = initiator_config();
    initiator.kind = SessionKind::Normal {
        target: "iqn.2026-01.example:none".to_owned(),
    };
    check_refused(initiator, target_config(), 2, 3);
    let mut initiator = initiator_config();
    initiator.kind = SessionKind::Normal {
        target: TARGET.to_ascii_uppercase(),
    };
    check_in(initiator, target_config());
}

#[test]
fn a_moved_target_says_where() {
    for permanent in [false, true] {
        let mut target = target_config();
        target.targets.get_mut(TARGET).unwrap().redirect = Some(Redirect {
            address: "198.51.100.7:3260,2".to_owned(),
            permanent,
        });
        let (_, event) = outcome(initiator_config(), target);
        let address = "198.51.100.7:3260,2".to_owned();
        let moved = DropReason::Redirected { address, permanent };
        assert_eq!(event, InitiatorEvent::Dropped(moved));
    }
}

#[test]
fn the_server_has_the_last_word() {
    for (why, class, detail) in [
        (LoginRefusal::NotAuthorized, 2, 2),
        (LoginRefusal::TargetNotFound, 2, 3),
        (LoginRefusal::TargetRemoved, 2, 4),
        (LoginRefusal::TooManySessions, 2, 6),
        (LoginRefusal::Unavailable, 3, 1),
        (LoginRefusal::OutOfResources, 3, 2),
    ] {
        let mut pair = Pair::new(initiator_config(), target_config(), 1);
        while let Some(transmit) = pair.initiator.poll_transmit() {
            for piece in transmit.pieces {
                pair.target.handle_bytes(pair.now, piece).unwrap();
            }
        }
        assert!(matches!(
            pair.target.poll_event(),
            Some(TargetEvent::LoginReady(_))
        ));
        assert_eq!(pair.target.poll_transmit(), None);
        pair.target.refuse_login(pair.now, why);
        pair.run();
        let refused = InitiatorEvent::Dropped(DropReason::LoginRefused { class, detail });
        assert_eq!(pair.events, [refused]);
    }
}

#[test]
fn a_required_digest_that_the_peer_does_not_have_stops_the_login() {
    let mut initiator = initiator_config();
    initiator.offer.data_digest = DigestOffer::Require;
    let mut target = target_config();
    target.offer.data_digest = DigestOffer::Never;
    check_refused(initiator, target, 2, 0);
}

#[test]
fn discovery_lists_what_the_initiator_may_use() {
    let mut target = target_config();
    let portal = |address: &str, group| Portal {
        address: address.to_owned(),
        group,
    };
    for number in 0..300 {
        let entry = TargetEntry {
            portals: vec![portal("192.0.2.1:3260", 1), portal("[2001:db8::1]:3260", 2)],
            acl: if number % 3 == 0 {
                Acl::Only(BTreeSet::from(["iqn.2026-01.example:other".to_owned()]))
            } else {
                Acl::Any
            },
            ..TargetEntry::default()
        };
        target
            .targets
            .insert(format!("iqn.2026-01.example:many-{number:03}"), entry);
    }
    let mut initiator = initiator_config();
    initiator.kind = SessionKind::Discovery;
    initiator.offer.max_recv_segment = 512;
    let mut pair = check_in(initiator, target);
    assert_eq!(pair.login.as_ref().unwrap().target, None);
    pair.initiator.discover(pair.now);
    pair.run();
    let [InitiatorEvent::Discovered(targets)] = &pair.events[..] else {
        panic!("{:?} {:?}", pair.events, pair.closed);
    };
    assert_eq!(targets.len(), 201);
    assert_eq!(targets[0].name, TARGET);
    let own = DiscoveredPortal {
        address: "192.0.2.1:3260".to_owned(),
        group: 3,
    };
    assert_eq!(targets[0].portals, [own]);
    assert_eq!(targets[200].name, "iqn.2026-01.example:many-299");
    assert_eq!(targets[200].portals.len(), 2);
    // A discovery session runs no commands.
    pair.initiator
        .submit(pair.now, 1, test_unit_ready())
        .unwrap();
    pair.run();
    assert!(pair.closed.is_some() && pair.open.is_empty());
}

#[test]
fn discovery_may_ask_for_chap() {
    let mut target = target_config();
    target.discovery_auth = Auth::chap(accounts("host", HOST), None).unwrap();
    let mut initiator = initiator_config();
    initiator.kind = SessionKind::Discovery;
    check_refused(initiator.clone(), target.clone(), 2, 1);
    initiator.chap = Some(chap(HOST));
    check_in(initiator, target);
}

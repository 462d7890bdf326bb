//! The stored form of the register and its lookups.

use super::*;
use crate::transition::Create;

const STORED: &str = concat!(
    r#"{"version":1,"register_id":"01010101010101010101010101010101","group":"02020202020202020202020202020202","#,
    r#""volumes":["03030303030303030303030303030303"],"state":"Live","epoch":4,"gen":"04040404040404040404040404040404","#,
    r#""members":"A","active":{"site":"A","seq":2,"latched":true},"holder":"a100000000000700","#,
    r#""stamp_id":"05050505050505050505050505050505","order":{"n":6,"uid":"06060606060606060606060606060606"},"#,
    r#""txid":"07070707070707070707070707070707","granted":[{"leg":"A","sb_epoch":1,"#,
    r#""sb_gen":"08080808080808080808080808080808","sb_seq":9}],"former":["09090909090909090909090909090909"],"#,
    r#""unconfirmed":"B","no_rejoin":"B","retired":[{"leg":"B","naa":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"}],"landed":"A","#,
    r#""parents":[{"epoch":3,"gen":"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b","members":"AB"}],"#,
    r#""note":[{"who":"ann","why":"forced leg A: fire","forced":true}]}"#,
);

#[test]
fn the_stored_form_is_pinned() {
    let register = Register::from_json(STORED.as_bytes()).unwrap();
    assert_eq!(register.epoch, Epoch(4));
    assert_eq!(register.members, Members::only(Leg::A));
    assert_eq!(register.holder, Some(Key::from_u64(0xa100_0000_0000_0700)));
    assert_eq!(
        register
            .granted_to(Leg::A, VolumeId([3; 16]))
            .unwrap()
            .sb_seq,
        9
    );
    assert_eq!(String::from_utf8(register.to_json()).unwrap(), STORED);
}

#[test]
fn unknown_fields_newer_versions_and_damage_are_refused() {
    let unknown = STORED.replacen("\"epoch\"", "\"colour\":1,\"epoch\"", 1);
    assert!(matches!(
        Register::from_json(unknown.as_bytes()),
        Err(FormatError::Json(_))
    ));
    let nested = STORED.replacen("\"latched\"", "\"colour\":1,\"latched\"", 1);
    assert!(matches!(
        Register::from_json(nested.as_bytes()),
        Err(FormatError::Json(_))
    ));
    let newer = STORED.replacen("\"version\":1", "\"version\":2,\"colour\":3", 1);
    assert!(matches!(
        Register::from_json(newer.as_bytes()),
        Err(FormatError::Version(2))
    ));
    for cut in 0..STORED.len() {
        assert!(
            Register::from_json(&STORED.as_bytes()[..cut]).is_err(),
            "cut at {cut}"
        );
    }
    assert!(Register::from_json(b"\xff\xff").is_err());
}

#[test]
fn what_damage_leaves_readable_obeys_the_rules() {
    let mut accepted = 0;
    for at in 0..STORED.len() {
        for byte in [b'0', b'9', b'"', b'{', b',', b'A', b'-', 0, 0xFF] {
            let mut damaged = STORED.as_bytes().to_vec();
            damaged[at] = byte;
            if let Ok(register) = Register::from_json(&damaged) {
                assert_eq!(register.check(), Ok(()), "{byte} at {at}");
                let again = Register::from_json(&register.to_json()).unwrap();
                assert_eq!(again, register, "{byte} at {at}");
                accepted += 1;
            }
        }
    }
    assert!(accepted > 0, "nothing is tested");
}

#[test]
fn values_that_no_transition_makes_are_refused() {
    let cases = [
        ("\"members\":\"A\"", "\"members\":\"\""),
        ("\"members\":\"A\"", "\"members\":\"BA\""),
        ("\"state\":\"Live\"", "\"state\":\"Creating\""),
        ("\"state\":\"Live\"", "\"state\":\"Tombstone\""),
        ("a100000000000700", "a100000000000701"),
        ("\"seq\":2", "\"seq\":0"),
        ("\"epoch\":3", "\"epoch\":4"),
        ("\"unconfirmed\":\"B\"", "\"unconfirmed\":\"A\""),
        ("\"no_rejoin\":\"B\"", "\"no_rejoin\":\"AB\""),
        ("\"landed\":\"A\"", "\"landed\":\"AB\""),
        (
            "09090909090909090909090909090909",
            "01010101010101010101010101010101",
        ),
        (r#"["03030303030303030303030303030303"]"#, "[]"),
    ];
    for (from, to) in cases {
        let text = STORED.replacen(from, to, 1);
        assert_ne!(text, STORED, "{from}");
        assert!(
            Register::from_json(text.as_bytes()).is_err(),
            "{from} -> {to}"
        );
    }
}

#[test]
fn equality_is_of_the_whole_value() {
    let base = Register::from_json(STORED.as_bytes()).unwrap();
    for (from, to) in [
        ("\"latched\":true", "\"latched\":false"),
        ("fire", "flood"),
        ("0707", "0708"),
    ] {
        let other = Register::from_json(STORED.replacen(from, to, 1).as_bytes()).unwrap();
        assert_ne!(other, base, "{from}");
    }
}

#[test]
fn membership_history_is_looked_up_by_epoch_and_generation() {
    let register = Register::from_json(STORED.as_bytes()).unwrap();
    let (now, before) = (Gen([4; 16]), Gen([0xb; 16]));
    assert_eq!(
        register.members_of(Epoch(4), now),
        Some(Members::only(Leg::A))
    );
    assert_eq!(register.members_of(Epoch(3), before), Some(Members::BOTH));
    assert_eq!(register.members_of(Epoch(3), now), None);
    assert_eq!(register.members_of(Epoch(2), before), None);
}

#[test]
fn a_created_register_survives_its_stored_form() {
    let register = Register::create(Create {
        register_id: RegisterId([1; 16]),
        group: GroupId([2; 16]),
        volumes: vec![VolumeId([3; 16])],
        generation: Gen([1; 16]),
        site: Site::B,
        txid: TxId([1; 16]),
    })
    .unwrap();
    assert_eq!(Register::from_json(&register.to_json()).unwrap(), register);
}

/// A group of two, forced.
fn of_two() -> String {
    let volumes = r#"["03030303030303030303030303030303","0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c"]"#;
    let grant = |volume: &str, seq: u8| {
        format!(
            r#"{{"leg":"A","sb_epoch":1,"sb_gen":"08080808080808080808080808080808","sb_seq":{seq},"volume":"{volume}"}}"#
        )
    };
    let (one, two) = (grant(&"03".repeat(16), 9), grant(&"0c".repeat(16), 11));
    let text = STORED.replacen(r#"["03030303030303030303030303030303"]"#, volumes, 1);
    let from = text.find(r#""granted":["#).unwrap();
    let to = text.find(r#","former""#).unwrap();
    format!("{}\"granted\":[{one},{two}]{}", &text[..from], &text[to..])
}

#[test]
fn a_group_is_granted_a_superblock_of_every_volume_or_none() {
    let text = of_two();
    let register = Register::from_json(text.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(register.to_json()).unwrap(), text);
    let seq = |volume: u8| {
        register
            .granted_to(Leg::A, VolumeId([volume; 16]))
            .map(|g| g.sb_seq)
    };
    assert_eq!((seq(3), seq(0xc), seq(9)), (Some(9), Some(11), None));
    assert_eq!(register.granted_to(Leg::B, VolumeId([3; 16])), None);
    let volume = |of: &str| format!(r#","volume":"{}""#, of.repeat(16));
    for (from, to) in [
        // Of nobody, of a stranger, and twice of one.
        (volume("0c"), String::new()),
        (volume("0c"), volume("0d")),
        (volume("0c"), volume("03")),
    ] {
        let broken = text.replacen(&from, &to, 1);
        assert_ne!(broken, text, "{from}");
        assert!(
            Register::from_json(broken.as_bytes()).is_err(),
            "{from} -> {to}"
        );
    }
    let mut half = register.clone();
    half.granted.truncate(1);
    assert_eq!(half.check(), Err("a grant for some volumes only"));
    // One volume alone does not name itself.
    let named = STORED.replacen(
        r#""sb_seq":9}"#,
        &format!(r#""sb_seq":9{}}}"#, volume("03")),
        1,
    );
    assert!(Register::from_json(named.as_bytes()).is_err());
}

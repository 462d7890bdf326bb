//! Keys of the operational negotiation, one by one and between two ends.

use super::*;

fn offer() -> Offer {
    Offer {
        max_burst: 524_288,
        first_burst: 131_072,
        ..Offer::default()
    }
}

/// What an end with this offer answers to a pair.
fn answer(offer: &Offer, key: &str, value: &str) -> Result<String, NegotiationError> {
    let mut out = TextOut::default();
    Operational::new(offer).handle(key, value, &mut out)?;
    Ok(String::from_utf8(out.into_bytes())
        .unwrap()
        .replace('\0', ";"))
}

#[test]
fn every_key_is_answered_by_its_rule() {
    let cases = [
        ("HeaderDigest", "CRC32C,None", "HeaderDigest=CRC32C;"),
        ("HeaderDigest", "None,CRC32C", "HeaderDigest=None;"),
        ("HeaderDigest", "X-mine,None", "HeaderDigest=None;"),
        ("DataDigest", "CRC32C", "DataDigest=CRC32C;"),
        ("MaxConnections", "8", "MaxConnections=1;"),
        ("InitialR2T", "No", "InitialR2T=No;"),
        ("InitialR2T", "Yes", "InitialR2T=Yes;"),
        ("ImmediateData", "Yes", "ImmediateData=Yes;"),
        ("ImmediateData", "No", "ImmediateData=No;"),
        ("MaxRecvDataSegmentLength", "262144", ""),
        ("MaxBurstLength", "16776192", "MaxBurstLength=524288;"),
        ("MaxBurstLength", "0x2000", "MaxBurstLength=8192;"),
        ("FirstBurstLength", "262144", "FirstBurstLength=131072;"),
        ("DefaultTime2Wait", "0", "DefaultTime2Wait=2;"),
        ("DefaultTime2Wait", "5", "DefaultTime2Wait=5;"),
        ("DefaultTime2Retain", "20", "DefaultTime2Retain=0;"),
        ("MaxOutstandingR2T", "1", "MaxOutstandingR2T=1;"),
        ("MaxOutstandingR2T", "100", "MaxOutstandingR2T=8;"),
        ("DataPDUInOrder", "No", "DataPDUInOrder=Yes;"),
        ("DataSequenceInOrder", "No", "DataSequenceInOrder=Yes;"),
        ("ErrorRecoveryLevel", "2", "ErrorRecoveryLevel=0;"),
        ("iSCSIProtocolLevel", "2", "iSCSIProtocolLevel=1;"),
        (
            "TaskReporting",
            "FastAbort,RFC3720",
            "TaskReporting=RFC3720;",
        ),
        ("IFMarker", "No", "IFMarker=No;"),
        ("OFMarker", "Yes", "OFMarker=No;"),
        ("IFMarkInt", "2048~65535", "IFMarkInt=Reject;"),
        ("X-com.example.key", "1", ""),
    ];
    for (key, value, expected) in cases {
        assert_eq!(
            answer(&offer(), key, value).as_deref(),
            Ok(expected),
            "{key}={value}"
        );
    }
}

#[test]
fn values_out_of_range_are_refused() {
    let cases = [
        ("HeaderDigest", "X-none-of-ours"),
        ("InitialR2T", "yes"),
        ("ImmediateData", "1"),
        ("MaxRecvDataSegmentLength", "511"),
        ("MaxRecvDataSegmentLength", "16777216"),
        ("MaxBurstLength", "0"),
        ("FirstBurstLength", "-5"),
        ("MaxConnections", "0"),
        ("MaxOutstandingR2T", "65536"),
        ("ErrorRecoveryLevel", "3"),
        ("DefaultTime2Wait", "3601"),
        ("IFMarker", "Maybe"),
    ];
    for (key, value) in cases {
        assert!(answer(&offer(), key, value).is_err(), "{key}={value}");
    }
}

#[test]
fn digest_preferences_meet() {
    use DigestOffer::{Allow, Never, Prefer, Require};
    let cases = [
        (Never, "None", Some(false)),
        (Never, "CRC32C,None", Some(false)),
        (Never, "CRC32C", None),
        (Allow, "None,CRC32C", Some(false)),
        (Allow, "CRC32C,None", Some(true)),
        (Prefer, "None,CRC32C", Some(true)),
        (Prefer, "None", Some(false)),
        (Require, "None,CRC32C", Some(true)),
        (Require, "None", None),
        (Allow, "", None),
    ];
    for (own, list, chosen) in cases {
        assert_eq!(choose_digest(own, list), chosen, "{own:?} {list}");
    }
}

#[test]
fn a_key_comes_once() {
    let mut end = Operational::new(&offer());
    let mut out = TextOut::default();
    assert_eq!(end.handle("MaxBurstLength", "8192", &mut out), Ok(true));
    assert_eq!(
        end.handle("MaxBurstLength", "8192", &mut out),
        Err(NegotiationError::Repeated("MaxBurstLength"))
    );
}

#[test]
fn two_ends_reach_the_same_outcome() {
    let (mut a, mut b) = (
        Operational::new(&Offer::default()),
        Operational::new(&offer()),
    );
    let mut from_a = TextOut::default();
    a.offer_all(&mut from_a);
    assert!(a.states.contains(&State::Offered));
    let from_a = from_a.into_bytes();
    let mut from_b = TextOut::default();
    b.declare(&mut from_b);
    for (key, value) in crate::text::parse(&from_a).unwrap() {
        assert_eq!(b.handle(key, value, &mut from_b), Ok(true));
    }
    let mut more = TextOut::default();
    for (key, value) in crate::text::parse(&from_b.into_bytes()).unwrap() {
        assert_eq!(a.handle(key, value, &mut more), Ok(true));
    }
    assert!(more.is_empty());
    assert!(!a.states.contains(&State::Offered));
    let expected = Negotiated {
        header_digest: false,
        data_digest: false,
        max_recv_segment: 262_144,
        max_send_segment: 262_144,
        max_burst: 524_288,
        first_burst: 131_072,
        initial_r2t: false,
        immediate_data: true,
        max_outstanding_r2t: 8,
        time2wait_seconds: 2,
        time2retain_seconds: 0,
    };
    assert_eq!(a.finish(), Ok(expected.clone()));
    assert_eq!(b.finish(), Ok(expected));
}

#[test]
fn answers_beyond_our_offer_are_refused() {
    let cases = [
        ("MaxBurstLength", "524289"),
        ("FirstBurstLength", "131073"),
        ("DefaultTime2Wait", "1"),
        ("ErrorRecoveryLevel", "1"),
        ("DataPDUInOrder", "No"),
        ("HeaderDigest", "CRC32"),
        ("MaxOutstandingR2T", "Reject"),
    ];
    for (key, value) in cases {
        let mut end = Operational::new(&offer());
        end.offer_all(&mut TextOut::default());
        assert!(
            end.handle(key, value, &mut TextOut::default()).is_err(),
            "{key}={value}"
        );
    }
}

#[test]
fn what_the_peer_does_not_understand_keeps_its_default() {
    let mut end = Operational::new(&offer());
    end.offer_all(&mut TextOut::default());
    let mut out = TextOut::default();
    for key in ["InitialR2T", "MaxBurstLength", "FirstBurstLength"] {
        assert_eq!(end.handle(key, "NotUnderstood", &mut out), Ok(true));
    }
    let outcome = end.finish().unwrap();
    assert!(outcome.initial_r2t);
    assert_eq!((outcome.max_burst, outcome.first_burst), (262_144, 65_536));
}

#[test]
fn an_offer_that_decides_alone_holds_without_an_answer() {
    for (initial_r2t, immediate_data) in [(true, false), (false, true)] {
        let mut end = Operational::new(&Offer {
            initial_r2t,
            immediate_data,
            ..offer()
        });
        end.offer_all(&mut TextOut::default());
        let outcome = end.finish().unwrap();
        // Left without an answer, the offer that does not decide keeps the default.
        assert!(outcome.initial_r2t);
        assert_eq!(outcome.immediate_data, immediate_data);
    }
}

#[test]
fn a_digest_that_is_required_and_absent_fails() {
    let end = Operational::new(&Offer {
        data_digest: DigestOffer::Require,
        ..Offer::default()
    });
    assert_eq!(end.finish(), Err(NegotiationError::NoDigest("DataDigest")));
}

#[test]
fn the_first_burst_never_exceeds_the_burst() {
    let mut end = Operational::new(&offer());
    let mut out = TextOut::default();
    end.handle("MaxBurstLength", "4096", &mut out).unwrap();
    assert_eq!(end.finish().unwrap().first_burst, 4096);
}

#[test]
fn segment_length_may_be_declared_anew() {
    let mut values = Operational::new(&offer()).finish().unwrap();
    assert_eq!(
        Operational::redeclare(&mut values, "MaxRecvDataSegmentLength", "4096"),
        Ok(true)
    );
    assert_eq!(values.max_send_segment, 4096);
    assert_eq!(
        Operational::redeclare(&mut values, "MaxBurstLength", "4096"),
        Ok(false)
    );
    assert!(Operational::redeclare(&mut values, "MaxRecvDataSegmentLength", "1").is_err());
}

//! The negotiation of operational keys (RFC 7143 section 13), the same machine for both ends.
//!
//! A key is *declared* (each end says its own value), or *negotiated*: one end offers, the other answers with the
//! outcome, by the key's rule: smaller, larger, both (AND), either (OR), or the first of the list that it has too.
//!
//! Invariants: a key is settled at most once; a key of ours that the peer does not understand or answer keeps its default;
//! the outcome never exceeds what either end asked for.

use thiserror::Error;

use crate::session::{DigestOffer, Negotiated, Offer};
use crate::text::{IRRELEVANT, NOT_UNDERSTOOD, REJECT, TextOut, parse_number};

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum NegotiationError {
    #[error("key {0} came twice")]
    Repeated(&'static str),
    #[error("value of {0} is not allowed")]
    BadValue(&'static str),
    #[error("peer refuses {0}")]
    Refused(&'static str),
    #[error("no digest that both ends take for {0}")]
    NoDigest(&'static str),
}

const LONGEST: u32 = 0x00FF_FFFF;
const SHORTEST: u32 = 512;

/// How the outcome of a key comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Declared {
        least: u32,
        most: u32,
    },
    Smaller {
        least: u32,
        most: u32,
    },
    Larger {
        least: u32,
        most: u32,
    },
    And,
    Or,
    Digest,
    /// Only this word of a list is had.
    Only(&'static str),
    /// Obsolete yes/no key, answered No.
    MarkersOff,
    /// Obsolete key whose value has no meaning any more.
    Obsolete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    HeaderDigest,
    DataDigest,
    MaxConnections,
    InitialR2t,
    ImmediateData,
    MaxRecvSegment,
    MaxBurst,
    FirstBurst,
    Time2Wait,
    Time2Retain,
    MaxOutstandingR2t,
    PduInOrder,
    SequenceInOrder,
    RecoveryLevel,
    ProtocolLevel,
    TaskReporting,
    IfMarker,
    OfMarker,
    IfMarkInt,
    OfMarkInt,
}

const fn lengths(declared: bool) -> Rule {
    if declared {
        Rule::Declared {
            least: SHORTEST,
            most: LONGEST,
        }
    } else {
        Rule::Smaller {
            least: SHORTEST,
            most: LONGEST,
        }
    }
}

#[rustfmt::skip]
const KEYS: [(&str, Field, Rule); 20] = [
    ("HeaderDigest",             Field::HeaderDigest,      Rule::Digest),
    ("DataDigest",               Field::DataDigest,        Rule::Digest),
    ("MaxConnections",           Field::MaxConnections,    Rule::Smaller { least: 1, most: 65_535 }),
    ("InitialR2T",               Field::InitialR2t,        Rule::Or),
    ("ImmediateData",            Field::ImmediateData,     Rule::And),
    ("MaxRecvDataSegmentLength", Field::MaxRecvSegment,    lengths(true)),
    ("MaxBurstLength",           Field::MaxBurst,          lengths(false)),
    ("FirstBurstLength",         Field::FirstBurst,        lengths(false)),
    ("DefaultTime2Wait",         Field::Time2Wait,         Rule::Larger { least: 0, most: 3600 }),
    ("DefaultTime2Retain",       Field::Time2Retain,       Rule::Smaller { least: 0, most: 3600 }),
    ("MaxOutstandingR2T",        Field::MaxOutstandingR2t, Rule::Smaller { least: 1, most: 65_535 }),
    ("DataPDUInOrder",           Field::PduInOrder,        Rule::Or),
    ("DataSequenceInOrder",      Field::SequenceInOrder,   Rule::Or),
    ("ErrorRecoveryLevel",       Field::RecoveryLevel,     Rule::Smaller { least: 0, most: 2 }),
    ("iSCSIProtocolLevel",       Field::ProtocolLevel,     Rule::Smaller { least: 0, most: 31 }),
    ("TaskReporting",            Field::TaskReporting,     Rule::Only("RFC3720")),
    ("IFMarker",                 Field::IfMarker,          Rule::MarkersOff),
    ("OFMarker",                 Field::OfMarker,          Rule::MarkersOff),
    ("IFMarkInt",                Field::IfMarkInt,         Rule::Obsolete),
    ("OFMarkInt",                Field::OfMarkInt,         Rule::Obsolete),
];

/// The keys that an initiator of ours offers.
const OFFERED: [Field; 14] = [
    Field::HeaderDigest,
    Field::DataDigest,
    Field::MaxConnections,
    Field::InitialR2t,
    Field::ImmediateData,
    Field::MaxRecvSegment,
    Field::MaxBurst,
    Field::FirstBurst,
    Field::Time2Wait,
    Field::Time2Retain,
    Field::MaxOutstandingR2t,
    Field::PduInOrder,
    Field::SequenceInOrder,
    Field::RecoveryLevel,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Untouched,
    /// We offered and wait for the answer.
    Offered,
    Settled,
}

/// One end's negotiation.
#[derive(Debug)]
pub(crate) struct Operational {
    offer: Offer,
    states: [State; KEYS.len()],
    declared: bool,
    /// Values that hold at this point: the defaults of RFC 7143 until a key is settled.
    values: Negotiated,
}

impl Operational {
    pub(crate) fn new(offer: &Offer) -> Self {
        Self {
            offer: offer.clone(),
            states: [State::Untouched; KEYS.len()],
            declared: false,
            values: Negotiated {
                header_digest: false,
                data_digest: false,
                max_recv_segment: 8192,
                max_send_segment: 8192,
                max_burst: 262_144,
                first_burst: 65_536,
                initial_r2t: true,
                immediate_data: true,
                max_outstanding_r2t: 1,
                time2wait_seconds: 2,
                time2retain_seconds: 20,
            },
        }
    }

    /// Writes every key that we offer or declare; for the end that begins.
    pub(crate) fn offer_all(&mut self, out: &mut TextOut) {
        for (slot, (name, field, rule)) in KEYS.iter().enumerate() {
            if !OFFERED.contains(field) {
                continue;
            }
            if matches!(rule, Rule::Declared { .. }) {
                self.declare(out);
                continue;
            }
            match rule {
                Rule::Digest => out.pair(name, digest_list(self.digest_offer(*field))),
                Rule::And | Rule::Or => {
                    let own = self.own_flag(*field);
                    out.pair(name, yes_no(own));
                    // RFC 7143 section 6.2.2: No for AND and Yes for OR decide alone, and need not be answered.
                    if own == (*rule == Rule::Or) {
                        self.set_flag(*field, own);
                    }
                }
                Rule::Smaller { .. }
                | Rule::Larger { .. }
                | Rule::Declared { .. }
                | Rule::Only(_)
                | Rule::MarkersOff
                | Rule::Obsolete => out.number(name, self.own_number(*field)),
            }
            self.states[slot] = State::Offered;
        }
    }

    /// Declares our MaxRecvDataSegmentLength, once.
    pub(crate) fn declare(&mut self, out: &mut TextOut) {
        if !self.declared {
            self.declared = true;
            let length = self.offer.max_recv_segment.clamp(SHORTEST, LONGEST);
            self.values.max_recv_segment = length;
            out.number("MaxRecvDataSegmentLength", length);
        }
    }

    /// Takes one pair of the peer. Answers go to `out`. `false`: the key is not one of ours.
    pub(crate) fn handle(
        &mut self,
        key: &str,
        value: &str,
        out: &mut TextOut,
    ) -> Result<bool, NegotiationError> {
        let Some(slot) = KEYS.iter().position(|(name, ..)| *name == key) else {
            return Ok(false);
        };
        let (name, field, rule) = KEYS[slot];
        match self.states[slot] {
            State::Untouched => self.answer(name, field, rule, value, out)?,
            State::Offered => self.accept(name, field, rule, value)?,
            State::Settled => return Err(NegotiationError::Repeated(name)),
        }
        self.states[slot] = State::Settled;
        Ok(true)
    }

    /// A new declaration in the full feature phase. `false`: some other key.
    pub(crate) fn redeclare(
        values: &mut Negotiated,
        key: &str,
        value: &str,
    ) -> Result<bool, NegotiationError> {
        const NAME: &str = "MaxRecvDataSegmentLength";
        if key != NAME {
            return Ok(false);
        }
        values.max_send_segment = number(NAME, value, SHORTEST, LONGEST)?;
        Ok(true)
    }

    /// The outcome, once both ends are ready for the full feature phase.
    pub(crate) fn finish(&self) -> Result<Negotiated, NegotiationError> {
        for (field, on, name) in [
            (
                Field::HeaderDigest,
                self.values.header_digest,
                "HeaderDigest",
            ),
            (Field::DataDigest, self.values.data_digest, "DataDigest"),
        ] {
            if !on && self.digest_offer(field) == DigestOffer::Require {
                return Err(NegotiationError::NoDigest(name));
            }
        }
        let mut values = self.values.clone();
        values.first_burst = values.first_burst.min(values.max_burst);
        Ok(values)
    }

    /// The peer offers: choose the outcome and say it.
    fn answer(
        &mut self,
        name: &'static str,
        field: Field,
        rule: Rule,
        value: &str,
        out: &mut TextOut,
    ) -> Result<(), NegotiationError> {
        match rule {
            Rule::Declared { least, most } => {
                let value = number(name, value, least, most)?;
                self.set_number(field, value);
            }
            Rule::Smaller { least, most } => {
                let value = number(name, value, least, most)?.min(self.own_number(field));
                self.set_number(field, value);
                out.number(name, value);
            }
            Rule::Larger { least, most } => {
                let value = number(name, value, least, most)?.max(self.own_number(field));
                self.set_number(field, value);
                out.number(name, value);
            }
            Rule::And => {
                let value = flag(name, value)? && self.own_flag(field);
                self.set_flag(field, value);
                out.pair(name, yes_no(value));
            }
            Rule::Or => {
                let value = flag(name, value)? || self.own_flag(field);
                self.set_flag(field, value);
                out.pair(name, yes_no(value));
            }
            Rule::Digest => {
                let chosen = choose_digest(self.digest_offer(field), value)
                    .ok_or(NegotiationError::NoDigest(name))?;
                self.set_flag(field, chosen);
                out.pair(name, if chosen { "CRC32C" } else { "None" });
            }
            Rule::Only(word) => {
                let had = value.split(',').any(|offered| offered == word);
                out.pair(name, if had { word } else { REJECT });
            }
            Rule::MarkersOff => {
                flag(name, value)?;
                out.pair(name, "No");
            }
            Rule::Obsolete => out.pair(name, REJECT),
        }
        Ok(())
    }

    /// The peer answers our offer: check that the outcome is one that we asked for.
    fn accept(
        &mut self,
        name: &'static str,
        field: Field,
        rule: Rule,
        value: &str,
    ) -> Result<(), NegotiationError> {
        if value == NOT_UNDERSTOOD || value == IRRELEVANT {
            return Ok(());
        }
        if value == REJECT {
            return Err(NegotiationError::Refused(name));
        }
        let bad = Err(NegotiationError::BadValue(name));
        match rule {
            Rule::Smaller { least, most } => {
                let value = number(name, value, least, most)?;
                if value > self.own_number(field) {
                    return bad;
                }
                self.set_number(field, value);
            }
            Rule::Larger { least, most } => {
                let value = number(name, value, least, most)?;
                if value < self.own_number(field) {
                    return bad;
                }
                self.set_number(field, value);
            }
            Rule::And => {
                let value = flag(name, value)?;
                if value && !self.own_flag(field) {
                    return bad;
                }
                self.set_flag(field, value);
            }
            Rule::Or => {
                let value = flag(name, value)?;
                if !value && self.own_flag(field) {
                    return bad;
                }
                self.set_flag(field, value);
            }
            Rule::Digest => {
                let chosen = match value {
                    "CRC32C" => true,
                    "None" => false,
                    _ => return bad,
                };
                match (self.digest_offer(field), chosen) {
                    (DigestOffer::Never, true) | (DigestOffer::Require, false) => return bad,
                    (
                        DigestOffer::Never
                        | DigestOffer::Allow
                        | DigestOffer::Prefer
                        | DigestOffer::Require,
                        _,
                    ) => self.set_flag(field, chosen),
                }
            }
            Rule::Declared { .. } | Rule::Only(_) | Rule::MarkersOff | Rule::Obsolete => {}
        }
        Ok(())
    }

    fn digest_offer(&self, field: Field) -> DigestOffer {
        if field == Field::HeaderDigest {
            self.offer.header_digest
        } else {
            self.offer.data_digest
        }
    }

    fn own_flag(&self, field: Field) -> bool {
        match field {
            Field::InitialR2t => self.offer.initial_r2t,
            Field::ImmediateData => self.offer.immediate_data,
            // DataPDUInOrder and DataSequenceInOrder: the sessions check that data come in order.
            _ => true,
        }
    }

    fn own_number(&self, field: Field) -> u32 {
        let lengths = |value: u32| value.clamp(SHORTEST, LONGEST);
        match field {
            Field::MaxRecvSegment => lengths(self.offer.max_recv_segment),
            Field::MaxBurst => lengths(self.offer.max_burst),
            Field::FirstBurst => lengths(self.offer.first_burst.min(self.offer.max_burst)),
            Field::Time2Wait => u32::from(self.offer.time2wait_seconds.min(3600)),
            Field::Time2Retain => u32::from(self.offer.time2retain_seconds.min(3600)),
            Field::MaxOutstandingR2t => u32::from(self.offer.max_outstanding_r2t.max(1)),
            Field::RecoveryLevel => 0,
            // MaxConnections and iSCSIProtocolLevel: one connection, RFC 7143.
            _ => 1,
        }
    }

    fn set_flag(&mut self, field: Field, value: bool) {
        match field {
            Field::HeaderDigest => self.values.header_digest = value,
            Field::DataDigest => self.values.data_digest = value,
            Field::InitialR2t => self.values.initial_r2t = value,
            Field::ImmediateData => self.values.immediate_data = value,
            _ => {}
        }
    }

    fn set_number(&mut self, field: Field, value: u32) {
        let short = u16::try_from(value).unwrap_or(u16::MAX);
        match field {
            Field::MaxRecvSegment => self.values.max_send_segment = value,
            Field::MaxBurst => self.values.max_burst = value,
            Field::FirstBurst => self.values.first_burst = value,
            Field::Time2Wait => self.values.time2wait_seconds = short,
            Field::Time2Retain => self.values.time2retain_seconds = short,
            Field::MaxOutstandingR2t => self.values.max_outstanding_r2t = short,
            _ => {}
        }
    }
}

fn number(name: &'static str, value: &str, least: u32, most: u32) -> Result<u32, NegotiationError> {
    parse_number(value)
        .filter(|value| (least..=most).contains(value))
        .ok_or(NegotiationError::BadValue(name))
}

fn flag(name: &'static str, value: &str) -> Result<bool, NegotiationError> {
    match value {
        "Yes" => Ok(true),
        "No" => Ok(false),
        _ => Err(NegotiationError::BadValue(name)),
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

fn digest_list(offer: DigestOffer) -> &'static str {
    match offer {
        DigestOffer::Never => "None",
        DigestOffer::Allow => "None,CRC32C",
        DigestOffer::Prefer => "CRC32C,None",
        DigestOffer::Require => "CRC32C",
    }
}

/// Whether CRC32C is chosen from the peer's list; `None` if nothing in it will do.
fn choose_digest(own: DigestOffer, list: &str) -> Option<bool> {
    list.split(',').find_map(|word| match (word, own) {
        ("CRC32C", DigestOffer::Never) | ("None", DigestOffer::Require) => None,
        // A preference of ours wins over the peer's order.
        ("None", DigestOffer::Prefer) => Some(list.split(',').any(|word| word == "CRC32C")),
        ("CRC32C", _) => Some(true),
        ("None", _) => Some(false),
        _ => None,
    })
}

#[cfg(test)]
mod tests;

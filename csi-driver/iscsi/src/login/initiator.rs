//! The initiator's side of a login.
//!
//! ```text
//! with CHAP:    AuthMethod -> CHAP_A -> CHAP_N, CHAP_R (CHAP_I, CHAP_C) -> Operational: keys -> Done
//! without CHAP: Operational: keys -> Done
//! ```
//! Invariants: with CHAP configured the login is never completed without it, and with mutual CHAP never before the target
//! has proved itself; the number of exchanges is bounded.

use thiserror::Error;

use super::MAX_EXCHANGES;
use super::operational::{NegotiationError, Operational};
use crate::chap::{self, Algorithm, Challenge, MAX_CHALLENGE};
use crate::session::{ChapInitiator, InitiatorConfig, Negotiated, SessionKind};
use crate::text::{self, NOT_UNDERSTOOD, REJECT, TextError, TextIn, TextOut};
use crate::wire::login::{LoginResponse, LoginStatus, Stage, Transit};

/// What to do after a login response.
#[derive(Debug)]
pub(crate) enum Step {
    Send {
        transit: Transit,
        text: Vec<u8>,
    },
    Done {
        negotiated: Box<Negotiated>,
        tsih: u16,
        portal_group: Option<u16>,
    },
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum LoginFailure {
    #[error("refused with status {:#04x}{:02x}", .0.class, .0.detail)]
    Refused(LoginStatus),
    #[error("moved to {address}")]
    Redirected { address: String, permanent: bool },
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Negotiation(#[from] NegotiationError),
    #[error("the target does not authenticate by CHAP as asked for")]
    NoChap,
    #[error("the target did not prove that it knows its CHAP secret")]
    TargetUnproven,
    #[error("the target sends our own CHAP challenge back")]
    Reflection,
    #[error("the target answers for another stage")]
    Stage,
    #[error("the target does not come to an end")]
    Endless,
}

#[derive(Debug)]
enum Security {
    NotAsked,
    MethodSent,
    AlgorithmsSent,
    /// Our response went out; with mutual CHAP the target's is awaited.
    ResponseSent(Option<Challenge>),
    Done,
}

#[derive(Debug, Default)]
struct ChapKeys<'a> {
    method: Option<&'a str>,
    algorithm: Option<&'a str>,
    id: Option<&'a str>,
    challenge: Option<&'a str>,
    response: Option<&'a str>,
}

#[derive(Debug)]
pub(crate) struct InitiatorLogin {
    initiator_name: String,
    initiator_alias: Option<String>,
    kind: SessionKind,
    chap: Option<ChapInitiator>,
    random: [u8; 32],
    stage: Stage,
    security: Security,
    operational: Operational,
    offered: bool,
    text: TextIn,
    exchanges: u32,
    portal_group: Option<u16>,
}

impl InitiatorLogin {
    pub(crate) fn new(config: &InitiatorConfig) -> Self {
        Self {
            initiator_name: config.initiator_name.clone(),
            initiator_alias: config.initiator_alias.clone(),
            kind: config.kind.clone(),
            chap: config.chap.clone(),
            random: config.random,
            stage: if config.chap.is_some() {
                Stage::Security
            } else {
                Stage::Operational
            },
            security: Security::NotAsked,
            operational: Operational::new(&config.offer),
            offered: false,
            text: TextIn::default(),
            exchanges: 0,
            portal_group: None,
        }
    }

    /// The first request.
    pub(crate) fn start(&mut self) -> (Transit, Vec<u8>) {
        let mut out = TextOut::default();
        out.pair("InitiatorName", &self.initiator_name);
        if let Some(alias) = &self.initiator_alias {
            out.pair("InitiatorAlias", alias);
        }
        match &self.kind {
            SessionKind::Normal { target } => {
                out.pair("SessionType", "Normal");
                out.pair("TargetName", target);
            }
            SessionKind::Discovery => out.pair("SessionType", "Discovery"),
        }
        if self.chap.is_some() {
            out.pair("AuthMethod", "CHAP");
            self.security = Security::MethodSent;
        }
        self.request(out)
    }

    pub(crate) fn handle<'a>(
        &mut self,
        response: &LoginResponse,
        text: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Step, LoginFailure> {
        self.exchanges += 1;
        if self.exchanges > MAX_EXCHANGES {
            return Err(LoginFailure::Endless);
        }
        for piece in text {
            self.text.push(piece)?;
        }
        if response.status.class != 0 {
            return Err(self.refused(response.status));
        }
        if response.transit.current != self.stage {
            return Err(LoginFailure::Stage);
        }
        if response.transit.more {
            let transit = Transit {
                more: false,
                current: self.stage,
                next: None,
            };
            return Ok(Step::Send {
                transit,
                text: Vec::new(),
            });
        }
        let text = self.text.take();
        let mut out = TextOut::default();
        let keys = self.sort_keys(&text::parse(&text)?, &mut out)?;
        if self.stage == Stage::Security {
            self.secure(&keys, &mut out)?;
        }
        if let Some(next) = response.transit.next {
            self.follow(next)?;
        }
        if self.stage == Stage::FullFeature {
            return Ok(Step::Done {
                negotiated: Box::new(self.operational.finish()?),
                tsih: response.tsih,
                portal_group: self.portal_group,
            });
        }
        let (transit, text) = self.request(out);
        Ok(Step::Send { transit, text })
    }

    fn refused(&mut self, status: LoginStatus) -> LoginFailure {
        let text = self.text.take();
        let address = text::parse(&text).ok().and_then(|pairs| {
            let (_, address) = pairs.into_iter().find(|(key, _)| *key == "TargetAddress")?;
            Some(address.to_owned())
        });
        match (status.class, address) {
            (1, Some(address)) => LoginFailure::Redirected {
                address,
                permanent: status == LoginStatus::MOVED_PERMANENTLY,
            },
            _ => LoginFailure::Refused(status),
        }
    }

    fn sort_keys<'a>(
        &mut self,
        pairs: &[(&'a str, &'a str)],
        out: &mut TextOut,
    ) -> Result<ChapKeys<'a>, LoginFailure> {
        let mut keys = ChapKeys::default();
        for (key, value) in pairs {
            match *key {
                "AuthMethod" => keys.method = Some(value),
                "CHAP_A" => keys.algorithm = Some(value),
                "CHAP_I" => keys.id = Some(value),
                "CHAP_C" => keys.challenge = Some(value),
                "CHAP_R" => keys.response = Some(value),
                "TargetPortalGroupTag" => {
                    self.portal_group =
                        text::parse_number(value).and_then(|group| u16::try_from(group).ok());
                }
                "CHAP_N" | "TargetAlias" | "TargetAddress" | "TargetName" => {}
                _ if self.operational.handle(key, value, out)? => {}
                _ if *value == NOT_UNDERSTOOD || *value == REJECT => {}
                _ => out.pair(key, NOT_UNDERSTOOD),
            }
        }
        Ok(keys)
    }

    /// One step of CHAP.
    fn secure(&mut self, keys: &ChapKeys<'_>, out: &mut TextOut) -> Result<(), LoginFailure> {
        let Some(credentials) = &self.chap else {
            return Ok(());
        };
        self.security = match &self.security {
            Security::MethodSent => {
                if keys.method != Some("CHAP") {
                    return Err(LoginFailure::NoChap);
                }
                let numbers: Vec<String> = credentials
                    .algorithms()
                    .iter()
                    .map(|algorithm| algorithm.number().to_string())
                    .collect();
                out.pair("CHAP_A", &numbers.join(","));
                Security::AlgorithmsSent
            }
            Security::AlgorithmsSent => {
                let own = respond(credentials, keys, &self.random, out)?;
                Security::ResponseSent(own)
            }
            Security::ResponseSent(own) => {
                if let Some((own, secret)) = own.as_ref().zip(credentials.target_secret()) {
                    let proof = keys
                        .response
                        .and_then(|value| text::parse_binary(value, MAX_CHALLENGE))
                        .ok_or(LoginFailure::TargetUnproven)?;
                    if !own.verify(secret, &proof) {
                        return Err(LoginFailure::TargetUnproven);
                    }
                }
                Security::Done
            }
            Security::NotAsked | Security::Done => return Ok(()),
        };
        Ok(())
    }

    /// The target lets us go to the next stage.
    fn follow(&mut self, next: Stage) -> Result<(), LoginFailure> {
        let secured = match self.security {
            Security::Done => true,
            Security::NotAsked => self.chap.is_none(),
            Security::MethodSent | Security::AlgorithmsSent | Security::ResponseSent(_) => false,
        };
        if !secured {
            return Err(LoginFailure::NoChap);
        }
        if self.wanted() != Some(next) {
            return Err(LoginFailure::Stage);
        }
        self.stage = next;
        Ok(())
    }

    /// The stage that we ask to go to.
    fn wanted(&self) -> Option<Stage> {
        match (self.stage, &self.security) {
            (Stage::Security, Security::ResponseSent(_) | Security::Done) => {
                Some(Stage::Operational)
            }
            (Stage::Operational, _) => Some(Stage::FullFeature),
            (Stage::Security | Stage::FullFeature, _) => None,
        }
    }

    fn request(&mut self, mut out: TextOut) -> (Transit, Vec<u8>) {
        if self.stage == Stage::Operational && !self.offered {
            self.offered = true;
            self.operational.offer_all(&mut out);
        }
        let transit = Transit {
            more: false,
            current: self.stage,
            next: self.wanted(),
        };
        (transit, out.into_bytes())
    }
}

/// Answers the target's challenge and, with mutual CHAP, sends one.
fn respond(
    credentials: &ChapInitiator,
    keys: &ChapKeys<'_>,
    random: &[u8; 32],
    out: &mut TextOut,
) -> Result<Option<Challenge>, LoginFailure> {
    let algorithm = keys
        .algorithm
        .and_then(text::parse_number)
        .and_then(Algorithm::from_number)
        .filter(|algorithm| credentials.algorithms().contains(algorithm))
        .ok_or(LoginFailure::NoChap)?;
    let id = keys
        .id
        .and_then(text::parse_number)
        .and_then(|id| u8::try_from(id).ok())
        .ok_or(LoginFailure::NoChap)?;
    let challenge = keys
        .challenge
        .and_then(|value| text::parse_binary(value, MAX_CHALLENGE))
        .filter(|challenge| !challenge.is_empty())
        .ok_or(LoginFailure::NoChap)?;
    let response = chap::respond(algorithm, id, &challenge, credentials.secret());
    out.pair("CHAP_N", credentials.user());
    out.pair("CHAP_R", &text::emit_hex(&response));
    if credentials.target_secret().is_none() {
        return Ok(None);
    }
    let own = Challenge::new(algorithm, random);
    if own.bytes == challenge {
        return Err(LoginFailure::Reflection);
    }
    out.number("CHAP_I", u32::from(own.id));
    out.pair("CHAP_C", &text::emit_hex(&own.bytes));
    Ok(Some(own))
}

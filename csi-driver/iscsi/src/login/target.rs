//! The target's side of a login: who is it, may it, what do we agree on.
//!
//! ```text
//! Security: AuthMethod -> [CHAP_A -> CHAP_N, CHAP_R (CHAP_I, CHAP_C)] -> Operational: keys -> Ready
//! ```
//! An initiator may begin with Operational, and gets through only where no authentication is asked for.
//!
//! Invariants: `Ready` is given only after the names, the access list and the authentication of the target's entry were
//! checked; a refusal tells nothing but its status; every request is answered once.
//! Not here: when the old session of the same initiator port is gone (the server, before it accepts).

use std::sync::Arc;

use super::MAX_EXCHANGES;
use super::is_iscsi_name;
use super::operational::Operational;
use crate::chap::{self, Algorithm, Challenge, MAX_CHALLENGE};
use crate::session::{Acl, Auth, ConnectionSeed, LoginInfo, TargetConfig, TargetEntry};
use crate::text::{self, NOT_UNDERSTOOD, REJECT, TextIn, TextOut};
use crate::wire::login::{LoginRequest, LoginStatus, Stage, Transit, VERSION};

/// What to do after a login request.
#[derive(Debug)]
pub(crate) enum Step {
    /// Answer and wait for the next request.
    Reply { transit: Transit, text: Vec<u8> },
    /// Everything is agreed: answer when the server accepts.
    Ready {
        transit: Transit,
        text: Vec<u8>,
        info: Box<LoginInfo>,
    },
    /// Answer with this status and close.
    Refuse { status: LoginStatus, text: Vec<u8> },
}

fn refuse(status: LoginStatus) -> Step {
    Step::Refuse {
        status,
        text: Vec::new(),
    }
}

/// Who logs in and where, from the first text.
#[derive(Debug)]
struct Party {
    initiator: String,
    alias: Option<String>,
    /// `None`: discovery.
    target: Option<String>,
}

#[derive(Debug)]
enum Security {
    Undecided,
    /// CHAP was chosen; its algorithms are awaited.
    Chap,
    Challenged(Challenge),
    Done {
        user: Option<String>,
    },
}

/// The keys of one text that belong to the security stage.
#[derive(Debug, Default)]
struct SecurityKeys<'a> {
    method: Option<&'a str>,
    algorithms: Option<&'a str>,
    name: Option<&'a str>,
    response: Option<&'a str>,
    id: Option<&'a str>,
    challenge: Option<&'a str>,
}

impl<'a> SecurityKeys<'a> {
    fn slot(&mut self, key: &str) -> Option<&mut Option<&'a str>> {
        Some(match key {
            "AuthMethod" => &mut self.method,
            "CHAP_A" => &mut self.algorithms,
            "CHAP_N" => &mut self.name,
            "CHAP_R" => &mut self.response,
            "CHAP_I" => &mut self.id,
            "CHAP_C" => &mut self.challenge,
            _ => return None,
        })
    }
}

/// The keys that only the first text may hold.
#[derive(Debug, Default)]
struct PartyKeys<'a> {
    initiator: Option<&'a str>,
    alias: Option<&'a str>,
    target: Option<&'a str>,
    session_type: Option<&'a str>,
}

impl<'a> PartyKeys<'a> {
    fn slot(&mut self, key: &str) -> Option<&mut Option<&'a str>> {
        Some(match key {
            "InitiatorName" => &mut self.initiator,
            "InitiatorAlias" => &mut self.alias,
            "TargetName" => &mut self.target,
            "SessionType" => &mut self.session_type,
            _ => return None,
        })
    }

    /// Whether these keys, where they are given, say what was said before.
    fn agrees(&self, known: &Party) -> bool {
        let kind = if known.target.is_some() {
            "Normal"
        } else {
            "Discovery"
        };
        self.initiator.is_none_or(|name| name == known.initiator)
            && self
                .alias
                .is_none_or(|alias| known.alias.as_deref() == Some(alias))
            && self.session_type.is_none_or(|asked| asked == kind)
            && self.target.is_none_or(|name| {
                known
                    .target
                    .as_ref()
                    .is_some_and(|target| target.eq_ignore_ascii_case(name))
            })
    }
}

/// The fields that all requests of one login have alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    isid: [u8; 6],
    tsih: u16,
    cid: u16,
    itt: u32,
}

#[derive(Debug)]
pub(crate) struct TargetLogin {
    config: Arc<TargetConfig>,
    seed: ConnectionSeed,
    identity: Option<Identity>,
    stage: Stage,
    exchanges: u32,
    text: TextIn,
    party: Option<Party>,
    security: Security,
    operational: Operational,
    introduced: bool,
}

impl TargetLogin {
    pub(crate) fn new(config: Arc<TargetConfig>, seed: ConnectionSeed) -> Self {
        let operational = Operational::new(&config.offer);
        Self {
            config,
            seed,
            identity: None,
            stage: Stage::Security,
            exchanges: 0,
            text: TextIn::default(),
            party: None,
            security: Security::Undecided,
            operational,
            introduced: false,
        }
    }

    pub(crate) fn handle<'a>(
        &mut self,
        request: &LoginRequest,
        text: impl Iterator<Item = &'a [u8]>,
    ) -> Step {
        match self.step(request, text) {
            Ok(step) => step,
            Err(status) => refuse(status),
        }
    }

    fn step<'a>(
        &mut self,
        request: &LoginRequest,
        text: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Step, LoginStatus> {
        self.check_request(request)?;
        for piece in text {
            self.text
                .push(piece)
                .map_err(|_| LoginStatus::INITIATOR_ERROR)?;
        }
        let current = Transit {
            more: false,
            current: self.stage,
            next: None,
        };
        if request.transit.more {
            return Ok(Step::Reply {
                transit: current,
                text: Vec::new(),
            });
        }
        let text = self.text.take();
        let pairs = text::parse(&text).map_err(|_| LoginStatus::INITIATOR_ERROR)?;
        let mut out = TextOut::default();
        let security = self.sort_keys(&pairs, &mut out)?;
        if let Some(step) = self.redirect() {
            return Ok(step);
        }
        self.introduce(&mut out);
        match self.stage {
            Stage::Security => self.secure(&security, &mut out)?,
            Stage::Operational => {
                self.pass_without_authentication()?;
                self.operational.declare(&mut out);
            }
            Stage::FullFeature => return Err(LoginStatus::INVALID_DURING_LOGIN),
        }
        self.answer(current, request.transit.next, out)
    }

    fn check_request(&mut self, request: &LoginRequest) -> Result<(), LoginStatus> {
        self.exchanges += 1;
        if self.exchanges > MAX_EXCHANGES {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        if request.version_min > VERSION {
            return Err(LoginStatus::UNSUPPORTED_VERSION);
        }
        let identity = Identity {
            isid: request.isid,
            tsih: request.tsih,
            cid: request.cid,
            itt: request.itt,
        };
        match self.identity {
            None => {
                self.identity = Some(identity);
                self.stage = request.transit.current;
            }
            Some(first) if first != identity => return Err(LoginStatus::INVALID_DURING_LOGIN),
            Some(_) => {}
        }
        if request.transit.current != self.stage {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        Ok(())
    }

    /// Gives each pair to the part of the login that it belongs to.
    fn sort_keys<'a>(
        &mut self,
        pairs: &[(&'a str, &'a str)],
        out: &mut TextOut,
    ) -> Result<SecurityKeys<'a>, LoginStatus> {
        let mut security = SecurityKeys::default();
        let mut party = PartyKeys::default();
        for (key, value) in pairs {
            if let Some(slot) = security.slot(key).or(party.slot(key)) {
                if slot.replace(value).is_some() {
                    return Err(LoginStatus::INITIATOR_ERROR);
                }
            } else if matches!(
                *key,
                "TargetAlias" | "TargetAddress" | "TargetPortalGroupTag" | "SendTargets"
            ) {
                out.pair(key, REJECT);
            } else if !self
                .operational
                .handle(key, value, out)
                .map_err(|_| LoginStatus::INITIATOR_ERROR)?
                && *value != NOT_UNDERSTOOD
            {
                out.pair(key, NOT_UNDERSTOOD);
            }
        }
        match &self.party {
            None => self.party = Some(self.meet(&party)?),
            // Some initiators say again who they are in the next stage; nobody becomes another one.
            Some(known) if party.agrees(known) => {}
            Some(_) => return Err(LoginStatus::INITIATOR_ERROR),
        }
        // Discovery sessions are over with their connection.
        let names_session = self.identity.is_some_and(|identity| identity.tsih != 0);
        let discovers = self
            .party
            .as_ref()
            .is_some_and(|party| party.target.is_none());
        if names_session && discovers {
            return Err(LoginStatus::NO_SUCH_SESSION);
        }
        Ok(security)
    }

    /// Checks the names of the first text and the access list.
    fn meet(&self, keys: &PartyKeys<'_>) -> Result<Party, LoginStatus> {
        let initiator = keys.initiator.ok_or(LoginStatus::MISSING_PARAMETER)?;
        if !is_iscsi_name(initiator) {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        let target = match keys.session_type.unwrap_or("Normal") {
            "Normal" => {
                let asked = keys.target.ok_or(LoginStatus::MISSING_PARAMETER)?;
                Some(self.find(asked).ok_or(LoginStatus::NOT_FOUND)?)
            }
            "Discovery" => None,
            _ => return Err(LoginStatus::UNSUPPORTED_SESSION_TYPE),
        };
        if let Some((_, entry)) = target
            && !allows(&entry.acl, initiator)
        {
            return Err(LoginStatus::NOT_AUTHORIZED);
        }
        Ok(Party {
            initiator: initiator.to_owned(),
            alias: keys.alias.map(str::to_owned),
            target: target.map(|(name, _)| name.to_owned()),
        })
    }

    /// A target by its name, whose letters may be of either case.
    fn find(&self, name: &str) -> Option<(&str, &TargetEntry)> {
        let targets = &self.config.targets;
        targets
            .get_key_value(name)
            .or_else(|| targets.get_key_value(&name.to_ascii_lowercase()))
            .map(|(name, entry)| (name.as_str(), entry))
    }

    fn entry(&self) -> Option<&TargetEntry> {
        let name = self.party.as_ref()?.target.as_ref()?;
        self.config.targets.get(name)
    }

    fn auth(&self) -> &Auth {
        self.entry()
            .map_or(&self.config.discovery_auth, |entry| &entry.auth)
    }

    fn redirect(&self) -> Option<Step> {
        let redirect = self.entry()?.redirect.as_ref()?;
        let mut text = TextOut::default();
        text.pair("TargetAddress", &redirect.address);
        Some(Step::Refuse {
            status: if redirect.permanent {
                LoginStatus::MOVED_PERMANENTLY
            } else {
                LoginStatus::MOVED_TEMPORARILY
            },
            text: text.into_bytes(),
        })
    }

    /// What the first answer says about the target (RFC 7143 section 13.9).
    fn introduce(&mut self, out: &mut TextOut) {
        if self.introduced {
            return;
        }
        self.introduced = true;
        if let Some(entry) = self.entry() {
            out.number("TargetPortalGroupTag", u32::from(self.seed.portal.group));
            if let Some(alias) = &entry.alias {
                out.pair("TargetAlias", alias);
            }
        }
    }

    fn pass_without_authentication(&mut self) -> Result<(), LoginStatus> {
        match (&self.security, self.auth()) {
            (Security::Done { .. }, _) => Ok(()),
            (Security::Undecided, Auth::None) => {
                self.security = Security::Done { user: None };
                Ok(())
            }
            (Security::Undecided | Security::Chap | Security::Challenged(_), _) => {
                Err(LoginStatus::AUTHENTICATION_FAILURE)
            }
        }
    }

    fn secure(&mut self, keys: &SecurityKeys<'_>, out: &mut TextOut) -> Result<(), LoginStatus> {
        let failure = LoginStatus::AUTHENTICATION_FAILURE;
        match &self.security {
            Security::Undecided => {
                if let Some(methods) = keys.method {
                    self.security = self.choose_method(methods, out)?;
                }
            }
            Security::Chap => {
                let list = keys.algorithms.ok_or(failure)?;
                let algorithm = choose_algorithm(list).ok_or(failure)?;
                let challenge = Challenge::new(algorithm, &self.seed.random);
                out.number("CHAP_A", u32::from(algorithm.number()));
                out.number("CHAP_I", u32::from(challenge.id));
                out.pair("CHAP_C", &text::emit_hex(&challenge.bytes));
                self.security = Security::Challenged(challenge);
            }
            Security::Challenged(challenge) => {
                let user = self.check_response(challenge, keys)?;
                self.prove(challenge, keys, out)?;
                self.security = Security::Done { user: Some(user) };
            }
            Security::Done { .. } => {}
        }
        Ok(())
    }

    fn choose_method(&self, methods: &str, out: &mut TextOut) -> Result<Security, LoginStatus> {
        let offers = |method: &str| methods.split(',').any(|offered| offered == method);
        match self.auth() {
            Auth::Chap { .. } if offers("CHAP") => {
                out.pair("AuthMethod", "CHAP");
                Ok(Security::Chap)
            }
            Auth::None if offers("None") => {
                out.pair("AuthMethod", "None");
                Ok(Security::Done { user: None })
            }
            Auth::Chap { .. } | Auth::None => Err(LoginStatus::AUTHENTICATION_FAILURE),
        }
    }

    /// Whether the initiator knows the secret of the account that it names.
    fn check_response(
        &self,
        challenge: &Challenge,
        keys: &SecurityKeys<'_>,
    ) -> Result<String, LoginStatus> {
        let failure = LoginStatus::AUTHENTICATION_FAILURE;
        let Auth::Chap { accounts, .. } = self.auth() else {
            return Err(failure);
        };
        let user = keys.name.ok_or(failure)?;
        let response = keys
            .response
            .and_then(|value| text::parse_binary(value, MAX_CHALLENGE))
            .ok_or(failure)?;
        // An unknown name costs as much as a wrong secret.
        let known = accounts.get(user);
        let account = known.or(accounts.values().next()).ok_or(failure)?;
        let right = challenge.verify(&account.secret, &response);
        let initiator = self.party.as_ref().map(|party| &party.initiator);
        let bound = account.initiator.is_none() || account.initiator.as_ref() == initiator;
        if right && bound && known.is_some() {
            Ok(user.to_owned())
        } else {
            Err(failure)
        }
    }

    /// Answers the initiator's challenge, if it sent one.
    fn prove(
        &self,
        own: &Challenge,
        keys: &SecurityKeys<'_>,
        out: &mut TextOut,
    ) -> Result<(), LoginStatus> {
        let failure = LoginStatus::AUTHENTICATION_FAILURE;
        let (id, challenge) = match (keys.id, keys.challenge) {
            (None, None) => return Ok(()),
            (Some(id), Some(challenge)) => (id, challenge),
            (None, Some(_)) | (Some(_), None) => return Err(failure),
        };
        let id = text::parse_number(id)
            .and_then(|id| u8::try_from(id).ok())
            .ok_or(failure)?;
        let challenge = text::parse_binary(challenge, MAX_CHALLENGE)
            .filter(|challenge| !challenge.is_empty())
            .ok_or(failure)?;
        // Our own challenge sent back would make us compute the response that we asked for.
        if challenge == own.bytes {
            return Err(failure);
        }
        let Auth::Chap {
            mutual: Some((name, secret)),
            ..
        } = self.auth()
        else {
            return Err(failure);
        };
        let response = chap::respond(own.algorithm, id, &challenge, secret);
        out.pair("CHAP_N", name);
        out.pair("CHAP_R", &text::emit_hex(&response));
        Ok(())
    }

    /// Grants the transit that was asked for if this stage is complete.
    fn answer(
        &mut self,
        mut transit: Transit,
        asked: Option<Stage>,
        out: TextOut,
    ) -> Result<Step, LoginStatus> {
        let Some(next) = asked else {
            return Ok(Step::Reply {
                transit,
                text: out.into_bytes(),
            });
        };
        if self.stage == Stage::Security {
            match self.security {
                Security::Undecided => self.pass_without_authentication()?,
                // CHAP is under way: the stage goes on.
                Security::Chap | Security::Challenged(_) => {
                    return Ok(Step::Reply {
                        transit,
                        text: out.into_bytes(),
                    });
                }
                Security::Done { .. } => {}
            }
        }
        transit.next = Some(next);
        self.stage = next;
        let text = out.into_bytes();
        if next != Stage::FullFeature {
            return Ok(Step::Reply { transit, text });
        }
        Ok(Step::Ready {
            transit,
            text,
            info: Box::new(self.info()?),
        })
    }

    fn info(&self) -> Result<LoginInfo, LoginStatus> {
        let error = LoginStatus::INITIATOR_ERROR;
        let (Some(party), Some(identity)) = (&self.party, self.identity) else {
            return Err(error);
        };
        let Security::Done { user } = &self.security else {
            return Err(LoginStatus::AUTHENTICATION_FAILURE);
        };
        Ok(LoginInfo {
            initiator: party.initiator.clone(),
            initiator_alias: party.alias.clone(),
            isid: identity.isid,
            target: party.target.clone(),
            portal_group: self.seed.portal.group,
            tsih: self.seed.tsih,
            cid: identity.cid,
            joins: (identity.tsih != 0).then_some(identity.tsih),
            user: user.clone(),
            negotiated: self.operational.finish().map_err(|_| error)?,
        })
    }
}

/// Whether the access list lets this initiator in.
pub(crate) fn allows(acl: &Acl, initiator: &str) -> bool {
    match acl {
        Acl::Any => true,
        Acl::Only(names) => {
            names.contains(initiator) || names.contains(&initiator.to_ascii_lowercase())
        }
    }
}

/// The strongest of ours in the peer's list.
fn choose_algorithm(list: &str) -> Option<Algorithm> {
    Algorithm::ALL.into_iter().find(|algorithm| {
        list.split(',')
            .any(|number| text::parse_number(number) == Some(u32::from(algorithm.number())))
    })
}

//! The release after a detach: repeated until the register no longer names our key.
//!
//! The reservations stay (R30). A request that was open when the volume was detached ends here too: a release replaces the
//! value that it expected.

use std::time::Duration;

use twinsite_register::{Key, Register};

use crate::config::Config;
use crate::engine::{IdSource, Port};
use crate::io::{CasResult, Input, RegisterError, RegisterId};

#[derive(Clone, Debug)]
enum At {
    Reading { id: RegisterId, until: Duration },
    Sent { id: RegisterId, until: Duration },
    Pause { until: Duration },
    Over,
}

/// Releases one key.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    key: Key,
    ids: IdSource,
    at: At,
}

impl Release {
    /// Read the register and release it if it names this key.
    pub(crate) fn start(
        now: Duration,
        key: Key,
        ids: IdSource,
        config: &Config,
        port: &mut Port,
    ) -> Self {
        let mut release = Self {
            key: key.attach(),
            ids,
            at: At::Over,
        };
        release.read(now, config, port);
        release
    }

    /// Does the register name another key, or none?
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.at, At::Over)
    }

    /// When [`Input::Tick`] is wanted.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match self.at {
            At::Reading { until, .. } | At::Sent { until, .. } | At::Pause { until } => Some(until),
            At::Over => None,
        }
    }

    /// Take one input; those of others are ignored.
    pub(crate) fn handle(
        &mut self,
        now: Duration,
        input: &Input,
        config: &Config,
        port: &mut Port,
    ) {
        match (&self.at, input) {
            (
                At::Reading { id, .. },
                Input::RegisterRead {
                    id: answered,
                    result,
                },
            ) if id == answered => {
                self.answered(now, result, config, port);
            }
            (
                At::Sent { id, .. },
                Input::RegisterCas {
                    id: answered,
                    result,
                },
            ) if id == answered => {
                match result {
                    CasResult::Won => self.at = At::Over,
                    // A free field was edited: read and build it again at once.
                    CasResult::Conflict => self.read(now, config, port),
                    CasResult::Unknown => {
                        self.at = At::Pause {
                            until: now + config.release_retry,
                        }
                    }
                }
            }
            (At::Reading { until, .. } | At::Sent { until, .. }, Input::Tick) if *until <= now => {
                self.at = At::Pause {
                    until: now + config.release_retry,
                };
            }
            (At::Pause { until }, Input::Tick) if *until <= now => self.read(now, config, port),
            _ => {}
        }
    }

    fn read(&mut self, now: Duration, config: &Config, port: &mut Port) {
        let id = port.read_register();
        self.at = At::Reading {
            id,
            until: now + config.register_timeout,
        };
    }

    fn answered(
        &mut self,
        now: Duration,
        result: &Result<Option<Box<Register>>, RegisterError>,
        config: &Config,
        port: &mut Port,
    ) {
        let register = match result {
            Ok(Some(register)) => register,
            Ok(None) => {
                self.at = At::Over;
                return;
            }
            Err(RegisterError::Unreachable | RegisterError::Corrupt) => {
                self.at = At::Pause {
                    until: now + config.release_retry,
                };
                return;
            }
        };
        // Refused only if the holder is another, or the register is no longer live: nothing is left to release.
        match register.release(self.key, self.ids.txid()) {
            Ok(released) => {
                let id = port.cas_register((**register).clone(), released);
                self.at = At::Sent {
                    id,
                    until: now + config.register_timeout,
                };
            }
            Err(_) => self.at = At::Over,
        }
    }
}

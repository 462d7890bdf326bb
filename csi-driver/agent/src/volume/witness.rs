//! What a volume asks of the witness; the answers come back as letters.

use twinsite_mirror::io::{CasResult, RegisterId};
use twinsite_register::Register;
use twinsite_witness::Swap;

use super::actor::{Letter, Volume};
use super::unreadable;

impl Volume {
    pub(super) fn read_register(&self, id: RegisterId) {
        let post = self.poster();
        self.parts.witness.read(self.parts.group, move |read| {
            let result = read
                .map(|register| register.map(Box::new))
                .map_err(unreadable);
            post(Letter::RegisterRead(id, result));
        });
    }

    pub(super) fn swap_register(&self, id: RegisterId, expected: Register, new: Register) {
        let post = self.poster();
        self.parts.witness.swap(expected, new, move |swap| {
            let result = match swap {
                Swap::Won => CasResult::Won,
                Swap::Conflict(_) => CasResult::Conflict,
                Swap::Unknown(why) => {
                    tracing::debug!(why, "outcome of a swap unknown");
                    CasResult::Unknown
                }
            };
            post(Letter::RegisterCas(id, result));
        });
    }

    pub(super) fn read_beat(&self) {
        let post = self.poster();
        let reply = move |read: Result<_, _>| post(Letter::Beat(read.map_err(unreadable)));
        self.parts.witness.beat(self.parts.volume, reply);
    }
}

//! An attach that follows a serving phase: the device is shown, its requests wait, and what is held still counts.

use std::time::Duration;

use twinsite_register::{Leg, Members};

use super::Attach;
use super::leg::Probed;
use crate::engine::{Held, IdSource, Port};
use crate::io::Output;

impl Attach {
    /// Decide again with the fences held: a leg was lost before the first beat, or a writer that never stamped found the
    /// register ahead.
    pub(crate) fn decide_again(now: Duration, held: Vec<Held>, port: &mut Port) -> Self {
        let mut attach = Self::of_held(now, held, port);
        attach.begin_round();
        let end = attach.advance(now, port);
        debug_assert!(end.is_none(), "a round ends with an answer, not at once");
        attach
    }

    /// No key is left on the last member: attach in place from Check, with a new key, the device held (2.14).
    pub(crate) fn reattach(now: Duration, mut held: Vec<Held>, port: &mut Port) -> Self {
        for held in &mut held {
            held.fenced = Members::NONE;
        }
        let mut attach = Self::of_held(now, held, port);
        let key = attach.ids.key(attach.order().site);
        for volume in &mut attach.volumes {
            volume.order.key = key;
            volume.continuing = true;
        }
        attach.from_check = true;
        attach.enter_check(now, port);
        attach
    }

    /// All were given their key by the same attach, so the first one's ids are as good as any.
    fn of_held(now: Duration, held: Vec<Held>, port: &mut Port) -> Self {
        let ids = held.first().map(|held| held.ids.clone());
        let orders = held.iter().map(|held| held.order.clone()).collect();
        let mut attach = Self::new(now, orders, ids.unwrap_or_else(|| IdSource::new([0; 32])));
        for (v, held) in held.into_iter().enumerate() {
            attach.patient |= held.shown;
            let volume = &mut attach.volumes[v];
            volume.record.n = Some(held.place.n);
            for leg in Leg::BOTH {
                let track = &mut volume.legs[leg.index()];
                let Some(info) = held.connected[leg.index()] else {
                    // The serving phase may have hung up; a leg that is being logged in to stays so.
                    port.of(v).push(Output::Connect { leg });
                    continue;
                };
                if held.fenced.contains(leg) {
                    track.info = Some(info);
                    track.probed = Some(Probed {
                        holder: Some(volume.order.key),
                        age: None,
                    });
                    track.fenced = true;
                } else {
                    track.up(now, info, &volume.order.config, port);
                }
            }
        }
        attach
    }
}

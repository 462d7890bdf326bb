//! A chain of writes over the volumes of a group: each is asked when the one before, on another volume, was answered.
//!
//! What a database does with a journal and its data. On the legs of one site, taken together, a later link is never found without
//! all earlier ones: on members, and on legs that left together and were not yet filled again.

use twinsite_register::Leg;

use super::oracle::superblock;
use super::target::{Blocks, Target};
use super::world::{Unit, World};
use super::writer::Asked;
use crate::io::{BLOCK, GuestOp, Input, ReqId};
use crate::layout::Role;

/// The block of each volume that carries its links; no other write goes there.
const LINK: u64 = 5 * 16 + 3;

#[derive(Debug, Default)]
pub(super) struct Chain {
    /// The last link that was answered with success.
    pub(super) acknowledged: u64,
    /// By whom, and through which request.
    open: Option<(u32, usize, ReqId)>,
}

impl World {
    /// Asks for the next link, if it is this volume's turn.
    pub(super) fn pull_chain(&mut self, writer: u32, volume: usize) {
        let volumes = self.options.group as u64;
        if volumes < 2 {
            return;
        }
        let alive = |id: &u32| self.writers.contains_key(id);
        if self.chain.open.is_some_and(|(by, _, _)| alive(&by)) {
            return;
        }
        let link = self.chain.acknowledged + 1;
        if link % volumes != volume as u64 {
            return;
        }
        let known = self.oracles[volume].blocks.entry(LINK).or_default();
        known.issued = known.issued.max(link);
        let guest = &mut self.writers.get_mut(&writer).unwrap().guests[volume];
        let id = ReqId(guest.next_req);
        guest.next_req += 1;
        let blocks = Blocks::from([(LINK, link)]);
        guest.asked.insert(id, Asked::Write { blocks, fua: false });
        self.chain.open = Some((writer, volume, id));
        let op = GuestOp::Write {
            offset: LINK * BLOCK as u64,
            len: BLOCK as u32,
            fua: false,
        };
        self.input(writer, volume, Input::Guest { id, op });
    }

    /// A request was answered; a link that failed is asked for again.
    pub(super) fn chain_done(&mut self, writer: u32, volume: usize, id: ReqId, ok: bool) {
        if self.chain.open == Some((writer, volume, id)) {
            self.chain.open = None;
            self.chain.acknowledged += u64::from(ok);
        }
    }

    /// Looks at the links of both sites.
    pub(super) fn check_chain(&self) {
        let volumes = self.options.group;
        if volumes < 2 || self.options.volatile {
            return;
        }
        for leg in Leg::BOTH {
            let units = (0..volumes).map(|volume| &self.targets[Unit { volume, leg }.index()]);
            let whole =
                |target: &Target| superblock(target).is_some_and(|sb| sb.role == Role::Member);
            if units.clone().all(whole) {
                self.check_links(leg);
            }
        }
    }

    /// From here on these copies count: the chain goes on from the last link that is there.
    pub(super) fn give_up_links(&mut self, leg: Leg) {
        let units = (0..self.options.volumes()).map(|volume| Unit { volume, leg }.index());
        let links = units.map(|unit| self.targets[unit].cache.get(&LINK).copied().unwrap_or(0));
        self.chain.acknowledged = links.max().unwrap_or(0);
        self.chain.open = None;
    }

    /// No link on these copies without the earlier ones.
    pub(super) fn check_links(&self, leg: Leg) {
        let volumes = self.options.group;
        if volumes < 2 || self.options.volatile {
            return;
        }
        let units = (0..volumes).map(|volume| &self.targets[Unit { volume, leg }.index()]);
        let links: Vec<u64> = units
            .map(|target| target.cache.get(&LINK).copied().unwrap_or(0))
            .collect();
        let last = links.iter().copied().max().unwrap_or(0);
        for (volume, &found) in links.iter().enumerate() {
            let earlier = (1..last).rev().take(volumes);
            let own = earlier
                .filter(|link| link % volumes as u64 == volume as u64)
                .max();
            assert!(
                found >= own.unwrap_or(0),
                "leg {leg} has link {last} and not the earlier {own:?} of volume {volume}: {links:?}"
            );
        }
    }
}

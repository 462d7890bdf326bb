//! The one request to the register that all volumes of a group send together.

use std::mem::{Discriminant, discriminant};

use twinsite_register::{Epoch, Gen};

use super::{Group, Member, Phase, with_port};
use crate::serve::{Ask, Ids, Serve, Wish};

/// The generation proposed last: a request that is built again because only free fields differ proposes the same.
#[derive(Debug, Default)]
pub(super) struct Proposal(Option<(Discriminant<Ask>, Epoch, Gen)>);

impl Group {
    /// Send what all volumes want, if there is such a thing.
    pub(super) fn request_for_all(&mut self) -> bool {
        let Phase::Serving(members) = &self.phase else {
            return false;
        };
        if members.iter().any(|member| member.end.is_some()) {
            return false;
        }
        let Some(ask) = wanted(members) else {
            return false;
        };
        let heard = members.get(self.heard).or_else(|| members.first());
        let Some(expected) = heard.and_then(|member| {
            let (_, expected) = member.serve.open_requests();
            expected.or_else(|| member.serve.basis(ask)).cloned()
        }) else {
            return false;
        };
        let generation = match self.proposal.0 {
            Some((kind, epoch, generation))
                if kind == discriminant(&ask) && epoch == expected.epoch =>
            {
                generation
            }
            _ => self.ids.generation(),
        };
        self.proposal = Proposal(Some((discriminant(&ask), expected.epoch, generation)));
        let ids = Ids {
            generation,
            stamp: self.ids.stamp(),
            txid: self.ids.txid(),
        };
        let proposed = |member: &Member| member.serve.propose(ask, &expected, &ids).ok();
        let mut all = members.iter().map(proposed);
        let first = all.next().flatten();
        // None may go without the others: if one cannot build it, or builds another one, nobody sends.
        if first.is_none() || !all.all(|other| other == first) {
            return false;
        }
        let Phase::Serving(members) = &mut self.phase else {
            return false;
        };
        for (volume, member) in members.iter_mut().enumerate() {
            with_port(&mut self.port, volume, &mut member.serve, |serve| {
                serve.send_with_group(ask, &expected, &ids);
            });
        }
        true
    }
}

/// What all volumes want. They must agree on what is open already: one that has not heard the outcome of the last request is
/// waited for.
fn wanted(members: &[Member]) -> Option<Ask> {
    let serves = || members.iter().map(|member| member.serve.as_ref());
    let open = serves().next()?.open_requests();
    if serves().any(|serve| serve.open_requests() != open) {
        return None;
    }
    let asks: Vec<Option<Ask>> = serves()
        .map(|serve| match serve.wish() {
            Some(Wish::Ask(ask)) => Some(ask),
            Some(Wish::Show) | None => None,
        })
        .collect();
    let bump = asks.contains(&Some(Ask::Bump)) && !open.0.contains(&Ask::Bump);
    if bump && serves().all(Serve::is_growing) {
        return Some(Ask::Bump);
    }
    if serves().all(Serve::may_land) {
        return Some(Ask::Land);
    }
    let mut asks = asks.into_iter();
    let first = asks.next()??;
    asks.try_fold(first, |all, ask| same(all, ask?))
}

/// Two volumes want the same; an order to drop a leg came through one of them.
fn same(one: Ask, other: Ask) -> Option<Ask> {
    match (one, other) {
        (Ask::Shrink { to, drop }, Ask::Shrink { to: same, drop: by }) if to == same => {
            Some(Ask::Shrink {
                to,
                drop: drop || by,
            })
        }
        (one, other) if one == other => Some(one),
        _ => None,
    }
}

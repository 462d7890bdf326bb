//! Opens the volumes of a group, which are one order of several objects.
//!
//! What keeps one of them from being opened keeps all: each of them says so.

use twinsite_api::{AttachmentSpec, reason};
use twinsite_register::VolumeId;

use super::{
    apply::{birth_site, ensure_register},
    node::{Node, Told},
    order,
    reconcile::{Member, Phase},
    storage::Fault,
    volumes::{Ending, VolumeEvent, VolumeOrder},
};

impl Node {
    pub(super) fn open_group(&mut self, members: Vec<Member>) {
        let mut orders = Vec::new();
        let mut fault: Option<(String, Fault)> = None;
        for member in &members {
            let Member {
                attachment,
                uid,
                spec,
            } = member;
            let serial = self.note_opening(attachment, uid.clone(), spec);
            let report = self.report(attachment.clone(), serial);
            match self.order((attachment, serial), uid, spec, report) {
                Ok(order) => orders.push((serial, order)),
                Err(why) => fault = fault.or(Some((attachment.clone(), why))),
            }
        }
        if let Some((culprit, fault)) = fault {
            for member in &members {
                let text = if member.attachment == culprit {
                    fault.text.clone()
                } else {
                    format!("Attachment {culprit} of the group: {}", fault.text)
                };
                let word = fault.word;
                self.failed(&member.attachment, Fault { word, text });
            }
            return;
        }
        let mut attaches: Vec<_> = orders.iter_mut().map(|(_, o)| o.attach.as_mut()).collect();
        order::make_one(&mut attaches);
        for (_, order) in &mut orders {
            if let Some(force) = &mut order.force {
                force.generation = order::force_generation(&order.attach);
            }
        }
        for (_, order) in &orders {
            self.note_order(order);
        }
        match members.first() {
            Some(first) if creates_register(&first.spec) => self.create_register(first, orders),
            _ => self.ready_group(orders),
        }
    }

    /// The register names all volumes of the group before the first of them is born.
    fn create_register(&self, first: &Member, orders: Vec<(u64, VolumeOrder)>) {
        let birth = first.spec.birth.as_ref();
        let site = birth.and_then(|birth| birth_site(&first.spec, &birth.active_site));
        let teller = self.teller.clone();
        self.runtime.spawn(async move {
            let Some((_, order)) = orders.first() else {
                return;
            };
            let mut volumes: Vec<VolumeId> = orders.iter().map(|(_, order)| order.volume).collect();
            volumes.sort_unstable();
            let site = site.unwrap_or(order.attach.site);
            match ensure_register(order, volumes, site).await {
                Ok(()) => teller.tell(Told::ReadyGroup { orders }),
                Err(text) => {
                    for (_, order) in &orders {
                        let word = reason::WITNESS_NEEDED;
                        let text = text.clone();
                        let ending = Ending::Failed { word, text };
                        (order.report)(VolumeEvent::Ended(ending));
                    }
                }
            }
        });
    }

    /// Hands the orders to the data path, if all of them are still wanted.
    pub(super) fn ready_group(&mut self, orders: Vec<(u64, VolumeOrder)>) {
        let is_opening = |(serial, order): &(u64, VolumeOrder)| {
            let volume = self.volumes.get(&order.name);
            let seen = self.observed.volumes.get(&order.name);
            volume.is_some_and(|volume| volume.serial == *serial)
                && seen.is_some_and(|seen| seen.phase == Phase::Opening)
        };
        let wanted: Vec<bool> = orders.iter().map(is_opening).collect();
        if wanted.contains(&false) {
            // One of them was detached meanwhile: the others have nothing to be opened with.
            for ((_, order), still) in orders.iter().zip(wanted) {
                if still {
                    self.ended(&order.name, Ending::Detached);
                }
            }
            return;
        }
        let (names, orders): (Vec<String>, Vec<VolumeOrder>) = orders
            .into_iter()
            .map(|(_, order)| (order.name.clone(), order))
            .unzip();
        let handles = self.opener.open_group(orders);
        for (name, handle) in names.iter().zip(handles) {
            if let Some(volume) = self.volumes.get_mut(name) {
                volume.handle = Some(handle);
            }
        }
    }
}

fn creates_register(spec: &AttachmentSpec) -> bool {
    let birth = spec.birth.as_ref();
    birth.is_some_and(|birth| birth.create_register)
}

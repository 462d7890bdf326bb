//! Agents: they serve Legs and carry out Attachments by the real transitions of the register.

use twinsite_api::{
    Attachment, AttachmentLegStatus, AttachmentMode, AttachmentState, InspectReport, InspectedLeg,
    LegIndex, LegState, LegStatus, MoveMode, Timings, VolumeLegState, attachment_uid, reason,
};
use twinsite_register::{
    AttachChange, AttachmentUid, Create, Epoch, Force, Gen, GroupId, Key, KeyTag, Leg, LegSeed,
    Members, Membership, Move, MoveKind, Order, Register, RegisterId, Running, Site, Stamp, TxId,
    VolumeId,
};

use super::super::token;
use super::world::World;

impl World {
    pub(super) fn agents(&mut self) {
        for place in 0..2 {
            if !self.clusters[place].up {
                continue;
            }
            self.serve(place);
            for at in 0..self.clusters[place].attachments.len() {
                self.work(place, at);
            }
            self.forget_released(place);
        }
    }

    /// An Attachment that is deleted is gone once nobody holds it by a finalizer.
    pub(super) fn forget_released(&mut self, place: usize) {
        let attachments = &mut self.clusters[place].attachments;
        let before = attachments.len();
        attachments.retain(|known| {
            let held = known.metadata.finalizers.as_ref();
            known.metadata.deletion_timestamp.is_none() || held.is_some_and(|held| !held.is_empty())
        });
        self.changed |= attachments.len() != before;
    }

    pub(super) fn lives(&self, place: usize, node: &str) -> bool {
        self.clusters[place]
            .nodes
            .iter()
            .any(|known| known.name == node && known.ready && known.silent_for.is_none())
    }

    pub(super) fn serve(&mut self, place: usize) {
        for at in 0..self.clusters[place].legs.len() {
            let leg = &self.clusters[place].legs[at];
            if !self.lives(place, &leg.spec.node) {
                continue;
            }
            let served = LegStatus {
                state: LegState::Serving,
                size: Some(leg.spec.size.bytes()),
                ..LegStatus::default()
            };
            if leg.status.as_ref() != Some(&served) {
                self.clusters[place].legs[at].status = Some(served);
                self.changed = true;
            }
        }
    }

    /// A copy that the agent of `place` reaches.
    fn reaches(&self, place: usize, leg: Leg) -> bool {
        let home = leg.index();
        let cluster = &self.clusters[home];
        let served = cluster.legs.iter().any(|leg| {
            leg.status
                .as_ref()
                .is_some_and(|status| status.state == LegState::Serving)
        });
        let served = served && self.others_serve[home];
        cluster.up && served && (home == place || self.data_up)
    }

    fn work(&mut self, place: usize, at: usize) {
        let attachment = self.clusters[place].attachments[at].clone();
        if !self.lives(place, &attachment.spec.node) {
            return;
        }
        let mut next = attachment.clone();
        if attachment.metadata.deletion_timestamp.is_some() {
            self.detach(&mut next);
        } else {
            match attachment.spec.mode {
                AttachmentMode::Birth => self.birth(place, &mut next),
                AttachmentMode::Writer | AttachmentMode::Caretaker => self.mirror(place, &mut next),
                AttachmentMode::Wipe => {
                    next.status.get_or_insert_default().state = AttachmentState::Done
                }
                AttachmentMode::Inspect => self.inspect(&mut next),
                AttachmentMode::Reseed => self.reseed(&mut next),
                AttachmentMode::Force => {
                    self.force(place, std::slice::from_ref(&attachment), &mut next);
                }
            }
        }
        if next != attachment {
            self.changed = true;
            self.clusters[place].attachments[at] = next;
        }
    }

    pub(super) fn key(attachment: &Attachment) -> Option<Key> {
        attachment.status.as_ref()?.key.as_ref()?.parse().ok()
    }

    fn detach(&mut self, attachment: &mut Attachment) {
        if self.release(attachment) {
            attachment.metadata.finalizers = None;
        }
    }

    /// Whether nothing of this attachment is open any more.
    pub(super) fn release(&mut self, attachment: &Attachment) -> bool {
        if !self.witness_up {
            return false;
        }
        let txid = self.txid();
        if let (Some(register), Some(key)) = (&self.register, Self::key(attachment))
            && let Ok(next) = register.release(key, txid)
        {
            self.register = Some(next);
        }
        true
    }

    pub(super) fn birth(&mut self, place: usize, attachment: &mut Attachment) {
        let both = Leg::BOTH.into_iter().all(|leg| self.reaches(place, leg));
        if !self.witness_up || !both {
            return;
        }
        let site = [Site::A, Site::B][place];
        match self.register.clone() {
            None => {
                let volume = VolumeId(attachment.spec.volume.bytes());
                let mut volumes: Vec<VolumeId> = (attachment.spec.group_volumes.iter())
                    .map(|volume| VolumeId(volume.bytes()))
                    .collect();
                if volumes.is_empty() {
                    volumes.push(volume);
                }
                volumes.sort_unstable();
                let create = Create {
                    register_id: RegisterId(self.bytes()),
                    group: GroupId(attachment.spec.group_id().bytes()),
                    volumes,
                    generation: self.generation(),
                    site,
                    txid: self.txid(),
                };
                self.register = Some(Register::create(create).unwrap());
                self.changed = true;
            }
            Some(register) => {
                let txid = self.txid();
                if let Ok(live) = register.birth(site, txid) {
                    self.register = Some(live);
                }
                attachment.status.get_or_insert_default().state = AttachmentState::Done;
            }
        }
    }

    /// The orders for all volumes of the register, carried out as one; what is said is said of each.
    pub(super) fn force(&mut self, place: usize, orders: &[Attachment], said: &mut Attachment) {
        let Some(register) = &self.register else {
            return;
        };
        let status = said.status.get_or_insert_default();
        if let Some(word) = self.fails_to_force {
            status.state = AttachmentState::Failed;
            status.reason = Some(word.to_owned());
            status.message = Some(format!("it is {word}"));
            return;
        }
        let seen: Vec<(VolumeId, LegSeed)> = orders
            .iter()
            .map(|one| {
                let order = one.spec.force.as_ref().unwrap();
                let seed = LegSeed {
                    epoch: Epoch(order.epoch),
                    generation: order.generation.parse().unwrap(),
                    sb_seq: order.sb_seq,
                };
                (VolumeId(one.spec.volume.bytes()), seed)
            })
            .collect();
        let order = orders[0].spec.force.as_ref().unwrap();
        let force = Force {
            expect_epoch: Epoch(order.expect_epoch),
            expect_txid: order.expect_txid.parse().unwrap(),
            leg: Leg::BOTH[place],
            seen: seen[0].1,
            site: [Site::A, Site::B][place],
            generation: Gen(attachment_uid(said.metadata.uid.as_ref().unwrap())),
            inconsistent: order.inconsistent,
            who: order.who.clone(),
            why: String::new(),
        };
        let txid = TxId(attachment_uid("another one"));
        let forced = register.force_all(&force, &seen, txid).unwrap();
        status.state = AttachmentState::Done;
        self.register = Some(forced);
    }

    /// What an agent finds on the copies.
    pub(super) fn report(&self) -> InspectReport {
        let leg = |leg: LegIndex| InspectedLeg {
            leg: Some(leg),
            reachable: self.reaches(leg.number(), Leg::BOTH[leg.number()]),
            role: Some(self.role.to_owned()),
            epoch: Some(1),
            generation: Some(Gen([7; 16]).to_string()),
            sb_seq: Some(7),
            moment: (self.role != "Target").then(|| self.moment.to_owned()),
            ..InspectedLeg::default()
        };
        InspectReport {
            legs: LegIndex::BOTH.map(leg).to_vec(),
            token: self.register.as_ref().map(token),
        }
    }

    /// The Inspect orders of one volume: nobody waits for those of the others of its group.
    pub(super) fn look(&mut self, place: usize) {
        for at in 0..self.clusters[place].attachments.len() {
            if self.clusters[place].attachments[at].spec.mode == AttachmentMode::Inspect {
                self.work(place, at);
            }
        }
    }

    fn inspect(&mut self, attachment: &mut Attachment) {
        if !self.witness_up {
            return;
        }
        let report = self.report();
        let status = attachment.status.get_or_insert_default();
        status.state = AttachmentState::Done;
        status.inspect = Some(report);
    }

    pub(super) fn reseed(&mut self, attachment: &mut Attachment) {
        let order = attachment.spec.reseed.clone().unwrap();
        let mut report = self.report();
        report
            .legs
            .retain(|leg| order.legs.contains(&leg.leg.unwrap()));
        if report.legs.iter().any(|leg| !leg.reachable) {
            return;
        }
        for leg in &mut report.legs {
            (leg.sb_seq, leg.register_id) = (Some(9), Some(order.register_id.clone()));
        }
        let status = attachment.status.get_or_insert_default();
        status.state = AttachmentState::Done;
        status.inspect = Some(report);
    }

    pub(super) fn mirror(&mut self, place: usize, attachment: &mut Attachment) {
        let state = attachment
            .status
            .as_ref()
            .map(|status| status.state)
            .unwrap_or_default();
        let is_used = !self.clusters[place].pods.is_empty();
        match state {
            // NodeUnstage said that the device is not used any more.
            AttachmentState::Attached if attachment.spec.release && !is_used => {
                if self.release(attachment) {
                    let status = attachment.status.get_or_insert_default();
                    status.state = AttachmentState::Detached;
                }
            }
            AttachmentState::Attached => self.run(place, attachment),
            AttachmentState::Superseded => {}
            _ if attachment.spec.release => {}
            _ => self.open(place, attachment),
        }
    }

    fn refuse(attachment: &mut Attachment, word: &str) {
        let status = attachment.status.get_or_insert_default();
        status.state = AttachmentState::Refused;
        status.reason = Some(word.to_owned());
        status.message = Some(word.to_owned());
    }

    fn open(&mut self, place: usize, attachment: &mut Attachment) {
        let Some(register) = self.register.clone().filter(|_| self.witness_up) else {
            return;
        };
        let rival = self.clusters[place].attachments.iter().any(|known| {
            known.metadata.uid != attachment.metadata.uid
                && known.spec.node == attachment.spec.node
                && known
                    .status
                    .as_ref()
                    .is_some_and(|status| status.state == AttachmentState::Attached)
        });
        if rival {
            return;
        }
        let site = [Site::A, Site::B][place];
        let order = attachment
            .spec
            .move_
            .as_ref()
            .filter(|order| order.expect_seq == register.active.seq);
        if register.active.site != site && order.is_none() {
            return Self::refuse(attachment, "NotActive");
        }
        if order.is_some_and(|order| order.mode == MoveMode::Planned)
            && register.holder.is_some()
            && register.active.site != site
        {
            // It waits at the register.
            let status = attachment.status.get_or_insert_default();
            status.reason = Some(reason::HELD_ELSEWHERE.to_owned());
            return;
        }
        let uid = AttachmentUid(attachment_uid(attachment.metadata.uid.as_ref().unwrap()));
        let attached_once = attachment
            .status
            .as_ref()
            .is_some_and(|status| status.key.is_some());
        if attached_once && register.order.uid != uid {
            return Self::refuse(attachment, reason::ORDER_STALE);
        }
        let usable: Members = register
            .members
            .iter()
            .filter(|leg| self.reaches(place, *leg))
            .collect();
        if usable.is_empty() {
            return Self::refuse(attachment, "WaitMember");
        }
        let generation = self.generation();
        let membership = match usable.sole() {
            Some(to) if usable != register.members => Membership::Shrink { to, generation },
            _ => Membership::Keep,
        };
        let moves = (register.active.site != site).then(|| Move {
            to: site,
            kind: match order.map(|order| order.mode) {
                Some(MoveMode::Planned) => MoveKind::Planned,
                _ => MoveKind::Unplanned,
            },
        });
        let key = Key::new(KeyTag::Writer(site), u64::from(self.number()) << 8 | 1);
        let stamp = Stamp {
            key,
            stamp_id: self.stamp_id(),
            order: Order {
                n: register.order.n + 1,
                uid,
            },
        };
        let txid = self.txid();
        match register.attach(
            &AttachChange {
                site,
                stamp,
                membership,
                moves,
            },
            txid,
        ) {
            Ok(next) => self.register = Some(next),
            Err(why) => return Self::refuse(attachment, &why.to_string()),
        }
        let (now, size) = (self.time(), attachment.spec.size.bytes());
        let status = attachment.status.get_or_insert_default();
        (status.reason, status.message) = (None, None);
        status.state = AttachmentState::Attached;
        status.key = Some(key.to_string());
        status.order = Some(stamp.order.n);
        status.size = Some(size);
        status.timings = Some(Timings {
            ordered_at: Some(now.clone()),
            fenced_at: Some(now.clone()),
            promoted_at: Some(now.clone()),
            served_at: Some(now.clone()),
            first_write_at: (attachment.spec.mode == AttachmentMode::Writer).then_some(now),
        });
    }

    fn run(&mut self, place: usize, attachment: &mut Attachment) {
        let Some(register) = self.register.clone().filter(|_| self.witness_up) else {
            return;
        };
        let key = Self::key(attachment).unwrap();
        if register.holder != Some(key) {
            let status = attachment.status.get_or_insert_default();
            status.state = AttachmentState::Superseded;
            status.reason = Some("Superseded".to_owned());
            return;
        }
        let running = Running::of(&register, key);
        let (generation, txid) = (self.generation(), self.txid());
        let away = register
            .members
            .iter()
            .find(|leg| !self.reaches(place, *leg));
        let drop = attachment
            .spec
            .drop_legs
            .first()
            .map(|index| Leg::BOTH[index.number()]);
        let drop =
            drop.filter(|leg| register.members.contains(*leg) && register.members == Members::BOTH);
        let back = register.members.sole().map(Leg::other).filter(|leg| {
            self.reaches(place, *leg)
                && !register.no_rejoin.contains(*leg)
                && !register.unconfirmed.contains(*leg)
        });
        let was_resyncing = attachment
            .status
            .as_ref()
            .is_some_and(|status| status.resync_percent.is_some());
        let next = match (drop, away, back) {
            (Some(leg), _, _) => register.drop_leg(&running, leg, generation, txid).ok(),
            (None, Some(leg), _) if register.members == Members::BOTH => register
                .shrink(&running, leg.other(), generation, txid)
                .ok(),
            (None, _, Some(_)) if was_resyncing => register.grow(&running, generation, txid).ok(),
            _ => None,
        };
        if let Some(next) = next {
            self.register = Some(next);
            self.changed = true;
        }
        let register = self.register.clone().unwrap();
        let grows = back.is_some() && register.members != Members::BOTH;
        let legs = LegIndex::BOTH.into_iter().filter_map(|index| {
            let named = attachment.spec.legs.iter().find(|leg| leg.leg == index)?;
            let leg = Leg::BOTH[index.number()];
            let state = if register.members.contains(leg) {
                VolumeLegState::Member
            } else if !self.reaches(place, leg) {
                VolumeLegState::Unreachable
            } else if grows {
                VolumeLegState::Resyncing
            } else {
                VolumeLegState::Outdated
            };
            Some(AttachmentLegStatus {
                leg: index,
                site: named.site.clone(),
                state,
                portal: None,
                message: None,
                dirty_bytes: None,
            })
        });
        let legs: Vec<AttachmentLegStatus> = legs.collect();
        let status = attachment.status.get_or_insert_default();
        status.legs = legs;
        status.resync_percent = grows.then_some(50);
        status.size = Some(attachment.spec.size.bytes());
    }
}

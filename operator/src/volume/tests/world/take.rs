//! One action, as the shell would carry it out: on the register, or on the objects of one cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use twinsite_api::LegIndex;
use twinsite_register::{Gen, Leg as RegisterLeg, Register, Reseed, TxId};

use super::{Cluster, World};
use crate::volume::{Action, RegisterChange, names};

impl World {
    pub(in crate::volume::tests) fn take(&mut self, place: usize, action: &Action) {
        self.changed = true;
        self.lines
            .push(format!("{}: {action}", self.clusters[place].site));
        let fresh = ObjectMeta {
            uid: Some(self.uid()),
            creation_timestamp: Some(self.time()),
            ..ObjectMeta::default()
        };
        if let Action::ChangeRegister { expect, change } = action {
            let register = self.register.clone().unwrap();
            assert_eq!(register.txid, *expect, "the plan is about another value");
            return self.change(&register, change);
        }
        if let Action::SeedRegister {
            replaced,
            seed,
            seen,
        } = action
        {
            let old = self.register.clone();
            assert_eq!(old.as_ref().map(|old| old.txid), *replaced);
            let seed = Reseed {
                generation: Gen([0x5e; 16]),
                txid: TxId([0x5e; 16]),
                ..(**seed).clone()
            };
            self.register = Some(Register::reseed_all(&seed, seen, old.as_ref()).unwrap());
            return;
        }
        let now = self.time();
        self.clusters[place].take(action, &fresh, now);
    }

    fn change(&mut self, register: &Register, change: &RegisterChange) {
        let txid = self.txid();
        let generation = self.generation();
        let leg = |index: LegIndex| RegisterLeg::BOTH[index.number()];
        let next = match change {
            RegisterChange::Unlatch => register.unlatch(txid),
            RegisterChange::Latch => register.latch(txid),
            RegisterChange::NoRejoin(legs) => register.rejoin(*legs, txid),
            RegisterChange::Tombstone => register.tombstone(generation, txid),
            RegisterChange::Wiped(index) => register.wiped(leg(*index), txid),
            RegisterChange::Bury => {
                assert!(register.is_buried());
                self.register = None;
                for cluster in &mut self.clusters {
                    cluster.marks.clear();
                }
                return;
            }
            RegisterChange::Confirm { leg: index, who } => register.confirm(leg(*index), who, txid),
            RegisterChange::Retire {
                leg: index,
                naa,
                who,
            } => register.retire(leg(*index), *naa, who, txid),
        };
        self.register = Some(next.unwrap_or_else(|why| panic!("{change}: {why}")));
    }
}

impl Cluster {
    /// `fresh` is what the API server gives a new object.
    fn take(&mut self, action: &Action, fresh: &ObjectMeta, now: Time) {
        let merged = |mut new: ObjectMeta, old: Option<&ObjectMeta>| {
            let base = old.cloned().unwrap_or(fresh.clone());
            new.uid = base.uid;
            new.creation_timestamp = base.creation_timestamp;
            new
        };
        match action {
            Action::AddFinalizer => {
                self.volume.as_mut().unwrap().metadata.finalizers =
                    Some(vec![names::VOLUME_FINALIZER.to_owned()]);
            }
            Action::RemoveFinalizer => self.volume = None,
            Action::ApplyLeg(leg) => {
                let old = self.legs.pop();
                let mut new = (**leg).clone();
                new.metadata = merged(new.metadata, old.as_ref().map(|old| &old.metadata));
                new.status = old.and_then(|old| old.status);
                self.legs.push(new);
            }
            // Its agent takes the finalizer off when it has stopped to serve; one that is silent does not.
            Action::DeleteLeg { .. } => {
                let nodes = self.nodes.iter().filter(|node| node.agent_silent);
                let silent: Vec<&str> = nodes.map(|node| node.name.as_str()).collect();
                self.legs
                    .retain(|leg| silent.contains(&leg.spec.node.as_str()));
                for leg in &mut self.legs {
                    leg.metadata.deletion_timestamp = Some(now.clone());
                }
            }
            Action::ReleaseLeg { .. } => self.legs.clear(),
            Action::ApplyPersistentVolume(volume) => {
                let old = self.persistent_volume.take();
                let mut new = (**volume).clone();
                new.metadata = merged(new.metadata, old.as_ref().map(|old| &old.metadata));
                let bound = old.and_then(|old| old.spec?.claim_ref?.uid);
                new.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = bound;
                self.persistent_volume = Some(new);
            }
            Action::RebindPersistentVolume { .. } => {
                let volume = self.persistent_volume.as_mut().unwrap();
                volume
                    .spec
                    .as_mut()
                    .unwrap()
                    .claim_ref
                    .as_mut()
                    .unwrap()
                    .uid = None;
            }
            Action::DeletePersistentVolume { .. } => self.persistent_volume = None,
            Action::ApplyClaim(claim) => {
                let old = self.claim.take();
                let mut new = (**claim).clone();
                new.metadata = merged(new.metadata, old.as_ref().map(|old| &old.metadata));
                self.claim = Some(new);
            }
            Action::DeleteClaim { .. } => self.claim = None,
            Action::Scale { workload, replicas } => {
                let known = self
                    .workloads
                    .iter_mut()
                    .find(|(known, _)| known.name == workload.name)
                    .unwrap();
                known.1 = *replicas;
            }
            Action::CreateAttachment(attachment) => {
                let there = self
                    .attachments
                    .iter()
                    .any(|known| known.metadata.name == attachment.metadata.name);
                if !there {
                    let mut new = (**attachment).clone();
                    new.metadata = merged(new.metadata, None);
                    self.attachments.push(new);
                }
            }
            Action::UpdateAttachment { uid, change, .. } => {
                let known = self
                    .attachments
                    .iter_mut()
                    .find(|known| known.metadata.uid.as_ref() == Some(uid))
                    .unwrap();
                let spec = &mut known.spec;
                if let Some(legs) = &change.legs {
                    spec.legs.clone_from(legs);
                }
                if let Some(size) = &change.size {
                    spec.size = size.clone();
                }
                if let Some(asked) = &change.verify {
                    spec.verify = Some(asked.clone());
                }
                if let Some(drop) = &change.drop_legs {
                    spec.drop_legs.clone_from(drop);
                }
                if change.move_order.is_some() || change.withdraw_move {
                    spec.move_.clone_from(&change.move_order);
                }
                if let Some(release) = change.release {
                    spec.release = release;
                }
            }
            Action::DeleteAttachment { uid, .. } => {
                let known = self
                    .attachments
                    .iter_mut()
                    .find(|known| known.metadata.uid.as_ref() == Some(uid))
                    .unwrap();
                known.metadata.deletion_timestamp = Some(now);
            }
            Action::ReleaseAttachment { uid, .. } => {
                self.attachments
                    .retain(|known| known.metadata.uid.as_ref() != Some(uid));
            }
            Action::DeletePod { uid, .. } | Action::RestartPod { uid, .. } => {
                self.pods.retain(|pod| pod.uid != *uid)
            }
            Action::DeleteVolumeAttachment { uid, .. } => {
                self.volume_attachments.retain(|known| known.uid != *uid)
            }
            Action::ClearVolumeInUse { node, .. } => {
                self.nodes
                    .iter_mut()
                    .find(|known| known.name == *node)
                    .unwrap()
                    .volume_in_use = false;
            }
            Action::RecordMove(_) | Action::ChangeRegister { .. } | Action::SeedRegister { .. } => {
            }
        }
    }
}

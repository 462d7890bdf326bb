//! Does what was decided, and writes down what came of it.

use std::sync::Arc;

use twinsite_api::{AttachmentMode, AttachmentSpec, LegSpec, MoveMode, NodeBackend, reason};
use twinsite_mirror::io::{Leg, VerifyOrder};
use twinsite_mirror::status::{StateName, Status};
use twinsite_register::Create;
use twinsite_register::{Gen, GroupId, Register, RegisterId, Site, TxId};
use twinsite_witness::{Sites, Swap, WitnessHandle};

use super::{
    durable,
    node::{Node, Told, Volume, observer, wall},
    order::{self, Local},
    reconcile::{Action, LegSeen, OrderSeen, Over, Phase, PoolSeen, VerifySeen, VolumeSeen},
    storage::Fault,
    volumes::{Ending, Report, VolumeEvent, VolumeOrder},
};
use crate::status::VolumeView;

impl Node {
    pub(super) fn apply(&mut self, action: Action) {
        match action {
            Action::OpenPool { pool, backend } => self.open_pool(pool, backend),
            Action::ClosePool { pool } => {
                self.storage.close_pool(&pool);
                self.marks.remove_pool(&pool);
                self.observed.pools.remove(&pool);
            }
            Action::StopLeg { leg } => self.stop_leg(&leg),
            Action::ServeLeg { leg, spec } => {
                let served = self.storage.serve_leg(&leg, &spec, &self.desired.objects);
                self.leg_done(leg, *spec, served, Change::Served);
            }
            Action::GrowLeg { leg, spec } => {
                let grown = self.storage.grow_leg(&leg, &spec);
                self.leg_done(leg, *spec, grown, Change::Grown);
            }
            Action::SetAccess { leg, spec } => {
                let set = self.storage.set_access(&leg, &spec, &self.desired.objects);
                self.leg_done(leg, *spec, set, Change::Access);
            }
            Action::Detach { attachment } => {
                if let Some(seen) = self.observed.volumes.get_mut(&attachment) {
                    seen.phase = Phase::Closing;
                }
                match self
                    .volumes
                    .get(&attachment)
                    .and_then(|volume| volume.handle.as_ref())
                {
                    Some(handle) => handle.detach(),
                    // Not open yet: there is nothing to detach.
                    None => self.ended(&attachment, Ending::Detached),
                }
            }
            Action::Close { attachment } => {
                self.observed.volumes.remove(&attachment);
                if let Some(volume) = self.volumes.get_mut(&attachment) {
                    volume.handle = None;
                }
            }
            Action::Forget { attachment, uid } => {
                self.volumes.remove(&attachment);
                if let Err(error) = self.records.forget(&attachment, order::uid(&uid)) {
                    tracing::warn!(attachment, %error, "the record stays");
                }
            }
            Action::Open {
                attachment,
                uid,
                spec,
            } => self.open(&attachment, uid, *spec),
            Action::OpenGroup { members } => self.open_group(members),
            Action::Readdress { attachment, spec } => self.readdress(&attachment, &spec),
            Action::DropLeg { attachment, leg } => {
                self.order_given(&attachment);
                self.give(&attachment, |handle| handle.drop_leg(order::leg(leg)));
            }
            Action::Expand { attachment, size } => {
                self.order_given(&attachment);
                self.give(&attachment, |handle| handle.expand(size));
            }
            Action::Verify {
                attachment,
                request,
            } => self.verify(&attachment, request.as_deref()),
        }
    }

    fn open_pool(&mut self, name: String, backend: NodeBackend) {
        let opened = self
            .storage
            .open_pool(&name, &backend)
            .and_then(|directory| {
                if let Some(directory) = directory {
                    self.marks.add_pool(&name, &directory)?;
                }
                Ok(())
            });
        let view = self.pools.entry(name.clone()).or_default();
        if let Err(fault) = &opened {
            tracing::error!(pool = name, "{}", fault.text);
        }
        view.fault = opened.err();
        let failed_at = view.fault.is_some().then(|| self.now());
        self.observed
            .pools
            .insert(name, PoolSeen { backend, failed_at });
    }

    fn stop_leg(&mut self, name: &str) {
        let gone = !self.desired.objects.legs.contains_key(name);
        if let Err(fault) = self.storage.stop_leg(name, gone) {
            tracing::warn!(leg = name, "{}", fault.text);
        }
        self.observed.legs.remove(name);
        self.legs.remove(name);
    }

    fn leg_done(&mut self, name: String, spec: LegSpec, done: Result<(), Fault>, change: Change) {
        let now = self.now();
        let view = self.legs.entry(name.clone()).or_default();
        if let Err(fault) = &done {
            tracing::error!(leg = name, "{}", fault.text);
        }
        let failed_at = done.is_err().then_some(now);
        match (self.observed.legs.get_mut(&name), change) {
            // A change that failed leaves the leg as it was.
            (Some(seen), Change::Grown | Change::Access) if failed_at.is_some() => {
                seen.failed_at = failed_at;
            }
            (Some(seen), Change::Grown) => {
                seen.failed_at = None;
                seen.spec.size = spec.size;
            }
            (Some(seen), Change::Access) => {
                seen.failed_at = None;
                seen.spec.chap = spec.chap;
                seen.spec.initiators = spec.initiators;
            }
            (_, Change::Served | Change::Grown | Change::Access) => {
                let served = failed_at.is_none();
                view.served = served;
                self.observed.legs.insert(
                    name,
                    LegSeen {
                        spec,
                        failed_at,
                        served,
                    },
                );
            }
        }
        view.fault = done.err();
    }

    fn order_given(&mut self, name: &str) {
        if let Some(seen) = self.observed.volumes.get_mut(name) {
            seen.order = OrderSeen::UnderWay;
        }
    }

    /// Compares the copies of an open volume.
    fn verify(&mut self, name: &str, request: Option<&str>) {
        let Some(seen) = self.observed.volumes.get_mut(name) else {
            return;
        };
        let from = self.verifies.order(seen.spec.volume, request, wall());
        seen.order = OrderSeen::UnderWay;
        self.give(name, |handle| handle.verify(VerifyOrder::Begin { from }));
    }

    /// What the next decision needs to know of comparisons, and what is said of them.
    pub(super) fn note_verify(&mut self, name: &str) {
        let (Some(seen), Some(volume)) = (
            self.observed.volumes.get_mut(name),
            self.volumes.get_mut(name),
        ) else {
            return;
        };
        let synced = |engine: &Status| engine.state == StateName::Synced;
        let ready = volume.view.engine.as_deref().is_some_and(synced);
        seen.verify = self.verifies.seen(seen.spec.volume, ready);
        volume.view.verify = self.verifies.report(seen.spec.volume).cloned();
    }

    /// Hands new addresses on, once: if they cannot be used, the object has to change again.
    fn readdress(&mut self, name: &str, spec: &AttachmentSpec) {
        let sites = self.witnesses.states();
        let sites = sites.get(&spec.site_pair).map(|state| &state.sites);
        let checked = sites.map_or(Ok(()), |sites| check_indices(spec, sites));
        match checked.and_then(|()| order::targets(spec, &self.desired.objects)) {
            Ok(targets) => self.give(name, |handle| handle.readdress(targets)),
            Err(fault) => tracing::error!(attachment = name, "{}", fault.text),
        }
        if let Some(seen) = self.observed.volumes.get_mut(name) {
            seen.spec.legs.clone_from(&spec.legs);
        }
    }

    /// What is to become of the files of legs may change as long as their objects are there.
    pub(super) fn note_removals(&mut self) {
        for (name, leg) in &self.desired.objects.legs {
            self.storage.set_removal(name, leg.spec.removal);
        }
    }

    /// Who lets go of what: here by an order to release, elsewhere by the register.
    pub(super) fn note_releases(&mut self) {
        let attachments = &self.desired.objects.attachments;
        self.desired.unused.retain(|name| {
            attachments
                .get(name)
                .is_some_and(|attachment| attachment.spec.release)
        });
        let held = |spec: &AttachmentSpec| {
            let order = spec
                .move_
                .as_ref()
                .filter(|order| order.mode == MoveMode::Planned)?;
            let own = order::leg(spec.own_index()?).site();
            let (register, _) = self.registers.get(&order::group(spec))?;
            let is_due = register.active.seq == order.expect_seq && register.active.site != own;
            (is_due && register.holder.is_some()).then_some(())
        };
        self.desired.held_elsewhere = attachments
            .iter()
            .filter(|(_, attachment)| attachment.spec.node == self.config.node)
            .filter(|(_, attachment)| held(&attachment.spec).is_some())
            .map(|(name, _)| name.clone())
            .collect();
    }

    /// Which legs the register keeps out: what was dropped, by whom ever, needs no order.
    pub(super) fn note_dropped(&mut self) {
        for seen in self.observed.volumes.values_mut() {
            if let Some((register, _)) = self.registers.get(&order::group(&seen.spec)) {
                seen.dropped = register.no_rejoin.iter().map(order::leg_index).collect();
            }
        }
    }

    fn give(&self, name: &str, order: impl FnOnce(&dyn super::volumes::VolumeHandle)) {
        if let Some(handle) = self
            .volumes
            .get(name)
            .and_then(|volume| volume.handle.as_deref())
        {
            order(handle);
        }
    }

    fn open(&mut self, name: &str, uid: String, spec: AttachmentSpec) {
        let serial = self.note_opening(name, uid.clone(), &spec);
        let report = self.report(name.to_owned(), serial);
        match self.order((name, serial), &uid, &spec, report) {
            Ok(order) => self.begin(name, serial, &spec, order),
            Err(fault) => self.failed(name, fault),
        }
    }

    pub(super) fn failed(&mut self, name: &str, fault: Fault) {
        tracing::error!(attachment = name, "{}", fault.text);
        let Fault { word, text } = fault;
        self.ended(name, Ending::Failed { word, text });
    }

    /// Writes down that the volume is being opened.
    pub(super) fn note_opening(&mut self, name: &str, uid: String, spec: &AttachmentSpec) -> u64 {
        let serial = self.serial();
        let seen = VolumeSeen {
            uid,
            spec: spec.clone(),
            phase: Phase::Opening,
            size: None,
            order: OrderSeen::None,
            dropped: Vec::new(),
            verify: VerifySeen::default(),
        };
        self.observed.volumes.insert(name.to_owned(), seen);
        let conditions = self
            .volumes
            .remove(name)
            .map(|volume| volume.view.conditions)
            .unwrap_or_default();
        let mut view = VolumeView {
            conditions,
            ..VolumeView::default()
        };
        view.timings.ordered_at = Some(wall());
        self.volumes.insert(
            name.to_owned(),
            Volume {
                serial,
                handle: None,
                view,
                reply: None,
                format: None,
            },
        );
        self.note_verify(name);
        serial
    }

    /// What the object shows of an order.
    pub(super) fn note_order(&mut self, order: &VolumeOrder) {
        if let Some(volume) = self.volumes.get_mut(&order.name) {
            volume.view.key = Some(order.attach.key.to_string());
            volume.view.order = order.attach.record.n;
        }
    }

    fn begin(&mut self, name: &str, serial: u64, spec: &AttachmentSpec, order: VolumeOrder) {
        debug_assert_eq!(name, order.name);
        self.note_order(&order);
        match &spec.birth {
            Some(birth) if birth.create_register => {
                let site = birth_site(spec, &birth.active_site).unwrap_or(order.attach.site);
                let teller = self.teller.clone();
                self.runtime.spawn(async move {
                    let volumes = vec![order.volume];
                    match ensure_register(&order, volumes, site).await {
                        Ok(()) => teller.tell(Told::Ready {
                            serial,
                            order: Box::new(order),
                        }),
                        Err(text) => {
                            let ending = Ending::Failed {
                                word: reason::WITNESS_NEEDED,
                                text,
                            };
                            (order.report)(VolumeEvent::Ended(ending));
                        }
                    }
                });
            }
            Some(_) | None => self.ready(serial, order),
        }
    }

    /// Hands an order to the data path, if it is still wanted.
    pub(super) fn ready(&mut self, serial: u64, order: VolumeOrder) {
        let name = order.name.clone();
        let Some(volume) = self
            .volumes
            .get_mut(&name)
            .filter(|volume| volume.serial == serial)
        else {
            return;
        };
        let opening = self
            .observed
            .volumes
            .get(&name)
            .is_some_and(|seen| seen.phase == Phase::Opening);
        if opening {
            volume.handle = Some(self.opener.open(order));
        }
    }

    /// Where events of an opening go.
    pub(super) fn report(&self, name: String, serial: u64) -> Report {
        let teller = self.teller.clone();
        Arc::new(move |event| {
            teller.tell(Told::Volume {
                name: name.clone(),
                serial,
                event,
            })
        })
    }

    /// Everything that the data path needs to open a volume.
    pub(super) fn order(
        &self,
        (name, serial): (&str, u64),
        uid: &str,
        spec: &AttachmentSpec,
        report: Report,
    ) -> Result<VolumeOrder, Fault> {
        let pending = |text: String| Fault {
            word: reason::PENDING,
            text,
        };
        let objects = &self.desired.objects;
        let pair = objects.pairs.get(&spec.site_pair);
        let pair =
            pair.ok_or_else(|| pending(format!("SitePair {} is not there", spec.site_pair)))?;
        let witness = self.witnesses.handle(&spec.site_pair).map_err(&pending)?;
        if let Some(state) = self.witnesses.states().get(&spec.site_pair) {
            if let Some(why) = &state.claim_error {
                return Err(Fault {
                    word: reason::CLAIMED_BY_ANOTHER,
                    text: why.clone(),
                });
            }
            check_indices(spec, &state.sites)?;
        }
        let uid = order::uid(uid);
        let mut record = self
            .records
            .load(uid)
            .map_err(|error| pending(error.to_string()))?;
        if record.n.is_none() && record.keys.is_empty() {
            // The state folder is new, but the object says that it was attached before.
            let status = objects
                .attachments
                .get(name)
                .and_then(|object| object.status.as_ref());
            record.n = status.and_then(|status| status.order);
        }
        let marks = self
            .marks
            .of(order::group(spec))
            .map_err(|error| pending(format!("the marks cannot be read: {error}")))?;
        let local = Local {
            node: self.config.node.clone(),
            record,
            marks,
            shown: false,
        };
        let prepared = order::prepare(spec, pair, objects, local)?;
        Ok(VolumeOrder {
            name: name.to_owned(),
            reference: spec.display_name(),
            mode: spec.mode,
            volume: prepared.volume,
            group: prepared.group,
            legs: prepared.legs,
            attach: Box::new(prepared.attach),
            size: spec.size.bytes(),
            front_end: if spec.mode == AttachmentMode::Writer {
                spec.front_end
            } else {
                twinsite_api::FrontEnd::None
            },
            reseed: prepared.reseed,
            force: prepared.force,
            witness: witness.observed_by(observer(
                &self.marks,
                &self.teller,
                Some((name.to_owned(), serial)),
            )),
            records: self.records.clone(),
            runtime: self.runtime.clone(),
            report,
        })
    }

    /// A volume has ended.
    pub(super) fn ended(&mut self, name: &str, ending: Ending) {
        let at = self.now();
        if let Some(seen) = self.observed.volumes.get_mut(name) {
            seen.phase = Phase::Over {
                how: how(&ending),
                at,
            };
            self.verifies.detached(seen.spec.volume);
        }
        self.note_verify(name);
        if let Some(volume) = self.volumes.get_mut(name) {
            volume.view.ending = Some(ending);
            volume.view.device = None;
            volume.handle = None;
        }
    }
}

/// What an action on a leg was.
enum Change {
    Served,
    Grown,
    Access,
}

/// Whether an end is for ever.
fn how(ending: &Ending) -> Over {
    use twinsite_mirror::status::Refusal;
    match ending {
        Ending::Detached => Over::Detached,
        Ending::Done => Over::Done,
        Ending::Superseded | Ending::Refused(Refusal::OrderStale | Refusal::Deleted) => Over::Never,
        Ending::Refused(_) => Over::Refused,
        Ending::Failed { word, .. } if *word == reason::FOREIGN_DATA => Over::Never,
        Ending::Failed { word, .. } if *word == reason::PENDING => Over::Waiting,
        Ending::Failed { .. } => Over::Failed,
    }
}

/// The indices that an order gives to the sites are those that the witness gave them: legs that are
/// taken for each other would be fenced and overwritten in each other's name.
fn check_indices(spec: &AttachmentSpec, sites: &Sites) -> Result<(), Fault> {
    for named in &spec.legs {
        let claimed = sites
            .named(&named.site)
            .map(|claim| order::leg_index(claim.index.leg()));
        if let Some(claimed) = claimed.filter(|claimed| *claimed != named.leg) {
            let text = format!(
                "leg {} is said to stand at {}, but the witness gave that site index {claimed}: correct spec.legs",
                named.leg, named.site
            );
            return Err(Fault {
                word: reason::INVALID_SPEC,
                text,
            });
        }
    }
    Ok(())
}

/// Where a volume is active when it is born.
pub(super) fn birth_site(spec: &AttachmentSpec, name: &str) -> Option<Site> {
    let leg = spec.legs.iter().find(|leg| leg.site == name)?;
    Some(order::leg(leg.leg).site())
}

/// Create-if-absent of the register of a volume that is to be born.
pub(super) async fn ensure_register(
    order: &VolumeOrder,
    volumes: Vec<twinsite_register::VolumeId>,
    site: Site,
) -> Result<(), String> {
    let witness: &WitnessHandle = &order.witness;
    let found = witness
        .witness()
        .read(order.group)
        .await
        .map_err(|error| error.to_string())?;
    if found.is_some() {
        return Ok(());
    }
    let text = |error: std::io::Error| error.to_string();
    let create = Create {
        register_id: RegisterId(durable::random().map_err(text)?),
        group: GroupId(order.group.0),
        volumes,
        generation: Gen(durable::random().map_err(text)?),
        site,
        txid: TxId(durable::random().map_err(text)?),
    };
    let new = Register::create(create).map_err(|error| error.to_string())?;
    match witness.witness().create(&new).await {
        Swap::Won | Swap::Conflict(Some(_)) => Ok(()),
        Swap::Conflict(None) => Err("the register came and went: it is tried again".to_owned()),
        Swap::Unknown(what) => Err(format!("{what}: it is tried again")),
    }
}

/// For messages.
pub(super) fn leg_name(leg: Leg) -> &'static str {
    match leg {
        Leg::A => "A",
        Leg::B => "B",
    }
}

//! Hears what the data path and the witness tell, and writes it down.

use twinsite_api::{AttachmentMode, AttachmentSpec, Device, FrontEnd};
use twinsite_mirror::io::ControlError;
use twinsite_register::Register;

use super::{
    log,
    node::{Node, Told, wall},
    reconcile::{OrderSeen, Phase},
    requests::Answer,
    volumes::VolumeEvent,
};

impl Node {
    pub(super) fn hear(&mut self, told: Told) {
        match told {
            Told::Volume {
                name,
                serial,
                event,
            } => self.hear_volume(&name, serial, event),
            Told::Ready { serial, order } => self.ready(serial, *order),
            Told::ReadyGroup { orders } => self.ready_group(orders),
            Told::Register { register, by } => {
                if let Some((name, serial)) = by {
                    self.stamp(&name, serial, &register);
                    // One of the volumes of a group asks for all.
                    for (name, serial) in self.others_of(&name) {
                        self.stamp(&name, serial, &register);
                    }
                }
                self.registers.insert(register.group, (*register, wall()));
            }
            Told::Samples { legs, pools } => {
                for (name, sample) in legs {
                    if let Some(view) = self.legs.get_mut(&name) {
                        view.sample = sample;
                    }
                }
                for (name, space) in pools {
                    if let Some(view) = self.pools.get_mut(&name) {
                        view.space = space;
                    }
                }
            }
            Told::Asked(request, reply) => self.answer(request, reply),
            Told::Changed => {}
            Told::Look(number) => {
                self.look();
                self.looked = self.looked.max(number);
            }
        }
    }

    /// The other volumes of the group of this one, with their openings.
    fn others_of(&self, name: &str) -> Vec<(String, u64)> {
        let seen = &self.observed.volumes;
        let Some(spec) = seen.get(name).map(|seen| &seen.spec) else {
            return Vec::new();
        };
        let same = |other: &AttachmentSpec| {
            spec.group.is_some() && other.group == spec.group && other.mode == spec.mode
        };
        let others = seen
            .iter()
            .filter(|(other, seen)| *other != name && same(&seen.spec));
        others
            .filter_map(|(other, _)| Some((other.clone(), self.volumes.get(other)?.serial)))
            .collect()
    }

    fn hear_volume(&mut self, name: &str, serial: u64, event: VolumeEvent) {
        if self
            .inspections
            .get(name)
            .is_some_and(|inspection| inspection.serial == serial)
        {
            return self.hear_inspection(name, event);
        }
        let now = self.now();
        let Some(volume) = self
            .volumes
            .get_mut(name)
            .filter(|volume| volume.serial == serial)
        else {
            return;
        };
        let Some(seen) = self.observed.volumes.get_mut(name) else {
            return;
        };
        let view = &mut volume.view;
        match event {
            VolumeEvent::Status(status) => {
                if seen.phase == Phase::Open && is_bare(&seen.spec) {
                    seen.size = Some(status.size);
                }
                if let Some(verify) = &status.verify {
                    self.verifies.heard(seen.spec.volume, verify, &wall());
                }
                view.engine = Some(status);
                self.note_verify(name);
            }
            VolumeEvent::Path { leg, trouble } => view.trouble[leg.index()] = trouble,
            VolumeEvent::Shown {
                path,
                size,
                front_end,
                format,
            } => {
                tracing::info!(attachment = name, device = %path.display(), size, "the device is there");
                let (major, minor) = device_numbers(&path);
                let path = path.display().to_string();
                view.device = Some(Device {
                    path,
                    major,
                    minor,
                    size,
                    front_end,
                });
                view.format = Some(format);
                view.timings.served_at.get_or_insert_with(wall);
                seen.size = Some(size);
                if seen.phase == Phase::Opening {
                    seen.phase = Phase::Open;
                }
            }
            VolumeEvent::Resized { size } => {
                tracing::info!(attachment = name, size, "the device has grown");
                seen.size = Some(size);
                if let Some(device) = &mut view.device {
                    device.size = size;
                }
            }
            VolumeEvent::Hidden => view.device = None,
            VolumeEvent::Serving => {
                if is_bare(&seen.spec) && seen.phase == Phase::Opening {
                    seen.phase = Phase::Open;
                    seen.size = view.engine.as_ref().map(|engine| engine.size);
                    view.timings.served_at.get_or_insert_with(wall);
                }
            }
            VolumeEvent::FirstWrite => {
                view.timings.first_write_at.get_or_insert_with(wall);
            }
            VolumeEvent::Told(event) => log::event(name, &event),
            VolumeEvent::OrderDone(result) if self.verifies.is_asked(seen.spec.volume) => {
                self.verifies.answered(seen.spec.volume, result.is_ok());
                let answer = match result {
                    Ok(()) => Answer::ok(serde_json::json!({ "attachment": name })),
                    Err(error) => Answer::error(error.to_string()),
                };
                seen.order = if answer.ok {
                    OrderSeen::None
                } else {
                    OrderSeen::FailedAt(now)
                };
                if let Some(waiting) = volume.reply.take() {
                    // Whoever asked may have gone.
                    let _gone = waiting.send(answer);
                }
                self.note_verify(name);
            }
            VolumeEvent::OrderDone(result) => {
                if let Err(error) = &result {
                    tracing::warn!(attachment = name, %error, "the order was not carried out");
                }
                view.waits_for_leg = result == Err(ControlError::WaitingForLeg);
                view.order_error = result.as_ref().err().map(ToString::to_string);
                seen.order = match &result {
                    Ok(()) => OrderSeen::None,
                    Err(_) => OrderSeen::FailedAt(now),
                };
                reply(
                    volume.reply.take(),
                    result.map_err(|error| error.to_string()),
                );
            }
            VolumeEvent::FormatRecorded(result) => {
                seen.order = OrderSeen::None;
                let asked = volume.format.take();
                if result.is_ok() && asked.is_some() {
                    view.format = asked;
                }
                reply(
                    volume.reply.take(),
                    result.map_err(|error| error.to_string()),
                );
            }
            VolumeEvent::Inspected(report) => view.inspect = Some(*report),
            VolumeEvent::Ended(ending) => {
                log::ended(name, &ending);
                reply(volume.reply.take(), Err("the volume has ended".to_owned()));
                self.ended(name, ending);
            }
        }
    }

    /// When an attach came to the steps that a move is measured by. The last register that it reads
    /// before it writes is the one that it reads under its fences (protocol 2.7 step 3).
    fn stamp(&mut self, name: &str, serial: u64, register: &Register) {
        let opening = self
            .observed
            .volumes
            .get(name)
            .is_some_and(|seen| seen.phase == Phase::Opening);
        let Some(volume) = self
            .volumes
            .get_mut(name)
            .filter(|volume| volume.serial == serial && opening)
        else {
            return;
        };
        let view = &mut volume.view;
        if view.timings.promoted_at.is_some() {
            return;
        }
        if register.holder.map(|key| key.to_string()) == view.key {
            view.timings.promoted_at = Some(wall());
            view.order = Some(register.order.n);
        } else {
            view.timings.fenced_at = Some(wall());
        }
    }

    fn hear_inspection(&mut self, name: &str, event: VolumeEvent) {
        let Some(inspection) = self.inspections.get_mut(name) else {
            return;
        };
        match event {
            VolumeEvent::Inspected(report) => {
                inspection.report = serde_json::to_value(*report).ok()
            }
            VolumeEvent::Ended(ending) => {
                let (report, waiting) = (inspection.report.take(), inspection.reply.take());
                self.inspections.remove(name);
                if let Some(waiting) = waiting {
                    let answer = match report {
                        Some(report) => Answer::ok(report),
                        None => Answer::error(format!("no report: {}", log::why(&ending))),
                    };
                    // Whoever asked may have gone.
                    let _gone = waiting.send(answer);
                }
            }
            _ => {}
        }
    }
}

/// Whether it is open although it has no device.
fn is_bare(spec: &AttachmentSpec) -> bool {
    spec.mode == AttachmentMode::Caretaker || spec.front_end == FrontEnd::None
}

fn reply(waiting: Option<tokio::sync::oneshot::Sender<Answer>>, result: Result<(), String>) {
    let Some(waiting) = waiting else { return };
    let answer = match result {
        Ok(()) => Answer::ok(serde_json::Value::Null),
        Err(text) => Answer::error(text),
    };
    // Whoever asked may have gone.
    let _gone = waiting.send(answer);
}

fn device_numbers(path: &std::path::Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    match std::fs::metadata(path) {
        Ok(meta) => (libc::major(meta.rdev()), libc::minor(meta.rdev())),
        Err(_) => (0, 0),
    }
}

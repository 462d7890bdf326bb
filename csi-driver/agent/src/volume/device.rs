//! The device of a volume: shown when the engine says so, its requests taken, gone before the volume ends.
//!
//! Invariants: one device at a time; a new one is shown only once the old one is gone.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use twinsite_api::FrontEnd;
use twinsite_mirror::io::{DeviceInfo, Input, RemoveWhy};

use super::actor::{Letter, TOKEN_DEVICE, Volume};
use super::requests::Origin;
use crate::control::volumes::{Ending, VolumeEvent};
use crate::frontend::{DeviceSpec, Events, FrontendEvent, GuestRequest, Removal};
use crate::reactor::Context;

/// Requests taken from the device before others get their turn.
const TAKE: usize = 64;

impl Volume {
    /// Takes what waits at the device.
    pub(super) fn take(&mut self, cx: &mut Context<'_>) {
        let Some(device) = &mut self.device else {
            return;
        };
        let mut taken = std::mem::take(&mut self.taken);
        let ended = device.take(TAKE, &mut taken).is_err();
        for GuestRequest { id, op } in taken.drain(..) {
            self.begin(cx, Origin::Device(id), op);
        }
        self.taken = taken;
        if ended {
            tracing::error!(volume = %self.parts.name, "the device was taken away: detaching");
            self.device_gone(cx);
            self.input(cx, Input::Detach);
        }
    }

    pub(super) fn wait_for_device(&mut self, cx: &mut Context<'_>) {
        let descriptor = self.device.as_ref().and_then(|device| device.descriptor());
        if self.device_wait.is_none()
            && let Some(descriptor) = descriptor
        {
            self.device_wait = Some(cx.readable(&descriptor, TOKEN_DEVICE));
        }
    }

    pub(super) fn show(&mut self, cx: &mut Context<'_>, info: DeviceInfo) {
        if info.continued && self.device.is_some() {
            return;
        }
        self.ordered = Some(info);
        if self.device.is_some() {
            // Two devices of one name would share a mount point: the old one has to be gone first.
            self.show_when_gone = true;
            return self.take_device_down(cx, Removal::Abort);
        }
        let post = self.poster();
        let events: Events = Arc::new(move |event| post(Letter::Device(event)));
        let spec = DeviceSpec {
            name: self.parts.name.clone(),
            size: info.size,
            discard_granularity: info.discard_granularity,
        };
        match self.parts.device.show(&spec, events) {
            Ok(Some(device)) => {
                self.device = Some(device);
                self.wait_for_device(cx);
            }
            Ok(None) => self.shown(String::new().into(), FrontEnd::None),
            Err(error) => self.show_failed(cx, &error),
        }
    }

    fn shown(&mut self, path: PathBuf, front_end: FrontEnd) {
        if let Some(info) = &self.ordered {
            self.tell(VolumeEvent::Shown {
                path,
                size: info.size,
                front_end,
                format: info.format,
            });
        }
    }

    fn show_failed(&mut self, cx: &mut Context<'_>, error: &dyn Error) {
        let mut text = error.to_string();
        if let Some(source) = error.source() {
            text = format!("{text}: {source}");
        }
        tracing::error!(volume = %self.parts.name, error = text, "cannot show the device");
        let word = "DeviceFailed";
        if self.ending.is_none() {
            self.ending = Some(Ending::Failed { word, text });
        }
        self.take_device_down(cx, Removal::Abort);
        self.input(cx, Input::Detach);
    }

    pub(super) fn remove_device(&mut self, cx: &mut Context<'_>, why: RemoveWhy) {
        self.show_when_gone = false;
        let how = match why {
            RemoveWhy::Detached => Removal::Orderly,
            RemoveWhy::Superseded | RemoveWhy::NotContinued | RemoveWhy::Deleted => Removal::Abort,
        };
        self.take_device_down(cx, how);
    }

    pub(super) fn take_device_down(&mut self, cx: &mut Context<'_>, how: Removal) {
        let Some(device) = &mut self.device else {
            return;
        };
        device.remove(how);
        if how == Removal::Abort
            && let Some(wait) = self.device_wait.take()
        {
            cx.cancel(wait);
        }
    }

    fn device_gone(&mut self, cx: &mut Context<'_>) {
        if self.device.take().is_some() {
            self.tell(VolumeEvent::Hidden);
        }
        let ordered = self.ordered.filter(|_| self.ending.is_none());
        if std::mem::take(&mut self.show_when_gone)
            && let Some(info) = ordered
        {
            self.show(cx, info);
        }
    }

    pub(super) fn device_event(&mut self, cx: &mut Context<'_>, event: FrontendEvent) {
        match event {
            FrontendEvent::Shown { path } => {
                if let Some(kind) = self.device.as_ref().map(|device| device.kind()) {
                    self.shown(path, kind);
                }
            }
            FrontendEvent::ShowFailed(error) => self.show_failed(cx, &error),
            FrontendEvent::Resized { size } => self.tell(VolumeEvent::Resized { size }),
            FrontendEvent::ResizeFailed(error) => {
                tracing::error!(volume = %self.parts.name, %error, "cannot resize the device");
            }
            FrontendEvent::Gone => self.device_gone(cx),
        }
    }
}

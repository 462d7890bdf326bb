//! The actor that owns a volume: engine, legs, device and buffers, on one data thread.
//!
//! ```text
//!  device, callers --> requests --> engine --> links --> legs
//!                                    |  ^
//!                                    v  +--- answers of the witness, saved records, time
//!                                 witness, records, report
//! ```
//! One turn: whatever happened is noted by its part; [`Volume::pump`] then lets the engine take all of it in and
//! carries its outputs out until nobody has anything left to say; what is to be sent leaves at the end of the turn.
//!
//! Invariants: an output of the engine is never dropped; answers of the witness may be (as if the network had lost
//! them); after `Ended` was reported nothing follows but the release of the register, which goes on by itself.

use std::time::Duration;

use tokio::runtime::Handle;
use twinsite_mirror::io::{
    BeatObject, CasResult, ControlError, DeviceInfo, Format, FsType, Input, Leg, LegDown, LegError,
    Output, RegisterError, RegisterId, VerifyOrder, VolumeId,
};
use twinsite_mirror::status::{self, StateName};
use twinsite_register::{GroupId, Register};
use twinsite_witness::WitnessHandle;

use super::DeviceChoice;
use super::drive::{Drive, Finished, Workload};
use super::machine::Machine;
use super::requests::{Answer, Origin, Requests};
use crate::control::records::Records;
use crate::control::volumes::{Ending, Report, VolumeEvent};
use crate::frontend::{
    Frontend, FrontendEvent, GuestErrno, GuestOp, GuestReply, GuestRequest, Removal,
};
use crate::initiator::{LegSpec, Link, LinkEvent};
use crate::reactor::{Actor, Alarm, Context, Event, Inlet, Mailbox, OpId, Token};

/// The upper 16 bits of a token; 0 to 3 are the sessions of the links.
const TOKEN_ALARM: Token = Token(16 << 48);
pub(super) const TOKEN_DEVICE: Token = Token(17 << 48);
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// What comes from other threads.
pub(super) enum Letter {
    Detach,
    DropLeg(Leg),
    Expand {
        size: u64,
    },
    SetFormat {
        format: Format,
        fs_type: FsType,
    },
    Verify(VerifyOrder),
    Readdress {
        leg: Leg,
        spec: Box<LegSpec>,
    },
    Guest {
        op: GuestOp,
        answer: Answer,
    },
    Drive(Workload, Finished),
    Device(FrontendEvent),
    RegisterRead(RegisterId, Result<Option<Box<Register>>, RegisterError>),
    RegisterCas(RegisterId, CasResult),
    Beat(Result<Option<BeatObject>, RegisterError>),
    RecordSaved,
    /// Another volume of the group left something to do.
    Wake,
}

/// What the actor is made of.
pub(super) struct Parts {
    pub name: String,
    pub volume: VolumeId,
    pub group: GroupId,
    pub machine: Machine,
    pub links: [Option<Link>; 2],
    pub device: DeviceChoice,
    pub witness: WitnessHandle,
    pub records: Records,
    pub runtime: Handle,
    pub report: Report,
    pub mailbox: Mailbox<Letter>,
    pub inlet: Inlet<Letter>,
}

pub(super) struct Volume {
    pub(super) parts: Parts,
    requests: Requests,
    pub(super) taken: Vec<GuestRequest>,
    drive: Option<Drive>,
    pub(super) device: Option<Box<dyn Frontend>>,
    pub(super) device_wait: Option<OpId>,
    /// The device, as it was ordered; told when it is there.
    pub(super) ordered: Option<DeviceInfo>,
    pub(super) show_when_gone: bool,
    alarm: Alarm,
    status_at: Duration,
    status_due: bool,
    serving: bool,
    written: bool,
    pub(super) ending: Option<Ending>,
    ended: bool,
}

impl Volume {
    pub(super) fn new(cx: &mut Context<'_>, parts: Parts) -> Self {
        Self {
            parts,
            requests: Requests::default(),
            taken: Vec::new(),
            drive: None,
            device: None,
            device_wait: None,
            ordered: None,
            show_when_gone: false,
            alarm: Alarm::default(),
            status_at: cx.now(),
            status_due: true,
            serving: false,
            written: false,
            ending: None,
            ended: false,
        }
    }

    /// A leg is reached otherwise, or for the first time: the engine hears of it when it is up.
    fn readdress(&mut self, cx: &mut Context<'_>, leg: Leg, spec: LegSpec) {
        if self.ending.is_some() || self.ended {
            return;
        }
        match self.link(leg) {
            Some(link) => link.readdress(spec),
            None => {
                let mut link = link_of(leg, spec);
                link.connect(cx);
                self.parts.links[leg.index()] = Some(link);
            }
        }
    }

    pub(super) fn tell(&self, event: VolumeEvent) {
        if !self.ended {
            (self.parts.report)(event);
        }
    }

    pub(super) fn input(&mut self, cx: &mut Context<'_>, input: Input) {
        self.parts.machine.handle(cx.now(), input);
        while let Some(output) = self.parts.machine.poll() {
            self.carry_out(cx, output);
        }
    }

    /// Lets the engine take in what the links have to say, until there is nothing more.
    fn pump(&mut self, cx: &mut Context<'_>) {
        for leg in Leg::BOTH {
            while let Some(event) = self.link(leg).and_then(Link::poll) {
                let input = match event {
                    LinkEvent::Up(info) => Input::LegUp { leg, info },
                    LinkEvent::Down(why) => Input::LegDown { leg, why },
                    LinkEvent::Done {
                        cmd,
                        result,
                        arrived,
                    } => {
                        if let Some(arrived) = arrived {
                            self.requests.arrived(arrived);
                        }
                        Input::LegDone { leg, cmd, result }
                    }
                };
                self.input(cx, input);
            }
        }
    }

    fn quiet(&self) -> bool {
        let links = !self.parts.links.iter().flatten().any(Link::has_events);
        links && !self.drive.as_ref().is_some_and(Drive::is_ready)
    }

    fn link(&mut self, leg: Leg) -> Option<&mut Link> {
        self.parts.links[leg.index()].as_mut()
    }

    fn carry_out(&mut self, cx: &mut Context<'_>, output: Output) {
        match output {
            Output::Leg { leg, cmd, op, lane } => {
                let payload = self.requests.payload(&op);
                match (self.link(leg), payload) {
                    (Some(link), Some(payload)) => link.submit(cx.now(), cmd, op, lane, payload),
                    (_, payload) => {
                        if payload.is_none() {
                            tracing::error!(?op, "the mirror writes bytes that nobody has");
                        }
                        let result = Err(LegError::SessionGone);
                        self.input(cx, Input::LegDone { leg, cmd, result });
                    }
                }
            }
            Output::GuestDone { id, result } => {
                if let Some((origin, reply)) = self.requests.end(id, result) {
                    self.answer(origin, reply);
                }
            }
            Output::CopyFree { copy } => self.requests.free(copy),
            Output::Connect { leg } => match self.link(leg) {
                Some(link) => link.connect(cx),
                None => {
                    let why = LegDown::Unreachable;
                    self.input(cx, Input::LegDown { leg, why });
                }
            },
            Output::Disconnect { leg } => {
                if let Some(link) = self.link(leg) {
                    link.disconnect(cx);
                }
            }
            Output::ReadRegister { id } => self.read_register(id),
            Output::CasRegister { id, expected, new } => self.swap_register(id, *expected, *new),
            Output::ReadBeat => self.read_beat(),
            Output::WriteBeat(beat) => self.parts.witness.write_beat(self.parts.volume, beat),
            Output::SaveRecord(record) => {
                let saved = self.poster();
                let runtime = &self.parts.runtime;
                let reply = move || saved(Letter::RecordSaved);
                self.parts.records.save_apart(runtime, record, reply);
            }
            Output::ShowDevice(info) => self.show(cx, info),
            Output::RemoveDevice { why } => self.remove_device(cx, why),
            Output::Resize { size } => match &mut self.device {
                Some(device) => device.resize(size),
                None => self.tell(VolumeEvent::Resized { size }),
            },
            Output::FormatRecorded { result } => self.tell(VolumeEvent::FormatRecorded(result)),
            Output::OrderDone { result } => self.tell(VolumeEvent::OrderDone(result)),
            Output::Refused(why) => self.end(cx, Ending::Refused(why)),
            Output::Detached => self.end(cx, Ending::Detached),
            Output::Event(event) => self.happened(cx, event),
        }
    }

    fn happened(&mut self, cx: &mut Context<'_>, event: status::Event) {
        self.tell(VolumeEvent::Told(event));
        match event {
            status::Event::State { to, .. } => {
                self.status_due = true;
                if matches!(to, StateName::Synced | StateName::Solo) && !self.serving {
                    self.serving = true;
                    self.tell(VolumeEvent::Serving);
                }
            }
            status::Event::Superseded => self.end(cx, Ending::Superseded),
            _ => {}
        }
    }

    /// Notes how the volume ends; told when the device is gone.
    fn end(&mut self, cx: &mut Context<'_>, ending: Ending) {
        if self.ending.is_none() {
            self.ending = Some(ending);
        }
        if self.device.is_some() {
            self.take_device_down(cx, Removal::Abort);
        }
        self.status_due = true;
    }

    fn answer(&mut self, origin: Origin, reply: Result<GuestReply, GuestErrno>) {
        if !self.written && matches!(reply, Ok(GuestReply::Wrote(_))) {
            self.written = true;
            self.tell(VolumeEvent::FirstWrite);
        }
        match origin {
            Origin::Device(id) => {
                if let Some(device) = &mut self.device {
                    device.complete(id, reply);
                }
            }
            Origin::Caller(answer) => answer(reply),
            Origin::Drive(slot) => {
                let good = reply.is_ok();
                if self
                    .drive
                    .as_mut()
                    .is_some_and(|drive| drive.ended(slot, good))
                {
                    self.drive = None;
                }
            }
        }
    }

    pub(super) fn begin(&mut self, cx: &mut Context<'_>, origin: Origin, op: GuestOp) {
        let (id, op) = self.requests.begin(origin, op);
        self.input(cx, Input::Guest { id, op });
    }

    /// A way to this actor's inbox. What does not fit or comes too late is lost, as on a network.
    pub(super) fn poster(&self) -> impl Fn(Letter) + Send + Sync + use<> {
        let mailbox = self.parts.mailbox.clone();
        move |letter| {
            if mailbox.post(letter).is_err() {
                tracing::debug!("a letter to a volume that is gone or drowned in letters");
            }
        }
    }

    fn open_letter(&mut self, cx: &mut Context<'_>, letter: Letter) {
        let input = match letter {
            Letter::Detach => Input::Detach,
            Letter::DropLeg(leg) => Input::DropLeg(leg),
            Letter::Expand { size } => Input::Expand { size },
            Letter::Verify(order) => Input::Verify(order),
            Letter::SetFormat { format, fs_type } => Input::SetFormat { format, fs_type },
            Letter::Readdress { leg, spec } => return self.readdress(cx, leg, *spec),
            Letter::Guest { op, answer } if self.ending.is_none() => {
                return self.begin(cx, Origin::Caller(answer), op);
            }
            Letter::Guest { answer, .. } => return answer(Err(GuestErrno::Io)),
            Letter::Drive(work, finished) => {
                self.drive = Some(Drive::new(work, finished));
                return;
            }
            Letter::Device(event) => return self.device_event(cx, event),
            Letter::RegisterRead(id, result) => Input::RegisterRead { id, result },
            Letter::RegisterCas(id, result) => Input::RegisterCas { id, result },
            Letter::Beat(result) => Input::BeatObject { result },
            Letter::RecordSaved => Input::RecordSaved,
            // What there is to do is fetched at the end of the turn.
            Letter::Wake => return,
        };
        if self.ending.is_some() && self.refuse(&input) {
            return;
        }
        self.input(cx, input);
    }

    /// Orders to a volume that has ended are answered, if they have an answer.
    fn refuse(&self, input: &Input) -> bool {
        match input {
            Input::DropLeg(_) | Input::Expand { .. } | Input::Verify(_) => {
                self.tell(VolumeEvent::OrderDone(Err(ControlError::NotAttached)));
                true
            }
            Input::Detach => true,
            _ => false,
        }
    }

    fn report_status(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        for leg in Leg::BOTH {
            if let Some(trouble) = self.link(leg).and_then(Link::news) {
                self.tell(VolumeEvent::Path { leg, trouble });
            }
        }
        if !self.status_due && now < self.status_at {
            return;
        }
        self.status_due = false;
        self.status_at = now + STATUS_INTERVAL;
        if let Some(status) = self.parts.machine.status(now) {
            self.tell(VolumeEvent::Status(Box::new(status)));
        }
    }

    /// Tells the end once the device is gone, and leaves when the register is released.
    fn close(&mut self, cx: &mut Context<'_>) {
        if self.device.is_some() {
            return;
        }
        if !self.ended
            && let Some(ending) = self.ending.take()
        {
            for origin in self.requests.drain() {
                self.answer(origin, Err(GuestErrno::Io));
            }
            self.tell(VolumeEvent::Ended(ending.clone()));
            self.ended = true;
            self.ending = Some(ending);
        }
        if self.ended && self.parts.machine.deadline().is_none() {
            for leg in Leg::BOTH {
                if let Some(link) = self.link(leg) {
                    link.disconnect(cx);
                }
            }
            cx.finish();
        }
    }
}

/// A link by a leg's own tokens.
pub(super) fn link_of(leg: Leg, spec: LegSpec) -> Link {
    Link::new(spec, if leg == Leg::A { 0 } else { 2 })
}

impl Actor for Volume {
    fn handle(&mut self, cx: &mut Context<'_>, token: Token, event: Event) {
        match token {
            TOKEN_ALARM => {
                self.alarm.fired();
                for leg in Leg::BOTH {
                    if let Some(link) = self.link(leg) {
                        link.tick(cx);
                    }
                }
                let due = self.parts.machine.deadline();
                if due.is_some_and(|at| at <= cx.now()) {
                    self.input(cx, Input::Tick);
                }
            }
            TOKEN_DEVICE => {
                self.device_wait = None;
                self.take(cx);
                self.wait_for_device(cx);
            }
            token => {
                let base = (token.0 >> 48) as usize;
                if let Some(Some(link)) = self.parts.links.get_mut(base / 2) {
                    link.handle(cx, base % 2, token, event);
                }
            }
        }
    }

    fn mail(&mut self, cx: &mut Context<'_>) {
        while let Some(letter) = self.parts.inlet.take() {
            self.open_letter(cx, letter);
        }
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        self.parts.machine.start(cx.now());
        while let Some(output) = self.parts.machine.poll() {
            self.carry_out(cx, output);
        }
        loop {
            self.pump(cx);
            while let Some((slot, op)) = self.drive.as_mut().and_then(Drive::next) {
                self.begin(cx, Origin::Drive(slot), op);
            }
            if self.quiet() {
                break;
            }
        }
        for link in self.parts.links.iter_mut().flatten() {
            link.settle(cx);
        }
        if self.ending.is_none()
            && let Some((found, ending)) = self.parts.machine.end()
        {
            found.into_iter().for_each(|event| self.tell(event));
            self.end(cx, ending);
        }
        self.report_status(cx);
        self.close(cx);
        let links = self.parts.links.iter().flatten().filter_map(Link::deadline);
        let machine = self.parts.machine.deadline();
        let status = (!self.ended).then_some(self.status_at);
        let next = links.chain(machine).chain(status).min();
        self.alarm.set(cx, TOKEN_ALARM, next);
    }

    fn stop(&mut self, cx: &mut Context<'_>) {
        // The process ends: clean if there is time for it.
        if self.ending.is_none() {
            self.input(cx, Input::Detach);
        }
    }
}

//! A target session driven by hand-made PDUs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::*;
use super::pair::*;
use crate::wire::frame::{Framer, Framing, Pdu};
use crate::wire::login::{LoginRequest, Stage, Transit};
use crate::wire::scsi_command::ScsiCommand;
use crate::wire::{Header, opcode_of};

pub(super) const NOW: Duration = Duration::from_secs(5);

pub(super) struct Raw {
    pub(super) session: TargetSession,
    framer: Framer,
    pub(super) cmd_sn: u32,
    pub(super) events: Vec<TargetEvent>,
    pub(super) error: Option<SessionError>,
}

pub(super) fn transit(current: Stage, next: Option<Stage>) -> Transit {
    Transit {
        more: false,
        current,
        next,
    }
}

pub(super) fn login_request(transit: Transit) -> LoginRequest {
    LoginRequest {
        transit,
        version_max: 0,
        version_min: 0,
        isid: [0x80, 9, 9, 9, 9, 9],
        tsih: 0,
        itt: 1,
        cid: 4,
        cmd_sn: 100,
        exp_stat_sn: 0,
    }
}

pub(super) fn names() -> String {
    format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0SessionType=Normal\0")
}

impl Raw {
    pub(super) fn new(config: TargetConfig) -> Self {
        Self {
            session: TargetSession::new(Arc::new(config), seed(), NOW),
            framer: Framer::new(Framing {
                max_segment: 1 << 20,
                max_ahs: 0,
                header_digest: false,
                data_digest: false,
            }),
            cmd_sn: 100,
            events: Vec::new(),
            error: None,
        }
    }

    /// Logged in with these keys beside the names.
    pub(super) fn logged_in(config: TargetConfig, keys: &str) -> Self {
        let mut raw = Self::new(config);
        let request = login_request(transit(Stage::Operational, Some(Stage::FullFeature)));
        let text = names() + keys;
        raw.send(&request.emit(text.len() as u32), text.as_bytes());
        assert!(
            matches!(raw.events[..], [TargetEvent::LoginReady(_)]),
            "{:?}",
            raw.events
        );
        raw.events.clear();
        raw.session.accept_login(NOW);
        let answers = raw.answers();
        assert_eq!((answers.len(), answers[0].header[36]), (1, 0));
        raw
    }

    pub(super) fn send(&mut self, header: &Header, data: &[u8]) {
        let mut wire = header.to_vec();
        wire.extend(data);
        wire.resize(wire.len().next_multiple_of(4), 0);
        if let Err(error) = self.session.handle_bytes(NOW, Bytes::from(wire)) {
            self.error = Some(error);
        }
        while let Some(event) = self.session.poll_event() {
            self.events.push(event);
        }
    }

    pub(super) fn answers(&mut self) -> Vec<Pdu> {
        while let Some(transmit) = self.session.poll_transmit() {
            for piece in transmit.pieces {
                self.framer.push(piece);
            }
        }
        let mut answers = Vec::new();
        while let Some(pdu) = self.framer.next_pdu().unwrap() {
            answers.push(pdu);
        }
        answers
    }

    pub(super) fn opcodes(&mut self) -> Vec<u8> {
        self.answers()
            .iter()
            .map(|pdu| opcode_of(&pdu.header))
            .collect()
    }

    /// The tasks given out since the last call.
    pub(super) fn commands(&mut self) -> Vec<TargetCommand> {
        let events = std::mem::take(&mut self.events);
        events
            .into_iter()
            .filter_map(|event| match event {
                TargetEvent::Command(command) => Some(command),
                _ => None,
            })
            .collect()
    }

    /// A command with the next CmdSN.
    pub(super) fn next_command(&mut self, itt: u32) -> ScsiCommand {
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.wrapping_add(1);
        ScsiCommand {
            immediate: false,
            last: true,
            read: false,
            write: false,
            attr: crate::scsi::Attribute::Simple,
            lun: LUN,
            itt,
            expected_length: 0,
            cmd_sn,
            exp_stat_sn: 0,
            cdb: [0; 16],
        }
    }

    pub(super) fn next_write(&mut self, itt: u32, length: u32) -> ScsiCommand {
        let mut cdb = [0; 16];
        cdb[..10].copy_from_slice(rw_cdb(0x2A, 0, length as usize / BLOCK).as_bytes());
        ScsiCommand {
            write: true,
            expected_length: length,
            cdb,
            ..self.next_command(itt)
        }
    }
}

//! Logs in to a target with our initiator, writes and reads back through it, and says what happened.
//!
//! ```text
//! probe ADDRESS:PORT [IQN] [lun=1] [name=IQN] [user=NAME secret=TEXT [target-secret=TEXT]] [algorithm=5..8] [digests] [r2t]
//! ```
//! Without an IQN it lists the targets. **It overwrites the first 4 MiB of the unit.** The exit code is not zero if anything
//! is refused or differs.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use twinsite_iscsi::chap::{Algorithm, Secret};
use twinsite_iscsi::scsi::{Attribute, Cdb, Lun, Residual, ScsiOutcome, Status, TaskFunction};
use twinsite_iscsi::session::{
    ChapInitiator, Command, DataDir, DigestOffer, Initiator, InitiatorConfig, InitiatorEvent,
    InitiatorLimits, Offer, SessionKind, TaskManagement,
};

type Failure = Box<dyn std::error::Error>;

const BLOCK: usize = 512;
const PATIENCE: Duration = Duration::from_millis(200);

struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn chap(&self) -> Result<Option<ChapInitiator>, Failure> {
        let Some(user) = self.value("user") else {
            return Ok(None);
        };
        let secret = Secret::new(self.value("secret").ok_or("no secret=")?.as_bytes())?;
        let mut chap = match self.value("target-secret") {
            Some(own) => {
                ChapInitiator::mutual(user.to_owned(), secret, Secret::new(own.as_bytes())?)?
            }
            None => ChapInitiator::new(user.to_owned(), secret),
        };
        if let Some(number) = self.value("algorithm") {
            let algorithm = Algorithm::from_number(number.parse()?).ok_or("no such algorithm")?;
            chap = chap.with_algorithms(&[algorithm]);
        }
        Ok(Some(chap))
    }

    fn config(&self, iqn: Option<&str>) -> Result<InitiatorConfig, Failure> {
        let digest = if self.flag("digests") {
            DigestOffer::Require
        } else {
            DigestOffer::Never
        };
        let mut random = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
        Ok(InitiatorConfig {
            initiator_name: self
                .value("name")
                .unwrap_or("iqn.2026-01.io.twinsite:probe")
                .to_owned(),
            initiator_alias: None,
            kind: iqn.map_or(SessionKind::Discovery, |target| SessionKind::Normal {
                target: target.to_owned(),
            }),
            isid: [0x80, 0, 0, 0, 0, 9],
            chap: self.chap()?,
            offer: Offer {
                header_digest: digest,
                data_digest: digest,
                initial_r2t: self.flag("r2t"),
                immediate_data: !self.flag("r2t"),
                ..Offer::default()
            },
            limits: InitiatorLimits::default(),
            random,
        })
    }
}

struct Probe {
    initiator: Initiator,
    socket: TcpStream,
    start: Instant,
    lun: Lun,
}

impl Probe {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The next event.
    fn event(&mut self) -> Result<InitiatorEvent, Failure> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            while let Some(transmit) = self.initiator.poll_transmit() {
                for piece in transmit.pieces {
                    self.socket.write_all(&piece)?;
                }
            }
            match self.initiator.poll_event() {
                Some(InitiatorEvent::Dropped(why)) => {
                    return Err(format!("dropped: {why:?}").into());
                }
                Some(event) => return Ok(event),
                None => {}
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err("the target closed the connection".into()),
                Ok(count) => {
                    let bytes = Bytes::copy_from_slice(&buffer[..count]);
                    // An error is told by the last event, too.
                    let _ = self.initiator.handle_bytes(self.start.elapsed(), bytes);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.initiator.handle_timeout(self.start.elapsed());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn run(&mut self, cdb: &[u8], data: DataDir) -> Result<ScsiOutcome, Failure> {
        let command = Command {
            lun: self.lun,
            cdb: Cdb::new(cdb),
            data,
            attr: Attribute::Simple,
        };
        if self.initiator.submit(self.now(), 1, command).is_err() {
            return Err("the session is down".into());
        }
        loop {
            if let InitiatorEvent::Done { outcome, .. } = self.event()? {
                return Ok(outcome);
            }
        }
    }

    fn write_and_read(&mut self, blocks: u32) -> Result<(), Failure> {
        let length = blocks as usize * BLOCK;
        let data: Vec<u8> = (0..length).map(|at| (at * 7 + at / BLOCK) as u8).collect();
        let mut cdb = [0; 16];
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        cdb[0] = 0x8A;
        let written = self.run(&cdb, DataDir::Out(vec![Bytes::from(data.clone())]))?;
        cdb[0] = 0x88;
        let read = self.run(&cdb, DataDir::In(length as u32))?;
        let same = read.data_in.concat() == data;
        let whole = (written.residual, read.residual) == (Residual::None, Residual::None);
        println!(
            "{length:8} bytes: write {:?}, read {:?}, {}",
            written.status,
            read.status,
            if same { "same" } else { "DIFFERENT" }
        );
        if same && whole {
            Ok(())
        } else {
            Err(format!("{written:?}, {:?} {:?}", read.status, read.sense).into())
        }
    }

    fn exercise(&mut self) -> Result<(), Failure> {
        // Unit attentions of a new session come first.
        for _ in 0..5 {
            if self.run(&[0; 6], DataDir::None)?.status == Status::Good {
                break;
            }
        }
        let inquiry = self.run(&[0x12, 0, 0, 0, 96, 0], DataDir::In(96))?;
        let answer = inquiry.data_in.concat();
        let names = answer.get(8..32).ok_or("INQUIRY is too short")?;
        println!("unit: {}", String::from_utf8_lossy(names));
        for blocks in [1, 8, 127, 512, 2048, 8192] {
            self.write_and_read(blocks)?;
        }
        let request = TaskManagement {
            lun: self.lun,
            function: TaskFunction::LunReset,
        };
        self.initiator
            .submit_task_management(self.now(), 2, request);
        println!("LUN RESET: {:?}", self.event()?);
        self.initiator.logout(self.now());
        while self.event()? != InitiatorEvent::LoggedOut {}
        Ok(())
    }
}

fn probe() -> Result<(), Failure> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() {
        return Err("probe ADDRESS:PORT [IQN] [OPTION..]".into());
    }
    let address = words.remove(0);
    let named = words
        .first()
        .is_some_and(|word| !word.contains('=') && word.contains('.'));
    let iqn = named.then(|| words.remove(0));
    let arguments = Arguments(words);
    let start = Instant::now();
    let socket = TcpStream::connect(&address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut probe = Probe {
        initiator: Initiator::new(arguments.config(iqn.as_deref())?, start.elapsed()),
        socket,
        start,
        lun: Lun::from_number(arguments.value("lun").unwrap_or("1").parse()?),
    };
    println!("{:?}", probe.event()?);
    if iqn.is_some() {
        return probe.exercise();
    }
    probe.initiator.discover(probe.now());
    println!("{:?}", probe.event()?);
    Ok(())
}

fn main() -> ExitCode {
    match probe() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

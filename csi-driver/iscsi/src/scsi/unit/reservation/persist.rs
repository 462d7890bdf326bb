//! The saved form of persistent reservation state.
//!
//! All numbers big-endian: magic `TWPR`, version u32, CRC32C u32 of all that follows, generation u32,
//! reservation type u8 (0 none), pad u8, holder's index u16, count u16, then per registration key u64,
//! ISID 6 bytes, name length u8, name. Only state whose registrant asked for it (APTPL) is kept: other
//! state is saved as none, so that it cannot come back.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{MAX_REGISTRATIONS, PrState, Registration, Reservation};
use crate::scsi::TransportId;
use crate::scsi::pr::{MAX_NAME, PrType};

const MAGIC: &[u8; 4] = b"TWPR";
const VERSION: u32 = 1;
const HEAD: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrStateError {
    #[error("saved reservation state is cut short")]
    Truncated,
    #[error("saved reservation state has version {0}")]
    Version(u32),
    #[error("saved reservation state fails its checksum")]
    Checksum,
    #[error("saved reservation state contradicts itself")]
    Inconsistent,
}

impl PrState {
    /// Reads what `StoreOp::SavePr` carried. An empty slice is a unit that saved nothing yet.
    pub fn restore(bytes: &[u8]) -> Result<Self, PrStateError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let (mut head, mut body) = bytes
            .split_at_checked(HEAD)
            .ok_or(PrStateError::Truncated)?;
        if !head.starts_with(MAGIC) {
            return Err(PrStateError::Inconsistent);
        }
        head.advance(MAGIC.len());
        let version = head.get_u32();
        if version != VERSION {
            return Err(PrStateError::Version(version));
        }
        if head.get_u32() != crc32c::crc32c(body) {
            return Err(PrStateError::Checksum);
        }
        parse_body(&mut body).ok_or(PrStateError::Inconsistent)
    }

    /// The bytes to save.
    pub(in crate::scsi::unit) fn saved(&self) -> Bytes {
        let none = Self {
            generation: self.generation,
            ..Self::default()
        };
        let kept = if self.aptpl { self } else { &none };
        let mut body = BytesMut::new();
        kept.emit_body(&mut body);
        let mut out = BytesMut::with_capacity(HEAD + body.len());
        out.put_slice(MAGIC);
        out.put_u32(VERSION);
        out.put_u32(crc32c::crc32c(&body));
        out.put_slice(&body);
        out.freeze()
    }

    fn emit_body(&self, out: &mut BytesMut) {
        let index_of = |port: &TransportId| {
            self.registrations
                .iter()
                .position(|entry| entry.port == *port)
        };
        out.put_u32(self.generation);
        out.put_u8(
            self.reservation
                .as_ref()
                .map_or(0, |reservation| reservation.kind.code()),
        );
        out.put_u8(0);
        // A reservation of all registrants may outlive its maker: it then names the first registrant.
        let holder = self
            .reservation
            .as_ref()
            .and_then(|reservation| index_of(&reservation.holder));
        out.put_u16(holder.unwrap_or(0) as u16);
        out.put_u16(self.registrations.len() as u16);
        for entry in &self.registrations {
            out.put_u64(entry.key);
            out.put_slice(&entry.port.isid.unwrap_or_default());
            out.put_u8(entry.port.name.len() as u8);
            out.put_slice(entry.port.name.as_bytes());
        }
    }
}

fn parse_body(body: &mut &[u8]) -> Option<PrState> {
    let generation = body.try_get_u32().ok()?;
    let code = body.try_get_u8().ok()?;
    body.try_get_u8().ok()?;
    let holder = usize::from(body.try_get_u16().ok()?);
    let count = usize::from(body.try_get_u16().ok()?);
    if count > MAX_REGISTRATIONS {
        return None;
    }
    let mut registrations = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = parse_registration(body)?;
        if registrations
            .iter()
            .any(|other: &Registration| other.port == entry.port)
        {
            return None;
        }
        registrations.push(entry);
    }
    let reservation = match code {
        0 => None,
        _ => {
            let holder = registrations.get(holder)?.port.clone();
            Some(Reservation {
                kind: PrType::from_code(code)?,
                holder,
            })
        }
    };
    body.is_empty().then_some(PrState {
        generation,
        aptpl: count > 0,
        registrations,
        reservation,
    })
}

fn parse_registration(body: &mut &[u8]) -> Option<Registration> {
    let key = body.try_get_u64().ok()?;
    let mut isid = [0; 6];
    body.try_copy_to_slice(&mut isid).ok()?;
    let length = usize::from(body.try_get_u8().ok()?);
    let name = std::str::from_utf8(body.get(..length)?).ok()?.to_owned();
    body.advance(length);
    let valid = key != 0 && !name.is_empty() && name.len() <= MAX_NAME;
    valid.then_some(Registration {
        port: TransportId {
            name,
            isid: Some(isid),
        },
        key,
    })
}

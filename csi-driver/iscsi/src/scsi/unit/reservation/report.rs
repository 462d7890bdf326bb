//! The parameter data of PERSISTENT RESERVE IN (SPC-4 6.15).

use bytes::{BufMut, BytesMut};

use super::PrState;
use crate::scsi::pr::PrType;

impl PrState {
    /// READ KEYS.
    pub(in crate::scsi::unit) fn keys(&self) -> BytesMut {
        let mut out = self.head(8 * self.registrations.len());
        for entry in &self.registrations {
            out.put_u64(entry.key);
        }
        out
    }

    /// READ RESERVATION. A reservation of all registrants is reported with key 0.
    pub(in crate::scsi::unit) fn reservation(&self) -> BytesMut {
        let Some(reservation) = &self.reservation else {
            return self.head(0);
        };
        let mut out = self.head(16);
        let key = match reservation.kind.all_registrants() {
            true => 0,
            false => self.key_of(&reservation.holder).unwrap_or(0),
        };
        out.put_u64(key);
        out.put_u32(0);
        out.put_slice(&[0, reservation.kind.code(), 0, 0]);
        out
    }

    /// READ FULL STATUS, every registration on the one target port.
    pub(in crate::scsi::unit) fn full_status(&self, relative_port: u16) -> BytesMut {
        let mut list = BytesMut::new();
        for entry in &self.registrations {
            let holds = self.is_holder(&entry.port);
            let kind = self
                .reservation
                .as_ref()
                .filter(|_| holds)
                .map_or(0, |reservation| reservation.kind.code());
            let id = entry.port.emit();
            list.put_u64(entry.key);
            list.put_u32(0);
            list.put_u8(u8::from(holds));
            list.put_u8(kind);
            list.put_u32(0);
            list.put_u16(relative_port);
            list.put_u32(id.len() as u32);
            list.put_slice(&id);
        }
        let mut out = self.head(list.len());
        out.put_slice(&list);
        out
    }

    /// REPORT CAPABILITIES: all six types, ALL_TG_PT (there is one port), persistence through power
    /// loss; RESERVE(6) conflicts with registrations (CRH = 0).
    pub(in crate::scsi::unit) fn capabilities(&self) -> BytesMut {
        const ATP_C: u8 = 0x04;
        const PTPL_C: u8 = 0x01;
        const TMV: u8 = 0x80;
        let mask = PrType::ALL
            .iter()
            .fold(0u16, |mask, kind| mask | kind.mask());
        let mut out = BytesMut::with_capacity(8);
        out.put_u16(8);
        out.put_u8(ATP_C | PTPL_C);
        out.put_u8(TMV | u8::from(self.aptpl));
        out.put_u16(mask);
        out.put_u16(0);
        out
    }

    fn head(&self, additional: usize) -> BytesMut {
        let mut out = BytesMut::with_capacity(8 + additional);
        out.put_u32(self.generation);
        out.put_u32(additional as u32);
        out
    }
}

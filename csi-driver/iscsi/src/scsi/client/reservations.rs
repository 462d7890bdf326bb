//! What PERSISTENT RESERVE IN answers.

use super::{ParseError, be, counted};
use crate::scsi::TransportId;
use crate::scsi::pr::PrType;

/// READ KEYS: one entry per registered nexus, so a key may come twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    pub generation: u32,
    pub keys: Vec<u64>,
}

/// The generation and the list that follows it.
fn listed(data: &[u8]) -> Result<(u32, &[u8]), ParseError> {
    let head = data.get(..8).ok_or(ParseError::Short)?;
    let list = counted(data, 8, be(head, 4, 4) as usize)?;
    Ok((be(head, 0, 4) as u32, list))
}

impl Keys {
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let (generation, list) = listed(data)?;
        if list.len() % 8 != 0 {
            return Err(ParseError::Malformed);
        }
        Ok(Self {
            generation,
            keys: list.chunks_exact(8).map(|key| be(key, 0, 8)).collect(),
        })
    }
}

/// A reservation of the whole unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// 0 where all registrants hold it.
    pub key: u64,
    pub kind: PrType,
}

/// READ RESERVATION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservationStatus {
    pub generation: u32,
    pub reservation: Option<Reservation>,
}

impl ReservationStatus {
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let (generation, list) = listed(data)?;
        let reservation = match list.len() {
            0 => None,
            16 => Some(Reservation {
                key: be(list, 0, 8),
                kind: kind_of(list[13])?,
            }),
            _ => return Err(ParseError::Malformed),
        };
        Ok(Self {
            generation,
            reservation,
        })
    }
}

/// A scope and type byte; only scopes of the whole unit exist.
fn kind_of(byte: u8) -> Result<PrType, ParseError> {
    PrType::from_code(byte).ok_or(ParseError::Malformed)
}

/// One registration of READ FULL STATUS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registrant {
    pub key: u64,
    /// The reservation it holds.
    pub holds: Option<PrType>,
    /// Registered through all target ports; `relative_port` says nothing then.
    pub all_ports: bool,
    pub relative_port: u16,
    /// `None`: not an iSCSI initiator port.
    pub transport_id: Option<TransportId>,
}

/// READ FULL STATUS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullStatus {
    pub generation: u32,
    pub registrants: Vec<Registrant>,
}

impl FullStatus {
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let (generation, mut rest) = listed(data)?;
        let mut registrants = Vec::new();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at_checked(24).ok_or(ParseError::Malformed)?;
            let length = be(head, 20, 4) as usize;
            let (id, next) = tail.split_at_checked(length).ok_or(ParseError::Malformed)?;
            let holds = head[12] & 0x01 != 0;
            registrants.push(Registrant {
                key: be(head, 0, 8),
                holds: if holds {
                    Some(kind_of(head[13])?)
                } else {
                    None
                },
                all_ports: head[12] & 0x02 != 0,
                relative_port: be(head, 18, 2) as u16,
                transport_id: TransportId::parse(id).map(|(id, _)| id),
            });
            rest = next;
        }
        Ok(Self {
            generation,
            registrants,
        })
    }
}

/// REPORT CAPABILITIES.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// ALL_TG_PT is taken.
    pub all_ports: bool,
    /// Can keep registrations and reservation through power loss (PTPL_C), and does now (PTPL_A).
    pub persists: bool,
    pub persists_now: bool,
    /// `None`: the unit does not say (TMV = 0).
    pub kinds: Option<Vec<PrType>>,
}

impl Capabilities {
    pub fn parse(data: &[u8]) -> Result<Self, ParseError> {
        let data = data.get(..8).ok_or(ParseError::Short)?;
        let mask = be(data, 4, 2) as u16;
        let said = data[3] & 0x80 != 0;
        Ok(Self {
            all_ports: data[2] & 0x04 != 0,
            persists: data[2] & 0x01 != 0,
            persists_now: data[3] & 0x01 != 0,
            kinds: said.then(|| {
                PrType::ALL
                    .into_iter()
                    .filter(|kind| mask & kind.mask() != 0)
                    .collect()
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_list_is_never_taken_for_a_whole_one() {
        let data = [
            0, 0, 0, 7, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2,
        ];
        assert_eq!(
            Keys::parse(&data),
            Ok(Keys {
                generation: 7,
                keys: vec![1, 2]
            })
        );
        for cut in 8..data.len() {
            assert_eq!(
                Keys::parse(&data[..cut]),
                Err(ParseError::Truncated { needed: 24 })
            );
        }
        assert_eq!(Keys::parse(&data[..7]), Err(ParseError::Short));
    }

    #[test]
    fn an_unknown_reservation_type_is_not_no_reservation() {
        let mut data = [0; 24];
        data[7] = 16;
        data[21] = 2;
        assert_eq!(ReservationStatus::parse(&data), Err(ParseError::Malformed));
    }

    #[test]
    fn a_registrant_of_another_transport_is_still_a_registrant() {
        let mut data = vec![0; 8 + 24 + 24];
        data[7] = 48;
        data[8..16].copy_from_slice(&0xB1u64.to_be_bytes());
        data[20] = 0x03;
        data[21] = 6;
        data[31] = 24;
        let status = FullStatus::parse(&data).expect("well formed");
        assert_eq!(
            status.registrants,
            [Registrant {
                key: 0xB1,
                holds: Some(PrType::ExclusiveAccessRegistrants),
                all_ports: true,
                relative_port: 0,
                transport_id: None,
            }]
        );
    }
}

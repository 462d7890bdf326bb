//! Collects the write data of one task: immediate, unsolicited, solicited (RFC 7143 section 4.2.5.3).
//!
//! Data come in order (DataPDUInOrder, DataSequenceInOrder: both always Yes), so that the next byte wanted is always the
//! one behind those received. DataSN, offset and length of every Data-Out are checked.
//!
//! Invariants: never more bytes than the task announced; never more unsolicited ones than FirstBurstLength.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::wire::NO_TAG;
use crate::wire::data_out::DataOut;

/// A Data-Out that does not fit; the task fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GatherError {
    /// Unsolicited data that were not allowed, or too many.
    Unsolicited,
    /// DataSN, offset, length or transfer tag is wrong.
    Sequence,
}

/// What a Data-Out brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More Data-Outs of the same sequence follow.
    Going,
    /// A sequence ended: it is our turn to ask for more.
    SequenceDone,
    /// All data are there.
    Whole,
}

/// An R2T under way.
#[derive(Debug)]
struct Asked {
    ttt: u32,
    /// Behind its last byte.
    end: u32,
    next_data_sn: u32,
}

/// A piece to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) r2t_sn: u32,
}

#[derive(Debug)]
pub(super) struct Gather {
    data: Vec<Bytes>,
    received: u32,
    total: u32,
    /// DataSN of the next unsolicited Data-Out, while some may come.
    unsolicited: Option<u32>,
    /// Unsolicited bytes that may still come.
    unsolicited_left: u32,
    asked: VecDeque<Asked>,
    /// Behind the last byte asked for or received unsolicited.
    asked_end: u32,
    r2t_sn: u32,
    solicited: u32,
}

impl Gather {
    /// Begins with the immediate data of the command. `first_burst` is what may come unasked in all.
    pub(super) fn new(
        total: u32,
        immediate: Vec<Bytes>,
        immediate_len: u32,
        first_burst: u32,
        more_unsolicited: bool,
    ) -> Result<Self, GatherError> {
        if immediate_len > total || immediate_len > first_burst {
            return Err(GatherError::Unsolicited);
        }
        Ok(Self {
            data: immediate,
            received: immediate_len,
            total,
            unsolicited: more_unsolicited.then_some(0),
            unsolicited_left: first_burst - immediate_len,
            asked: VecDeque::new(),
            asked_end: immediate_len,
            r2t_sn: 0,
            solicited: 0,
        })
    }

    pub(super) fn is_whole(&self) -> bool {
        self.received == self.total
    }

    /// Bytes asked for by R2T so far.
    pub(super) fn solicited(&self) -> u32 {
        self.solicited
    }

    /// R2Ts sent.
    pub(super) fn r2ts(&self) -> u32 {
        self.r2t_sn
    }

    pub(super) fn into_data(self) -> Vec<Bytes> {
        self.data
    }

    pub(super) fn data_out(
        &mut self,
        pdu: &DataOut,
        data: Vec<Bytes>,
        length: u32,
    ) -> Result<Progress, GatherError> {
        if pdu.offset != self.received || length > self.total - self.received {
            return Err(GatherError::Sequence);
        }
        let ended = if pdu.ttt == NO_TAG {
            self.take_unsolicited(pdu, length)?
        } else {
            self.take_solicited(pdu, length)?
        };
        self.received += length;
        self.data.extend(data);
        if self.is_whole() {
            Ok(Progress::Whole)
        } else if ended {
            Ok(Progress::SequenceDone)
        } else {
            Ok(Progress::Going)
        }
    }

    fn take_unsolicited(&mut self, pdu: &DataOut, length: u32) -> Result<bool, GatherError> {
        let next = self.unsolicited.as_mut().ok_or(GatherError::Unsolicited)?;
        if pdu.data_sn != *next {
            return Err(GatherError::Sequence);
        }
        if length > self.unsolicited_left {
            return Err(GatherError::Unsolicited);
        }
        *next = next.wrapping_add(1);
        self.unsolicited_left -= length;
        self.asked_end += length;
        if pdu.last {
            self.unsolicited = None;
        }
        Ok(pdu.last)
    }

    fn take_solicited(&mut self, pdu: &DataOut, length: u32) -> Result<bool, GatherError> {
        let asked = self.asked.front_mut().ok_or(GatherError::Sequence)?;
        let end = pdu.offset + length;
        let fits = pdu.ttt == asked.ttt
            && pdu.data_sn == asked.next_data_sn
            && end <= asked.end
            && pdu.last == (end == asked.end);
        if !fits {
            return Err(GatherError::Sequence);
        }
        asked.next_data_sn = asked.next_data_sn.wrapping_add(1);
        if pdu.last {
            self.asked.pop_front();
        }
        Ok(pdu.last)
    }

    /// How many bytes the next R2T would ask for; 0 while none may be sent.
    pub(super) fn next_ask(&self, max_burst: u32, max_outstanding: u16) -> u32 {
        if self.unsolicited.is_some() || self.asked.len() >= usize::from(max_outstanding) {
            return 0;
        }
        (self.total - self.asked_end).min(max_burst)
    }

    /// Notes an R2T for the next `length` bytes.
    pub(super) fn ask(&mut self, ttt: u32, length: u32) -> Ask {
        let ask = Ask {
            offset: self.asked_end,
            length,
            r2t_sn: self.r2t_sn,
        };
        self.asked_end += length;
        self.solicited += length;
        self.r2t_sn = self.r2t_sn.wrapping_add(1);
        self.asked.push_back(Asked {
            ttt,
            end: self.asked_end,
            next_data_sn: 0,
        });
        ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::Lun;

    fn out(ttt: u32, data_sn: u32, offset: u32, last: bool) -> DataOut {
        DataOut {
            last,
            lun: Lun(0),
            itt: 1,
            ttt,
            exp_stat_sn: 0,
            data_sn,
            offset,
        }
    }

    fn bytes(length: u32) -> Vec<Bytes> {
        vec![Bytes::from(vec![0; length as usize])]
    }

    fn send(gather: &mut Gather, pdu: DataOut, length: u32) -> Result<Progress, GatherError> {
        gather.data_out(&pdu, bytes(length), length)
    }

    #[test]
    fn immediate_unsolicited_and_solicited_data_follow_each_other() {
        let mut gather = Gather::new(100, bytes(10), 10, 30, true).unwrap();
        assert_eq!(gather.next_ask(40, 2), 0);
        assert_eq!(
            send(&mut gather, out(NO_TAG, 0, 10, false), 8),
            Ok(Progress::Going)
        );
        assert_eq!(
            send(&mut gather, out(NO_TAG, 1, 18, true), 12),
            Ok(Progress::SequenceDone)
        );
        assert_eq!(gather.next_ask(40, 2), 40);
        assert_eq!(
            gather.ask(7, 40),
            Ask {
                offset: 30,
                length: 40,
                r2t_sn: 0
            }
        );
        assert_eq!(gather.next_ask(40, 2), 30);
        assert_eq!(gather.next_ask(40, 1), 0);
        assert_eq!(
            gather.ask(8, 30),
            Ask {
                offset: 70,
                length: 30,
                r2t_sn: 1
            }
        );
        assert_eq!(gather.next_ask(40, 9), 0);
        assert_eq!(
            send(&mut gather, out(7, 0, 30, false), 20),
            Ok(Progress::Going)
        );
        assert_eq!(
            send(&mut gather, out(7, 1, 50, true), 20),
            Ok(Progress::SequenceDone)
        );
        assert_eq!(
            send(&mut gather, out(8, 0, 70, true), 30),
            Ok(Progress::Whole)
        );
        assert_eq!((gather.solicited(), gather.r2ts()), (70, 2));
        assert_eq!(gather.into_data().concat().len(), 100);
    }

    #[test]
    fn wrong_numbers_are_refused() {
        let sequence = Err(GatherError::Sequence);
        let fresh = || {
            let mut gather = Gather::new(100, vec![], 0, 0, false).unwrap();
            gather.ask(7, 60);
            gather
        };
        assert_eq!(send(&mut fresh(), out(7, 1, 0, false), 20), sequence);
        assert_eq!(send(&mut fresh(), out(7, u32::MAX, 0, false), 20), sequence);
        assert_eq!(send(&mut fresh(), out(7, 0, 4, false), 20), sequence);
        assert_eq!(send(&mut fresh(), out(9, 0, 0, false), 20), sequence);
        assert_eq!(send(&mut fresh(), out(7, 0, 0, true), 20), sequence);
        assert_eq!(send(&mut fresh(), out(7, 0, 0, false), 60), sequence);
        assert_eq!(send(&mut fresh(), out(7, 0, 0, true), 61), sequence);
        assert_eq!(send(&mut fresh(), out(7, 0, 0, true), 101), sequence);
        let mut twice = fresh();
        assert_eq!(
            send(&mut twice, out(7, 0, 0, false), 20),
            Ok(Progress::Going)
        );
        assert_eq!(send(&mut twice, out(7, 0, 20, false), 20), sequence);
    }

    #[test]
    fn unsolicited_data_are_bounded_and_must_be_announced() {
        let unsolicited = Err(GatherError::Unsolicited);
        assert!(matches!(
            Gather::new(100, bytes(31), 31, 30, true),
            Err(GatherError::Unsolicited)
        ));
        assert!(matches!(
            Gather::new(10, bytes(11), 11, 30, true),
            Err(GatherError::Unsolicited)
        ));
        let mut gather = Gather::new(100, vec![], 0, 30, true).unwrap();
        assert_eq!(send(&mut gather, out(NO_TAG, 0, 0, false), 31), unsolicited);
        let mut gather = Gather::new(100, vec![], 0, 30, false).unwrap();
        assert_eq!(send(&mut gather, out(NO_TAG, 0, 0, true), 10), unsolicited);
    }
}

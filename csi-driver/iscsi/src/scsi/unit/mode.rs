//! Mode parameters: what MODE SENSE shows and MODE SELECT changes (SPC-4 7.5, SBC-3 6.5).
//!
//! Changeable are WCE (caching page), D_SENSE and SWP (control page); nothing is saved.
//!
//! Not here: who is told of a change (the unit raises the unit attentions).

use bytes::{BufMut, BytesMut};

use super::ended::{bad_cdb, bad_list, short_list};
use crate::scsi::{Cdb, Code, Sense, SenseFormat};

const WCE: u8 = 0x04;
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;
const ALL_PAGES: u8 = 0x3F;
const ALL_SUBPAGES: u8 = 0xFF;

/// The parameters that initiators may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    pub(super) write_cache: bool,
    pub(super) descriptor_sense: bool,
    /// Software write protect.
    pub(super) protected: bool,
}

/// What of the unit shows in mode data besides `Modes`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Medium {
    pub(super) blocks: u64,
    pub(super) block: u32,
    pub(super) read_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    Current,
    Changeable,
    Default,
}

/// (page, subpage), in the order of MODE SENSE of all pages.
const PAGES: [(u8, u8); 5] = [(0x01, 0), (0x08, 0), (0x0A, 0), (0x0A, 1), (0x1C, 0)];

impl Modes {
    pub(super) fn sense_format(self) -> SenseFormat {
        if self.descriptor_sense {
            SenseFormat::Descriptor
        } else {
            SenseFormat::Fixed
        }
    }

    /// A page as it stands in mode data, header included.
    fn page(self, page: u8, subpage: u8) -> BytesMut {
        let mut out = BytesMut::new();
        match (page, subpage) {
            // Read-write error recovery: AWRE, ARRE, retries left to the store.
            (0x01, _) => out.put_slice(&[0x01, 0x0A, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (0x08, _) => {
                out.put_slice(&[0x08, 0x12, if self.write_cache { WCE } else { 0 }]);
                out.put_bytes(0, 17);
            }
            // Control: unrestricted reordering (QUEUE ALGORITHM MODIFIER 1), other nexuses' tasks end
            // without a status (TAS 0), no busy timeout (FFFFh).
            (0x0A, 0) => {
                let d_sense = if self.descriptor_sense { D_SENSE } else { 0 };
                let swp = if self.protected { SWP } else { 0 };
                out.put_slice(&[0x0A, 0x0A, d_sense, 0x10, swp, 0, 0, 0, 0xFF, 0xFF, 0, 0]);
            }
            // Control extension: no timestamp, no implicit ALUA state changes.
            (0x0A, _) => {
                out.put_slice(&[0x4A, 0x01, 0x00, 0x1C]);
                out.put_bytes(0, 28);
            }
            // Informational exceptions: reporting disabled (DEXCPT).
            _ => out.put_slice(&[0x1C, 0x0A, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        }
        out
    }

    fn page_as(self, control: Control, defaults: Self, page: u8, subpage: u8) -> BytesMut {
        match control {
            Control::Current => self.page(page, subpage),
            Control::Default => defaults.page(page, subpage),
            Control::Changeable => changeable(self.page(page, subpage), page, subpage),
        }
    }

    fn pages(
        self,
        control: Control,
        defaults: Self,
        page: u8,
        subpage: u8,
    ) -> Result<BytesMut, Sense> {
        let mut out = BytesMut::new();
        for (code, sub) in PAGES {
            let page_matches = page == ALL_PAGES || page == code;
            let sub_matches = subpage == ALL_SUBPAGES || subpage == sub;
            if page_matches && sub_matches {
                out.extend_from_slice(&self.page_as(control, defaults, code, sub));
            }
        }
        if out.is_empty() {
            Err(bad_cdb(2))
        } else {
            Ok(out)
        }
    }

    /// MODE SENSE(6) and (10): the parameter data and the allocation length.
    pub(super) fn sense(
        self,
        cdb: &Cdb,
        defaults: Self,
        medium: Medium,
    ) -> Result<(BytesMut, u64), Sense> {
        let long = cdb.opcode() == 0x5A;
        let control = match cdb.byte(2) >> 6 {
            0 => Control::Current,
            1 => Control::Changeable,
            2 => Control::Default,
            _ => return Err(Sense::illegal(Code::SAVING_NOT_SUPPORTED)),
        };
        let pages = self.pages(control, defaults, cdb.byte(2) & 0x3F, cdb.byte(3))?;
        let no_descriptor = cdb.bit(1, 3);
        let long_lba = long && cdb.bit(1, 4);
        let descriptor = match (no_descriptor, long_lba) {
            (true, _) => BytesMut::new(),
            (false, true) => long_descriptor(medium),
            (false, false) => short_descriptor(medium),
        };
        let specific = 0x10
            | if medium.read_only || self.protected {
                0x80
            } else {
                0
            };
        let mut out = BytesMut::new();
        if long {
            let length = 6 + descriptor.len() + pages.len();
            out.put_u16(length as u16);
            out.put_slice(&[0, specific, u8::from(long_lba && !no_descriptor), 0]);
            out.put_u16(descriptor.len() as u16);
        } else {
            let length = 3 + descriptor.len() + pages.len();
            out.put_slice(&[length as u8, 0, specific, descriptor.len() as u8]);
        }
        out.extend_from_slice(&descriptor);
        out.extend_from_slice(&pages);
        let allocation = if long {
            cdb.field_at(7, 2)
        } else {
            cdb.field_at(4, 1)
        };
        Ok((out, allocation))
    }

    /// MODE SELECT(6) and (10): the parameters after it. All pages are checked before any takes effect.
    pub(super) fn select(self, cdb: &Cdb, list: &[u8]) -> Result<Self, Sense> {
        let long = cdb.opcode() == 0x55;
        let declared = if long {
            cdb.field_at(7, 2)
        } else {
            cdb.field_at(4, 1)
        } as usize;
        if cdb.bit(1, 0) {
            return Err(bad_cdb(1));
        }
        if declared == 0 {
            return Ok(self);
        }
        let list = list.get(..declared).ok_or(short_list())?;
        let head = if long { 8 } else { 4 };
        if list.len() < head {
            return Err(short_list());
        }
        let descriptors = if long {
            usize::from(list[6]) << 8 | usize::from(list[7])
        } else {
            usize::from(list[3])
        };
        let mut at = head + descriptors;
        let mut next = self;
        while at < list.len() {
            at += next.select_page(list, at)?;
        }
        if at > list.len() {
            Err(short_list())
        } else {
            Ok(next)
        }
    }

    /// Takes over the page that begins at `at`; gives its length.
    fn select_page(&mut self, list: &[u8], at: usize) -> Result<usize, Sense> {
        let code = list[at] & 0x3F;
        let long = list[at] & 0x40 != 0;
        let subpage = if long {
            *list.get(at + 1).ok_or(short_list())?
        } else {
            0
        };
        if !PAGES.contains(&(code, subpage)) {
            return Err(bad_list(at));
        }
        let mut want = self.page(code, subpage);
        let given = list.get(at..at + want.len()).ok_or(short_list())?;
        let mask = changeable(want.clone(), code, subpage);
        let head = if long { 4 } else { 2 };
        for (place, byte) in want.iter_mut().enumerate() {
            // The header must be ours but for the PS bit, which MODE SELECT reserves.
            let fixed = match place {
                0 => 0x7F,
                _ if place < head => 0xFF,
                _ => !mask[place],
            };
            if (*byte ^ given[place]) & fixed != 0 {
                return Err(bad_list(at + place));
            }
            *byte = given[place];
        }
        match (code, subpage) {
            (0x08, _) => self.write_cache = want[2] & WCE != 0,
            (0x0A, 0) => {
                self.descriptor_sense = want[2] & D_SENSE != 0;
                self.protected = want[4] & SWP != 0;
            }
            _ => {}
        }
        Ok(want.len())
    }
}

/// The same page with ones where MODE SELECT may change it.
fn changeable(mut page: BytesMut, code: u8, subpage: u8) -> BytesMut {
    let head = if subpage == 0 { 2 } else { 4 };
    page[head..].fill(0);
    match (code, subpage) {
        (0x08, _) => page[2] = WCE,
        (0x0A, 0) => {
            page[2] = D_SENSE;
            page[4] = SWP;
        }
        _ => {}
    }
    page
}

fn short_descriptor(medium: Medium) -> BytesMut {
    let mut out = BytesMut::with_capacity(8);
    out.put_u32(u32::try_from(medium.blocks).unwrap_or(u32::MAX));
    out.put_u32(medium.block);
    out
}

fn long_descriptor(medium: Medium) -> BytesMut {
    let mut out = BytesMut::with_capacity(16);
    out.put_u64(medium.blocks);
    out.put_u32(0);
    out.put_u32(medium.block);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: Modes = Modes {
        write_cache: true,
        descriptor_sense: false,
        protected: false,
    };
    const MEDIUM: Medium = Medium {
        blocks: 0x1234,
        block: 4096,
        read_only: false,
    };

    fn sense(cdb: &[u8]) -> Result<Vec<u8>, Sense> {
        MODES
            .sense(&Cdb::new(cdb), MODES, MEDIUM)
            .map(|(data, _)| data.to_vec())
    }

    #[test]
    fn the_caching_page_follows_header_and_block_descriptor() {
        let data = sense(&[0x1A, 0, 0x08, 0, 255, 0]).expect("known page");
        assert_eq!(data[..4], [31, 0, 0x10, 8]);
        assert_eq!(data[4..12], [0, 0, 0x12, 0x34, 0, 0, 0x10, 0]);
        assert_eq!(data[12..15], [0x08, 0x12, 0x04]);
        assert_eq!(data.len(), 32);
    }

    #[test]
    fn changeable_values_show_the_bits_that_mode_select_takes() {
        let data = sense(&[0x1A, 0x08, 0x4A, 0, 255, 0]).expect("known page");
        assert_eq!(
            data,
            [
                15, 0, 0x10, 0, 0x0A, 0x0A, 0x04, 0, 0x08, 0, 0, 0, 0, 0, 0, 0
            ]
        );
    }

    #[test]
    fn all_pages_leave_out_subpages_unless_asked() {
        let pages =
            |subpage| sense(&[0x5A, 0x08, 0x3F, subpage, 0, 0, 0, 1, 0, 0]).expect("all pages");
        assert_eq!(pages(0).len(), 8 + 12 + 20 + 12 + 12);
        assert_eq!(pages(0xFF).len(), 8 + 12 + 20 + 12 + 32 + 12);
    }

    #[test]
    fn the_long_form_gives_64_bit_block_counts() {
        let data = sense(&[0x5A, 0x10, 0x1C, 0, 0, 0, 0, 1, 0, 0]).expect("known page");
        assert_eq!(data[..8], [0, 34, 0, 0x10, 1, 0, 0, 16]);
        assert_eq!(
            data[8..24],
            [0, 0, 0, 0, 0, 0, 0x12, 0x34, 0, 0, 0, 0, 0, 0, 0x10, 0]
        );
    }

    #[test]
    fn saved_values_and_unknown_pages_are_refused() {
        assert_eq!(
            sense(&[0x1A, 0, 0xC8, 0, 255, 0]).expect_err("saved").code,
            Code::SAVING_NOT_SUPPORTED
        );
        assert_eq!(
            sense(&[0x1A, 0, 0x02, 0, 255, 0])
                .expect_err("unknown")
                .code,
            Code::INVALID_FIELD_IN_CDB
        );
        assert_eq!(
            sense(&[0x1A, 0, 0x08, 1, 255, 0])
                .expect_err("unknown")
                .code,
            Code::INVALID_FIELD_IN_CDB
        );
    }

    #[test]
    fn what_mode_sense_gave_can_be_selected_with_changes() {
        let mut list = sense(&[0x1A, 0, 0x3F, 0, 255, 0]).expect("all pages");
        list[0] = 0;
        let select =
            |list: &[u8]| MODES.select(&Cdb::new(&[0x15, 0x10, 0, 0, list.len() as u8, 0]), list);
        assert_eq!(select(&list), Ok(MODES));
        list[24 + 2] = 0; // WCE off
        list[44 + 2] = 0x04; // D_SENSE
        list[44 + 4] = 0x08; // SWP
        assert_eq!(
            select(&list),
            Ok(Modes {
                write_cache: false,
                descriptor_sense: true,
                protected: true
            })
        );
        list[44 + 5] = 1;
        assert_eq!(
            select(&list).expect_err("fixed bit").code,
            Code::INVALID_FIELD_IN_PARAMETER_LIST
        );
        assert_eq!(
            select(&list[..30]).expect_err("cut").code,
            Code::PARAMETER_LIST_LENGTH_ERROR
        );
    }

    #[test]
    fn saving_pages_is_refused() {
        let refused = MODES
            .select(&Cdb::new(&[0x15, 0x11, 0, 0, 0, 0]), &[])
            .expect_err("refused");
        assert_eq!(refused.code, Code::INVALID_FIELD_IN_CDB);
    }
}

//! What a LUN answers that is not there (SPC-4 5.2): enough for an initiator to find the ones that are.

use bytes::{BufMut, Bytes, BytesMut};
use twinsite_iscsi::scsi::{Cdb, Code, Expected, Lun, Residual, ScsiOutcome, Sense, Status};

const REQUEST_SENSE: u8 = 0x03;
const INQUIRY: u8 = 0x12;
const REPORT_LUNS: u8 = 0xA0;
/// Peripheral qualifier 3, device type 1Fh: the target has nothing at this LUN.
const NO_DEVICE: u8 = 0x7F;

pub(super) fn answer(cdb: &Cdb, expected: Expected, luns: &[Lun]) -> ScsiOutcome {
    let field = cdb.field();
    match field[0] {
        INQUIRY if field[1] & 1 == 0 => {
            let allocated = u16::from_be_bytes([field[3], field[4]]);
            data(inquiry(), u32::from(allocated), expected)
        }
        REPORT_LUNS => {
            let allocated = u32::from_be_bytes([field[6], field[7], field[8], field[9]]);
            data(report_luns(luns), allocated, expected)
        }
        REQUEST_SENSE => data(not_supported().emit(), u32::from(field[4]), expected),
        _ => ScsiOutcome {
            status: Status::CheckCondition,
            sense: Some(not_supported()),
            data_in: Vec::new(),
            residual: Residual::of(0, expected.length()),
        },
    }
}

fn not_supported() -> Sense {
    Sense::illegal(Code::LOGICAL_UNIT_NOT_SUPPORTED)
}

fn data(mut bytes: Bytes, allocated: u32, expected: Expected) -> ScsiOutcome {
    bytes.truncate(allocated as usize);
    let residual = Residual::of(bytes.len() as u64, expected.length());
    bytes.truncate(expected.length() as usize);
    ScsiOutcome {
        status: Status::Good,
        sense: None,
        data_in: vec![bytes],
        residual,
    }
}

fn inquiry() -> Bytes {
    let mut out = [0; 36];
    out[0] = NO_DEVICE;
    out[2] = 6;
    out[3] = 2;
    out[4] = 31;
    out[8..32].fill(b' ');
    Bytes::copy_from_slice(&out)
}

fn report_luns(luns: &[Lun]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32(u32::try_from(luns.len() * 8).unwrap_or(u32::MAX));
    out.put_u32(0);
    for lun in luns {
        out.put_u64(lun.0);
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_lun_says_so_and_lists_the_others() {
        let luns = [Lun::from_number(1), Lun::from_number(2)];
        let inquiry = answer(
            &Cdb::new(&[0x12, 0, 0, 0, 255, 0]),
            Expected::In(255),
            &luns,
        );
        assert_eq!(inquiry.data_in[0][0], 0x7F);
        assert_eq!(inquiry.residual, Residual::Underflow(219));
        let list = answer(
            &Cdb::new(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0]),
            Expected::In(20),
            &luns,
        );
        assert_eq!(
            list.data_in[0][..],
            [0, 0, 0, 16, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0][..]
        );
        let ready = answer(&Cdb::new(&[0; 6]), Expected::None, &luns);
        assert_eq!(ready.status, Status::CheckCondition);
        assert_eq!(
            ready.sense,
            Some(Sense::illegal(Code::LOGICAL_UNIT_NOT_SUPPORTED))
        );
    }
}

//! What a SCSI status means to the mirror: one table.

use twinsite_iscsi::scsi::{Code, ScsiOutcome, Sense, SenseKey, Status};
use twinsite_mirror::io::LegError;

/// `Ok`: the command did all it was asked to.
pub(super) fn verdict(outcome: &ScsiOutcome) -> Result<(), LegError> {
    match outcome.status {
        Status::Good | Status::ConditionMet => Ok(()),
        Status::ReservationConflict => Err(LegError::Conflict),
        Status::Busy | Status::TaskSetFull | Status::AcaActive | Status::TaskAborted => {
            Err(LegError::Retry)
        }
        // CHECK CONDITION without sense says nothing about why.
        Status::CheckCondition => outcome.sense.map_or(Err(LegError::Hardware), of_sense),
    }
}

fn of_sense(sense: Sense) -> Result<(), LegError> {
    let Code { asc, ascq } = sense.code;
    match (sense.key, asc, ascq) {
        (SenseKey::NoSense | SenseKey::RecoveredError | SenseKey::Completed, _, _) => Ok(()),
        (SenseKey::UnitAttention, 0x2A, 0x03..=0x05) => Err(LegError::Preempted),
        (SenseKey::UnitAttention | SenseKey::NotReady | SenseKey::AbortedCommand, _, _) => {
            Err(LegError::Retry)
        }
        (SenseKey::MediumError, _, _) => Err(LegError::Medium),
        (SenseKey::HardwareError, _, _) => Err(LegError::Hardware),
        (SenseKey::DataProtect, 0x27, 0x07) => Err(LegError::NoSpace),
        (key, _, _) => Err(LegError::Refused(nibble(key), asc, ascq)),
    }
}

fn nibble(key: SenseKey) -> u8 {
    match key {
        SenseKey::NoSense => 0x0,
        SenseKey::RecoveredError => 0x1,
        SenseKey::NotReady => 0x2,
        SenseKey::MediumError => 0x3,
        SenseKey::HardwareError => 0x4,
        SenseKey::IllegalRequest => 0x5,
        SenseKey::UnitAttention => 0x6,
        SenseKey::DataProtect => 0x7,
        SenseKey::BlankCheck => 0x8,
        SenseKey::VendorSpecific => 0x9,
        SenseKey::CopyAborted => 0xA,
        SenseKey::AbortedCommand => 0xB,
        SenseKey::Reserved => 0xC,
        SenseKey::VolumeOverflow => 0xD,
        SenseKey::Miscompare => 0xE,
        SenseKey::Completed => 0xF,
    }
}

#[cfg(test)]
mod tests {
    use twinsite_iscsi::scsi::Residual;

    use super::*;

    fn check(status: Status, sense: Option<(SenseKey, u8, u8)>, want: Result<(), LegError>) {
        let sense = sense.map(|(key, asc, ascq)| Sense::new(key, Code::new(asc, ascq)));
        let outcome = ScsiOutcome {
            status,
            sense,
            data_in: Vec::new(),
            residual: Residual::None,
        };
        assert_eq!(verdict(&outcome), want, "{status:?} {sense:?}");
    }

    #[test]
    fn every_kind_of_failure_has_its_meaning() {
        use LegError::{Conflict, Hardware, Medium, NoSpace, Preempted, Refused, Retry};
        let sense = |key, asc, ascq| Some((key, asc, ascq));
        let bad = Status::CheckCondition;
        check(Status::Good, None, Ok(()));
        check(Status::ReservationConflict, None, Err(Conflict));
        check(Status::Busy, None, Err(Retry));
        check(Status::TaskSetFull, None, Err(Retry));
        check(Status::TaskAborted, None, Err(Retry));
        check(bad, None, Err(Hardware));
        check(bad, sense(SenseKey::RecoveredError, 0x18, 0), Ok(()));
        check(bad, sense(SenseKey::UnitAttention, 0x29, 0), Err(Retry));
        check(bad, sense(SenseKey::UnitAttention, 0x2A, 2), Err(Retry));
        check(bad, sense(SenseKey::UnitAttention, 0x2A, 3), Err(Preempted));
        check(bad, sense(SenseKey::UnitAttention, 0x2A, 4), Err(Preempted));
        check(bad, sense(SenseKey::UnitAttention, 0x2A, 5), Err(Preempted));
        check(bad, sense(SenseKey::UnitAttention, 0x2A, 6), Err(Retry));
        check(bad, sense(SenseKey::NotReady, 4, 1), Err(Retry));
        check(bad, sense(SenseKey::AbortedCommand, 0x47, 5), Err(Retry));
        check(bad, sense(SenseKey::MediumError, 0x11, 0), Err(Medium));
        check(bad, sense(SenseKey::HardwareError, 0x44, 0), Err(Hardware));
        check(bad, sense(SenseKey::DataProtect, 0x27, 7), Err(NoSpace));
        check(
            bad,
            sense(SenseKey::DataProtect, 0x27, 0),
            Err(Refused(7, 0x27, 0)),
        );
        check(
            bad,
            sense(SenseKey::IllegalRequest, 0x21, 0),
            Err(Refused(5, 0x21, 0)),
        );
    }
}

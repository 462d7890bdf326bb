//! What the unit says of itself, byte by byte and as the client reads it.

use super::{A, BLOCKS, Lab, code, config};
use crate::scsi::client::{self, BlockLimits, Capacity, Identity, Provisioning};
use crate::scsi::unit::{BlockSize, absent_unit};
use crate::scsi::{Cdb, Code, Expected, Lun, Residual, Status};

#[test]
fn the_standard_data_is_pinned() {
    let mut lab = Lab::new();
    let data = lab.read_in(A, &client::inquiry(512));
    let mut want = vec![0, 0, 6, 0x12, 91, 0x18, 0x10, 0x02];
    want.extend_from_slice(b"TWINSITEleg             1   ");
    want.resize(58, 0);
    want.extend_from_slice(&[0x00, 0xA0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xC0]);
    want.resize(96, 0);
    assert_eq!(data, want);
    let identity = Identity::parse(&data).expect("standard data");
    assert_eq!(
        (identity.vendor.as_str(), identity.product.as_str()),
        ("TWINSITE", "leg")
    );
    assert!(identity.present);
}

#[test]
fn allocation_lengths_cut_and_residuals_tell() {
    let mut lab = Lab::new();
    for allocation in [0u16, 5, 36, 96, 255, 511] {
        let task = lab.submit(
            A,
            &client::inquiry(allocation),
            Vec::new(),
            Expected::In(u32::from(allocation)),
        );
        let outcome = lab.outcome(task);
        let got = super::flat(&outcome).len();
        assert_eq!(got, usize::from(allocation.min(96)));
        assert_eq!(
            outcome.residual,
            Residual::of(got as u64, u32::from(allocation))
        );
    }
}

#[test]
fn the_list_of_vpd_pages_is_sorted_and_each_can_be_read() {
    let mut lab = Lab::new();
    let data = lab.read_in(A, &client::vpd(0x00, 255));
    assert_eq!(
        data,
        [
            0, 0, 0, 10, 0x00, 0x80, 0x83, 0x86, 0x88, 0x8F, 0xB0, 0xB1, 0xB2, 0xC0
        ]
    );
    for page in &data[4..] {
        let data = lab.read_in(A, &client::vpd(*page, 1024));
        assert_eq!(data[1], *page);
        assert_eq!(
            usize::from(u16::from_be_bytes([data[2], data[3]])),
            data.len() - 4,
            "{page:#x}"
        );
    }
    assert_eq!(
        code(&lab.run(A, client::vpd(0x81, 255).as_bytes())),
        Code::INVALID_FIELD_IN_CDB
    );
    assert_eq!(
        code(&lab.run(A, &[0x12, 0, 1, 1, 0, 0])),
        Code::INVALID_FIELD_IN_CDB
    );
    assert_eq!(
        code(&lab.run(A, &[0x12, 2, 0, 1, 0, 0])),
        Code::INVALID_FIELD_IN_CDB
    );
}

#[test]
fn the_identification_page_names_unit_port_group_and_target() {
    let mut lab = Lab::new();
    let data = lab.read_in(A, &client::vpd(0x83, 1024));
    let naa = config().naa;
    let mut want = vec![0x01, 0x03, 0, 16];
    want.extend_from_slice(&naa);
    want.extend_from_slice(b"\x02\x01\0\x0CTWINSITES123");
    want.extend_from_slice(&[0x51, 0x94, 0, 4, 0, 0, 0, 1]);
    want.extend_from_slice(&[0x51, 0x95, 0, 4, 0, 0, 0, 1]);
    want.extend_from_slice(b"\x53\x98\0\x1Ciqn.2026-01.test:t,t,0x0001\0");
    want.extend_from_slice(b"\x53\xA8\0\x14iqn.2026-01.test:t\0\0");
    assert_eq!(data[..4], [0, 0x83, 0, want.len() as u8]);
    assert_eq!(data[4..], want);
    assert_eq!(client::naa(&data), Ok(Some(naa)));
    assert_eq!(lab.read_in(A, &client::vpd(0x80, 255)), b"\0\x80\0\x04S123");
}

#[test]
fn limits_provisioning_and_capacity_read_back() {
    let mut lab = Lab::new();
    let limits = BlockLimits::parse(&lab.read_in(A, &client::vpd(0xB0, 255)));
    let want = BlockLimits {
        max_compare_blocks: 255,
        optimal_granularity: 8,
        max_transfer_blocks: 2048,
        optimal_transfer_blocks: 2048,
        max_unmap_blocks: 1 << 20,
        max_unmap_descriptors: 256,
        unmap_granularity: 8,
        unmap_alignment: Some(0),
        max_write_same_blocks: 32768,
    };
    assert_eq!(limits, Ok(want));
    let provisioning = Provisioning::parse(&lab.read_in(A, &client::vpd(0xB2, 255)));
    let want = Provisioning {
        unmap: true,
        write_same16_unmap: true,
        zeroes: true,
        thin: true,
    };
    assert_eq!(provisioning, Ok(want));
    let capacity = Capacity::parse(&lab.read_in(A, &client::read_capacity16()));
    let want = Capacity {
        blocks: BLOCKS as u64,
        block: 512,
        physical_block: 4096,
        provisioned: true,
        zeroes: true,
        protection: false,
    };
    assert_eq!(capacity, Ok(want));
    assert_eq!(
        lab.read_in(A, &Cdb::new(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        [0, 0, 0x0F, 0xFF, 0, 0, 2, 0]
    );
    assert_eq!(
        code(&lab.run(A, &[0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0])),
        Code::INVALID_FIELD_IN_CDB
    );
}

#[test]
fn a_thick_4k_unit_says_so() {
    let mut config = config();
    config.block_size = BlockSize::B4096;
    config.thin = false;
    let mut lab = Lab::with(config);
    let capacity = Capacity::parse(&lab.read_in(A, &client::read_capacity16())).expect("capacity");
    assert_eq!(
        (capacity.blocks, capacity.block, capacity.physical_block),
        (BLOCKS as u64 / 8, 4096, 4096)
    );
    assert!(!capacity.provisioned);
    let provisioning = Provisioning::parse(&lab.read_in(A, &client::vpd(0xB2, 255)));
    assert_eq!(provisioning, Ok(Provisioning::default()));
    let (cdb, list) = client::unmap(&[(0, 1)]);
    assert_eq!(
        code(&lab.send(A, cdb.as_bytes(), &list)),
        Code::INVALID_OPERATION_CODE
    );
    assert_eq!(
        code(&lab.send(A, &[0x41, 0x08, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 4096])),
        Code::INVALID_FIELD_IN_CDB
    );
}

#[test]
fn luns_port_groups_logs_and_defects() {
    let mut lab = Lab::new();
    let luns = [0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
    assert_eq!(
        lab.read_in(A, &Cdb::new(&luns)),
        [
            0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0
        ]
    );
    let groups = lab.read_in(A, &Cdb::new(&[0xA3, 0x0A, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0]));
    assert_eq!(groups, [0, 0, 0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
    let groups = lab.read_in(A, &Cdb::new(&[0xA3, 0x2A, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0]));
    assert_eq!(groups[..8], [0, 0, 0, 16, 0x10, 0, 0, 0]);
    assert_eq!(
        lab.read_in(A, &Cdb::new(&[0x4D, 0, 0x40, 0, 0, 0, 0, 0, 64, 0])),
        [0, 0, 0, 2, 0, 0x2F]
    );
    assert_eq!(
        lab.read_in(A, &Cdb::new(&[0x37, 0, 0x1D, 0, 0, 0, 0, 0, 32, 0])),
        [0, 0x1D, 0, 0]
    );
    assert_eq!(lab.run(A, &[0x1D, 0x04, 0, 0, 0, 0]).status, Status::Good);
}

#[test]
fn a_lun_that_is_not_there_still_answers_inquiry_and_report_luns() {
    let luns = [Lun::from_number(3)];
    let ask = |cdb: &[u8]| absent_unit(&Cdb::new(cdb), &luns, Expected::In(255));
    let identity =
        Identity::parse(&super::flat(&ask(&[0x12, 0, 0, 0, 96, 0]))).expect("standard data");
    assert!(!identity.present);
    assert_eq!(
        super::flat(&ask(&[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0]))[8..],
        [0, 3, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        code(&ask(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0])),
        Code::LOGICAL_UNIT_NOT_SUPPORTED
    );
}

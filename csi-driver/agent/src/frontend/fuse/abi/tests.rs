//! Requests and answers of FUSE as the kernel lays them out.

use super::*;

fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&u32::try_from(IN_HEADER + body.len()).unwrap().to_ne_bytes());
    bytes.extend_from_slice(&opcode.to_ne_bytes());
    bytes.extend_from_slice(&77u64.to_ne_bytes());
    bytes.extend_from_slice(&FILE_NODE.to_ne_bytes());
    bytes.resize(IN_HEADER, 0);
    bytes.extend_from_slice(body);
    bytes
}

fn write_body(offset: u64, data: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend_from_slice(&offset.to_ne_bytes());
    body.extend_from_slice(&u32::try_from(data.len()).unwrap().to_ne_bytes());
    body.resize(40, 0);
    body.extend_from_slice(data);
    body
}

#[test]
fn a_write_carries_its_offset_and_data() {
    let bytes = request(16, &write_body(8192, b"abcd"));
    assert_eq!(
        parse(&bytes),
        Ok(Request {
            unique: 77,
            node: 2,
            op: Op::Write {
                offset: 8192,
                data: b"abcd"
            }
        })
    );
}

#[test]
fn a_request_cut_at_any_length_is_refused_without_panic() {
    let bytes = request(16, &write_body(8192, b"abcd"));
    for len in 0..bytes.len() {
        assert!(parse(&bytes[..len]).is_err(), "cut at {len}");
        // With a length field that agrees with the cut.
        let mut cut = bytes[..len].to_vec();
        if len >= 4 {
            cut[..4].copy_from_slice(&u32::try_from(len).unwrap().to_ne_bytes());
        }
        assert!(parse(&cut).is_err(), "cut and relabelled at {len}");
    }
}

#[test]
fn fallocate_modes_of_the_loop_device_are_told_apart() {
    let body = |mode: u32| {
        let mut body = vec![0; 8];
        body.extend_from_slice(&4096u64.to_ne_bytes());
        body.extend_from_slice(&65536u64.to_ne_bytes());
        body.extend_from_slice(&mode.to_ne_bytes());
        body.resize(32, 0);
        request(43, &body)
    };
    assert_eq!(
        parse(&body(0x3)).unwrap().op,
        Op::Punch {
            offset: 4096,
            len: 65536
        }
    );
    assert_eq!(
        parse(&body(0x11)).unwrap().op,
        Op::Zero {
            offset: 4096,
            len: 65536
        }
    );
    assert_eq!(
        parse(&body(0x0)).unwrap().op,
        Op::Unsupported { opcode: 43 }
    );
    assert_eq!(
        parse(&body(0x8)).unwrap().op,
        Op::Unsupported { opcode: 43 }
    );
}

#[test]
fn a_name_ends_at_its_zero() {
    assert_eq!(
        parse(&request(1, b"dev\0")).unwrap().op,
        Op::Lookup { name: b"dev" }
    );
}

#[test]
fn answers_have_the_sizes_the_kernel_wants() {
    let total = |answer: Answer| {
        let named = u32::from_ne_bytes(*answer.bytes().first_chunk().unwrap());
        assert_eq!(usize::try_from(named).unwrap(), answer.bytes().len());
        answer.bytes().len() - OUT_HEADER
    };
    assert_eq!(total(Answer::init(1, 7, 45, 0, u32::MAX)), 64);
    assert_eq!(total(Answer::entry(1, 4096)), 128);
    assert_eq!(total(Answer::attributes(1, FILE_NODE, 4096)), 104);
    assert_eq!(total(Answer::opened(1)), 16);
    assert_eq!(total(Answer::statfs(1, 1 << 20, 4096)), 80);
    assert_eq!(total(Answer::wrote(1, 4096)), 8);
    assert_eq!(total(Answer::done(1)), 0);
}

#[test]
fn an_error_is_negative_on_the_wire() {
    let answer = Answer::error(5, libc::EIO);
    assert_eq!(answer.bytes()[4..8], (-5i32).to_ne_bytes());
    assert_eq!(answer.bytes()[8..16], 5u64.to_ne_bytes());
}

#[test]
fn a_kernel_that_is_too_old_is_refused() {
    assert_eq!(
        Answer::init(1, 7, 30, 0, u32::MAX),
        Answer::error(1, libc::EPROTO)
    );
    assert_eq!(
        Answer::init(1, 8, 0, 0, u32::MAX),
        Answer::error(1, libc::EPROTO)
    );
}

#[test]
fn init_takes_only_what_the_kernel_offers() {
    let answer = Answer::init(1, 7, 45, 0, 1 << 15);
    assert_eq!(answer.bytes()[28..32], (1u32 << 15).to_ne_bytes());
}

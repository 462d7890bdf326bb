//! Cutting PDUs out of bytes: digests, limits, any division of the stream.

use proptest::prelude::*;

use super::*;

const PLAIN: Framing = Framing {
    max_segment: 1024,
    max_ahs: 64,
    header_digest: false,
    data_digest: false,
};

fn header(ahs_words: u8, length: u32) -> Header {
    let mut header = [0x11; HEADER];
    header[4] = ahs_words;
    header[5..8].copy_from_slice(&length.to_be_bytes()[1..]);
    header
}

fn wire(framing: Framing, ahs_words: u8, data: &[u8]) -> Vec<u8> {
    let header = header(ahs_words, data.len() as u32);
    let ahs = vec![0x22; usize::from(ahs_words) * 4];
    let mut out = [&header[..], &ahs].concat();
    if framing.header_digest {
        out.extend(crc32c::crc32c(&out).to_le_bytes());
    }
    if !data.is_empty() {
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(4), 0);
        out.extend(&padded);
        if framing.data_digest {
            out.extend(crc32c::crc32c(&padded).to_le_bytes());
        }
    }
    out
}

fn both(framing: Framing) -> Framing {
    Framing {
        header_digest: true,
        data_digest: true,
        ..framing
    }
}

fn data_of(pdu: &Pdu) -> Vec<u8> {
    pdu.data.concat()
}

#[test]
fn golden_pdu_with_both_digests_is_cut_out() {
    let mut stream = vec![0; 48];
    stream[0] = 0x05;
    stream[7] = 3;
    // CRC32C of the header above, and of "abc" with one pad byte.
    stream.extend([0x4A, 0x4F, 0x35, 0x6E]);
    stream.extend(b"abc\0");
    stream.extend([0x4E, 0x9C, 0xDE, 0xE7]);
    let header_sum = crc32c::crc32c(&stream[..48]).to_le_bytes();
    let data_sum = crc32c::crc32c(b"abc\0").to_le_bytes();
    stream[48..52].copy_from_slice(&header_sum);
    stream[56..60].copy_from_slice(&data_sum);
    let mut framer = Framer::new(both(PLAIN));
    framer.push(Bytes::from(stream));
    let pdu = framer.next_pdu().unwrap().unwrap();
    assert_eq!((pdu.header[0], pdu.data_len, pdu.intact), (5, 3, true));
    assert_eq!(data_of(&pdu), b"abc");
    assert_eq!(framer.next_pdu(), Ok(None));
    assert_eq!(framer.buffered(), 0);
}

#[test]
fn a_stream_cut_at_any_length_gives_nothing_until_whole() {
    for framing in [PLAIN, both(PLAIN)] {
        let stream = wire(framing, 2, b"seventeen bytes!!");
        for cut in 0..stream.len() {
            let mut framer = Framer::new(framing);
            framer.push(Bytes::copy_from_slice(&stream[..cut]));
            assert_eq!(framer.next_pdu(), Ok(None), "cut at {cut}");
            framer.push(Bytes::copy_from_slice(&stream[cut..]));
            let pdu = framer.next_pdu().unwrap().unwrap();
            assert_eq!(data_of(&pdu), b"seventeen bytes!!");
            assert!(pdu.intact);
        }
    }
}

#[test]
fn one_byte_at_a_time_works_and_pins_no_buffers() {
    let stream = wire(PLAIN, 0, &[7; 1000]);
    let mut framer = Framer::new(PLAIN);
    let big = Bytes::from(stream.clone());
    let (last, first) = stream
        .len()
        .checked_sub(1)
        .map(|l| (l, &stream[..l]))
        .unwrap();
    for at in 0..first.len() {
        framer.push(big.slice(at..at + 1));
        assert_eq!(framer.next_pdu(), Ok(None));
        assert!(framer.rest.is_empty());
    }
    framer.push(big.slice(last..));
    let pdu = framer.next_pdu().unwrap().unwrap();
    assert_eq!(data_of(&pdu), [7; 1000]);
    assert!(big.is_unique());
}

#[test]
fn data_in_one_chunk_is_not_copied() {
    let stream = Bytes::from(wire(PLAIN, 0, &[9; 512]));
    let mut framer = Framer::new(PLAIN);
    framer.push(stream.clone());
    let pdu = framer.next_pdu().unwrap().unwrap();
    assert_eq!(pdu.data.len(), 1);
    assert_eq!(pdu.data[0].as_ptr(), stream[48..].as_ptr());
}

#[test]
fn lengths_beyond_the_limits_are_refused_by_the_header_alone() {
    let mut framer = Framer::new(PLAIN);
    framer.push(Bytes::copy_from_slice(&header(0, 1025)));
    let error = FrameError::SegmentTooLong {
        length: 1025,
        limit: 1024,
    };
    assert_eq!(framer.next_pdu(), Err(error));
    framer.push(Bytes::copy_from_slice(&header(0, 0)));
    assert_eq!(framer.next_pdu(), Err(error));

    let mut framer = Framer::new(PLAIN);
    framer.push(Bytes::copy_from_slice(&header(17, 0)));
    let error = FrameError::HeaderTooLong {
        length: 68,
        limit: 64,
    };
    assert_eq!(framer.next_pdu(), Err(error));
}

#[test]
fn a_bit_flip_in_the_header_fails_the_stream_and_one_in_the_data_marks_the_pdu() {
    let framing = both(PLAIN);
    let good = wire(framing, 1, &[3; 20]);
    for bit in 0..(48 + 4) * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut framer = Framer::new(framing);
        framer.push(Bytes::from(bad));
        assert!(!matches!(framer.next_pdu(), Ok(Some(_))), "bit {bit}");
    }
    for bit in (48 + 4 + 4) * 8..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut framer = Framer::new(framing);
        framer.push(Bytes::from(bad));
        assert!(!framer.next_pdu().unwrap().unwrap().intact, "bit {bit}");
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_pdus(
        bodies in prop::collection::vec((0u8..16, prop::collection::vec(any::<u8>(), 0..1024)), 1..6),
        cuts in prop::collection::vec(1usize..2000, 1..20),
        digests in any::<(bool, bool)>(),
    ) {
        let framing = Framing { header_digest: digests.0, data_digest: digests.1, ..PLAIN };
        let stream: Vec<u8> = bodies.iter().flat_map(|(ahs, data)| wire(framing, *ahs, data)).collect();
        let mut stream = Bytes::from(stream);
        let mut framer = Framer::new(framing);
        let mut seen = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        while !stream.is_empty() {
            let step = cuts.next().unwrap().min(stream.len());
            framer.push(stream.split_to(step));
            while let Some(pdu) = framer.next_pdu().unwrap() {
                prop_assert!(pdu.intact);
                seen.push((pdu.header[4], data_of(&pdu)));
            }
        }
        prop_assert_eq!(seen, bodies);
        prop_assert_eq!(framer.buffered(), 0);
    }

    #[test]
    fn random_bytes_never_panic(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        digests in any::<(bool, bool)>(),
    ) {
        let framing = Framing { header_digest: digests.0, data_digest: digests.1, ..PLAIN };
        let mut framer = Framer::new(framing);
        for chunk in chunks {
            framer.push(Bytes::from(chunk));
            while let Ok(Some(_)) = framer.next_pdu() {}
            prop_assert!(framer.buffered() <= 48 + 64 + 4 + 1024 + 4 + 300);
        }
    }
}

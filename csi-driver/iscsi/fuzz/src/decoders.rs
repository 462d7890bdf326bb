//! The framer, every PDU header, and text.

use bytes::Bytes;
use twinsite_iscsi::text;
use twinsite_iscsi::wire::async_message::AsyncMessage;
use twinsite_iscsi::wire::data_in::DataIn;
use twinsite_iscsi::wire::data_out::DataOut;
use twinsite_iscsi::wire::frame::{Framer, Framing, Pdu};
use twinsite_iscsi::wire::login::{LoginRequest, LoginResponse};
use twinsite_iscsi::wire::logout::{LogoutRequest, LogoutResponse};
use twinsite_iscsi::wire::nop::{NopIn, NopOut};
use twinsite_iscsi::wire::r2t::R2t;
use twinsite_iscsi::wire::reject::Reject;
use twinsite_iscsi::wire::scsi_command::ScsiCommand;
use twinsite_iscsi::wire::scsi_response::ScsiResponse;
use twinsite_iscsi::wire::task_management::{TaskManagementRequest, TaskManagementResponse};
use twinsite_iscsi::wire::text::{TextRequest, TextResponse};
use twinsite_iscsi::wire::{HEADER, Header};

use crate::choices::Choices;

/// Longest segment and additional header segments that the framer of this target takes.
const MAX_SEGMENT: u32 = 2048;
const MAX_AHS: u32 = 64;

/// One stream in two splits: the PDUs must be the same, and nothing beyond the limits is held.
pub fn frame(data: &[u8]) {
    let mut choices = Choices(data);
    let [flags, long] = choices.array();
    let framing = Framing {
        max_segment: MAX_SEGMENT,
        max_ahs: MAX_AHS,
        header_digest: flags & 1 != 0,
        data_digest: flags & 2 != 0,
    };
    let stream = choices.0;
    let whole = cut(framing, stream, usize::MAX);
    let split = cut(framing, stream, 1 + usize::from(long) * 8);
    assert_eq!(whole, split);
}

type Cut = (Vec<(Header, Vec<u8>, bool)>, Option<String>);

fn cut(framing: Framing, stream: &[u8], chunk: usize) -> Cut {
    let mut framer = Framer::new(framing);
    let mut out = Vec::new();
    for piece in stream.chunks(chunk) {
        framer.push(Bytes::copy_from_slice(piece));
        loop {
            match framer.next_pdu() {
                Ok(Some(pdu)) => out.push(plain(pdu)),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(framer.buffered(), 0);
                    return (out, Some(error.to_string()));
                }
            }
        }
        let most = HEADER + (MAX_SEGMENT + MAX_AHS) as usize + 3 + 8;
        assert!(framer.buffered() < most, "{} held", framer.buffered());
    }
    (out, None)
}

fn plain(pdu: Pdu) -> (Header, Vec<u8>, bool) {
    let data = pdu.data.concat();
    assert_eq!(data.len(), pdu.data_len as usize);
    assert!(pdu.data_len <= MAX_SEGMENT);
    (pdu.header, data, pdu.intact)
}

macro_rules! survives {
    ($header:expr, $($kind:ident($($len:expr)?)),+ $(,)?) => {
        $(
            let pdu = $kind::parse($header);
            assert_eq!($kind::parse(&pdu.emit($($len)?)), pdu);
        )+
    };
}

macro_rules! survives_if_good {
    ($header:expr, $($kind:ident($($len:expr)?)),+ $(,)?) => {
        $(
            if let Ok(pdu) = $kind::parse($header) {
                assert_eq!($kind::parse(&pdu.emit($($len)?)), Ok(pdu));
            }
        )+
    };
}

/// One header as every kind of PDU: what is accepted means the same after being emitted.
pub fn pdu(data: &[u8]) {
    let mut choices = Choices(data);
    while !choices.is_empty() {
        let header = &choices.array::<HEADER>();
        survives!(
            header,
            AsyncMessage(0),
            DataOut(0),
            LogoutResponse(),
            NopIn(0),
            NopOut(0),
            R2t(),
            Reject(0),
            TaskManagementRequest(),
            TaskManagementResponse(),
        );
        survives_if_good!(
            header,
            DataIn(0),
            LoginRequest(0),
            LoginResponse(0),
            LogoutRequest(),
            ScsiCommand(0),
            ScsiResponse(0),
            TextRequest(0),
            TextResponse(0),
        );
    }
}

/// Text, and the values in it as numbers and as binary.
pub fn text(data: &[u8]) {
    let Ok(pairs) = text::parse(data) else {
        return;
    };
    assert!(pairs.len() <= text::MAX_PAIRS);
    let mut out = text::TextOut::default();
    for (key, value) in &pairs {
        out.pair(key, value);
        if let Some(number) = text::parse_number(value) {
            assert_eq!(text::parse_number(&number.to_string()), Some(number));
        }
        if let Some(bytes) = text::parse_binary(value, 1024) {
            assert!(bytes.len() <= 1024);
            assert_eq!(
                text::parse_binary(&text::emit_hex(&bytes), 1024),
                Some(bytes)
            );
        }
    }
    assert_eq!(text::parse(&out.into_bytes()), Ok(pairs));
}

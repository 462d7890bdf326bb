//! The server's end of one HTTP/2 connection, as far as two unary calls take it. Pure: bytes in, bytes out.
//!
//! kubelet names its plugins' sockets by their path in `:authority`, percent-encoded, which the HTTP/2 library that serves all
//! our other sockets refuses as malformed (RFC 3986 allows it, its parser does not). So this socket is served by hand. The
//! header blocks of requests are not read at all: which call it is follows from the body, see [`super`].
//!
//! Invariants: what is kept of a connection is bounded by [`MAX_FRAME`], [`MAX_BODY`] and [`MAX_STREAMS`]; no byte from the
//! wire panics. Not here: flow control of answers, which are shorter than the smallest window.

use std::collections::BTreeMap;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest payload that a peer may send unless told otherwise (RFC 9113, 6.5.2).
const MAX_FRAME: usize = 16_384;
/// Longest request.
const MAX_BODY: usize = 65_536;
/// Requests under way on one connection.
const MAX_STREAMS: usize = 16;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// `:status: 200` from the static table; `content-type` from it, with a literal value.
const ANSWER_HEADERS: &[u8] = b"\x88\x0f\x10\x10application/grpc";
const ANSWER_TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

/// The peer does not speak what we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("no HTTP/2 preface")]
    Preface,
    #[error("a frame of {0} bytes")]
    FrameTooLong(usize),
    #[error("a malformed frame of type {0}")]
    Malformed(u8),
    #[error("more than {MAX_STREAMS} requests at once")]
    TooManyStreams,
    #[error("a request of more than {MAX_BODY} bytes")]
    BodyTooLong,
    #[error("a body that is no gRPC message")]
    NotGrpc,
}

/// What is known of one connection.
#[derive(Debug, Default)]
pub(super) struct Connection {
    begun: bool,
    input: Vec<u8>,
    bodies: BTreeMap<u32, Vec<u8>>,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Connection {
    /// What the server says first: no settings of its own.
    pub(super) fn greeting() -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, SETTINGS, 0, 0, &[]);
        out
    }

    /// Takes bytes from the wire; `answer` makes a message of the message of each request that is complete. What is to be sent.
    pub(super) fn hear(
        &mut self,
        bytes: &[u8],
        mut answer: impl FnMut(&[u8]) -> Vec<u8>,
    ) -> Result<Vec<u8>, Broken> {
        self.input.extend_from_slice(bytes);
        let mut out = Vec::new();
        if !self.begun {
            let seen = self.input.len().min(PREFACE.len());
            if self.input[..seen] != PREFACE[..seen] {
                return Err(Broken::Preface);
            }
            if seen < PREFACE.len() {
                return Ok(out);
            }
            self.input.drain(..PREFACE.len());
            self.begun = true;
        }
        while let Some(frame) = self.next_frame()? {
            self.take(frame, &mut out, &mut answer)?;
        }
        Ok(out)
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, Broken> {
        let Some(&[a, b, c, kind, flags, s0, s1, s2, s3]) = self.input.first_chunk::<9>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > MAX_FRAME {
            return Err(Broken::FrameTooLong(length));
        }
        if self.input.len() < 9 + length {
            return Ok(None);
        }
        let payload = self.input[9..9 + length].to_vec();
        self.input.drain(..9 + length);
        Ok(Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            payload,
        }))
    }

    fn take(
        &mut self,
        frame: Frame,
        out: &mut Vec<u8>,
        answer: &mut impl FnMut(&[u8]) -> Vec<u8>,
    ) -> Result<(), Broken> {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => put(out, SETTINGS, ACK, 0, &[]),
            PING if frame.flags & ACK == 0 => {
                if frame.payload.len() != 8 {
                    return Err(Broken::Malformed(PING));
                }
                put(out, PING, ACK, 0, &frame.payload);
            }
            HEADERS => {
                if self.bodies.len() >= MAX_STREAMS {
                    return Err(Broken::TooManyStreams);
                }
                self.bodies.insert(frame.stream, Vec::new());
            }
            DATA => self.take_data(&frame, out)?,
            RST_STREAM => {
                self.bodies.remove(&frame.stream);
            }
            _ => return Ok(()),
        }
        let ends = matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0;
        if ends && let Some(body) = self.bodies.remove(&frame.stream) {
            let message = answer(message_of(&body)?);
            put(out, HEADERS, END_HEADERS, frame.stream, ANSWER_HEADERS);
            let mut data = vec![0];
            data.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
            data.extend_from_slice(&message);
            put(out, DATA, 0, frame.stream, &data);
            put(
                out,
                HEADERS,
                END_HEADERS | END_STREAM,
                frame.stream,
                ANSWER_TRAILERS,
            );
        }
        Ok(())
    }

    fn take_data(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<(), Broken> {
        if !frame.payload.is_empty() {
            // The whole window is open again at once; a stream's own is wider than a request may be long.
            let taken = u32::try_from(frame.payload.len()).unwrap_or(0);
            put(out, WINDOW_UPDATE, 0, 0, &taken.to_be_bytes());
        }
        let mut content = frame.payload.as_slice();
        if frame.flags & PADDED != 0 {
            let (&padding, rest) = content.split_first().ok_or(Broken::Malformed(DATA))?;
            let kept = rest.len().checked_sub(usize::from(padding));
            content = &rest[..kept.ok_or(Broken::Malformed(DATA))?];
        }
        // A stream that was given up is of no interest any more.
        if let Some(body) = self.bodies.get_mut(&frame.stream) {
            if body.len() + content.len() > MAX_BODY {
                return Err(Broken::BodyTooLong);
            }
            body.extend_from_slice(content);
        }
        Ok(())
    }
}

/// The message behind a gRPC prefix: not compressed, its length.
fn message_of(body: &[u8]) -> Result<&[u8], Broken> {
    let (prefix, message) = body.split_first_chunk::<5>().ok_or(Broken::NotGrpc)?;
    let [compressed, a, b, c, d] = *prefix;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if compressed != 0 || length != message.len() {
        return Err(Broken::NotGrpc);
    }
    Ok(message)
}

fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(message: &[u8]) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        put(&mut bytes, SETTINGS, 0, 0, &[]);
        put(&mut bytes, HEADERS, END_HEADERS, 1, b"whatever");
        let mut data = vec![0];
        data.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        data.extend_from_slice(message);
        put(&mut bytes, DATA, END_STREAM, 1, &data);
        bytes
    }

    #[test]
    fn a_request_in_pieces_is_answered_once_it_is_whole() {
        let bytes = request(b"ask");
        let mut connection = Connection::default();
        let mut asked = Vec::new();
        let mut said = Vec::new();
        for byte in &bytes {
            let out = connection.hear(&[*byte], |message| {
                asked.push(message.to_vec());
                b"told".to_vec()
            });
            said.extend(out.unwrap());
        }
        assert_eq!(asked, [b"ask".to_vec()]);
        assert!(said.windows(9).any(|window| window == b"\0\0\0\0\x04told"));
        assert!(said.ends_with(ANSWER_TRAILERS));
    }

    #[test]
    fn strange_bytes_end_the_connection_and_nothing_else() {
        let hear = |bytes: &[u8]| Connection::default().hear(bytes, |_| Vec::new());
        assert_eq!(hear(b"GET / HTTP/1.1\r\n"), Err(Broken::Preface));
        let mut long = PREFACE.to_vec();
        long.extend_from_slice(&[0xff; 9]);
        assert_eq!(hear(&long), Err(Broken::FrameTooLong(0xff_ffff)));
        let mut ping = PREFACE.to_vec();
        put(&mut ping, PING, 0, 0, b"short");
        assert_eq!(hear(&ping), Err(Broken::Malformed(PING)));
        let mut padded = PREFACE.to_vec();
        put(&mut padded, HEADERS, END_HEADERS, 1, &[]);
        put(&mut padded, DATA, PADDED | END_STREAM, 1, &[9, 0]);
        assert_eq!(hear(&padded), Err(Broken::Malformed(DATA)));
        let mut bare = PREFACE.to_vec();
        put(&mut bare, HEADERS, END_HEADERS | END_STREAM, 1, &[]);
        assert_eq!(hear(&bare), Err(Broken::NotGrpc));
        let mut many = PREFACE.to_vec();
        for stream in 0..=MAX_STREAMS {
            put(
                &mut many,
                HEADERS,
                END_HEADERS,
                u32::try_from(stream).unwrap(),
                &[],
            );
        }
        assert_eq!(hear(&many), Err(Broken::TooManyStreams));
    }

    #[test]
    fn no_order_of_bytes_panics() {
        let whole = request(b"ask");
        for at in 0..whole.len() {
            for value in [0, 1, 8, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = Connection::default().hear(&bytes, |_| Vec::new());
            }
        }
    }
}

//! A connected socket as both ends of a session use it: one receive and at most one gathered send under way, a bounded appetite.
//!
//! What the socket has room for is sent at once by the settle itself; only the rest goes through the ring.
//!
//! Call order: [`Stream::handle`] for `Received` and `Sent` events of its two tokens; then, once a batch, [`Stream::queue`] what is
//! to be sent and [`Stream::settle`]. Received bytes are slices of a shared buffer: they are not copied on their way to a file.
//! Not here: who owns the tokens. A dropped stream leaves operations under way, so put a generation into the tokens.

use std::io;

use bytes::{Bytes, BytesMut};

use super::{Context, Descriptor, Event, OpId, Token};

/// The first receive buffer, and what a peer that has not logged in can hold here.
const FIRST_BUFFER: usize = 16 << 10;
/// Buffers grow to this while receives fill them.
const LARGEST_BUFFER: usize = 512 << 10;
/// No receive is started while more than this waits to be sent: a peer that does not read is not served further.
const SEND_BACKLOG: usize = 8 << 20;
/// Pieces of one send; the rest follows in the next one.
const PIECES_PER_SEND: usize = 1024;

/// What an event meant.
#[derive(Debug)]
pub enum StreamEvent {
    Received(Bytes),
    /// What waited for room in the socket was taken; more may go at the next settle.
    Sent,
    /// The peer closed (`None`) or the connection broke. Nothing more will come; drop the stream.
    Closed(Option<io::Error>),
}

#[derive(Debug)]
pub struct Stream {
    socket: Descriptor,
    receive_token: Token,
    send_token: Token,
    buffer: BytesMut,
    chunk: usize,
    largest: usize,
    receiving: Option<OpId>,
    queue: Vec<Bytes>,
    queued_bytes: usize,
    /// Bytes of the send under way.
    sending: Option<usize>,
    paused: bool,
    closing: bool,
}

impl Stream {
    pub fn new(socket: Descriptor, receive_token: Token, send_token: Token) -> Self {
        Self {
            socket,
            receive_token,
            send_token,
            buffer: BytesMut::new(),
            chunk: FIRST_BUFFER,
            largest: LARGEST_BUFFER,
            receiving: None,
            queue: Vec::new(),
            queued_bytes: 0,
            sending: None,
            paused: false,
            closing: false,
        }
    }

    /// Receive buffers never grow: for a peer that has not said who it is.
    pub fn with_small_buffer(mut self) -> Self {
        self.largest = FIRST_BUFFER;
        self
    }

    pub fn socket(&self) -> &Descriptor {
        &self.socket
    }

    /// Adds to what the next [`Stream::settle`] sends.
    pub fn queue(&mut self, pieces: impl IntoIterator<Item = Bytes>) {
        for piece in pieces {
            self.queued_bytes += piece.len();
            self.queue.push(piece);
        }
    }

    /// Bytes that were queued and that the socket has not taken yet.
    pub fn backlog(&self) -> usize {
        self.queued_bytes + self.sending.unwrap_or(0)
    }

    /// Stops (or goes on with) receiving, for a reader that is full.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Sends what is queued, then closes.
    pub fn close_when_sent(&mut self) {
        self.closing = true;
    }

    /// Closes at once; [`StreamEvent::Closed`] may still come.
    pub fn close(&mut self) {
        self.socket.shutdown();
    }

    /// Starts the next receive and the next send, whichever may be started.
    pub fn settle(&mut self, cx: &mut Context<'_>) {
        while self.sending.is_none() && !self.queue.is_empty() {
            let pieces = if self.queue.len() <= PIECES_PER_SEND {
                std::mem::take(&mut self.queue)
            } else {
                let rest = self.queue.split_off(PIECES_PER_SEND);
                std::mem::replace(&mut self.queue, rest)
            };
            let len: usize = pieces.iter().map(Bytes::len).sum();
            self.queued_bytes -= len;
            let rest = self.socket.send_now(pieces);
            if !rest.is_empty() {
                self.sending = Some(rest.iter().map(Bytes::len).sum());
                cx.send(&self.socket, rest, self.send_token);
            }
        }
        if self.closing && self.backlog() == 0 {
            self.socket.shutdown();
        }
        if self.receiving.is_none() && !self.paused && self.backlog() <= SEND_BACKLOG {
            if self.buffer.capacity() - self.buffer.len() < self.chunk / 2 {
                self.buffer.reserve(self.chunk);
            }
            let buffer = std::mem::take(&mut self.buffer);
            self.receiving = Some(cx.receive(&self.socket, buffer, self.receive_token));
        }
    }

    /// Takes in an event of one of the two tokens.
    pub fn handle(&mut self, event: Event) -> StreamEvent {
        match event {
            Event::Received(mut buffer, result) => {
                self.receiving = None;
                match result {
                    Ok(0) => StreamEvent::Closed(None),
                    Ok(_) => {
                        if buffer.len() == buffer.capacity() {
                            self.chunk = (self.chunk * 2).min(self.largest);
                        }
                        let received = buffer.split().freeze();
                        self.buffer = buffer;
                        StreamEvent::Received(received)
                    }
                    Err(error) => StreamEvent::Closed(Some(error)),
                }
            }
            Event::Sent(result) => {
                self.sending = None;
                match result {
                    Ok(()) => StreamEvent::Sent,
                    Err(error) => StreamEvent::Closed(Some(error)),
                }
            }
            other => unreachable!("a stream starts receives and sends only, not {other:?}"),
        }
    }

    /// Whether nothing is under way: the stream could be given away.
    pub fn is_idle(&self) -> bool {
        self.receiving.is_none() && self.sending.is_none()
    }

    /// Gives the socket and what is still to be sent to another owner (a stream on another thread). Only an idle stream can
    /// be given away.
    pub fn into_parts(self) -> (Descriptor, Vec<Bytes>) {
        assert!(self.is_idle(), "an operation is under way on the socket");
        (self.socket, self.queue)
    }
}

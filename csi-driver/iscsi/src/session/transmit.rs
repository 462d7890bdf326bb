//! What goes to the socket: headers gathered with payloads, nothing copied that is large.

use bytes::Bytes;

/// A run of whole PDUs, to be sent in this order with one gathered send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transmit {
    pub pieces: Vec<Bytes>,
    /// Sum of the pieces' lengths.
    pub len: usize,
}

//! What an end asks for in the operational negotiation, and what came out of it.

/// What is said about a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestOffer {
    /// Only None.
    Never,
    /// None is preferred, CRC32C is taken if the peer wants it.
    #[default]
    Allow,
    /// CRC32C is preferred, None is taken if the peer has no digests.
    Prefer,
    /// Only CRC32C.
    Require,
}

/// What an end asks for; the outcome is the smaller, or as the peer says (RFC 7143 section 13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub header_digest: DigestOffer,
    pub data_digest: DigestOffer,
    /// Longest data segment this end takes (MaxRecvDataSegmentLength), in bytes.
    pub max_recv_segment: u32,
    pub max_burst: u32,
    pub first_burst: u32,
    pub initial_r2t: bool,
    pub immediate_data: bool,
    pub max_outstanding_r2t: u16,
    pub time2wait_seconds: u16,
    pub time2retain_seconds: u16,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            header_digest: DigestOffer::Allow,
            data_digest: DigestOffer::Allow,
            max_recv_segment: 256 * 1024,
            max_burst: 1024 * 1024,
            first_burst: 256 * 1024,
            initial_r2t: false,
            immediate_data: true,
            max_outstanding_r2t: 8,
            time2wait_seconds: 2,
            time2retain_seconds: 0,
        }
    }
}

/// What both ends agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    pub header_digest: bool,
    pub data_digest: bool,
    /// Longest data segment this end takes.
    pub max_recv_segment: u32,
    /// Longest data segment the peer takes.
    pub max_send_segment: u32,
    pub max_burst: u32,
    pub first_burst: u32,
    pub initial_r2t: bool,
    pub immediate_data: bool,
    pub max_outstanding_r2t: u16,
    pub time2wait_seconds: u16,
    pub time2retain_seconds: u16,
}

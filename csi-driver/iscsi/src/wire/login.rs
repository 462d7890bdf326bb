//! Login Request and Response (RFC 7143 sections 11.12 and 11.13).

use super::{
    BadField, CONTINUE, FINAL, Header, IMMEDIATE, bit, blank, opcode, put_u16, put_u32, u16_at,
    u32_at,
};

/// The only version of the protocol.
pub const VERSION: u8 = 0;

/// The stages of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Security,
    Operational,
    FullFeature,
}

impl Stage {
    fn parse(bits: u8) -> Result<Self, BadField> {
        match bits & 0x03 {
            0 => Ok(Self::Security),
            1 => Ok(Self::Operational),
            3 => Ok(Self::FullFeature),
            _ => Err(BadField("reserved login stage")),
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::FullFeature => 3,
        }
    }
}

/// Which stage a login PDU belongs to, and whether it ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transit {
    /// More text of the same kind follows in the next PDU.
    pub more: bool,
    pub current: Stage,
    /// The stage that the sender is ready to go to.
    pub next: Option<Stage>,
}

impl Transit {
    fn parse(flags: u8) -> Result<Self, BadField> {
        let more = flags & CONTINUE != 0;
        let current = Stage::parse(flags >> 2)?;
        let next = if flags & FINAL != 0 {
            Some(Stage::parse(flags)?)
        } else {
            None
        };
        if current == Stage::FullFeature {
            return Err(BadField("login PDU in the full feature phase"));
        }
        if next.is_some_and(|next| next <= current) {
            return Err(BadField("login stage does not follow the current one"));
        }
        if more && next.is_some() {
            return Err(BadField("login PDU continues and transits at once"));
        }
        Ok(Self {
            more,
            current,
            next,
        })
    }

    fn emit(self) -> u8 {
        let next = self.next.map_or(0, |next| FINAL | next.bits());
        bit(self.more, CONTINUE) | self.current.bits() << 2 | next
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRequest {
    pub transit: Transit,
    pub version_max: u8,
    pub version_min: u8,
    pub isid: [u8; 6],
    pub tsih: u16,
    pub itt: u32,
    pub cid: u16,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
}

impl LoginRequest {
    pub fn parse(header: &Header) -> Result<Self, BadField> {
        Ok(Self {
            transit: Transit::parse(header[1])?,
            version_max: header[2],
            version_min: header[3],
            isid: isid(header),
            tsih: u16_at(header, 14),
            itt: u32_at(header, 16),
            cid: u16_at(header, 20),
            cmd_sn: u32_at(header, 24),
            exp_stat_sn: u32_at(header, 28),
        })
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let first = opcode::LOGIN_REQUEST | IMMEDIATE;
        let mut header = blank(first, self.transit.emit(), data_len);
        header[2] = self.version_max;
        header[3] = self.version_min;
        header[8..14].copy_from_slice(&self.isid);
        put_u16(&mut header, 14, self.tsih);
        put_u32(&mut header, 16, self.itt);
        put_u16(&mut header, 20, self.cid);
        put_u32(&mut header, 24, self.cmd_sn);
        put_u32(&mut header, 28, self.exp_stat_sn);
        header
    }
}

/// The status of a login: class and detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginStatus {
    pub class: u8,
    pub detail: u8,
}

impl LoginStatus {
    pub const SUCCESS: Self = Self::new(0, 0);
    pub const MOVED_TEMPORARILY: Self = Self::new(1, 1);
    pub const MOVED_PERMANENTLY: Self = Self::new(1, 2);
    pub const INITIATOR_ERROR: Self = Self::new(2, 0);
    pub const AUTHENTICATION_FAILURE: Self = Self::new(2, 1);
    pub const NOT_AUTHORIZED: Self = Self::new(2, 2);
    pub const NOT_FOUND: Self = Self::new(2, 3);
    pub const TARGET_REMOVED: Self = Self::new(2, 4);
    pub const UNSUPPORTED_VERSION: Self = Self::new(2, 5);
    pub const TOO_MANY_CONNECTIONS: Self = Self::new(2, 6);
    pub const MISSING_PARAMETER: Self = Self::new(2, 7);
    pub const UNSUPPORTED_SESSION_TYPE: Self = Self::new(2, 9);
    pub const NO_SUCH_SESSION: Self = Self::new(2, 0x0A);
    pub const INVALID_DURING_LOGIN: Self = Self::new(2, 0x0B);
    pub const UNAVAILABLE: Self = Self::new(3, 1);
    pub const OUT_OF_RESOURCES: Self = Self::new(3, 2);

    pub const fn new(class: u8, detail: u8) -> Self {
        Self { class, detail }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginResponse {
    pub transit: Transit,
    pub version_max: u8,
    pub version_active: u8,
    pub isid: [u8; 6],
    pub tsih: u16,
    pub itt: u32,
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
    pub status: LoginStatus,
}

impl LoginResponse {
    pub fn parse(header: &Header) -> Result<Self, BadField> {
        let status = LoginStatus::new(header[36], header[37]);
        let transit = match Transit::parse(header[1]) {
            Ok(transit) => transit,
            // The flags of a refusal are reserved.
            Err(_) if status.class != 0 => Transit {
                more: false,
                current: Stage::Security,
                next: None,
            },
            Err(error) => return Err(error),
        };
        Ok(Self {
            transit,
            version_max: header[2],
            version_active: header[3],
            isid: isid(header),
            tsih: u16_at(header, 14),
            itt: u32_at(header, 16),
            stat_sn: u32_at(header, 24),
            exp_cmd_sn: u32_at(header, 28),
            max_cmd_sn: u32_at(header, 32),
            status,
        })
    }

    pub fn emit(&self, data_len: u32) -> Header {
        let mut header = blank(opcode::LOGIN_RESPONSE, self.transit.emit(), data_len);
        header[2] = self.version_max;
        header[3] = self.version_active;
        header[8..14].copy_from_slice(&self.isid);
        put_u16(&mut header, 14, self.tsih);
        put_u32(&mut header, 16, self.itt);
        put_u32(&mut header, 24, self.stat_sn);
        put_u32(&mut header, 28, self.exp_cmd_sn);
        put_u32(&mut header, 32, self.max_cmd_sn);
        header[36] = self.status.class;
        header[37] = self.status.detail;
        header
    }
}

fn isid(header: &Header) -> [u8; 6] {
    let mut isid = [0; 6];
    isid.copy_from_slice(&header[8..14]);
    isid
}

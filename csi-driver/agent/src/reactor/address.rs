//! Socket addresses in the kernel's form.
#![allow(unsafe_code, reason = "the kernel's address types overlay each other")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where the kernel finds an address, or puts one.
pub(super) struct Peer {
    pub(super) storage: libc::sockaddr_storage,
    pub(super) len: libc::socklen_t,
}

impl Peer {
    pub(super) fn empty() -> Self {
        // SAFETY: `sockaddr_storage` is plain old data, zeroes are valid (family AF_UNSPEC).
        let storage = unsafe { std::mem::zeroed() };
        Self {
            storage,
            len: size_of::<libc::sockaddr_storage>() as libc::socklen_t,
        }
    }

    pub(super) fn from_address(address: &SocketAddr) -> Self {
        let mut peer = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                // SAFETY: the storage is larger than and aligned for every socket address type.
                let raw = unsafe { &mut *(&raw mut peer.storage).cast::<libc::sockaddr_in>() };
                raw.sin_family = libc::AF_INET as libc::sa_family_t;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                peer.len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(v6) => {
                // SAFETY: as above.
                let raw = unsafe { &mut *(&raw mut peer.storage).cast::<libc::sockaddr_in6>() };
                raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                raw.sin6_port = v6.port().to_be();
                raw.sin6_addr.s6_addr = v6.ip().octets();
                raw.sin6_scope_id = v6.scope_id();
                peer.len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
        peer
    }

    pub(super) fn address(&self) -> SocketAddr {
        if i32::from(self.storage.ss_family) == libc::AF_INET6 {
            // SAFETY: the family says which type the storage holds.
            let raw = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
            SocketAddr::new(
                IpAddr::V6(Ipv6Addr::from(raw.sin6_addr.s6_addr)),
                u16::from_be(raw.sin6_port),
            )
        } else {
            // SAFETY: as above; any other family reads as zeroes of the same plain data.
            let raw = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
            SocketAddr::new(
                IpAddr::V4(Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes())),
                u16::from_be(raw.sin_port),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_to_the_kernel_and_back() {
        for text in ["192.0.2.1:3260", "[2001:db8::1]:3260"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(Peer::from_address(&address).address(), address);
        }
    }
}

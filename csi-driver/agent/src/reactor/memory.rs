//! How the allocator treats the buffers of transfers.
//!
//! A buffer of 128 KiB lives for a millisecond and is made again. glibc gives memory of that size back to the kernel at once, and
//! the kernel clears each page anew at the next use: a fifth of the time of a large read went there.
#![allow(unsafe_code, reason = "mallopt has no safe form")]

/// Freed memory that an arena keeps before it gives any back.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 64 << 20;
/// Larger pieces are mapped by themselves, and given back when they are freed.
#[cfg(target_env = "gnu")]
const MAPPED_ALONE: libc::c_int = 16 << 20;

/// Lets the allocator keep what it has, for the whole process.
pub(super) fn keep() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; both values are in the range that glibc takes, and it may be called at any time.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_ALONE);
    }
}

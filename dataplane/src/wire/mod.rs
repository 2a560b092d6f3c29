//! Wire formats, one file per protocol: offsets, view, emit, tests.
//!
//! Views read from slices that start at the protocol's header; all numbers are in host order. Nothing here decides
//! what happens to a packet.

pub mod arp;
pub mod checksum;
pub mod crc32c;
mod echo;
pub mod ethernet;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vxlan;

/// The `N` bytes at `at`.
///
/// # Panics
/// If the slice ends before that.
#[inline(always)]
pub fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("it has that length")
}

/// Reads a big-endian 16-bit number at `at`.
///
/// # Panics
/// If the slice ends before that.
#[inline(always)]
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes_at(bytes, at))
}

/// Reads a big-endian 32-bit number at `at`.
///
/// # Panics
/// If the slice ends before that.
#[inline(always)]
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes_at(bytes, at))
}

/// Reads the four bytes at `at` as a little-endian number: for comparing them with others in one piece.
///
/// # Panics
/// If the slice ends before that.
#[inline(always)]
pub fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

/// As [`le32`], of eight bytes.
///
/// # Panics
/// If the slice ends before that.
#[inline(always)]
pub fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

/// Reads a big-endian 64-bit number at `at`.
///
/// # Panics
/// If the slice ends before that.
#[inline(always)]
pub fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes_at(bytes, at))
}

/// Writes a 16-bit number at `at`, big-endian.
///
/// # Panics
/// If the slice ends before that.
#[inline(always)]
pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes a 32-bit number at `at`, big-endian.
///
/// # Panics
/// If the slice ends before that.
#[inline(always)]
pub fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

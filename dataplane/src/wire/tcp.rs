//! TCP (RFC 9293, section 3.1): the few fields a switch looks at.
//!
//! ```text
//!  0               2               4
//! +---------------+---------------+
//! | source port   | dest port     |  0
//! | sequence number               |  4
//! | acknowledgement number        |  8
//! |off|   | flags | window        | 12
//! | checksum      | urgent        | 16
//! ```

/// Bytes of the header without options.
pub const HEADER_LEN: usize = 20;
/// Where the flags are.
pub const FLAGS: usize = 13;
/// Where the checksum starts.
pub const CHECKSUM: usize = 16;

/// Flag: no more data from the sender.
pub const FIN: u8 = 0x01;
/// Flag: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Flag: reset the connection.
pub const RST: u8 = 0x04;
/// Flag: the acknowledgement number counts.
pub const ACK: u8 = 0x10;

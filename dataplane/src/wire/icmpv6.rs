//! stub
/// stub
pub const ECHO_REQUEST: u8 = 128;

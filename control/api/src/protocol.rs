//! Transport protocols as they travel.

use shunt_dataplane::net::Protocol;

use crate::{FieldError, v1};

impl From<Protocol> for v1::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => v1::Protocol::Tcp,
            Protocol::Udp => v1::Protocol::Udp,
            Protocol::Sctp => v1::Protocol::Sctp,
        }
    }
}

impl TryFrom<v1::Protocol> for Protocol {
    type Error = FieldError;

    fn try_from(protocol: v1::Protocol) -> Result<Self, FieldError> {
        match protocol {
            v1::Protocol::Tcp => Ok(Protocol::Tcp),
            v1::Protocol::Udp => Ok(Protocol::Udp),
            v1::Protocol::Sctp => Ok(Protocol::Sctp),
            v1::Protocol::Unspecified => {
                let wanted = "is missing or unknown; use PROTOCOL_TCP, PROTOCOL_UDP or PROTOCOL_SCTP";
                Err(FieldError::new("protocol", wanted))
            }
        }
    }
}

//! The capability `portMappings`: ports of the node that lead to the container, as the reference plugin `portmap` has them.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::Deserialize;
use shunt_control_api::v1;
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{CniError, Code, Result};

/// IANA's number of SCTP.
const SCTP: i32 = 132;

/// An entry of `runtimeConfig.portMappings`. Containerd writes its keys like Go's fields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The node's port.
    #[serde(alias = "HostPort")]
    pub host_port: i64,
    /// The container's.
    #[serde(alias = "ContainerPort")]
    pub container_port: i64,
    /// In any case of letters; TCP unless given.
    #[serde(alias = "Protocol", default)]
    pub protocol: String,
    /// Empty or 0.0.0.0: all of the node's.
    #[serde(rename = "hostIP", alias = "HostIP", alias = "hostIp", default)]
    pub host_ip: String,
}

/// What the switch is asked for.
///
/// # Errors
/// Name the key and its value.
pub fn read(mappings: &[PortMapping], addresses: &[Ipv4Addr]) -> Result<Vec<v1::PublishedPort>> {
    let read = |(i, mapping): (usize, &PortMapping)| {
        let refuse = |key: &str, problem: String, details: &str| {
            CniError::new(Code::InvalidConfig, format!("{}.{key}: {problem}", path(i)), details)
        };
        let port = |key: &str, number: i64| match u16::try_from(number) {
            Ok(port) if port != 0 => Ok(port.into()),
            _ => Err(refuse(key, format!("{number} is no port"), "use 1 to 65535")),
        };
        let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => v1::Protocol::Tcp,
            "udp" => v1::Protocol::Udp,
            "sctp" => v1::Protocol::Sctp,
            other => return Err(refuse("protocol", format!("{other:?} is not known"), "use tcp, udp or sctp")),
        };
        let address = match mapping.host_ip.as_str() {
            "" | "0.0.0.0" => String::new(),
            text => {
                let is_own = text.parse().is_ok_and(|address| addresses.contains(&address));
                let details = format!("use one of {addresses:?}, or leave it out");
                let problem = || format!("{text} is no address of the node at which ports are published");
                is_own.then(|| text.to_owned()).ok_or_else(|| refuse("hostIP", problem(), &details))?
            }
        };
        Ok(v1::PublishedPort {
            protocol: protocol.into(),
            port: port("hostPort", mapping.host_port)?,
            container_port: port("containerPort", mapping.container_port)?,
            address,
        })
    };
    mappings.iter().enumerate().map(read).collect()
}

/// Whether a socket of the node has the port of the `i`th mapping: it would hear nothing any more. Of TCP, those that only
/// wait for the end of a connection do not count.
///
/// # Errors
/// Name the key and the port.
pub fn check(i: usize, published: &v1::PublishedPort, addresses: &[Ipv4Addr]) -> Result<()> {
    let one = published.address.parse().ok();
    for address in one.iter().chain(if one.is_none() { addresses } else { &[] }) {
        // It was read from one.
        let place = SocketAddrV4::new(*address, published.port as u16);
        if let Err(e) = bind(published.protocol(), place) {
            let name = published.protocol().as_str_name().trim_start_matches("PROTOCOL_").to_ascii_lowercase();
            let message = format!("{}.hostPort: {place}/{name} cannot be had: {e}", path(i));
            return Err(CniError::new(Code::Refused, message, "a socket of the node has it; give another port"));
        }
    }
    Ok(())
}

/// Has the port for a moment, without listening.
fn bind(protocol: v1::Protocol, place: SocketAddrV4) -> std::io::Result<()> {
    let (kind, protocol) = match protocol {
        v1::Protocol::Udp => (Type::DGRAM, Protocol::UDP),
        v1::Protocol::Sctp => (Type::STREAM, Protocol::from(SCTP)),
        v1::Protocol::Tcp | v1::Protocol::Unspecified => (Type::STREAM, Protocol::TCP),
    };
    let socket = match Socket::new(Domain::IPV4, kind, Some(protocol)) {
        // A kernel without SCTP has no sockets of it.
        Err(_) if protocol == Protocol::from(SCTP) => return Ok(()),
        socket => socket?,
    };
    socket.set_reuse_address(kind == Type::STREAM)?;
    socket.bind(&place.into())
}

fn path(i: usize) -> String {
    format!("runtimeConfig.portMappings[{i}]")
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use serde_json::{Value, json};

    use super::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);

    fn of(json: Value) -> Result<v1::PublishedPort> {
        read(&[serde_json::from_value(json).unwrap()], &[NODE]).map(|mut list| list.remove(0))
    }

    #[test]
    fn what_runtimes_write_is_read() {
        let published = |protocol: v1::Protocol, address: &str| v1::PublishedPort {
            protocol: protocol.into(),
            port: 8080,
            container_port: 80,
            address: address.into(),
        };
        let podman = json!({ "hostPort": 8080, "containerPort": 80, "protocol": "udp" });
        assert_eq!(of(podman), Ok(published(v1::Protocol::Udp, "")));
        let containerd = json!({ "HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": "" });
        assert_eq!(of(containerd), Ok(published(v1::Protocol::Tcp, "")));
        let one = json!({ "hostPort": 8080, "containerPort": 80, "protocol": "sctp", "hostIP": "192.168.50.1" });
        assert_eq!(of(one), Ok(published(v1::Protocol::Sctp, "192.168.50.1")));
        let all = json!({ "hostPort": 8080, "containerPort": 80, "hostIP": "0.0.0.0" });
        assert_eq!(of(all), Ok(published(v1::Protocol::Tcp, "")));
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        for (key, value) in [
            ("hostPort", json!(0)),
            ("hostPort", json!(65_536)),
            ("containerPort", json!(-1)),
            ("protocol", json!("dccp")),
            ("hostIP", json!("127.0.0.1")),
            ("hostIP", json!("::")),
        ] {
            let mut mapping = json!({ "hostPort": 8080, "containerPort": 80 });
            mapping[key] = value;
            let message = of(mapping).unwrap_err().to_json("1.0.0")["msg"].to_string();
            assert!(message.contains(&format!("runtimeConfig.portMappings[0].{key}: ")), "{message}");
        }
    }

    #[test]
    fn a_port_that_a_socket_has_is_not_free() {
        let (tcp, udp) = (TcpListener::bind("0.0.0.0:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let local = [Ipv4Addr::LOCALHOST];
        for (protocol, taken) in [
            (v1::Protocol::Tcp, tcp.local_addr().unwrap().port()),
            (v1::Protocol::Udp, udp.local_addr().unwrap().port()),
        ] {
            let published = v1::PublishedPort {
                protocol: protocol.into(),
                port: taken.into(),
                container_port: 80,
                ..Default::default()
            };
            let message = check(0, &published, &local).unwrap_err().to_json("1.0.0")["msg"].to_string();
            assert!(message.contains(&format!("127.0.0.1:{taken}/")), "{message}");
            assert_eq!(check(0, &published, &[]), Ok(()), "nowhere");
        }
        drop((tcp, udp));
    }
}

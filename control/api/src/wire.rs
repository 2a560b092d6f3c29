//! Resources as they are encoded, straight from the domain types.
//!
//! The messages in between hold each field in memory of its own. Of a million endpoints that took most of the time to write a
//! state down; these are encoded here by hand, all else by way of its message.

use std::{io::Write, net::Ipv4Addr, net::Ipv6Addr};

use prost::encoding::{self, WireType};

use crate::{Endpoint, EndpointSlice, Endpoints, Resource, selection, v1};

/// Appends `resource` to a message as its field `tag`: what [`v1::Resource`] is encoded to.
pub fn put_resource(tag: u32, resource: &Resource, out: &mut Vec<u8>) {
    match resource {
        Resource::EndpointSlice(slice) => put_nested(tag, out, |out| put_nested(5, out, |out| put_slice(slice, out))),
        other => encoding::message::encode(tag, &v1::Resource::from(other), out),
    }
}

fn put_slice(slice: &EndpointSlice, out: &mut Vec<u8>) {
    put_text(1, &slice.namespace, out);
    put_text(2, &slice.service, out);
    put_text(3, &slice.name, out);
    for port in &slice.ports {
        put_nested(4, out, |out| {
            put_text(1, &port.name, out);
            put_number(2, port.port.into(), out);
        });
    }
    match &slice.endpoints {
        Endpoints::Ipv4(endpoints) => put_endpoints(endpoints, put_address, out),
        Endpoints::Ipv6(endpoints) => put_endpoints(endpoints, put_ipv6_address, out),
    }
}

fn put_endpoints<A: Copy>(endpoints: &[Endpoint<A>], put_address: fn(A, &mut Vec<u8>), out: &mut Vec<u8>) {
    for endpoint in endpoints {
        put_nested(5, out, |out| put_endpoint(endpoint, put_address, out));
    }
}

fn put_endpoint<A: Copy>(endpoint: &Endpoint<A>, put_address: fn(A, &mut Vec<u8>), out: &mut Vec<u8>) {
    put_nested(1, out, |out| put_address(endpoint.address, out));
    let conditions = endpoint.conditions;
    let conditions = [conditions.ready, conditions.serving, conditions.terminating];
    if conditions.iter().any(Option::is_some) {
        put_nested(2, out, |out| {
            for (tag, condition) in (1..).zip(conditions) {
                if let Some(condition) = condition {
                    put_number(tag, condition.into(), out);
                }
            }
        });
    }
    put_text(3, &endpoint.node, out);
    put_text(4, &endpoint.zone, out);
    if let Some(hints) = &endpoint.hints {
        put_nested(5, out, |out| {
            hints.for_nodes.iter().for_each(|name| put_bytes(1, name.as_bytes(), out));
            hints.for_zones.iter().for_each(|name| put_bytes(2, name.as_bytes(), out));
        });
    }
    if let Some(weight) = selection::weight_field(endpoint.weight) {
        put_number(14, weight.into(), out);
    }
}

/// As `Display` writes it.
fn put_address(address: Ipv4Addr, out: &mut Vec<u8>) {
    for (i, octet) in address.octets().into_iter().enumerate() {
        if i > 0 {
            out.push(b'.');
        }
        if octet >= 100 {
            out.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            out.push(b'0' + octet / 10 % 10);
        }
        out.push(b'0' + octet % 10);
    }
}

fn put_ipv6_address(address: Ipv6Addr, out: &mut Vec<u8>) {
    write!(out, "{address}").expect("memory takes what is written");
}

/// A text that is left out if it is empty.
fn put_text(tag: u32, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        put_bytes(tag, text.as_bytes(), out);
    }
}

fn put_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_number(tag: u32, number: u64, out: &mut Vec<u8>) {
    encoding::encode_key(tag, WireType::Varint, out);
    encoding::encode_varint(number, out);
}

/// What `put` appends, as field `tag`, with its length in front.
fn put_nested(tag: u32, out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    encoding::encode_key(tag, WireType::LengthDelimited, out);
    let at = out.len();
    // Room for the length of what is short, which most is.
    out.push(0);
    put(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
        return;
    }
    let mut head = Vec::with_capacity(10);
    encoding::encode_varint(length as u64, &mut head);
    out.resize(out.len() + head.len() - 1, 0);
    out.copy_within(at + 1..at + 1 + length, at + head.len());
    out[at..at + head.len()].copy_from_slice(&head);
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Holder {
        #[prost(message, repeated, tag = "2")]
        resources: Vec<v1::Resource>,
    }

    fn endpoint(n: u32) -> v1::Endpoint {
        let given = |bit: u32| (n >> bit & 1 == 1).then_some(n >> (bit + 1) & 1 == 1);
        let conditions = v1::EndpointConditions { ready: given(0), serving: given(2), terminating: given(4) };
        let names = |count: u32| (0..count).map(|i| format!("name-{i}")).collect();
        v1::Endpoint {
            address: Ipv4Addr::from(0x0100_0000 + n.wrapping_mul(0x0009_0b0d) % 0x7000_0000).to_string(),
            conditions: (n & 0b10101 != 0).then_some(conditions),
            node: "n".repeat(n as usize % 7),
            zone: "z".repeat(n as usize % 150),
            hints: n
                .is_multiple_of(3)
                .then(|| v1::EndpointHints { for_nodes: names(n % 4), for_zones: names(1 + n % 40) }),
            weight: n.is_multiple_of(5).then_some(n % 60_000 + 2),
        }
    }

    #[test]
    fn slices_are_encoded_as_their_messages_are() {
        for count in [0, 1, 2, 3, 10, 300] {
            let slice = v1::EndpointSlice {
                namespace: "default".into(),
                service: "web".into(),
                name: "s".repeat(1 + count as usize),
                ports: (0..count % 3)
                    .map(|n| v1::EndpointPort { name: "p".repeat(n as usize), port: 80 + n * 9000 })
                    .collect(),
                endpoints: (count..2 * count).map(endpoint).filter(|e| !e.address.starts_with("127.")).collect(),
            };
            let service = v1::Service {
                namespace: "default".into(),
                name: "web".into(),
                cluster_ip: "10.96.0.1".into(),
                ports: vec![v1::ServicePort { protocol: v1::Protocol::Udp.into(), port: 53, ..Default::default() }],
                ..Default::default()
            };
            let mut ipv6 = slice.clone();
            for (n, endpoint) in (count..).zip(&mut ipv6.endpoints) {
                endpoint.address = Ipv6Addr::from((0xfd << 120) + (u128::from(n) << (n % 90))).to_string();
            }
            let resources = [
                Resource::EndpointSlice(slice.try_into().unwrap()),
                Resource::EndpointSlice(ipv6.try_into().unwrap()),
                Resource::Service(service.try_into().unwrap()),
            ];
            let mut bytes = Vec::new();
            resources.iter().for_each(|resource| put_resource(2, resource, &mut bytes));
            let holder = Holder { resources: resources.iter().map(v1::Resource::from).collect() };
            assert_eq!(bytes, holder.encode_to_vec(), "{count} endpoints");
        }
    }
}

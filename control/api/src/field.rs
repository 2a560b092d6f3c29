//! Single fields: from text to domain type, or an error that names the field.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};
use shunt_dataplane::net::MacAddr;

/// A field of a request that is wrong: where it is, what is wrong, what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct FieldError {
    path: String,
    problem: String,
}

impl FieldError {
    /// An error of the field `path`, counted from the message at hand.
    pub fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        FieldError { path: path.into(), problem: problem.into() }
    }

    /// The same error seen from the message that holds the field as `outer` (`ports[0]`).
    pub fn within(self, outer: impl Display) -> Self {
        FieldError { path: format!("{outer}.{}", self.path), problem: self.problem }
    }

    /// Where: `services[3].ports[0].port`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong, and what to do about it.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

/// Longest name of anything, in bytes: two Kubernetes names of 253 and a slash.
const MAX_NAME: usize = 507;

/// A name that people and logs can carry: not empty, no white space, not endless.
pub fn name(path: &str, text: &str) -> Result<String, FieldError> {
    if text.is_empty() {
        return Err(FieldError::new(path, "is missing; give a name"));
    }
    if text.len() > MAX_NAME {
        return Err(FieldError::new(path, format!("{} bytes are too long; use at most {MAX_NAME}", text.len())));
    }
    if let Some(bad) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(FieldError::new(
            path,
            format!("{text:?} contains {bad:?}; use neither blanks nor control characters"),
        ));
    }
    Ok(text.to_owned())
}

/// One segment of a name of the form `namespace/name`.
pub fn name_segment(path: &str, text: &str) -> Result<String, FieldError> {
    if text.contains('/') {
        return Err(FieldError::new(
            path,
            format!("{text:?} contains a slash; namespace and name are separate fields"),
        ));
    }
    name(path, text)
}

/// Converts a list; an error says which element was wrong.
pub(crate) fn each<M, T>(
    list: &str,
    items: Vec<M>,
    convert: impl Fn(M) -> Result<T, FieldError>,
) -> Result<Vec<T>, FieldError> {
    let convert = |(i, item)| convert(item).map_err(|e: FieldError| e.within(format_args!("{list}[{i}]")));
    items.into_iter().enumerate().map(convert).collect()
}

/// Longest name of a network interface, in bytes (Linux `IFNAMSIZ` less the final zero).
const MAX_INTERFACE: usize = 15;

/// A name that Linux takes for a network interface (`dev_valid_name`).
pub fn interface(path: &str, text: &str) -> Result<String, FieldError> {
    let fits = (1..=MAX_INTERFACE).contains(&text.len());
    let plain = !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) && text != "." && text != "..";
    if !fits || !plain {
        let problem = format!(
            "{text:?} cannot be a network interface; use 1 to {MAX_INTERFACE} bytes without blanks, ':' and '/'"
        );
        return Err(FieldError::new(path, problem));
    }
    Ok(text.to_owned())
}

/// The address of one station.
pub fn address(path: &str, text: &str) -> Result<Ipv4Addr, FieldError> {
    let address = any_address(path, text)?;
    let [first, ..] = address.octets();
    if first == 0 || address.is_loopback() || address.is_link_local() || first >= 224 {
        return Err(FieldError::new(
            path,
            format!("{address} cannot be a station's address on a network; use a unicast address"),
        ));
    }
    Ok(address)
}

/// The address of one station, of either family.
pub fn ip_address(path: &str, text: &str) -> Result<IpAddr, FieldError> {
    match text.parse::<Ipv6Addr>() {
        Ok(_) => ipv6_address(path, text).map(IpAddr::V6),
        Err(_) => address(path, text).map(IpAddr::V4),
    }
}

/// Any address that a packet can carry.
pub fn any_address(path: &str, text: &str) -> Result<Ipv4Addr, FieldError> {
    if text.is_empty() {
        return Err(FieldError::new(path, "is missing; give an IPv4 address such as 10.244.1.10"));
    }
    text.parse().map_err(|_| {
        FieldError::new(
            path,
            match text.parse::<Ipv6Addr>() {
                Ok(_) => format!("{text} is an IPv6 address; an IPv4 one is wanted here"),
                Err(_) => format!("{text:?} is not an IPv4 address; write it like 10.244.1.10"),
            },
        )
    })
}

/// A prefix without host bits.
pub fn prefix(path: &str, text: &str) -> Result<Ipv4Net, FieldError> {
    if text.is_empty() {
        return Err(FieldError::new(path, "is missing; give an IPv4 prefix such as 10.244.2.0/24"));
    }
    let prefix: Ipv4Net = text
        .parse()
        .map_err(|_| FieldError::new(path, format!("{text:?} is not an IPv4 prefix; write it like 10.244.2.0/24")))?;
    check_host_bits(path, prefix, prefix.trunc())?;
    Ok(prefix)
}

/// `truncated` is the prefix without host bits.
fn check_host_bits<N: PartialEq + Display>(path: &str, prefix: N, truncated: N) -> Result<(), FieldError> {
    match prefix == truncated {
        true => Ok(()),
        false => Err(FieldError::new(path, format!("{prefix} has bits set behind its length; write {truncated}"))),
    }
}

/// The IPv6 address of one station, by which others on the overlay reach it.
pub fn ipv6_address(path: &str, text: &str) -> Result<Ipv6Addr, FieldError> {
    let address = any_ipv6_address(path, text)?;
    if !is_ipv6_station(address) {
        return Err(FieldError::new(
            path,
            format!(
                "{address} cannot be a station's address on the overlay; use a unicast address such as fd00:10:244:1::10"
            ),
        ));
    }
    Ok(address)
}

/// Whether it may be one station's beyond its link. Addresses that stand for IPv4 ones (RFC 4291, 2.5.5.2) are on no wire.
fn is_ipv6_station(address: Ipv6Addr) -> bool {
    let elsewhere = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !elsewhere && !address.is_unicast_link_local() && address.to_ipv4_mapped().is_none()
}

/// Any IPv6 address that a packet can carry.
fn any_ipv6_address(path: &str, text: &str) -> Result<Ipv6Addr, FieldError> {
    text.parse().map_err(|_| {
        FieldError::new(
            path,
            match text.parse::<Ipv4Addr>() {
                Ok(_) => format!("{text} is an IPv4 address; give an IPv6 address such as fd00:10:244:1::10"),
                Err(_) => format!("{text:?} is not an IPv6 address; write it like fd00:10:244:1::10"),
            },
        )
    })
}

/// An IPv6 prefix of stations, without host bits.
pub fn ipv6_prefix(path: &str, text: &str) -> Result<Ipv6Net, FieldError> {
    let prefix: Ipv6Net = text.parse().map_err(|_| {
        FieldError::new(path, format!("{text:?} is not an IPv6 prefix; write it like fd00:10:244:2::/64"))
    })?;
    check_host_bits(path, prefix, prefix.trunc())?;
    if ["::/96", "::ffff:0.0.0.0/96", "fe80::/10", "ff00::/8"].iter().any(|other| overlap(prefix, other)) {
        let problem = format!(
            "{prefix} holds addresses that no station has beyond its link; use a prefix such as fd00:10:244:2::/64"
        );
        return Err(FieldError::new(path, problem));
    }
    Ok(prefix)
}

fn overlap(prefix: Ipv6Net, other: &str) -> bool {
    other.parse::<Ipv6Net>().is_ok_and(|other| prefix.contains(&other) || other.contains(&prefix))
}

/// What `read` makes of a text that may be left out.
pub(crate) fn given<T>(text: &str, read: impl FnOnce(&str) -> Result<T, FieldError>) -> Result<Option<T>, FieldError> {
    (!text.is_empty()).then(|| read(text)).transpose()
}

/// The text of what may be left out.
pub(crate) fn text<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The MAC address of one station.
pub fn mac(path: &str, text: &str) -> Result<MacAddr, FieldError> {
    let mac: MacAddr = text.parse().map_err(|_| {
        FieldError::new(path, format!("{text:?} is not a MAC address; write it like 0a:58:0a:f4:01:02"))
    })?;
    if mac.is_multicast() || mac == MacAddr::default() {
        return Err(FieldError::new(
            path,
            format!("{mac} is not one station's address; its first byte must be even, and not all bytes zero"),
        ));
    }
    Ok(mac)
}

/// A transport port that can be sent to.
pub fn transport_port(path: &str, number: u32) -> Result<u16, FieldError> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(FieldError::new(path, format!("{number} is not a port; use 1 to 65535"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem<T: std::fmt::Debug>(result: Result<T, FieldError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn addresses_of_stations_pass_and_others_are_named() {
        assert_eq!(address("a", "10.244.1.10"), Ok(Ipv4Addr::new(10, 244, 1, 10)));
        assert_eq!(problem(address("a", "")), "a: is missing; give an IPv4 address such as 10.244.1.10");
        assert_eq!(problem(address("a", "10.1")), "a: \"10.1\" is not an IPv4 address; write it like 10.244.1.10");
        assert_eq!(problem(address("a", "fd00::1")), "a: fd00::1 is an IPv6 address; an IPv4 one is wanted here");
        for text in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
            assert!(problem(address("a", text)).contains(text), "{text}");
        }
    }

    #[test]
    fn ipv6_addresses_of_stations_pass_and_others_are_named() {
        let address: Ipv6Addr = "fd00:10:244:1::10".parse().unwrap();
        assert_eq!(ipv6_address("a", "fd00:10:244:1::10"), Ok(address));
        assert_eq!(ip_address("a", "FD00:10:244:1:0:0:0:10"), Ok(address.into()));
        assert_eq!(ip_address("a", "10.244.1.10"), Ok(Ipv4Addr::new(10, 244, 1, 10).into()));
        for text in ["", "fd00", "10.244.1.10", "::", "::1", "fe80::1", "ff02::1", "::ffff:10.244.1.10", "fd00::1/64"] {
            assert!(problem(ipv6_address("a", text)).starts_with("a: "), "{text}");
        }
        assert_eq!(
            problem(ipv6_address("a", "10.1.1.1")),
            "a: 10.1.1.1 is an IPv4 address; give an IPv6 address such as fd00:10:244:1::10"
        );
    }

    #[test]
    fn ipv6_prefixes_are_of_stations_and_have_no_host_bits() {
        assert_eq!(ipv6_prefix("p", "fd00:10:244:2::/64").unwrap().to_string(), "fd00:10:244:2::/64");
        for text in ["", "fd00::", "fd00::/129", "10.244.2.0/24", "fd00::1/64", "::/0", "fe80::/64", "f000::/4"] {
            assert!(problem(ipv6_prefix("p", text)).starts_with("p: "), "{text}");
        }
    }

    #[test]
    fn prefixes_have_no_host_bits() {
        assert_eq!(prefix("p", "10.244.2.0/24").unwrap().to_string(), "10.244.2.0/24");
        assert_eq!(prefix("p", "0.0.0.0/0").unwrap().prefix_len(), 0);
        assert_eq!(
            problem(prefix("p", "10.244.2.1/24")),
            "p: 10.244.2.1/24 has bits set behind its length; write 10.244.2.0/24"
        );
        for text in ["", "10.244.2.0", "10.244.2.0/33", "fd00::/64"] {
            assert!(prefix("p", text).is_err(), "{text}");
        }
    }

    #[test]
    fn mac_addresses_belong_to_one_station() {
        assert!(mac("m", "0a:58:00:00:00:02").is_ok());
        for text in ["", "0a:58", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert!(mac("m", text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_1_to_65535() {
        assert_eq!(transport_port("p", 1), Ok(1));
        assert_eq!(transport_port("p", 65535), Ok(65535));
        assert_eq!(problem(transport_port("p", 0)), "p: 0 is not a port; use 1 to 65535");
        assert_eq!(problem(transport_port("p", 65536)), "p: 65536 is not a port; use 1 to 65535");
    }

    #[test]
    fn names_are_short_and_without_blanks() {
        assert!(name("n", "default/web").is_ok());
        assert!(name_segment("n", "default/web").is_err());
        assert!(name("n", "").is_err());
        assert!(name("n", "a b").is_err());
        assert!(name("n", "a\u{7}").is_err());
        assert!(name("n", &"x".repeat(508)).is_err());
    }

    #[test]
    fn paths_grow_from_the_inside_out() {
        let error = transport_port("port", 0).unwrap_err().within("ports[0]").within("services[3]");
        assert_eq!(error.to_string(), "services[3].ports[0].port: 0 is not a port; use 1 to 65535");
    }
}

//! `[masquerade]`: the ports of flows whose source is replaced, and which flows of pods are.

use std::{fs, ops::RangeInclusive};

use ipnet::Ipv4Net;
use shunt_control_api::{FieldError, field};

use super::file;

/// Where the kernel says which ports it gives to the node's own sockets.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Kubernetes' default (`--service-node-port-range`).
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// `[masquerade]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    /// The ports.
    pub ports: RangeInclusive<u16>,
    /// The destinations outside of the cluster to which pods keep their address; `None`: they keep it everywhere.
    pub egress: Option<Vec<Ipv4Net>>,
}

impl TryFrom<file::Masquerade> for Masquerade {
    type Error = FieldError;

    fn try_from(file: file::Masquerade) -> Result<Self, FieldError> {
        let local = fs::read_to_string(LOCAL_PORTS)
            .map_err(|e| e.to_string())
            .and_then(|text| range(text.split_whitespace()).ok_or(format!("it says {text:?}")))
            .map_err(|e| {
                FieldError::new("masquerade.ports", format!("cannot be checked against {LOCAL_PORTS}: {e}"))
            })?;
        let ports = ports(&file.ports, &local)?;
        let keep = file.keep.iter().enumerate().map(|(i, net)| field::prefix(&format!("masquerade.keep[{i}]"), net));
        let keep = keep.collect::<Result<Vec<_>, _>>()?;
        if !file.egress && !keep.is_empty() {
            let problem = "names exceptions, but masquerade.egress is off; switch it on or leave this out";
            return Err(FieldError::new("masquerade.keep", problem));
        }
        Ok(Masquerade { ports, egress: file.egress.then_some(keep) })
    }
}

/// The range, if no socket of the node can have one of its ports: not those of `local`, nor a NodePort.
fn ports(text: &str, local: &RangeInclusive<u16>) -> Result<RangeInclusive<u16>, FieldError> {
    let error = |problem: String| FieldError::new("masquerade.ports", problem);
    let ports = range(text.split('-'))
        .filter(|ports| *ports.start() >= 1024)
        .ok_or_else(|| error(format!("{text:?} is no range of ports above 1023; write it like \"61000-65535\"")))?;
    for (taken, whose) in
        [(local, "the kernel's for the node's own sockets (ip_local_port_range)"), (&NODE_PORTS, "for NodePorts")]
    {
        if ports.start() <= taken.end() && taken.start() <= ports.end() {
            let (first, last) = (taken.start(), taken.end());
            return Err(error(format!("{text} overlaps {first}-{last}, which is {whose}; use others")));
        }
    }
    Ok(ports)
}

fn range<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<RangeInclusive<u16>> {
    let (first, last) = (words.next()?.trim().parse().ok()?, words.next()?.trim().parse().ok()?);
    (words.next().is_none() && first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_sockets_of_the_node_may_have_are_refused() {
        let local = 32_768..=60_999;
        for (text, expected) in
            [("61000-65535", 61_000..=65_535), ("1024-29999", 1024..=29_999), ("20000 - 20000", 20_000..=20_000)]
        {
            assert_eq!(ports(text, &local).unwrap(), expected);
        }
        for (text, problem) in [
            ("60000-61000", "ip_local_port_range"),
            ("33000-33000", "ip_local_port_range"),
            ("20000-30000", "NodePorts"),
            ("32767-32767", "NodePorts"),
            ("1-65535", "above 1023"),
            ("62000-61000", "no range"),
            ("61000", "no range"),
            ("61000-70000", "no range"),
            ("61000-62000-63000", "no range"),
            ("", "no range"),
        ] {
            let error = ports(text, &local).unwrap_err().to_string();
            assert!(error.contains("masquerade.ports") && error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn exceptions_need_what_they_are_exceptions_from() {
        let file = |egress, keep: &[&str]| file::Masquerade {
            egress,
            keep: keep.iter().map(|net| (*net).to_owned()).collect(),
            ..file::Masquerade::default()
        };
        let kept = Masquerade::try_from(file(true, &["10.0.0.0/8"])).unwrap();
        assert_eq!(kept.egress, Some(vec!["10.0.0.0/8".parse().unwrap()]));
        assert_eq!(Masquerade::try_from(file(true, &[])).unwrap().egress, Some(vec![]));
        assert_eq!(Masquerade::try_from(file(false, &[])).unwrap().egress, None);
        for (file, path) in
            [(file(false, &["10.0.0.0/8"]), "masquerade.keep"), (file(true, &["10"]), "masquerade.keep[0]")]
        {
            assert!(Masquerade::try_from(file).unwrap_err().to_string().contains(path));
        }
    }
}

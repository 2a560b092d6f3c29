//! Addresses for pods: out of a store of our own, or from a plugin that does it.

mod delegate;
mod range;
mod store;

use std::{net::IpAddr, path::PathBuf};

use serde::Deserialize;
use serde_json::Value;

use self::{delegate::Delegate, range::Range, store::Store};
use crate::{
    addresses::Addresses,
    config::Config,
    daemon::Node,
    environment::{Attachment, Environment},
    error::{CniError, Code, Result},
};

/// Who gives addresses.
#[derive(Debug)]
pub enum Ipam {
    /// This plugin, in the format of the host-local plugin.
    Own(Own),
    /// `ipam.type`.
    Delegated(Delegate),
}

/// The built-in one.
#[derive(Debug)]
pub struct Own {
    folder: PathBuf,
    /// A pod has an address of each set: one is of IPv4, and another one of IPv6 if there is one. None: see [`Own::sets`].
    sets: Vec<Vec<Range>>,
}

/// `ipam` as the host-local plugin has it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Shape {
    r#type: Option<String>,
    ranges: Vec<Vec<Range>>,
    data_dir: Option<PathBuf>,
}

impl Ipam {
    /// Whom `config` names.
    ///
    /// # Errors
    /// If `ipam` makes no sense, or its plugin is not on CNI_PATH.
    pub fn new(config: &Config, environment: &Environment) -> Result<Ipam> {
        match config.ipam["type"].as_str() {
            Some(plugin) => Ok(Ipam::Delegated(Delegate::find(plugin, config, environment)?)),
            None => {
                let value = if config.ipam.is_null() { Value::Object(Default::default()) } else { config.ipam.clone() };
                let shape: Shape = serde_json::from_value(value)
                    .map_err(|e| CniError::new(Code::InvalidConfig, format!("ipam: {e}"), "see host-local's keys"))?;
                let data = shape.data_dir.unwrap_or_else(|| "/var/lib/cni/networks".into());
                check_sets(&shape.ranges)?;
                Ok(Ipam::Own(Own { folder: data.join(&config.name), sets: shape.ranges }))
            }
        }
    }

    /// Addresses for a container: of each family one of `wanted`, if there is any.
    ///
    /// # Errors
    /// If none is left, if the wanted one is taken, if the container has one already, or if the node's pods have no such ones.
    pub fn add(&self, attachment: &Attachment, wanted: &[IpAddr], node: &Node) -> Result<Addresses> {
        match self {
            Ipam::Own(own) => {
                let list = Store::open(&own.folder)?.allocate(&own.sets(node)?, wanted, attachment)?;
                Addresses::read("what ipam.ranges give", &list)
            }
            Ipam::Delegated(delegate) => {
                delegate.add(wanted, |addresses| takes_ipv6(node, addresses.ipv6.is_some(), "ipam.type"))
            }
        }
    }

    /// Gives back what a container has, if anything.
    pub fn release(&self, attachment: &Attachment) -> Result<()> {
        match self {
            Ipam::Own(own) => Store::open(&own.folder)?.release(attachment),
            Ipam::Delegated(delegate) => delegate.call("DEL").map(drop),
        }
    }

    /// Whether a container still has its `addresses`.
    pub fn check(&self, attachment: &Attachment, addresses: Addresses) -> Result<()> {
        match self {
            Ipam::Own(own) => {
                let store = Store::open(&own.folder)?;
                for address in addresses.iter() {
                    if store.owner(address)?.is_none_or(|owner| owner != *attachment) {
                        let message = format!("{address} is not reserved for this container");
                        return Err(CniError::new(Code::Changed, message, format!("see {}", own.folder.display())));
                    }
                }
                Ok(())
            }
            Ipam::Delegated(delegate) => delegate.call("CHECK").map(drop),
        }
    }

    /// Gives back what others than these have.
    pub fn retain(&self, valid: &[Attachment]) -> Result<()> {
        match self {
            Ipam::Own(own) => Store::open(&own.folder)?.retain(valid),
            Ipam::Delegated(delegate) => delegate.call("GC").map(drop),
        }
    }

    /// Whether addresses are left.
    pub fn status(&self, node: &Node) -> Result<()> {
        match self {
            Ipam::Own(own) => {
                if Store::open(&own.folder)?.has_free(&own.sets(node)?) {
                    return Ok(());
                }
                let details = format!("see {}", own.folder.display());
                Err(CniError::new(Code::Unavailable, "no address is left for another pod", details))
            }
            Ipam::Delegated(delegate) => delegate.call("STATUS").map(drop),
        }
    }
}

impl Own {
    /// Those that were configured, else all of the node's pods.
    fn sets(&self, node: &Node) -> Result<Vec<Vec<Range>>> {
        if !self.sets.is_empty() {
            takes_ipv6(node, self.sets.iter().flatten().any(Range::is_ipv6), "ipam.ranges")?;
            return Ok(self.sets.clone());
        }
        let ipv6 = node.ipv6_pod_cidr.map(|prefix| vec![Range::of(prefix.into())]);
        Ok([vec![Range::of(node.pod_cidr.into())]].into_iter().chain(ipv6).collect())
    }
}

/// Checks that pods which are to have IPv6 can have it on this node; `key` is who wants it.
fn takes_ipv6(node: &Node, ipv6: bool, key: &str) -> Result<()> {
    if !ipv6 || node.ipv6_pod_cidr.is_some() {
        return Ok(());
    }
    let message = format!("{key}: gives IPv6 addresses, which this node's pods do not have");
    Err(CniError::new(Code::InvalidConfig, message, "give shuntd's configuration a section [ipv6], or leave them out"))
}

/// # Errors
/// Names the key that makes no sense.
fn check_sets(sets: &[Vec<Range>]) -> Result<()> {
    let refuse = |message: &str| {
        Err(CniError::new(
            Code::InvalidConfig,
            format!("ipam.ranges: {message}"),
            "a pod has one IPv4 address, and at most one of IPv6: use a set of ranges for each",
        ))
    };
    sets.iter().flatten().try_for_each(Range::check)?;
    if sets.iter().any(Vec::is_empty) {
        return refuse("a set is empty");
    }
    if sets.iter().any(|set| set.iter().any(|range| range.is_ipv6() != set[0].is_ipv6())) {
        return refuse("a set has ranges of both families");
    }
    let (ipv6, ipv4): (Vec<_>, Vec<_>) = sets.iter().partition(|set| set[0].is_ipv6());
    match (ipv4.len(), ipv6.len()) {
        (0, 0) | (1, 0 | 1) => Ok(()),
        (0, _) => refuse("no set is of IPv4"),
        (1, _) => refuse("more than one set is of IPv6"),
        _ => refuse("more than one set is of IPv4"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const IPV4: &str = "10.244.1.0/24";
    const IPV6: &str = "fd00:10:244:1::/64";

    fn node(ipv6: bool) -> Node {
        let ipv6_pod_cidr = ipv6.then(|| IPV6.parse().unwrap());
        Node { pod_cidr: IPV4.parse().unwrap(), ipv6_pod_cidr, mtu: 1450, queues: 1, addresses: Vec::new() }
    }

    fn sets(subnets: &[&[&str]]) -> Vec<Vec<Range>> {
        let range = |subnet: &&str| serde_json::from_value(json!({ "subnet": subnet })).unwrap();
        subnets.iter().map(|set| set.iter().map(range).collect()).collect()
    }

    fn message(result: Result<impl std::fmt::Debug>) -> String {
        result.unwrap_err().to_json("1.0.0")["msg"].to_string()
    }

    #[test]
    fn a_set_for_each_family_and_none_without_ipv4() {
        for good in [&[][..], &[&[IPV4][..]], &[&[IPV4, "10.244.2.0/24"]], &[&[IPV4], &[IPV6]], &[&[IPV6], &[IPV4]]] {
            assert_eq!(check_sets(&sets(good)), Ok(()), "{good:?}");
        }
        for (wrong, named) in [
            (&[&[][..]][..], "a set is empty"),
            (&[&[IPV6]], "no set is of IPv4"),
            (&[&[IPV4], &["10.244.2.0/24"]], "more than one set is of IPv4"),
            (&[&[IPV4], &[IPV6], &["fd00:1::/64"]], "more than one set is of IPv6"),
            (&[&[IPV4, IPV6]], "both families"),
            (&[&[IPV4], &["fd00::/127"]], "no room"),
        ] {
            let message = message(check_sets(&sets(wrong)));
            assert!(message.contains("ipam.ranges: ") && message.contains(named), "{wrong:?}: {message}");
        }
    }

    #[test]
    fn pods_have_the_families_that_their_node_has() {
        let own = |sets| Own { folder: "/nowhere".into(), sets };
        let families =
            |own: &Own, node: &Node| own.sets(node).map(|sets| sets.iter().map(|set| set[0].is_ipv6()).collect());
        assert_eq!(families(&own(Vec::new()), &node(false)), Ok(vec![false]), "unless told: those of the node");
        assert_eq!(families(&own(Vec::new()), &node(true)), Ok(vec![false, true]));
        assert_eq!(families(&own(sets(&[&[IPV4]])), &node(true)), Ok(vec![false]));
        let both = own(sets(&[&[IPV4], &[IPV6]]));
        assert_eq!(families(&both, &node(true)), Ok(vec![false, true]));
        let message = message(families(&both, &node(false)));
        assert!(message.contains("ipam.ranges: gives IPv6"), "{message}");
    }
}

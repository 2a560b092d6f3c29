//! Other people's packet filter rules: kube-proxy's, flannel's, and those that let nothing be forwarded.

use std::{io, process::Command};

use serde::Deserialize;

use super::Diagnosis;

/// As `nft -j list chains` has it (libnftables-json(5)).
#[derive(Deserialize)]
struct Ruleset {
    nftables: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    chain: Option<Chain>,
}

#[derive(Deserialize)]
struct Chain {
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
}

pub(super) fn examine(diagnosis: &mut Diagnosis) {
    let chains = match chains() {
        Ok(chains) => chains,
        Err(e) => {
            let advice = "install nftables to have this looked at";
            return diagnosis.unknown("rules", format!("nft -j list chains: {e}"), advice);
        }
    };
    let mut quiet = true;
    let kube_proxy = |chain: &Chain| {
        chain.table == "kube-proxy" || chain.name.starts_with("KUBE-SVC") || chain.name == "KUBE-SERVICES"
    };
    if chains.iter().any(kube_proxy) {
        quiet = false;
        let advice = "stop kube-proxy and remove its rules (kube-proxy --cleanup): both would translate services";
        diagnosis.warn("rules", "kube-proxy's chains are there", advice);
    }
    if chains.iter().any(|chain| chain.name.starts_with("FLANNEL-") || chain.table.starts_with("flannel")) {
        quiet = false;
        let advice = "stop flanneld and remove its chains: they masquerade what pods send out of the cluster ([masquerade] \
                      egress does that in the switch)";
        diagnosis.warn("rules", "flannel's chains are there", advice);
    }
    let drops = |chain: &&Chain| chain.hook.as_deref() == Some("forward") && chain.policy.as_deref() == Some("drop");
    if let Some(chain) = chains.iter().find(drops) {
        quiet = false;
        let found =
            format!("chain {} of table {} drops what is forwarded unless a rule accepts it", chain.name, chain.table);
        let advice = "accept the pods' packets there (iptables -P FORWARD ACCEPT, or rules for shunt0): the kernel forwards what \
                      leaves the cluster";
        diagnosis.warn("rules", found, advice);
    }
    if quiet {
        diagnosis.ok("rules", "no chains of kube-proxy or flannel, and forwarding is not dropped");
    }
}

fn chains() -> io::Result<Vec<Chain>> {
    let output = Command::new("nft").args(["-j", "list", "chains"]).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let ruleset: Ruleset = serde_json::from_slice(&output.stdout)?;
    Ok(ruleset.nftables.into_iter().filter_map(|entry| entry.chain).collect())
}

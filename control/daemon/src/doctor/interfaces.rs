//! The uplink and the host port: what they are, what stands on them, and what their drivers can do.

use std::fs;

use futures_util::TryStreamExt;
use rtnetlink::{new_connection, packet_route::tc::TcAttribute};
use shunt_dataplane::xsk::{Interface, MemoryChoice, Survey, XdpMode};

use super::Diagnosis;
use crate::{
    config::Config,
    flannel::{SUBNET_ENV, variables},
};

/// The least MTU of an IPv4 pod: what IPv6 asks of a link, so that nothing pods speak is too long for it.
const LEAST_POD_MTU: u32 = 1280;

pub(super) async fn examine(diagnosis: &mut Diagnosis, config: &Config) {
    let name = &config.uplink;
    let uplink = match Interface::query(name) {
        Ok(uplink) => uplink,
        Err(e) => return diagnosis.err("uplink", e.to_string(), "correct [uplink] interface, or the interface"),
    };
    diagnosis.ok("uplink", format!("{name}: {}, MTU {}, {} queues", uplink.mac, uplink.mtu, uplink.queues));
    mtu(diagnosis, config, &uplink);
    match Survey::of(&uplink) {
        Ok(survey) => {
            xdp(diagnosis, config, &survey);
            traffic_control(diagnosis, config, &survey, uplink.index).await;
        }
        Err(e) => diagnosis.unknown("xdp", e.to_string(), ""),
    }
}

/// What pods may send must fit what the underlay carries.
fn mtu(diagnosis: &mut Diagnosis, config: &Config, uplink: &Interface) {
    let most = config.pod_mtu(uplink.mtu.into());
    if most < LEAST_POD_MTU {
        let found = format!("{} carries {} bytes, which leaves {most} to pods", uplink.name, uplink.mtu);
        return match config.ipv6 {
            Some(_) => {
                let advice =
                    "raise the MTU of the underlay, or leave out [ipv6]: kernels have no IPv6 on a link with less";
                diagnosis.err("mtu", found, advice)
            }
            None => diagnosis.warn("mtu", found, "raise the MTU of the underlay"),
        };
    }
    // Flannel says what it gave to pods.
    let text = fs::read_to_string(SUBNET_ENV).unwrap_or_default();
    match variables(&text).get("FLANNEL_MTU").and_then(|mtu| mtu.parse::<u32>().ok()) {
        Some(mtu) if mtu > most => diagnosis.warn(
            "mtu",
            format!("pods have an MTU of {mtu} by {SUBNET_ENV}, and {} leaves {most}", uplink.name),
            format!("make the pods anew with an MTU of {most}: their long packets are refused (ICMP) until then"),
        ),
        _ => diagnosis.ok("mtu", format!("{most} for pods, {} on {}", uplink.mtu, uplink.name)),
    }
}

fn xdp(diagnosis: &mut Diagnosis, config: &Config, survey: &Survey) {
    let name = &config.uplink;
    match &survey.program {
        Some(program) if !program.is_ours() => {
            let found = format!("another XDP program is on {name}: {} (id {})", program.name, program.id);
            let advice = format!("stop its owner, or remove it: ip link set dev {name} xdp off");
            return diagnosis.err("xdp", found, advice);
        }
        Some(program) => return diagnosis.ok("xdp", format!("shuntd's classifier is on {name}, {}", program.mode)),
        None => {}
    }
    match (survey.native, config.xdp_mode) {
        (None, _) => {
            let advice = "shuntd tries native mode first, and `shuntctl status` says what came of it";
            diagnosis.unknown("xdp", format!("this kernel does not say what the driver of {name} can do"), advice);
        }
        (Some(false), XdpMode::Native) => {
            let advice = "set [xdp] mode to auto or generic";
            diagnosis.err(
                "xdp",
                format!("the driver of {name} has no native XDP, which the configuration wants"),
                advice,
            );
        }
        (Some(false), _) | (Some(true), XdpMode::Generic) => {
            let advice = "each packet costs a copy more. Where pods' interfaces are in generic mode too, run ethtool -K eth0 \
                          tso off gso off in the pods: segments longer than a frame are lost";
            diagnosis.warn("xdp", format!("generic mode on {name}"), advice);
        }
        (Some(true), _) => diagnosis.ok("xdp", format!("native mode on {name}")),
    }
    if survey.zero_copy == Some(false) && config.uplink_memory == MemoryChoice::ZeroCopy {
        diagnosis.ok("zero_copy", format!("the driver of {name} copies packets to AF_XDP"));
    } else if survey.zero_copy == Some(true) {
        diagnosis.ok("zero_copy", format!("the driver of {name} can do without copying"));
    }
}

/// Filters and programs behind XDP see what the switch leaves to the kernel, and nothing else.
async fn traffic_control(diagnosis: &mut Diagnosis, config: &Config, survey: &Survey, index: u32) {
    let mut seen: Vec<String> = survey.tcx.iter().map(|name| format!("tcx program {name}")).collect();
    match filters(index).await {
        Ok(kinds) => seen.extend(kinds.into_iter().map(|kind| format!("{kind} filter"))),
        Err(e) => diagnosis.unknown("tc", format!("the filters of {} cannot be read: {e}", config.uplink), ""),
    }
    if seen.is_empty() {
        return diagnosis.ok("tc", format!("no filters on {}", config.uplink));
    }
    let found = format!("on {}: {}", config.uplink, seen.join(", "));
    let advice = "if another network plugin put them there, stop it and remove them (tc qdisc del dev INTERFACE clsact): \
                  they do not see what the switch takes, and may drop what it sends by the kernel";
    diagnosis.warn("tc", found, advice);
}

/// The kinds of the filters on what comes in and goes out.
async fn filters(index: u32) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let (connection, handle, _) = new_connection()?;
    tokio::spawn(connection);
    let index = index.try_into()?;
    let mut kinds = Vec::new();
    // A clsact qdisc has both.
    let mut qdiscs = handle.qdisc().get().index(index).execute();
    let mut has_ingress = false;
    while let Some(qdisc) = qdiscs.try_next().await? {
        has_ingress |= qdisc.header.index == index
            && qdisc
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "clsact" || kind == "ingress"));
    }
    if !has_ingress {
        return Ok(kinds);
    }
    for ingress in [true, false] {
        let request = handle.traffic_filter(index).get();
        let mut filters = if ingress { request.ingress() } else { request.egress() }.execute();
        while let Some(filter) = filters.try_next().await? {
            let kind = filter.attributes.into_iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind),
                _ => None,
            });
            kinds.extend(kind);
        }
    }
    kinds.dedup();
    Ok(kinds)
}

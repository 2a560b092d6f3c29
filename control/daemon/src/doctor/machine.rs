//! The machine: its kernel, what this process may do, memory and cores.

use std::{collections::BTreeSet, fs};

use shunt_dataplane::{io::FRAME_SIZE, xsk::kernel};
use socket2::{Domain, Socket, Type};

use super::Diagnosis;
use crate::config::Config;

/// `AF_XDP` of linux/socket.h.
const AF_XDP: i32 = 44;

/// What shuntd is granted, with its number in linux/capability.h, and for what.
pub const CAPABILITIES: [(&str, u32, &str); 5] = [
    ("CAP_NET_ADMIN", 12, "host port, routes, XDP"),
    ("CAP_NET_RAW", 13, "AF_XDP sockets"),
    ("CAP_BPF", 39, "the XDP classifier, and the tc programs beside it"),
    ("CAP_PERFMON", 38, "these programs compare addresses of packets"),
    ("CAP_IPC_LOCK", CAP_IPC_LOCK, "frames beyond the limit of locked memory"),
];
/// Not needed where the limit of locked memory is high enough.
const CAP_IPC_LOCK: u32 = 14;

pub(super) fn examine(diagnosis: &mut Diagnosis, config: Option<&Config>) {
    kernel_release(diagnosis, kernel::release());
    let capabilities = effective_capabilities();
    capability(diagnosis, capabilities);
    af_xdp(diagnosis);
    if let Some(config) = config {
        memory(diagnosis, config, capabilities);
        cores(diagnosis, config);
    }
    huge_pages(diagnosis);
    forwarding(diagnosis, config);
}

fn kernel_release(diagnosis: &mut Diagnosis, release: String) {
    match kernel::version(&release) {
        None => diagnosis.unknown("kernel", format!("{release:?} has no version"), "shuntd needs Linux 5.10 or newer"),
        Some(version) if version < (5, 10) => {
            let advice = "install 5.10 or newer: XDP links and shared AF_XDP memory are missing";
            diagnosis.err("kernel", release, advice);
        }
        Some(version) if version < (5, 16) => {
            let advice = "5.16 or newer keeps the neighbours that the switch sends to resolved by itself; before, shuntd \
                          cannot follow nodes on the underlay";
            diagnosis.err("kernel", release, advice);
        }
        Some(version) if version < kernel::WITH_TCX => {
            let advice = "6.6 or newer leads what the node's own processes send to node ports, load balancer addresses and \
                          external IPs to the switch, shows them the addresses of clients outside, and keeps fragments that \
                          overtake their first one on the uplink";
            diagnosis.warn("kernel", release, advice);
        }
        Some(_) => diagnosis.ok("kernel", release),
    }
}

/// Bits of `CapEff`; `None` if it cannot be read.
fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn has(capabilities: Option<u64>, bit: u32) -> bool {
    capabilities.is_some_and(|bits| bits >> bit & 1 == 1)
}

fn capability(diagnosis: &mut Diagnosis, capabilities: Option<u64>) {
    let (there, missing): (Vec<_>, Vec<_>) = CAPABILITIES.iter().partition(|(_, bit, _)| has(capabilities, *bit));
    if missing.iter().all(|(_, bit, _)| *bit == CAP_IPC_LOCK) {
        let names: Vec<_> = there.iter().map(|(name, ..)| *name).collect();
        return diagnosis.ok("capabilities", names.join(" "));
    }
    let list: Vec<_> = missing.iter().map(|(name, _, what)| format!("{name} ({what})")).collect();
    let advice = "run shuntd as root or grant them; configs/shuntd.service does (run the doctor with the same)";
    diagnosis.err("capabilities", format!("missing: {}", list.join(", ")), advice);
}

fn af_xdp(diagnosis: &mut Diagnosis) {
    match Socket::new(Domain::from(AF_XDP), Type::RAW, None) {
        Ok(_) => diagnosis.ok("af_xdp", "AF_XDP sockets can be opened"),
        Err(e) => {
            let advice = "a kernel with CONFIG_XDP_SOCKETS=y and CAP_NET_RAW are needed";
            diagnosis.err("af_xdp", format!("no AF_XDP socket: {e}"), advice);
        }
    }
}

/// Frames are locked memory, and must be there.
fn memory(diagnosis: &mut Diagnosis, config: &Config, capabilities: Option<u64>) {
    let needed = config.cores.len() as u64 * u64::from(config.frames_per_worker) * FRAME_SIZE as u64;
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max locked memory")).and_then(|line| {
        let soft = line.split_whitespace().next()?;
        if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
    });
    let found = format!("{} MiB of frames", needed >> 20);
    match limit {
        _ if has(capabilities, CAP_IPC_LOCK) => diagnosis.ok("memlock", found),
        Some(limit) if limit >= needed => diagnosis.ok("memlock", found),
        Some(limit) => diagnosis.err(
            "memlock",
            format!("{found} do not fit the limit of {} KiB of locked memory", limit >> 10),
            "set LimitMEMLOCK=infinity (ulimit -l), grant CAP_IPC_LOCK, or lower [workers] frames",
        ),
        None => diagnosis.unknown("memlock", "the limit of locked memory cannot be read", ""),
    }
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    if let Some(kib) = available.filter(|kib| *kib << 10 < needed) {
        let found = format!("{} MiB of frames, but only {} MiB are available", needed >> 20, kib >> 10);
        diagnosis.err("memory", found, "lower [workers] frames or use fewer workers");
    }
}

/// A list of cores as in /sys and /proc: `0-2,5`.
fn core_list(text: &str) -> BTreeSet<usize> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

fn cores(diagnosis: &mut Diagnosis, config: &Config) {
    let read =
        |file: &str| core_list(&fs::read_to_string(format!("/sys/devices/system/cpu/{file}")).unwrap_or_default());
    let (online, isolated) = (read("online"), read("isolated"));
    let list = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let workers = list(&config.cores);
    if !online.is_empty() && online.iter().all(|core| config.cores.contains(core)) {
        return diagnosis.warn(
            "cores",
            format!("workers have all cores ({workers}): under load they leave none to the node"),
            "name fewer in [workers] cores",
        );
    }
    let shared: Vec<_> = config.cores.iter().copied().filter(|core| !isolated.contains(core)).collect();
    if shared.is_empty() {
        diagnosis.ok("cores", format!("workers on {workers}, isolated"));
    } else {
        // No fault: a worker sleeps while there is nothing to do.
        let found = format!("workers on {workers}; {} shared with other programs", list(&shared));
        let advice = "for steady latency under load isolate them (isolcpus= on the kernel's command line, or a cpuset)";
        diagnosis.add("cores", super::State::Ok, found, advice);
    }
}

fn huge_pages(diagnosis: &mut Diagnosis) {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    match text.split(['[', ']']).nth(1) {
        Some("never") => diagnosis.warn(
            "huge_pages",
            "transparent huge pages are off: lookups in large connection tables miss the TLB",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        Some(mode) => diagnosis.ok("huge_pages", format!("transparent, {mode}")),
        None => diagnosis.warn("huge_pages", "this kernel has no transparent huge pages", ""),
    }
}

/// What the node's kernel has to do for pods.
fn forwarding(diagnosis: &mut Diagnosis, config: Option<&Config>) {
    let sysctl = |key: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{key}")).ok()?.trim().parse::<i64>().ok();
    if sysctl("ip_forward") == Some(1) {
        diagnosis.ok("ip_forward", "1");
    } else {
        let found = "net.ipv4.ip_forward is 0: the kernel forwards no pod's packets out of the cluster";
        diagnosis.warn("ip_forward", found, "sysctl -w net.ipv4.ip_forward=1");
    }
    let Some(config) = config else { return };
    let filter = |interface: &str| {
        sysctl(&format!("conf/{interface}/rp_filter")).map(|own| own.max(sysctl("conf/all/rp_filter").unwrap_or(0)))
    };
    match filter(&config.uplink) {
        Some(1) => diagnosis.warn(
            "rp_filter",
            format!("strict on {}: what pods of other nodes send to this node natively is dropped", config.uplink),
            format!("sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{}.rp_filter=2", config.uplink),
        ),
        Some(mode) => diagnosis.ok("rp_filter", format!("{mode} on {}", config.uplink)),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn what_an_older_kernel_lacks_is_said() {
        let of = |release: &str| {
            let mut diagnosis = Diagnosis::default();
            kernel_release(&mut diagnosis, release.to_owned());
            diagnosis.findings.remove(0)
        };
        assert_eq!(of("5.4.0").state, State::Error);
        assert_eq!(of("5.10.0").state, State::Error);
        assert_eq!(of("6.1.0-13-amd64").state, State::Warning);
        assert!(of("6.1.0-13-amd64").advice.contains("node ports"));
        assert_eq!(of("6.6.1").state, State::Ok);
    }

    #[test]
    fn core_lists_are_read() {
        assert_eq!(core_list("0-2,5\n"), BTreeSet::from([0, 1, 2, 5]));
        assert_eq!(core_list("\n"), BTreeSet::new());
    }
}

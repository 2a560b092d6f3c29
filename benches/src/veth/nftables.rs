//! Rules of the shape that kube-proxy's nftables mode writes: one map lookup finds the service's chain, a random number
//! the endpoint's, and that translates; packets to be masqueraded are marked on the way.

use std::fmt::Write;

use super::cluster::{CLUSTER_CIDR, Service, TARGET_PORT, VIP_PORT};

/// The table of all rules.
pub const TABLE: &str = "ip kube-proxy";

/// What is there whatever the services are.
const BASE: &str = "
table ip kube-proxy {
    set cluster-ips { type ipv4_addr; }
    map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
    map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
    chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
    chain masquerading {
        meta mark and 0x4000 == 0 return
        meta mark set meta mark xor 0x4000
        masquerade fully-random
    }
    chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
    chain cluster-ips-check { ip daddr @cluster-ips reject; }
    chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
    chain filter-prerouting {
        type filter hook prerouting priority -110;
        ct state new jump service-endpoints-check
    }
    chain filter-forward {
        type filter hook forward priority -110;
        ct state new jump service-endpoints-check
        ct state new jump cluster-ips-check
    }
    chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
    chain nat-output { type nat hook output priority -100; jump services; }
    chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
";

/// Services that one transaction adds. The kernel's time for a transaction grows with the square of its size (it looks for
/// each anonymous set among all that is new), and with the size of the table: with all services at once 10,000 of them take
/// longer than anybody waits, and with fewer at a time they take longer too.
pub const AT_ONCE: u32 = 500;

/// The transactions that make the table with these services, in the place of a former one.
pub fn transactions(mut services: impl Iterator<Item = Service>) -> impl Iterator<Item = String> {
    let base = format!("add table {TABLE}\ndelete table {TABLE}\n{BASE}");
    let more = std::iter::from_fn(move || {
        let some: Vec<_> = services.by_ref().take(AT_ONCE as usize).collect();
        (!some.is_empty()).then(|| addition(&some))
    });
    std::iter::once(base).chain(more)
}

/// Adds services to the table.
fn addition(services: &[Service]) -> String {
    let (mut text, mut maps) = (String::new(), String::new());
    for service in services {
        let Service { number, vip, endpoints } = service;
        write_endpoints(&mut text, *number, endpoints.iter().enumerate());
        writeln!(text, "add chain {TABLE} service-{number}").expect(INFALLIBLE);
        write_service(&mut text, service);
        writeln!(maps, "add element {TABLE} cluster-ips {{ {vip} }}").expect(INFALLIBLE);
        writeln!(maps, "add element {TABLE} service-ips {{ {vip} . udp . {VIP_PORT} : goto service-{number} }}")
            .expect(INFALLIBLE);
    }
    text + &maps
}

/// The transaction that follows when the service's first endpoint has changed.
pub fn change(service: &Service) -> String {
    let number = service.number;
    let mut text = format!("flush chain {TABLE} service-{number}\nflush chain {TABLE} endpoint-{number}-0\n");
    write_endpoints(&mut text, number, service.endpoints.iter().enumerate().take(1));
    write_service(&mut text, service);
    text
}

const INFALLIBLE: &str = "text takes what is written to it";

fn write_endpoints<'a>(
    text: &mut String,
    number: u32,
    endpoints: impl Iterator<Item = (usize, &'a std::net::Ipv4Addr)>,
) {
    for (at, address) in endpoints {
        writeln!(
            text,
            "add chain {TABLE} endpoint-{number}-{at}\n\
             add rule {TABLE} endpoint-{number}-{at} ip saddr {address} jump mark-for-masquerade\n\
             add rule {TABLE} endpoint-{number}-{at} meta l4proto udp dnat to {address}:{TARGET_PORT}"
        )
        .expect(INFALLIBLE);
    }
}

fn write_service(text: &mut String, service: &Service) {
    let Service { number, vip, endpoints } = service;
    let choices: Vec<_> = (0..endpoints.len()).map(|at| format!("{at} : goto endpoint-{number}-{at}")).collect();
    writeln!(
        text,
        "add rule {TABLE} service-{number} ip daddr {vip} udp dport {VIP_PORT} ip saddr != {CLUSTER_CIDR} \
         jump mark-for-masquerade\n\
         add rule {TABLE} service-{number} numgen random mod {} vmap {{ {} }}",
        endpoints.len(),
        choices.join(", ")
    )
    .expect(INFALLIBLE);
}

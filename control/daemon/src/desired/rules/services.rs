//! Rules about where services and published ports are had.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use shunt_control_api::{FieldError, Port, PublishedPort, Service};
use shunt_dataplane::net::Protocol;

use super::Rules;
use crate::{
    config::Prefixes,
    desired::{
        Claims,
        claims::{CLUSTER_IP, IPV6_CLUSTER_IP, addresses, node_ports},
    },
};

impl Rules {
    pub(super) fn admit_service(&self, service: &Service, claims: &mut Claims) -> Result<(), FieldError> {
        let name: Arc<str> = format!("service {}", service.full_name()).into();
        let mut seen = Vec::new();
        for (field, address) in addresses(service) {
            // The same one may be a load balancer's and an external IP.
            if seen.contains(&address) {
                continue;
            }
            seen.push(address);
            let is_cluster_ip = field == CLUSTER_IP || field == IPV6_CLUSTER_IP;
            if is_cluster_ip {
                let range = self.prefixes(&field, address)?.services;
                if !range.contains(&address) {
                    let problem = format!("{address} is outside the services' {range}; use an address of it");
                    return Err(FieldError::new(field, problem));
                }
            } else if let Some(problem) = self.no_external_address(address) {
                return Err(FieldError::new(field, problem));
            }
            for (i, port) in service.ports.iter().enumerate() {
                let key = (address, port.port, port.protocol);
                if let Err(problem) = self.claim_frontend(key, &name, claims) {
                    let field = if is_cluster_ip { format!("ports[{i}].port").into() } else { field };
                    return Err(FieldError::new(field, problem));
                }
            }
        }
        for (field, key) in node_ports(service) {
            self.claim_node_port(key, &name, claims).map_err(|problem| FieldError::new(field, problem))?;
        }
        Ok(())
    }

    pub(super) fn admit_published(&self, port: &Port, claims: &mut Claims) -> Result<(), FieldError> {
        let name: Arc<str> = format!("port {}", port.name).into();
        for (i, published_port) in port.published.iter().enumerate() {
            let PublishedPort { port, protocol, .. } = *published_port;
            let wrong = published_port.address.and_then(|address| self.no_external_address(address.into()));
            if let Some(problem) = wrong {
                return Err(FieldError::new(format!("published[{i}].address"), problem));
            }
            let claimed = match published_port.address {
                Some(address) => self
                    .no_masquerade_port(port)
                    .and_then(|()| self.claim_frontend((address.into(), port, protocol), &name, claims)),
                None => self.claim_node_port((port, protocol), &name, claims),
            };
            claimed.map_err(|problem| FieldError::new(format!("published[{i}].port"), problem))?;
        }
        Ok(())
    }

    /// Takes one address's port. An error says what is wrong.
    fn claim_frontend(&self, key: FrontendKey, name: &Arc<str>, claims: &mut Claims) -> Result<(), String> {
        let owner = claims.frontends.insert(key, name.clone());
        let Some(owner) = owner.or_else(|| self.owner_of_node_port(key, claims)) else { return Ok(()) };
        let (address, port, protocol) = key;
        let place = SocketAddr::new(address, port);
        Err(format!("{place}/{protocol} is {owner}'s; give one of them another address or port"))
    }

    /// Takes a port of all of the node's addresses. An error says what is wrong.
    fn claim_node_port(
        &self,
        (port, protocol): (u16, Protocol),
        name: &Arc<str>,
        claims: &mut Claims,
    ) -> Result<(), String> {
        self.no_masquerade_port(port)?;
        let owner = claims.node_ports.insert((port, protocol), name.clone());
        let at = |address: &Ipv4Addr| claims.frontends.get(&(IpAddr::V4(*address), port, protocol)).cloned();
        match owner.or_else(|| self.node_port_addresses.iter().find_map(at)) {
            Some(owner) => Err(format!("{port}/{protocol} of the node is {owner}'s; give another port")),
            None => Ok(()),
        }
    }

    fn no_masquerade_port(&self, port: u16) -> Result<(), String> {
        if !self.masquerade_ports.contains(&port) {
            return Ok(());
        }
        let (first, last) = (self.masquerade_ports.start(), self.masquerade_ports.end());
        Err(format!("{port} is one of the masquerade ports ({first}-{last}); give another"))
    }

    /// Packets to such an address come from outside the cluster: it cannot be one of those given out inside.
    fn no_external_address(&self, address: IpAddr) -> Option<String> {
        let Prefixes { cluster: pods, services, .. } = self.node.prefixes();
        let (range, whose) = if services.contains(&address) {
            (services, "services'")
        } else if pods.contains(&address) && !self.is_node_s(address) {
            (pods, "pods'")
        } else {
            return None;
        };
        Some(format!("{address} is inside the {whose} {range}; use an address outside of the cluster"))
    }

    /// Who has a frontend as a node port, if its address is the node's.
    fn owner_of_node_port(&self, (address, port, protocol): FrontendKey, claims: &Claims) -> Option<Arc<str>> {
        if !self.is_node_s(address) {
            return None;
        }
        claims.node_ports.get(&(port, protocol)).cloned()
    }

    /// Whether node ports are had at it.
    fn is_node_s(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(address) if self.node_port_addresses.contains(&address))
    }
}

/// Where one service is had: address, port and protocol.
type FrontendKey = (IpAddr, u16, Protocol);

#[cfg(test)]
mod tests {
    use shunt_control_api::{Resource, v1};

    use super::{
        super::tests::{check, port, refused, rules, service},
        *,
    };

    const TCP: v1::Protocol = v1::Protocol::Tcp;

    /// A load balancer's service with one port.
    fn exposed(name: &str, n: u8, change: impl FnOnce(&mut v1::Service)) -> Resource {
        let port = v1::ServicePort { name: String::new(), protocol: TCP.into(), port: 80, node_port: 0 };
        let mut service = v1::Service {
            namespace: "default".into(),
            name: name.into(),
            cluster_ip: format!("10.96.0.{n}"),
            ports: vec![port],
            r#type: v1::ServiceType::LoadBalancer.into(),
            external_traffic_policy: v1::TrafficPolicy::Local.into(),
            ..Default::default()
        };
        change(&mut service);
        Resource::Service(service.try_into().unwrap())
    }

    #[test]
    fn a_vip_and_port_belong_to_one_service() {
        let tcp = v1::Protocol::Tcp;
        refused(
            &[service("web", "10.97.0.1", &[("", tcp, 80)])],
            "r[0].cluster_ip: 10.97.0.1 is outside the services'",
        );
        let web = service("web", "10.96.0.10", &[("", tcp, 80)]);
        let other = service("other", "10.96.0.10", &[("a", tcp, 81), ("b", tcp, 80)]);
        refused(&[web, other], "r[1].ports[1].port: 10.96.0.10:80/tcp is service default/web's");
    }

    #[test]
    fn external_addresses_are_outside_of_the_cluster_and_one_service_s() {
        let at = |name, n, address: &str| exposed(name, n, |s| s.external_ips = vec![address.into()]);
        refused(&[at("a", 1, "10.96.7.7")], "r[0].external_ips[0]: 10.96.7.7 is inside the services' 10.96.0.0/16");
        refused(&[at("a", 1, "10.244.2.7")], "r[0].external_ips[0]: 10.244.2.7 is inside the pods' 10.244.0.0/16");
        let taken = "r[1].external_ips[0]: 198.51.100.7:80/tcp is service default/a's";
        refused(&[at("a", 1, "198.51.100.7"), at("b", 2, "198.51.100.7")], taken);
        let balanced = |n| exposed("lb", n, |s| s.load_balancer_ips = vec!["198.51.100.7".into()]);
        refused(&[at("a", 1, "198.51.100.7"), balanced(2)], "r[1].load_balancer_ips[0]: 198.51.100.7:80/tcp is");
        let both = exposed("both", 3, |s| {
            s.load_balancer_ips = vec!["198.51.100.7".into()];
            s.external_ips = vec!["198.51.100.7".into(), "198.51.100.7".into()];
        });
        check(&[both]).unwrap();
    }

    #[test]
    fn a_port_of_the_node_is_one_service_s() {
        let on = |name, n, port| exposed(name, n, |s| s.ports[0].node_port = port);
        let health = |name, n, port| exposed(name, n, |s| s.health_check_node_port = port);
        let taken = |field: &str| format!("r[1].{field}: 30080/tcp of the node is service default/a's");
        refused(&[on("a", 1, 30_080), on("b", 2, 30_080)], &taken("ports[0].node_port"));
        refused(&[on("a", 1, 30_080), health("b", 2, 30_080)], &taken("health_check_node_port"));
        refused(&[on("a", 1, 61_001)], "r[0].ports[0].node_port: 61001 is one of the masquerade ports (61000-65535)");
        let udp =
            exposed("udp", 3, |s| (s.ports[0].protocol, s.ports[0].node_port) = (v1::Protocol::Udp.into(), 30_080));
        check(&[on("a", 1, 30_080), udp]).unwrap();
    }

    #[test]
    fn an_external_ip_of_the_node_and_node_ports_do_not_share_a_port() {
        let external = exposed("a", 1, |s| {
            (s.external_ips, s.ports[0].port) = (vec!["192.168.50.1".into()], 30_080);
        });
        let port = exposed("b", 2, |s| s.ports[0].node_port = 30_080);
        let both = [external, port];
        refused(&both, "r[1].ports[0].node_port: 30080/tcp of the node is service default/a's");
        let [external, port] = both;
        refused(&[port, external], "r[1].external_ips[0]: 192.168.50.1:30080/tcp is service default/b's");
    }

    /// A pod with a published TCP port.
    fn publishing(n: u8, number: u32, address: &str) -> Resource {
        let Resource::Port(pod) = port(&format!("p{n}"), &format!("v{n}"), &format!("10.244.1.{n}")) else { panic!() };
        let published_port =
            v1::PublishedPort { protocol: TCP.into(), port: number, container_port: 80, address: address.into() };
        Resource::Port(v1::Port { published: vec![published_port], ..v1::Port::from(&pod) }.try_into().unwrap())
    }

    #[test]
    fn a_published_port_is_one_pod_s_or_service_s() {
        let node = "192.168.50.1";
        let on = publishing;
        refused(&[on(1, 8080, ""), on(2, 8080, "")], "r[1].published[0].port: 8080/tcp of the node is port p1's");
        refused(&[on(1, 8080, node), on(2, 8080, "")], "r[1].published[0].port: 8080/tcp of the node is port p1's");
        refused(&[on(1, 8080, ""), on(2, 8080, node)], "r[1].published[0].port: 192.168.50.1:8080/tcp is port p1's");
        check(&[on(1, 8080, "192.168.51.1"), on(2, 8080, "192.168.51.2"), on(3, 8081, "")]).unwrap();
        let node_port = exposed("a", 1, |s| s.ports[0].node_port = 30_080);
        refused(&[node_port.clone(), on(1, 30_080, "")], "r[1].published[0].port: 30080/tcp of the node is service");
        refused(&[on(1, 30_080, ""), node_port], "r[1].ports[0].node_port: 30080/tcp of the node is port p1's");
        for address in ["", node] {
            refused(&[on(1, 61_001, address)], "r[0].published[0].port: 61001 is one of the masquerade ports");
        }
        refused(&[on(1, 80, "10.96.0.1")], "r[0].published[0].address: 10.96.0.1 is inside the services'");
    }

    #[test]
    fn what_is_released_can_be_taken_again() {
        for pod in [publishing(1, 8080, ""), publishing(2, 8080, "192.168.50.1")] {
            let mut claims = Claims::default();
            rules().admit(&pod, &mut claims).unwrap();
            claims.release(&pod);
            assert!(claims.frontends.is_empty() && claims.node_ports.is_empty());
        }
        let exposed = exposed("a", 1, |s| {
            s.ports[0].node_port = 30_080;
            s.load_balancer_ips = vec!["198.51.100.7".into()];
            s.external_ips = vec!["198.51.100.8".into()];
            s.health_check_node_port = 32_000;
        });
        let mut claims = Claims::default();
        rules().admit(&exposed, &mut claims).unwrap();
        claims.release(&exposed);
        assert!(claims.frontends.is_empty() && claims.node_ports.is_empty());
    }
}

//! `reflect`: the far end of a test. Every frame goes back to where it came from, with its addresses swapped.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use shunt_dataplane::{
    spec::PortRole,
    wire::{be16, ethernet, ipv4, udp, vxlan},
    xsk::{Classifier, Interface, UplinkFilter, XdpMode},
};

use crate::engine::{AfXdpStation, EngineError};

/// UDP ports behind which a VXLAN header is looked for: flannel's and IANA's (RFC 7348).
const VXLAN_PORTS: [u16; 2] = [8472, 4789];

/// An interface that reflects.
pub struct Reflector {
    station: AfXdpStation,
    mode: XdpMode,
    _classifier: Classifier,
}

impl Reflector {
    /// Takes all that arrives at an interface, on all of its queues.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn open(interface: &str, mode: XdpMode) -> Result<Reflector, EngineError> {
        let facts = Interface::query(interface)?;
        let queues: Vec<_> = (0..facts.queues).map(|queue| (interface, queue)).collect();
        let mut classifier = Classifier::attach(&facts, PortRole::Pod, mode, &UplinkFilter::default())?;
        let station = AfXdpStation::open(&queues, false)?;
        for ((_, queue), device) in queues.iter().zip(station.devices()) {
            classifier.register(*queue, device)?;
        }
        Ok(Reflector { station, mode: classifier.mode(), _classifier: classifier })
    }

    /// How its program is attached.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Reflects until told to stop. Returns how many frames went back.
    pub fn run(&mut self, stop: &Arc<AtomicBool>) -> u64 {
        let mut reflected = 0;
        while !stop.load(Relaxed) {
            reflected += self.station.turn_round(&mut turn) as u64;
        }
        reflected
    }
}

/// Swaps source and destination: on Ethernet, in IPv4, and of TCP and UDP ports. Behind VXLAN the inner ones too; the
/// outer ports stay, as both ends listen on the same. No checksum changes. False for what is not IPv4 to one station.
pub fn turn(frame: &mut [u8]) -> bool {
    if !swap(frame) {
        return false;
    }
    let datagram = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
    let inner = datagram + udp::HEADER_LEN + vxlan::HEADER_LEN;
    let encapsulated = frame[ethernet::HEADER_LEN + ipv4::PROTOCOL] == ipv4::UDP
        && frame.len() > inner
        && VXLAN_PORTS.contains(&be16(frame, datagram + udp::DST_PORT));
    if encapsulated {
        return swap(&mut frame[inner..]) && swap_ports(&mut frame[inner..]);
    }
    swap_ports(frame)
}

fn swap(frame: &mut [u8]) -> bool {
    let is_ipv4 = frame.len() >= ethernet::HEADER_LEN + ipv4::HEADER_LEN
        && ethernet::ethertype(frame) == ethernet::IPV4
        && frame[ethernet::HEADER_LEN] == 0x45;
    // The lowest bit of the first byte is that of a group.
    if !is_ipv4 || frame[0] & 1 == 1 {
        return false;
    }
    let (to, from) = frame.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    let addresses = &mut frame[ethernet::HEADER_LEN + ipv4::SRC..];
    let (src, dst) = addresses.split_at_mut(4);
    src.swap_with_slice(&mut dst[..4]);
    true
}

fn swap_ports(frame: &mut [u8]) -> bool {
    let protocol = frame[ethernet::HEADER_LEN + ipv4::PROTOCOL];
    let transport = &mut frame[ethernet::HEADER_LEN + ipv4::HEADER_LEN..];
    if matches!(protocol, ipv4::TCP | ipv4::UDP) && transport.len() >= 4 {
        let (src, dst) = transport.split_at_mut(2);
        src.swap_with_slice(&mut dst[..2]);
    }
    true
}

#[cfg(test)]
mod tests {
    use shunt_dataplane::net::MacAddr;

    use super::*;
    use crate::{
        packet::{Signature, Stations, inspect},
        profile::Profile,
        script::Script,
    };

    #[test]
    fn what_is_turned_twice_is_as_before_and_right_in_between() {
        let stations = Stations { from: MacAddr([2, 0, 0, 0, 0, 1]), to: MacAddr([2, 0, 0, 0, 0, 2]) };
        for outer in [
            "",
            "vxlan = { from = \"1.1.1.1\", to = \"2.2.2.2\", ethernet = { from = \"02:00:00:00:00:11\", to = \"02:00:00:00:00:12\" } }",
        ] {
            let profile = Profile::parse(&format!(
                "name = \"t\"\nrate = \"1pps\"\n[[stream]]\nname = \"s\"\nprotocol = \"udp\"\nfrom = \"10.0.0.1\"\nfrom_port = 7\n\
                 to = \"10.0.0.2\"\nto_port = 9\n{outer}"
            ));
            let script = Script::compile(&profile.unwrap(), stations).unwrap();
            let template = &script.templates[0];
            let mut frame = vec![0; template.bytes.len()];
            script.slots[0].write(template, &mut frame);
            Signature { epoch: 0, track: 0, sequence: 3, sent: 0, late: 0 }.emit(&mut frame[template.payload..]);
            let before = frame.clone();
            assert!(turn(&mut frame));
            assert_ne!(frame, before);
            assert!(inspect(&frame).is_some_and(|seen| seen.intact && seen.signature.sequence == 3));
            assert_eq!(be16(&frame, template.ports), 9);
            assert_eq!(ipv4::src(&frame[template.ip..]), 0x0a00_0002);
            assert_eq!(ethernet::destination(&frame), stations.from.to_number());
            assert!(turn(&mut frame));
            assert_eq!(frame, before);
        }
        assert!(!turn(&mut [0xff; 60]), "no IPv4");
    }
}

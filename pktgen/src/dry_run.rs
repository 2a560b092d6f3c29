//! `--dry-run`: the first packets, decoded from their bytes.

use std::fmt::Write;

use shunt_dataplane::{
    net::MacAddr,
    wire::{be16, ethernet, ipv4, tcp, udp, vxlan},
    xsk::Interface,
};

use crate::{
    cli::Place,
    engine::{EngineError, Kind, MemoryStation},
    pace::Pacer,
    packet::{Stations, inspect},
    player::Player,
    profile::Profile,
    quantity,
    rate::FCS,
    script::Script,
};

/// Describes the profile's first packets as they would leave. Sends nothing; an interface that is named is only asked
/// for its address.
///
/// # Errors
/// What is wrong with the profile, or with an interface that is named.
pub fn first_packets(profile: &Profile, place: &Place, packets: usize) -> Result<String, EngineError> {
    let address = |name: &Option<String>| -> Result<Option<MacAddr>, EngineError> {
        let Some(name) = name else { return Ok(None) };
        let interface = Interface::query(name)?;
        profile.fits(name, interface.mtu).map_err(EngineError::Profile)?;
        Ok(Some(interface.mac))
    };
    let stations = if place.kind() == Kind::Memory {
        MemoryStation::stations(profile)
    } else {
        let (from, to) = (address(&place.tx)?, address(&place.rx)?);
        Stations { from: from.unwrap_or_default(), to: place.to_mac.or(to).unwrap_or_default() }
    };
    let script = std::sync::Arc::new(Script::compile(profile, stations).map_err(EngineError::Profile)?);
    let mut text = String::new();
    let rate = profile.pps().map_or("as fast as possible".to_owned(), quantity::pps);
    let streams = profile.streams.len();
    let _ = writeln!(text, "{}: {rate}, {streams} stream(s), an order of {} packets", profile.name, script.slots.len());
    let mut pacer = Pacer::new(0, profile.pps(), profile.burst, packets as u64);
    let mut player = Player::new(script, 0, 1, 1);
    while let Some(due) = pacer.due(u64::MAX) {
        let (len, stream) = player.peek();
        let mut frame = vec![0; len];
        player.write(&mut frame, due, 0);
        pacer.advance();
        let at = if profile.pps().is_some() { quantity::time(due as f64) } else { "next".to_owned() };
        let _ =
            writeln!(text, "{at:>10}  {:<12} {:>5} bytes  {}", profile.streams[stream].name, len + FCS, decode(&frame));
    }
    Ok(text)
}

/// One line about a frame.
fn decode(frame: &[u8]) -> String {
    let mut text = format!("{} > {}", ethernet::source(frame), ethernet::destination(frame));
    let packet = &frame[ethernet::HEADER_LEN..];
    let transport = &packet[ipv4::HEADER_LEN..];
    let ports = (be16(transport, 0), be16(transport, 2));
    let addresses = (std::net::Ipv4Addr::from(ipv4::src(packet)), std::net::Ipv4Addr::from(ipv4::dst(packet)));
    let (src, dst) = addresses;
    let _ = match packet[ipv4::PROTOCOL] {
        ipv4::ICMP => write!(text, "  {src} > {dst} ICMP echo id {} seq {}", be16(transport, 4), be16(transport, 6)),
        ipv4::TCP => write!(text, "  {src}:{} > {dst}:{} TCP flags {:#04x}", ports.0, ports.1, transport[tcp::FLAGS]),
        _ => write!(text, "  {src}:{} > {dst}:{} UDP", ports.0, ports.1),
    };
    let inner = udp::HEADER_LEN + vxlan::HEADER_LEN;
    if packet[ipv4::PROTOCOL] == ipv4::UDP && inspect(frame).is_some() && !starts_with_signature(transport) {
        let vni = vxlan::vni(&transport[udp::HEADER_LEN..]).unwrap_or(0);
        let _ = write!(text, "  VXLAN {vni} [ {} ]", decode(&transport[inner..]));
    } else if let Some(seen) = inspect(frame) {
        let sums = if seen.intact { "checksums right" } else { "checksums wrong" };
        let _ = write!(text, "  seq {}, {sums}", seen.signature.sequence);
    }
    text
}

fn starts_with_signature(transport: &[u8]) -> bool {
    crate::packet::Signature::read(&transport[udp::HEADER_LEN..]).is_some()
}

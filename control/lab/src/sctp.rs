//! As much of SCTP (RFC 9260) as it takes to open an association, say who serves, and shut it down: over raw sockets, for
//! kernels without SCTP. Who gets a packet with a wrong checksum, tag or address ignores it, as a real one does.

use std::{
    io::{self, Read},
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use shunt_dataplane::wire::{be16, be32, ipv4, sctp};
use socket2::{Domain, Protocol, Socket, Type};

use crate::server::Greeting;

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// The parameter of an INIT ACK that holds the cookie.
const STATE_COOKIE: u16 = 7;

/// The server's own tag, the same for all.
const SERVER_TAG: u32 = 0x5eed_5eed;

/// Bytes that are sent there and back, beside the server's greeting.
const LOAD: usize = 1_200;

const PATIENCE: Duration = Duration::from_secs(2);

/// Flags of a data chunk: the first and last fragment of its message.
const WHOLE: u8 = 3;

type Chunk = (u8, Vec<u8>);

/// A packet of ours or to us.
#[derive(Debug)]
struct Packet {
    from: SocketAddrV4,
    to_port: u16,
    tag: u32,
    chunks: Vec<Chunk>,
}

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(ipv4::SCTP))))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn send(socket: &Socket, from_port: u16, to: SocketAddrV4, tag: u32, chunks: &[Chunk]) -> io::Result<()> {
    let mut packet = [&from_port.to_be_bytes()[..], &to.port().to_be_bytes(), &tag.to_be_bytes(), &[0; 4]].concat();
    for (kind, value) in chunks {
        packet.extend([*kind, if *kind == DATA { WHOLE } else { 0 }]);
        packet.extend((4 + value.len() as u16).to_be_bytes());
        packet.extend(value);
        packet.resize(packet.len().next_multiple_of(4), 0);
    }
    sctp::finish(&mut packet);
    socket.send_to(&packet, &SocketAddrV4::new(*to.ip(), 0).into()).map(drop)
}

/// The next packet with a right checksum.
fn receive(socket: &Socket) -> io::Result<Packet> {
    let mut buffer = vec![0; 65_536];
    loop {
        let length = (&*socket).read(&mut buffer)?;
        let packet = &buffer[..length];
        let Some(segment) = packet.get(ipv4::header_len(packet)..).filter(|s| s.len() >= sctp::HEADER_LEN) else {
            continue;
        };
        let mut finished = segment.to_vec();
        sctp::finish(&mut finished);
        if finished != segment {
            continue;
        }
        let from = SocketAddrV4::new(ipv4::src(packet).into(), be16(segment, 0));
        let chunks = chunks(&segment[sctp::HEADER_LEN..]);
        return Ok(Packet { from, to_port: be16(segment, 2), tag: be32(segment, 4), chunks });
    }
}

fn chunks(mut rest: &[u8]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    while let Some(value) = rest.get(..4).and_then(|head| rest.get(4..usize::from(be16(head, 2)))) {
        chunks.push((rest[0], value.to_vec()));
        rest = rest.get((4 + value.len()).next_multiple_of(4)..).unwrap_or_default();
    }
    chunks
}

/// An INIT, or the answer to one: tag, window, streams, first number; then parameters.
fn init(kind: u8, tag: u32, parameters: &[u8]) -> Chunk {
    (kind, [&tag.to_be_bytes()[..], &65_536u32.to_be_bytes(), &[0, 1, 0, 1], &1u32.to_be_bytes(), parameters].concat())
}

/// The only message of its side: transmission number 1, stream 0.
fn data(payload: &[u8]) -> Chunk {
    (DATA, [&1u32.to_be_bytes()[..], &[0; 8], payload].concat())
}

/// Acknowledges that.
fn sack() -> Chunk {
    (SACK, [&1u32.to_be_bytes()[..], &65_536u32.to_be_bytes(), &[0; 4]].concat())
}

/// Serves until the process ends: echoes the client's message after a [`Greeting`] and a line feed.
///
/// # Errors
/// When the socket breaks.
pub fn serve(name: &str, port: u16) -> io::Result<()> {
    let socket = socket()?;
    loop {
        let packet = match receive(&socket) {
            Ok(packet) => packet,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if packet.to_port == port {
            let greeting = Greeting { server: name.to_owned(), client: (*packet.from.ip()).into() };
            let (tag, answer) = answer(&greeting.to_string(), &packet);
            // No route while a test breaks one: the next request counts.
            let _ = answer.is_empty() || send(&socket, port, packet.from, tag, &answer).is_ok();
        }
    }
}

/// What the server says to a packet, and to which tag. It keeps nothing: the client's tag is in its own from then on.
fn answer(greeting: &str, packet: &Packet) -> (u32, Vec<Chunk>) {
    let mut answer = Vec::new();
    for (kind, value) in &packet.chunks {
        match (*kind, value.len()) {
            (INIT, 16..) if packet.tag == 0 => {
                let tag = be32(value, 0);
                let cookie = [&STATE_COOKIE.to_be_bytes()[..], &8u16.to_be_bytes(), &tag.to_be_bytes()].concat();
                return (tag, vec![init(INIT_ACK, SERVER_TAG ^ tag, &cookie)]);
            }
            (COOKIE_ECHO, 4) if packet.tag == SERVER_TAG ^ be32(value, 0) => answer.push((COOKIE_ACK, Vec::new())),
            (DATA, 12..) => answer.extend([sack(), data(&[greeting.as_bytes(), b"\n", &value[12..]].concat())]),
            (SHUTDOWN, 4) => answer.push((SHUTDOWN_ACK, Vec::new())),
            _ => {}
        }
    }
    (packet.tag ^ SERVER_TAG, answer)
}

/// Opens an association from `from_port`, has a message echoed, and shuts it down. Returns the server's greeting.
///
/// # Errors
/// If the answers that it takes do not come.
pub fn ask(from_port: u16, to: SocketAddrV4) -> io::Result<Greeting> {
    let socket = socket()?;
    let tag = u32::from(from_port) << 16 | 0x1234;
    let say = |tag, chunks: &[Chunk]| send(&socket, from_port, to, tag, chunks);
    let hear = |wanted: u8| hear(&socket, from_port, to, tag, wanted);
    say(0, &[init(INIT, tag, &[])])?;
    let init_ack = hear(INIT_ACK)?;
    let (server_tag, cookie) = match (init_ack.get(..4), init_ack.get(20..24)) {
        (Some(tag), Some(cookie)) => (be32(tag, 0), cookie.to_vec()),
        _ => return Err(io::Error::other("an INIT ACK without cookie")),
    };
    let load: Vec<u8> = (0..LOAD).map(|n| (n * 7) as u8).collect();
    say(server_tag, &[(COOKIE_ECHO, cookie), data(&load)])?;
    let answer = hear(DATA)?;
    let echoed = answer.get(12..).and_then(|message| message.split_at_checked(message.len() - load.len()));
    let greeting = match echoed {
        Some((greeting, echo)) if echo == load => Greeting::read(&String::from_utf8_lossy(greeting))?,
        _ => return Err(io::Error::other("another message came back")),
    };
    say(server_tag, &[sack(), (SHUTDOWN, 1u32.to_be_bytes().to_vec())])?;
    hear(SHUTDOWN_ACK)?;
    say(server_tag, &[(SHUTDOWN_COMPLETE, Vec::new())])?;
    Ok(greeting)
}

/// Waits for a packet from whom was asked, with our tag and a chunk of this type. Returns the chunk's value.
fn hear(socket: &Socket, port: u16, from: SocketAddrV4, tag: u32, wanted: u8) -> io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let packet = receive(socket)?;
        if (packet.from, packet.to_port, packet.tag) == (from, port, tag)
            && let Some((_, value)) = packet.chunks.into_iter().find(|(kind, _)| *kind == wanted)
        {
            return Ok(value);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

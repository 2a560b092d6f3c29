//! The lab's server: it echoes over UDP, TCP and SCTP, and says its name so that a client can tell backends apart.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use crate::{probe::backwards, sctp};

/// A UDP request with exactly this payload is answered with a [`Greeting`]; any other payload with itself.
pub const WHO: &[u8] = b"who";

/// What a server says of itself and of who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// Its name.
    pub server: String,
    /// The client's address, as the server sees it.
    pub client: IpAddr,
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.server, self.client)
    }
}

impl Greeting {
    /// Reads what a server wrote.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if it is something else.
    pub fn read(text: &str) -> io::Result<Greeting> {
        let parts = text.trim_end().split_once(' ').and_then(|(server, client)| Some((server, client.parse().ok()?)));
        let (server, client) =
            parts.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no greeting")))?;
        Ok(Greeting { server: server.to_owned(), client })
    }
}

/// Serves until the process ends. A TCP client is greeted with a line, then gets back all it sends. SCTP is on TCP's port, over
/// IPv4. TCP clients of IPv6 are served if any of the places for UDP is of it.
///
/// # Errors
/// When an address cannot be bound.
pub fn serve(name: &str, tcp: u16, udp: &[SocketAddr]) -> io::Result<()> {
    let datagrams: Vec<_> = udp.iter().map(UdpSocket::bind).collect::<io::Result<_>>()?;
    // A socket of IPv6 that is bound to no address takes clients of both families.
    let any: IpAddr =
        if udp.iter().any(SocketAddr::is_ipv6) { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let listener = TcpListener::bind((any, tcp))?;
    for socket in datagrams {
        let own = name.to_owned();
        // Should a socket break, who asks finds out.
        thread::spawn(move || echo_datagrams(&own, &socket));
    }
    let own = name.to_owned();
    thread::spawn(move || sctp::serve(&own, tcp));
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        // A client that goes away ends its own connection only.
        thread::spawn(move || echo_stream(&name, stream));
    }
    Ok(())
}

fn greeting(name: &str, client: SocketAddr) -> String {
    // A socket of both families tells an IPv4 client's address as one of IPv6.
    Greeting { server: name.to_owned(), client: client.ip().to_canonical() }.to_string()
}

fn echo_datagrams(name: &str, socket: &UdpSocket) -> io::Result<()> {
    let raw = backwards::socket()?;
    let (mut buffer, mut id) = (vec![0; 65_536], 0u16);
    loop {
        let (length, client) = socket.recv_from(&mut buffer)?;
        if buffer[..length].starts_with(backwards::MARK)
            && let (SocketAddr::V4(own), SocketAddr::V4(client)) = (socket.local_addr()?, client)
        {
            id = id.wrapping_add(1).max(1);
            // As below.
            let _ = backwards::send(&raw, own, client, id, &buffer[..length]);
            continue;
        }
        let greeting = greeting(name, client);
        let answer = if &buffer[..length] == WHO { greeting.as_bytes() } else { &buffer[..length] };
        match socket.send_to(answer, client) {
            // No route while a test breaks one, or an ICMP error for an earlier answer: the next request counts.
            Ok(_) | Err(_) => {}
        }
    }
}

fn echo_stream(name: &str, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let greeting = greeting(name, stream.peer_addr()?);
    stream.write_all(format!("{greeting}\n").as_bytes())?;
    let mut buffer = vec![0; 65_536];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

//! The lab's server: it echoes over UDP, TCP and SCTP, and says its name so that a client can tell backends apart.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    thread,
};

use crate::sctp;

/// A UDP request with exactly this payload is answered with the server's name; any other payload with itself.
pub const WHO: &[u8] = b"who";

/// Serves until the process ends. A TCP client is told the name and a line feed, then gets back all it sends. SCTP is on
/// TCP's port.
///
/// # Errors
/// When an address cannot be bound, or a socket breaks.
pub fn serve(name: &str, tcp: u16, udp: SocketAddrV4) -> io::Result<()> {
    let datagrams = UdpSocket::bind(udp)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, tcp))?;
    let own = name.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let name = own.clone();
            // A client that goes away ends its own connection only.
            thread::spawn(move || echo_stream(&name, stream));
        }
    });
    let own = name.to_owned();
    // Should its socket break, who asks finds out.
    thread::spawn(move || sctp::serve(&own, tcp));
    echo_datagrams(name, &datagrams)
}

fn echo_datagrams(name: &str, socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, client) = socket.recv_from(&mut buffer)?;
        let answer = if &buffer[..length] == WHO { name.as_bytes() } else { &buffer[..length] };
        match socket.send_to(answer, client) {
            // No route while a test breaks one, or an ICMP error for an earlier answer: the next request counts.
            Ok(_) | Err(_) => {}
        }
    }
}

fn echo_stream(name: &str, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(name.as_bytes())?;
    stream.write_all(b"\n")?;
    let mut buffer = vec![0; 65_536];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

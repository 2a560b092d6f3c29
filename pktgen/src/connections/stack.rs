//! One connection's own TCP/IP stack.
//!
//! A smoltcp interface asks each of its sockets about each packet, so thousands of sockets on one interface would cost
//! thousands of questions a packet. Here each connection has an interface with one socket, and what arrives is given to
//! the right one by its addresses and ports: the cost of a packet does not grow with the connections that are open.

use std::net::SocketAddrV4;

use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::tcp,
    time::Instant,
    wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint},
};

use super::link::{EthernetHeader, Link, Seat};

/// One connection at a time.
pub struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    header: EthernetHeader,
}

/// The time as smoltcp counts it, in microseconds.
pub fn instant(now_ns: u64) -> Instant {
    Instant::from_micros((now_ns / 1000) as i64)
}

fn endpoint(address: SocketAddrV4) -> IpEndpoint {
    IpEndpoint::new(IpAddress::Ipv4(*address.ip()), address.port())
}

impl Stack {
    /// A stack with room for `receive` and `send` bytes that were not taken or acknowledged yet.
    pub fn new(link: &mut Link, receive: usize, send: usize, seed: u64, now_ns: u64) -> Stack {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut seat = Seat { link, header: EthernetHeader::default(), packet: None };
        let interface = Interface::new(config, &mut seat, instant(now_ns));
        let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(receive), buffer(send));
        // Both would put pauses into a request and its answer that a client which is not idle does not make.
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Stack { interface, sockets, handle, header: EthernetHeader::default() }
    }

    /// Its socket.
    pub fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Begins a connection; the first packet leaves with the next [`Stack::poll`].
    pub fn connect(&mut self, local: SocketAddrV4, remote: SocketAddrV4, header: EthernetHeader) {
        self.be(local, header);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        let connected = socket.connect(self.interface.context(), endpoint(remote), endpoint(local));
        connected.expect("a free stack connects between addresses that were checked");
    }

    /// Waits for a connection.
    pub fn listen(&mut self, local: SocketAddrV4, header: EthernetHeader) {
        self.be(local, header);
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        socket.listen(endpoint(local)).expect("a free stack listens on a port that a packet was sent to");
    }

    /// Takes an address, with the whole world beside it: where packets go is in the Ethernet header.
    fn be(&mut self, local: SocketAddrV4, header: EthernetHeader) {
        self.header = header;
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            addresses.push(IpCidr::new(IpAddress::Ipv4(*local.ip()), 0)).expect("there is room for one");
        });
    }

    /// Gives it a packet, if one came, and sends what it has to send.
    pub fn poll(&mut self, link: &mut Link, packet: Option<&[u8]>, now_ns: u64) {
        let mut seat = Seat { link, header: self.header, packet };
        self.interface.poll(instant(now_ns), &mut seat, &mut self.sockets);
    }

    /// When it wants to be polled again at the latest, in ns; `None`: when a packet comes.
    pub fn poll_at(&mut self, now_ns: u64) -> Option<u64> {
        self.interface.poll_at(instant(now_ns), &self.sockets).map(|at| at.total_micros().max(0) as u64 * 1000)
    }
}

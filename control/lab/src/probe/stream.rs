//! A paced stream of numbered datagrams to the echo server: what is lost, repeated, reordered or damaged, and how long
//! each takes there and back.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::any_address;

/// How long after the last datagram an echo may still come.
const STRAGGLERS: Duration = Duration::from_secs(1);
/// Sequence number and time of sending, 8 bytes each.
const HEADER: usize = 16;

/// How a stream is sent.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Datagrams per second.
    pub rate: u32,
    /// How many.
    pub count: u32,
    /// UDP payload in bytes, 16 at least.
    pub size: usize,
}

/// What became of a stream.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StreamReport {
    /// Datagrams sent.
    pub sent: u32,
    /// Datagrams that came back, each counted once.
    pub received: u32,
    /// Datagrams that came back again.
    pub repeated: u32,
    /// Datagrams that came back after a later one.
    pub reordered: u32,
    /// Datagrams that came back changed.
    pub damaged: u32,
    /// The first sequence numbers that did not come back, at most 16.
    pub first_lost: Vec<u32>,
    /// Round-trip times in microseconds: least, middle, 99th percentile, greatest.
    pub rtt_us: [f64; 4],
    /// Longest time between two echoes, in microseconds.
    pub longest_gap_us: f64,
}

impl StreamReport {
    /// Datagrams that did not come back.
    pub fn lost(&self) -> u32 {
        self.sent - self.received
    }

    /// True if each datagram came back once and unchanged.
    pub fn is_complete(&self) -> bool {
        self.lost() == 0 && self.repeated == 0 && self.damaged == 0
    }
}

/// Sends the stream and waits for its echoes.
///
/// # Errors
/// When the socket breaks; a send that the kernel refuses counts as sent and is lost.
pub fn send(to: SocketAddr, pace: Pace) -> io::Result<StreamReport> {
    let size = pace.size.max(HEADER);
    let socket = UdpSocket::bind((any_address(to), 0))?;
    socket.connect(to)?;
    let start = Instant::now();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&socket, pace.count, size, start, &done));
        let mut payload = pattern(size);
        for number in 0..pace.count {
            let due = Duration::from_secs_f64(f64::from(number) / f64::from(pace.rate));
            thread::sleep(due.saturating_sub(start.elapsed()));
            payload[..8].copy_from_slice(&u64::from(number).to_be_bytes());
            payload[8..HEADER].copy_from_slice(&nanoseconds(start).to_be_bytes());
            // An ICMP error for an earlier datagram surfaces here; this datagram's own fate is seen by its echo.
            if socket.send(&payload).is_err() {
                let _ = socket.send(&payload);
            }
        }
        thread::sleep(Duration::from_millis(1));
        done.store(true, Ordering::Relaxed);
        receiver.join().expect("the receiver does not panic")
    })
}

fn receive(socket: &UdpSocket, count: u32, size: usize, start: Instant, done: &AtomicBool) -> io::Result<StreamReport> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut report = StreamReport { sent: count, ..StreamReport::default() };
    let mut seen = vec![false; count as usize];
    let mut round_trips = Vec::with_capacity(count as usize);
    let (mut highest, mut last_echo, mut deadline) = (0, None, None);
    let expected = pattern(size);
    let mut buffer = vec![0; size + 1];
    while report.received < count {
        if deadline.is_none() && done.load(Ordering::Relaxed) {
            deadline = Some(Instant::now() + STRAGGLERS);
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
        // Neither a time-out nor an ICMP error ends the stream: what matters is which echoes come.
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let now = nanoseconds(start);
        if length != size || buffer[HEADER..size] != expected[HEADER..] {
            report.damaged += 1;
            continue;
        }
        let (number, sent_at) = (word(&buffer[..8]), word(&buffer[8..HEADER]));
        let Some(seen) = usize::try_from(number).ok().and_then(|number| seen.get_mut(number)) else {
            report.damaged += 1;
            continue;
        };
        if std::mem::replace(seen, true) {
            report.repeated += 1;
            continue;
        }
        report.received += 1;
        report.reordered += u32::from(number < highest);
        highest = highest.max(number);
        round_trips.push(now.saturating_sub(sent_at));
        let gap = now - last_echo.replace(now).unwrap_or(now);
        report.longest_gap_us = report.longest_gap_us.max(microseconds(gap));
    }
    report.first_lost = (0..).zip(&seen).filter(|(_, seen)| !**seen).map(|(number, _)| number).take(16).collect();
    round_trips.sort_unstable();
    if let Some(last) = round_trips.len().checked_sub(1) {
        report.rtt_us = [0, last / 2, last * 99 / 100, last].map(|at| microseconds(round_trips[at]));
    }
    Ok(report)
}

/// Bytes that differ from their neighbours, so that a shifted or cut payload shows.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 % 251) as u8).collect()
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).expect("a probe runs less than 584 years")
}

fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_stream_to_an_echo_is_complete() {
        let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = echo.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, client)) = echo.recv_from(&mut buffer) {
                echo.send_to(&buffer[..length], client).unwrap();
            }
        });
        let report = send(to, Pace { rate: 10_000, count: 200, size: 64 }).unwrap();
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(report.received, 200);
    }

    #[test]
    fn loss_repetition_and_damage_are_seen() {
        let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = echo.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            for number in 0.. {
                let (length, client) = echo.recv_from(&mut buffer).unwrap();
                match number {
                    3 => continue,
                    5 => drop(echo.send_to(&buffer[..length], client)),
                    7 => buffer[HEADER + 1] ^= 1,
                    _ => {}
                }
                echo.send_to(&buffer[..length], client).unwrap();
            }
        });
        let report = send(to, Pace { rate: 10_000, count: 20, size: 64 }).unwrap();
        assert_eq!((report.lost(), report.repeated, report.damaged), (2, 1, 1), "{report:?}");
        assert_eq!(report.first_lost, [3, 7]);
    }
}

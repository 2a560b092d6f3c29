//! Sends bytes to the echo server over TCP and compares what comes back.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::server::Greeting;

const PATIENCE: Duration = Duration::from_secs(20);

/// What became of the bytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TransferReport {
    /// Who answered.
    pub server: String,
    /// Bytes that came back in order and unchanged.
    pub echoed: u64,
    /// From connecting to the last byte, in seconds.
    pub seconds: f64,
}

/// Sends `bytes` bytes and reads them back.
///
/// # Errors
/// When the connection breaks or stalls, or a byte comes back changed.
pub fn transfer(to: SocketAddr, bytes: u64) -> io::Result<TransferReport> {
    let start = Instant::now();
    let mut out = TcpStream::connect_timeout(&to, PATIENCE)?;
    out.set_read_timeout(Some(PATIENCE))?;
    out.set_write_timeout(Some(PATIENCE))?;
    let mut back = BufReader::new(out.try_clone()?);
    let mut server = String::new();
    back.read_line(&mut server)?;
    let sender = thread::spawn(move || -> io::Result<()> {
        let mut at = 0;
        while at < bytes {
            let chunk: Vec<u8> = (at..bytes.min(at + 32_768)).map(byte_at).collect();
            out.write_all(&chunk)?;
            at += chunk.len() as u64;
        }
        out.shutdown(Shutdown::Write)
    });
    let mut echoed = 0;
    let mut buffer = vec![0; 65_536];
    loop {
        let length = back.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        for byte in &buffer[..length] {
            if *byte != byte_at(echoed) {
                return Err(io::Error::other(format!("byte {echoed} came back as {byte}, not {}", byte_at(echoed))));
            }
            echoed += 1;
        }
    }
    sender.join().expect("the sender does not panic")?;
    Ok(TransferReport { server: Greeting::read(&server)?.server, echoed, seconds: start.elapsed().as_secs_f64() })
}

/// The byte at offset `at`: a pattern whose period is no power of two, so that a shift by a segment shows.
fn byte_at(at: u64) -> u8 {
    (at % 251) as u8 ^ (at / 65_521 % 256) as u8
}

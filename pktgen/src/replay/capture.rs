//! Reads captures: pcap (as tcpdump writes it) and pcapng (as Wireshark does).

use std::{borrow::Cow, fmt, fs, io, path::Path};

use pcap_file::{
    DataLink, PcapError, TsResolution,
    pcap::PcapParser,
    pcapng::{Block, PcapNgParser, blocks::interface_description::InterfaceDescriptionOption},
};

/// Bytes of an Ethernet header: the least a frame has.
const ETHERNET_HEADER: usize = 14;

/// First bytes of a pcapng file: the type of its section header, the same in both byte orders.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// What to do with a packet that was longer on the wire than it is in the file (tcpdump's `-s`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncated {
    /// Refuse the file.
    Refuse,
    /// Send the packet in its original length, with zeros for what is missing.
    Pad,
}

/// A capture could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Something in it is not as it should be.
    #[error("at byte {offset}: {reason}")]
    Broken {
        /// Where the block or packet begins, from the file's start.
        offset: usize,
        /// What is wrong, and what to do if something can be done.
        reason: String,
    },
    /// There is nothing to send.
    #[error("holds no packet")]
    Empty,
}

/// Frames and when they were captured, all in memory.
#[derive(Default)]
pub struct Capture {
    bytes: Vec<u8>,
    frames: Vec<Place>,
}

/// One frame's place.
struct Place {
    at_ns: u64,
    start: usize,
    len: usize,
}

/// One frame of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded<'a> {
    /// Nanoseconds since the first frame. Never less than the frame before has: one that was recorded with an earlier time has
    /// that one's.
    pub at_ns: u64,
    /// The frame, from its Ethernet header on, without FCS.
    pub frame: &'a [u8],
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capture of {} frames, {} bytes", self.frames.len(), self.bytes.len())
    }
}

impl Capture {
    /// Reads a file of either format. Frames longer than `longest` bytes are refused.
    pub fn read(path: &Path, truncated: Truncated, longest: usize) -> Result<Capture, CaptureError> {
        Capture::parse(&fs::read(path)?, truncated, longest)
    }

    /// Parses the content of a file.
    pub fn parse(file: &[u8], truncated: Truncated, longest: usize) -> Result<Capture, CaptureError> {
        let mut reader = Reader { file, truncated, longest, first_ns: None, capture: Capture::default() };
        if file.starts_with(&PCAPNG) {
            reader.pcapng()?
        } else {
            reader.pcap()?
        }
        if reader.capture.frames.is_empty() { Err(CaptureError::Empty) } else { Ok(reader.capture) }
    }

    /// Its frames, in the order they are in the file.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = Recorded<'_>> + Clone {
        self.frames.iter().map(|place| self.recorded(place))
    }

    /// One frame, if there are as many.
    pub fn get(&self, index: usize) -> Option<Recorded<'_>> {
        self.frames.get(index).map(|place| self.recorded(place))
    }

    /// How many frames there are; never none.
    pub fn count(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of all frames.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// From the first frame to the last, in nanoseconds.
    pub fn length_ns(&self) -> u64 {
        self.frames.last().map_or(0, |place| place.at_ns)
    }

    fn recorded(&self, place: &Place) -> Recorded<'_> {
        Recorded { at_ns: place.at_ns, frame: &self.bytes[place.start..place.start + place.len] }
    }
}

struct Reader<'a> {
    file: &'a [u8],
    truncated: Truncated,
    longest: usize,
    first_ns: Option<u128>,
    capture: Capture,
}

/// A packet as the file has it.
struct Found<'a> {
    offset: usize,
    at_ns: u128,
    original: u32,
    data: Cow<'a, [u8]>,
}

fn broken(offset: usize, reason: impl Into<String>) -> CaptureError {
    CaptureError::Broken { offset, reason: reason.into() }
}

/// What the parser found wrong, in words.
fn refused(offset: usize, error: &PcapError, what: &str) -> CaptureError {
    match error {
        PcapError::IncompleteBuffer => broken(offset, format!("the file ends within {what}")),
        other => broken(offset, format!("{what} is broken: {other}")),
    }
}

impl<'a> Reader<'a> {
    fn offset(&self, rest: &[u8]) -> usize {
        self.file.len() - rest.len()
    }

    fn pcap(&mut self) -> Result<(), CaptureError> {
        let begin = PcapParser::new(self.file).map_err(|error| match error {
            PcapError::IncompleteBuffer => broken(0, "too short for a capture"),
            _ => broken(0, "neither a pcap nor a pcapng file"),
        });
        let (mut rest, parser) = begin?;
        let header = parser.header();
        ethernet(0, header.datalink)?;
        let fraction = if header.ts_resolution == TsResolution::MicroSecond { 1000 } else { 1 };
        while !rest.is_empty() {
            let offset = self.offset(rest);
            // Raw: the checked form takes a packet longer than the snap length for a broken one.
            let (after, packet) = parser.next_raw_packet(rest).map_err(|e| refused(offset, &e, "a packet"))?;
            rest = after;
            let at_ns = u128::from(packet.ts_sec) * 1_000_000_000 + u128::from(packet.ts_frac) * fraction;
            self.add(Found { offset, at_ns, original: packet.orig_len, data: packet.data })?;
        }
        Ok(())
    }

    fn pcapng(&mut self) -> Result<(), CaptureError> {
        let (mut rest, mut parser) = PcapNgParser::new(self.file).map_err(|e| refused(0, &e, "the section header"))?;
        while !rest.is_empty() {
            let offset = self.offset(rest);
            let (after, block) = parser.next_block(rest).map_err(|e| refused(offset, &e, "a block"))?;
            rest = after;
            match block {
                Block::EnhancedPacket(packet) => {
                    let interface = parser.packet_interface(&packet).ok_or_else(|| {
                        broken(offset, format!("a packet of interface {}, which is not described", packet.interface_id))
                    })?;
                    ethernet(offset, interface.linktype)?;
                    // The parser takes ticks for nanoseconds, whatever the interface says they are.
                    let ticks = packet.timestamp.as_nanos();
                    let at_ns = nanoseconds(ticks, resolution(&interface.options))
                        .ok_or_else(|| broken(offset, "a time of no known resolution"))?;
                    self.add(Found { offset, at_ns, original: packet.original_len, data: packet.data })?;
                }
                Block::SimplePacket(_) => {
                    return Err(broken(
                        offset,
                        "a simple packet block, which has no time; rewrite the file with editcap",
                    ));
                }
                Block::Packet(_) => {
                    return Err(broken(offset, "a packet block of the obsolete kind; rewrite the file with editcap"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, found: Found<'_>) -> Result<(), CaptureError> {
        let (captured, original) = (found.data.len(), found.original as usize);
        let number = self.capture.frames.len() + 1;
        let refuse = |reason: String| Err(broken(found.offset, format!("packet {number} {reason}")));
        if captured > original {
            return refuse(format!("has {captured} bytes, more than the {original} it had on the wire"));
        }
        if captured < original && self.truncated == Truncated::Refuse {
            return refuse(format!(
                "has {captured} of its {original} bytes: capture with tcpdump -s 0, or pad what is missing (--pad)"
            ));
        }
        if captured < ETHERNET_HEADER {
            return refuse(format!("has {captured} bytes, which is no Ethernet frame"));
        }
        if original > self.longest {
            return refuse(format!(
                "has {original} bytes, and the most that can be sent is {}: capture with segmentation offload off",
                self.longest
            ));
        }
        let first = *self.first_ns.get_or_insert(found.at_ns);
        let at_ns = u64::try_from(found.at_ns.saturating_sub(first))
            .map_err(|_| broken(found.offset, "a time that lies centuries after the first"))?;
        let start = self.capture.bytes.len();
        self.capture.bytes.extend_from_slice(&found.data);
        self.capture.bytes.resize(start + original, 0);
        let at_ns = at_ns.max(self.capture.length_ns());
        self.capture.frames.push(Place { at_ns, start, len: original });
        Ok(())
    }
}

fn ethernet(offset: usize, link: DataLink) -> Result<(), CaptureError> {
    if link == DataLink::ETHERNET {
        return Ok(());
    }
    Err(broken(
        offset,
        format!("packets of link type {link:?}: only Ethernet captures can be sent (not `tcpdump -i any`)"),
    ))
}

/// The interface's `if_tsresol`: microseconds unless it is given (draft-ietf-opsawg-pcapng, section 4.2).
fn resolution(options: &[InterfaceDescriptionOption<'_>]) -> u8 {
    let given = options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    given.unwrap_or(6)
}

/// Ticks in nanoseconds: `resolution` is a negative power of ten or, with its highest bit set, of two.
fn nanoseconds(ticks: u128, resolution: u8) -> Option<u128> {
    let exponent = u32::from(resolution & 0x7f);
    let per_second = if resolution & 0x80 == 0 { 10_u128.checked_pow(exponent) } else { 1_u128.checked_shl(exponent) }?;
    Some(ticks.checked_mul(1_000_000_000)? / per_second)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pcap_file::{
        Endianness,
        pcap::{PcapHeader, PcapPacket, PcapWriter},
        pcapng::{
            PcapNgWriter,
            blocks::{enhanced_packet::EnhancedPacketBlock, interface_description::InterfaceDescriptionBlock},
        },
    };

    use super::*;

    const FRAMES: [(u64, usize); 3] = [(1_000_000, 60), (1_000_250, 1514), (1_002_000, 61)];

    fn frame(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7) as u8).collect()
    }

    fn pcap(resolution: TsResolution, link: DataLink) -> Vec<u8> {
        let header = PcapHeader {
            datalink: link,
            ts_resolution: resolution,
            endianness: Endianness::Big,
            ..PcapHeader::default()
        };
        let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
        for (micros, len) in FRAMES {
            writer.write_packet(&PcapPacket::new(Duration::from_micros(micros), len as u32, &frame(len))).unwrap();
        }
        writer.into_writer()
    }

    fn pcapng(resolution: Option<u8>, ticks_per_micro: u64) -> Vec<u8> {
        let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
        interface.options.extend(resolution.map(InterfaceDescriptionOption::IfTsResol));
        writer.write_pcapng_block(interface).unwrap();
        for (micros, len) in FRAMES {
            let packet = EnhancedPacketBlock {
                interface_id: 0,
                // As the writer has it, nanoseconds stand for ticks.
                timestamp: Duration::from_nanos(micros * ticks_per_micro),
                original_len: len as u32,
                data: frame(len).into(),
                options: Vec::new(),
            };
            writer.write_pcapng_block(packet).unwrap();
        }
        writer.into_inner()
    }

    fn check(file: &[u8]) {
        let capture = Capture::parse(file, Truncated::Refuse, 1514).unwrap();
        let found: Vec<_> = capture.frames().map(|r| (r.at_ns, r.frame.to_vec())).collect();
        let wanted: Vec<_> = FRAMES.map(|(micros, len)| ((micros - FRAMES[0].0) * 1000, frame(len))).to_vec();
        assert_eq!(found, wanted);
        assert_eq!((capture.count(), capture.length_ns()), (3, 2_000_000));
    }

    #[test]
    fn both_formats_give_the_same_frames_in_every_resolution() {
        check(&pcap(TsResolution::MicroSecond, DataLink::ETHERNET));
        check(&pcap(TsResolution::NanoSecond, DataLink::ETHERNET));
        check(&pcapng(None, 1));
        check(&pcapng(Some(6), 1));
        check(&pcapng(Some(9), 1000));
    }

    #[test]
    fn powers_of_two_are_resolutions_too() {
        assert_eq!(nanoseconds(3 << 20, 0x80 | 20), Some(3_000_000_000));
        assert_eq!(nanoseconds(5, 3), Some(5_000_000));
        assert_eq!(nanoseconds(5, 0x7f), None);
    }

    fn reason(file: &[u8], longest: usize) -> (usize, String) {
        match Capture::parse(file, Truncated::Refuse, longest).unwrap_err() {
            CaptureError::Broken { offset, reason } => (offset, reason),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_file_that_ends_early_is_refused_with_the_place() {
        let whole = pcap(TsResolution::MicroSecond, DataLink::ETHERNET);
        let second = 24 + 16 + 60;
        for end in [second + 3, second + 16, second + 100] {
            assert_eq!(reason(&whole[..end], 1514), (second, "the file ends within a packet".to_owned()));
        }
        let (offset, text) = reason(&pcapng(None, 1)[..100], 1514);
        assert!(offset > 0 && offset < 100 && text == "the file ends within a block", "{offset}: {text}");
        assert_eq!(reason(b"", 1514), (0, "too short for a capture".to_owned()));
        assert_eq!(reason(&[b'x'; 40], 1514), (0, "neither a pcap nor a pcapng file".to_owned()));
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        let (offset, text) = reason(&pcap(TsResolution::MicroSecond, DataLink::ETHERNET), 1000);
        assert_eq!(offset, 24 + 16 + 60);
        assert!(text.starts_with("packet 2 has 1514 bytes, and the most that can be sent is 1000"), "{text}");
        let (_, text) = reason(&pcap(TsResolution::MicroSecond, DataLink::LINUX_SLL), 1514);
        assert!(text.contains("LINUX_SLL"), "{text}");
        let empty = &pcap(TsResolution::MicroSecond, DataLink::ETHERNET)[..24];
        assert!(matches!(Capture::parse(empty, Truncated::Refuse, 1514), Err(CaptureError::Empty)));
    }

    #[test]
    fn packets_cut_by_the_snap_length_are_refused_or_padded() {
        let mut file = pcap(TsResolution::MicroSecond, DataLink::ETHERNET);
        // The last packet was 100 bytes on the wire, and 61 of them are here.
        let at = file.len() - 61 - 4;
        file[at..at + 4].copy_from_slice(&100_u32.to_be_bytes());
        let (offset, text) = reason(&file, 1514);
        assert_eq!(offset, file.len() - 61 - 16);
        assert!(text.starts_with("packet 3 has 61 of its 100 bytes"), "{text}");
        let capture = Capture::parse(&file, Truncated::Pad, 1514).unwrap();
        let padded = capture.get(2).unwrap().frame;
        assert_eq!((&padded[..61], &padded[61..]), (&frame(61)[..], &[0_u8; 39][..]));
    }

    proptest::proptest! {
        #[test]
        fn no_damage_does_more_than_refuse(
            ng: bool,
            damage in proptest::collection::vec((0..2000_usize, proptest::num::u8::ANY), 1..8),
            end in 0..2000_usize,
        ) {
            let mut file = if ng { pcapng(Some(9), 1000) } else { pcap(TsResolution::NanoSecond, DataLink::ETHERNET) };
            for (at, byte) in damage {
                let at = at % file.len();
                file[at] = byte;
            }
            file.truncate(end);
            if let Ok(capture) = Capture::parse(&file, Truncated::Pad, 1514) {
                assert!(capture.frames().all(|r| (ETHERNET_HEADER..=1514).contains(&r.frame.len())));
                assert!(capture.frames().is_sorted_by_key(|r| r.at_ns));
            }
        }
    }

    #[test]
    fn time_never_runs_backwards() {
        let mut file = pcap(TsResolution::MicroSecond, DataLink::ETHERNET);
        // The last packet's microseconds: earlier than all others.
        let at = file.len() - 61 - 12;
        file[at..at + 4].copy_from_slice(&0_u32.to_be_bytes());
        let capture = Capture::parse(&file, Truncated::Refuse, 1514).unwrap();
        assert_eq!(capture.frames().map(|r| r.at_ns).collect::<Vec<_>>(), [0, 250_000, 250_000]);
    }
}

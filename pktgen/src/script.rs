//! A profile, compiled: the order in which packets leave, round and round.
//!
//! One script serves all engines: lanes in user space play it packet by packet, and for XDP live frames its slots are a
//! BPF map. A slot says which stream's packet of which size it is, and what its flow puts into it, checksums included.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::{
    packet::{Flow, Stations, Template},
    profile::{Profile, Stream},
    random::Random,
};

/// Slots of a script unless its flows need more.
const LENGTH: usize = 1 << 16;

/// The most a script may have: 100 MB.
const LONGEST: usize = 1 << 22;

/// Draws for every flow of a Zipf distribution, where the script has room for as many.
const DRAWS: usize = 16;

/// One packet of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What its flow puts in.
    pub flow: Flow,
    /// Checksum of the (inner) IPv4 header.
    pub ip_checksum: u16,
    /// Checksum of the transport.
    pub transport_checksum: u16,
    /// Outer source port, where there are outer headers.
    pub entropy: u16,
    /// Index of its template.
    pub template: u16,
    /// Index of its stream.
    pub stream: u16,
}

impl Slot {
    /// Writes its packet, all but the signature.
    pub fn write(&self, template: &Template, frame: &mut [u8]) {
        template.write(frame, self.flow, (self.ip_checksum, self.transport_checksum), self.entropy);
    }
}

/// Flows that come and go: which one a packet belongs to follows from its number in the stream.
#[derive(Clone, Copy, Debug)]
pub struct Rolling {
    /// New flows per packet, in units of 2^-32.
    pub step: u64,
    /// Flows that are open at a time.
    pub open: u32,
    /// First value and number of values of source address, source port, destination address and port.
    pub ranges: [(u32, u64); 4],
}

impl Rolling {
    /// Of a stream that sends so many packets per second; `None` if its flows stay.
    fn of(stream: &Stream, pps: Option<f64>) -> Result<Option<Rolling>, String> {
        if stream.new_per_second == 0.0 {
            return Ok(None);
        }
        let path = &stream.path;
        let pps =
            pps.ok_or_else(|| format!("{path}.flows.new_per_second: at rate max nobody knows how often that is"))?;
        let per_packet = stream.new_per_second / (pps * stream.share);
        if per_packet > 1.0 {
            return Err(format!(
                "{path}.flows.new_per_second: {} new flows a second, and only {} packets",
                stream.new_per_second,
                pps * stream.share
            ));
        }
        let ranges = [stream.from.range(), stream.from_port.range(), stream.to.range(), stream.to_port.range()];
        let ranges = ranges.map(|range| range.expect("a profile with new flows has ranges"));
        Ok(Some(Rolling { step: (per_packet * 2_f64.powi(32)) as u64, open: stream.flows, ranges }))
    }

    /// The flow of packet `number` of the stream, as one of so many lanes sends it. The window of open flows moves on by
    /// `step` with each packet; within it flows take turns.
    #[inline]
    pub fn flow(&self, number: u32, (lane, lanes): (u64, u64)) -> Flow {
        let window = ((u64::from(number) * self.step) >> 32) + u64::from(number % self.open);
        let [src, src_port, dst, dst_port] = self.ranges.map(|(_, count)| count);
        let [src, src_port, dst, dst_port] = digits(window * lanes + lane, [src, src_port, dst, dst_port]);
        let [from, from_port, to, to_port] = self.ranges.map(|(first, _)| first);
        Flow {
            src: from + src as u32,
            src_port: (from_port + src_port as u32) as u16,
            dst: to + dst as u32,
            dst_port: (to_port + dst_port as u32) as u16,
        }
    }
}

/// What packets leave in which order.
#[derive(Clone, Debug)]
pub struct Script {
    /// Each stream's packet of each size.
    pub templates: Vec<Template>,
    /// The order.
    pub slots: Vec<Slot>,
    /// How many streams there are.
    pub streams: usize,
    /// By stream: how its flows come and go, if they do. Its slots then hold no flow, and sums instead of checksums.
    pub rolling: Vec<Option<Rolling>>,
    /// Packets that leave back to back.
    pub burst: u32,
}

impl Script {
    /// Compiles a profile.
    ///
    /// # Errors
    /// Beginning with the key's path, if its flows need a longer script than there can be.
    pub fn compile(profile: &Profile, stations: Stations) -> Result<Script, String> {
        let length = length(&profile.streams)?;
        let order = interleave(&profile.streams, length);
        let mut random = Random::new(profile.seed);
        let mut templates = Vec::new();
        let mut counts = vec![0; profile.streams.len()];
        order.iter().for_each(|stream| counts[*stream as usize] += 1);
        let mut queues: Vec<_> = (0..)
            .zip(profile.streams.iter().zip(counts))
            .map(|(index, (stream, count))| {
                let first = templates.len();
                templates.extend(stream.sizes.iter().map(|size| Template::new(stream, size.bytes, stations)));
                part(stream, index, count, (first, &templates[first..]), &mut random, profile.seed).into_iter()
            })
            .collect();
        let slots = order.iter().map(|&stream| queues[stream as usize].next().expect("as many as were counted"));
        let slots = slots.collect();
        let rolling = profile.streams.iter().map(|stream| Rolling::of(stream, profile.pps()));
        let rolling = rolling.collect::<Result<_, _>>()?;
        Ok(Script { templates, slots, streams: profile.streams.len(), rolling, burst: profile.burst })
    }

    /// Bytes of each stream's packets among `packets` packets from slot `from` on.
    pub fn bytes(&self, from: usize, packets: u64) -> Vec<u64> {
        let mut bytes = vec![0; self.streams];
        let length = self.slots.len() as u64;
        for (at, slot) in self.slots.iter().enumerate() {
            let first = (at + self.slots.len() - from) as u64 % length;
            let times = (packets + length - 1 - first) / length;
            bytes[slot.stream as usize] += times * self.templates[slot.template as usize].bytes.len() as u64;
        }
        bytes
    }
}

/// So many slots that every flow of every stream has its turn equally often.
fn length(streams: &[Stream]) -> Result<usize, String> {
    let mut length = 1;
    for stream in streams {
        let round = (f64::from(stream.flows) / stream.share).ceil() as usize;
        if round > LONGEST {
            return Err(format!(
                "{}.flows.count: {} flows at {:.3}% of the packets need an order of {round} packets, and {LONGEST} is the most; \
                 take fewer flows, or give the stream a greater share",
                stream.path,
                stream.flows,
                stream.share * 100.0
            ));
        }
        let draws = if stream.zipf.is_some() { DRAWS } else { 1 };
        length = length.max((round * draws).min(LONGEST));
    }
    Ok(length * LENGTH.div_ceil(length))
}

/// The streams in turn, each at an even distance from its last packet.
fn interleave(streams: &[Stream], length: usize) -> Vec<u16> {
    // The packet that is due first goes first. Moments in units of 2^-32 of a slot.
    let step = |stream: &Stream| (2_f64.powi(32) / stream.share) as u64;
    let mut due: BinaryHeap<_> =
        streams.iter().enumerate().map(|(i, stream)| Reverse((step(stream) / 2, i as u16))).collect();
    let mut order = Vec::with_capacity(length);
    while order.len() < length {
        let Reverse((moment, stream)) = due.pop().expect("a profile has streams");
        order.push(stream);
        due.push(Reverse((moment + step(&streams[stream as usize]), stream)));
    }
    order
}

/// One stream's slots. `templates` are those of its sizes, and how many come before them.
fn part(
    stream: &Stream,
    index: u16,
    count: usize,
    (first, templates): (usize, &[Template]),
    random: &mut Random,
    seed: u64,
) -> Vec<Slot> {
    let sizes = sizes(stream, count, random);
    let flows = flows(stream, count, random);
    let slot = |(flow, size): (u64, usize)| {
        let (values, (ip_checksum, transport_checksum)) = if stream.new_per_second > 0.0 {
            (Flow::default(), templates[size].sums)
        } else {
            let values = values(stream, seed, stream.first_flow + flow);
            (values, templates[size].checksums(values))
        };
        // RFC 7348, section 5, asks for a port of the dynamic range.
        let entropy = 0xc000 | (Random::hash(seed, flow, 4) & 0x3fff) as u16;
        let template = (first + size) as u16;
        Slot { flow: values, ip_checksum, transport_checksum, entropy, template, stream: index }
    };
    flows.into_iter().zip(sizes).map(slot).collect()
}

/// Sizes in proportion to their weights, in an order that has nothing to do with that of the flows.
fn sizes(stream: &Stream, count: usize, random: &mut Random) -> Vec<usize> {
    let total: u64 = stream.sizes.iter().map(|size| u64::from(size.weight)).sum();
    let mut sizes = Vec::with_capacity(count);
    let mut weight = 0;
    for (at, size) in stream.sizes.iter().enumerate() {
        weight += u64::from(size.weight);
        sizes.resize((count as u64 * weight / total) as usize, at);
    }
    if stream.sizes.len() > 1 {
        random.shuffle(&mut sizes);
    }
    sizes
}

/// Flows in turn, or drawn from a Zipf distribution: the n-th most frequent one has weight 1 / n^exponent.
fn flows(stream: &Stream, count: usize, random: &mut Random) -> Vec<u64> {
    let Some(exponent) = stream.zipf else {
        return (0..count as u64).map(|n| n % u64::from(stream.flows)).collect();
    };
    let mut sum = 0.0;
    let cumulative: Vec<f64> = (1..=stream.flows)
        .map(|rank| {
            sum += f64::from(rank).powf(-exponent);
            sum
        })
        .collect();
    let draw = |_| {
        let drawn = random.unit() * sum;
        cumulative.partition_point(|&c| c <= drawn).min(cumulative.len() - 1) as u64
    };
    (0..count).map(draw).collect()
}

/// The values that flow `number` has in its fields: counted up, or drawn by its number.
fn values(stream: &Stream, seed: u64, number: u64) -> Flow {
    let counts = [stream.from.count(), stream.from_port.count(), stream.to.count(), stream.to_port.count()];
    let random = [stream.from.random(), stream.from_port.random(), stream.to.random(), stream.to_port.random()];
    // A field that is drawn does not count.
    let mut picked = digits(number, std::array::from_fn(|i| if random[i] { 1 } else { counts[i] }));
    for field in (0..4).filter(|field| random[*field]) {
        picked[field] = Random::hash(seed, number, field as u64) % counts[field];
    }
    let [src, src_port, dst, dst_port] = picked;
    Flow {
        src: stream.from.value(src),
        dst: stream.to.value(dst),
        src_port: stream.from_port.value(src_port) as u16,
        dst_port: stream.to_port.value(dst_port) as u16,
    }
}

/// A number in four digits, of which there are as many as the product of their counts: the source address counts
/// fastest, then the source port; destinations go along with the sources, and one step further each time those have all
/// had their turn. So destinations do not wait for all sources, and still all numbers differ.
#[inline]
fn digits(number: u64, [src, src_port, dst, dst_port]: [u64; 4]) -> [u64; 4] {
    let sources = src * src_port;
    let (source, round) = (number % sources, number / sources);
    let along = source + round % dst * sources;
    [source % src, source / src, (round + source) % dst, (round / dst + along) % dst_port]
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use shunt_dataplane::net::MacAddr;

    use super::*;
    use crate::packet::{Signature, inspect};

    const STATIONS: Stations = Stations { from: MacAddr([2, 0, 0, 0, 0, 1]), to: MacAddr([2, 0, 0, 0, 0, 2]) };

    fn compile(streams: &str) -> (Profile, Script) {
        let profile = Profile::parse(&format!("name = \"t\"\nrate = \"1kpps\"\n{streams}")).unwrap();
        let script = Script::compile(&profile, STATIONS).unwrap();
        (profile, script)
    }

    const STREAM: &str = "[[stream]]\nname = \"a\"\nprotocol = \"udp\"\nfrom = \"10.0.0.1-10.0.0.100\"\nfrom_port = \"1-9\"\n\
        to = \"10.1.0.1-10.1.0.7\"\nto_port = [80, 443]\n";

    #[test]
    fn counted_flows_all_differ_and_come_equally_often() {
        // 100 addresses, 9 ports, 7 destinations and 2 of their ports.
        let (_, script) = compile(&format!("{STREAM}flows.count = 12600"));
        let mut seen = BTreeMap::new();
        for slot in &script.slots {
            let flow = (slot.flow.src, slot.flow.src_port, slot.flow.dst, slot.flow.dst_port);
            *seen.entry(flow).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 12600);
        let times = script.slots.len() / 12600;
        assert!(times * 12600 >= LENGTH && seen.values().all(|n| *n == times));
        let first: BTreeSet<_> = script.slots[..7].iter().map(|slot| slot.flow.dst).collect();
        assert_eq!(first.len(), 7, "destinations do not wait for all sources to have had their turn");
    }

    #[test]
    fn weights_and_sizes_are_kept_and_streams_are_spread_evenly() {
        let other = STREAM.replace("\"a\"", "\"b\"");
        let (_, script) = compile(&format!("{STREAM}weight = 3\nframe = \"imix\"\n{other}"));
        let second = script.slots.iter().filter(|slot| slot.stream == 1).count();
        assert_eq!(second * 4, script.slots.len());
        let gaps: Vec<_> =
            script.slots.iter().enumerate().filter(|(_, slot)| slot.stream == 1).map(|(at, _)| at % 4).collect();
        assert!(gaps.iter().all(|at| *at == gaps[0]));
        let mut sizes = BTreeMap::new();
        for slot in script.slots.iter().filter(|slot| slot.stream == 0) {
            *sizes.entry(script.templates[slot.template as usize].bytes.len() + 4).or_insert(0) += 1;
        }
        let total: usize = sizes.values().sum();
        for (size, weight) in IMIX {
            assert!((sizes[&size] as f64 / total as f64 - weight / 48.0).abs() < 1e-4, "{sizes:?}");
        }
    }

    const IMIX: [(usize, f64); 3] = [(64, 28.0), (570, 16.0), (1518, 4.0)];

    #[test]
    fn new_flows_come_as_often_as_wanted_and_never_return() {
        // 1000 packets and 50 new flows a second, over 100 addresses, 9 ports, 7 destinations.
        let stream = STREAM.replace("to_port = [80, 443]", "to_port = 80");
        let (_, script) = compile(&format!("{stream}flows = {{ count = 10, new_per_second = 50 }}"));
        let rolling = script.rolling[0].expect("its flows come and go");
        let mut last = BTreeMap::new();
        for lane in 0..2 {
            for packet in 0..60_000_u32 {
                let flow = rolling.flow(packet, (lane, 2));
                let before = last.insert((flow.src, flow.src_port, flow.dst), (lane, packet));
                assert!(before.is_none_or(|(l, p)| l == lane && packet - p <= 10 * 20), "{flow:?} was gone");
            }
        }
        assert_eq!(last.len(), 2 * (60_000 / 20 + 9));
        for (stream, problem) in [
            (STREAM.to_owned(), "counted through ranges"),
            (stream.clone(), "1200 new flows a second, and only 1000 packets"),
        ] {
            let text = format!("name = \"t\"\nrate = \"1kpps\"\n{stream}flows.new_per_second = 1200");
            let error = Profile::parse(&text).and_then(|profile| Script::compile(&profile, STATIONS).map(drop));
            let error = error.unwrap_err();
            assert!(error.starts_with("stream[0].flows.new_per_second: ") && error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_zipf_skew_has_its_frequencies() {
        let (_, script) = compile(&format!("{STREAM}flows = {{ count = 100, skew = \"zipf\", exponent = 1.0 }}"));
        let mut seen = BTreeMap::new();
        script.slots.iter().for_each(|slot| *seen.entry(slot.flow.src).or_insert(0_u32) += 1);
        let harmonic: f64 = (1..=100).map(|n| 1.0 / f64::from(n)).sum();
        for rank in [1_u32, 2, 10] {
            let share = f64::from(seen[&(0x0a00_0000 + rank)]) / script.slots.len() as f64;
            let expected = 1.0 / f64::from(rank) / harmonic;
            assert!((share / expected - 1.0).abs() < 0.06, "rank {rank}: {share}, not {expected}");
        }
        let again = compile(&format!("{STREAM}flows = {{ count = 100, skew = \"zipf\", exponent = 1.0 }}")).1;
        assert!(script.slots == again.slots, "the same seed gives the same order");
    }

    #[test]
    fn flows_that_need_too_long_an_order_are_refused() {
        let rare = STREAM.replace("\"a\"", "\"b\"");
        let text = format!("name = \"t\"\nrate = \"1kpps\"\n{STREAM}weight = 999999\n{rare}flows.count = 12600");
        let error = Script::compile(&Profile::parse(&text).unwrap(), STATIONS).unwrap_err();
        assert!(error.starts_with("stream[1].flows.count: 12600 flows"), "{error}");
    }

    #[test]
    fn etherparse_finds_every_checksum_right() {
        let vxlan = "vxlan = { vni = 7, from = \"192.168.5.1\", to = \"192.168.5.2\", \
            ethernet = { from = \"02:00:00:00:00:11\", to = \"02:00:00:00:00:12\" } }\n";
        for (protocol, frame, outer) in [
            ("udp", 64, ""),
            ("udp", 65, ""),
            ("tcp", 76, ""),
            ("icmp", 64, ""),
            ("icmp", 333, ""),
            ("tcp", 1400, vxlan),
            ("udp", 99, vxlan),
        ] {
            let stream = STREAM.replace("udp", protocol);
            let (profile, script) = compile(&format!("{stream}frame = {frame}\nflows.count = 5000\n{outer}"));
            for slot in script.slots.iter().step_by(777) {
                let template = &script.templates[slot.template as usize];
                let mut bytes = vec![0xee; template.bytes.len()];
                slot.write(template, &mut bytes);
                let signature = Signature { epoch: 9, track: 1, sequence: slot.flow.src, sent: 5, late: 6 };
                signature.emit(&mut bytes[template.payload..]);
                assert_eq!(bytes.len(), profile.streams[0].longest() - 4);
                let seen = inspect(&bytes).expect("a test packet");
                assert!(seen.signature == signature && seen.intact, "{protocol} {frame}");
                check(&bytes[template.ip - 14..]);
                if template.entropy().is_some() {
                    let outer = etherparse::SlicedPacket::from_ethernet(&bytes).unwrap();
                    let Some(etherparse::TransportSlice::Udp(udp)) = outer.transport else { panic!("outer UDP") };
                    assert_eq!((udp.destination_port(), udp.checksum()), (8472, 0));
                    assert!(udp.source_port() >= 49152);
                }
                bytes[template.payload + signature_len()..].iter_mut().for_each(|byte| *byte ^= 0x40);
                let changed = bytes.len() > template.payload + signature_len();
                assert_eq!(inspect(&bytes).map(|seen| seen.intact), Some(!changed));
            }
        }
    }

    fn signature_len() -> usize {
        crate::packet::signature::LEN
    }

    fn check(frame: &[u8]) {
        let packet = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { panic!("IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        match packet.transport.expect("a transport") {
            etherparse::TransportSlice::Udp(udp) => {
                let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
                assert_eq!(udp.checksum(), sum);
            }
            etherparse::TransportSlice::Tcp(tcp) => {
                assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(header.source, header.destination).unwrap());
            }
            etherparse::TransportSlice::Icmpv4(icmp) => {
                assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            }
            other => panic!("{other:?}"),
        }
    }
}

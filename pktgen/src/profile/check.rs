//! From what is written to what is meant: each value checked, with the key's path where one is wrong.

use std::collections::BTreeSet;

use shunt_dataplane::{io::MAX_FRAME_LEN, net::MacAddr};

use super::{
    Field, Profile, Size, Stream, Vxlan,
    file::{self, Frame, Protocol, Skew},
    memory,
};
use crate::{
    packet::{headers_len, signature},
    rate::{FCS, Rate},
};

/// RFC 2544, section 9.1: the smallest frame of Ethernet.
const SMALLEST: usize = 64;

/// The simple IMIX: sizes and weights.
const IMIX: [(usize, u32); 3] = [(64, 28), (570, 16), (1518, 4)];

/// Streams of a profile, copies counted: the track number of a signature has 16 bits for them and the lanes.
const MAX_STREAMS: usize = 1024;

type Checked<T> = Result<T, String>;

pub(super) fn profile(text: &str, file: file::File) -> Checked<Profile> {
    let Rate::Bits(line) = file.line else {
        return Err("line: the line's rate is in bits per second (10Gbps)".into());
    };
    if file.duration.is_zero() {
        return Err("duration: a trial of no length measures nothing".into());
    }
    if file.burst == 0 {
        return Err("burst: 0 packets are no burst; 1 spaces all packets evenly".into());
    }
    if file.streams.is_empty() {
        return Err("stream: there is none".into());
    }
    let mut streams = Vec::new();
    let mut names = BTreeSet::new();
    let mut rates = Vec::new();
    for (i, entry) in file.streams.into_iter().enumerate() {
        let path = format!("stream[{i}]");
        if !names.insert(entry.name.clone()) {
            return Err(format!("{path}.name: another stream is named '{}' too", entry.name));
        }
        if entry.copies == 0 {
            return Err(format!("{path}.copies: 0 copies are no stream"));
        }
        let (copies, rate, weight) = (entry.copies, entry.rate, entry.weight);
        let stream = self::stream(&path, entry)?;
        rates.push((path, rate, weight, streams.len()..streams.len() + copies as usize));
        if streams.len() + copies as usize > MAX_STREAMS {
            return Err(format!("stream: more than {MAX_STREAMS} streams, copies counted"));
        }
        streams.extend((0..copies).map(|copy| Stream {
            name: if copies == 1 { stream.name.clone() } else { format!("{}-{}", stream.name, copy + 1) },
            first_flow: u64::from(copy) * u64::from(stream.flows),
            ..stream.clone()
        }));
    }
    let rate = share_out(&mut streams, &rates, file.rate, line)?;
    Ok(Profile {
        name: file.name,
        text: text.to_owned(),
        seed: file.seed,
        line,
        rate,
        duration: file.duration,
        warm_up: file.warm_up,
        settle: file.settle,
        burst: file.burst,
        streams,
        memory: memory::check(file.memory)?,
    })
}

type Part = (String, Option<Rate>, Option<u32>, std::ops::Range<usize>);

/// Gives each stream its share of the packets: by weight of one rate, or by rates of their own.
fn share_out(streams: &mut [Stream], parts: &[Part], rate: Option<Rate>, line: f64) -> Checked<Rate> {
    let mut total = 0.0;
    for (path, own, weight, range) in parts {
        let amount = match (rate, own, weight) {
            (Some(_), Some(_), _) => {
                return Err(format!(
                    "{path}.rate: the profile has a rate of its own; give weights instead, or drop that"
                ));
            }
            (Some(_), None, weight) => f64::from(weight.unwrap_or(1)),
            (None, Some(_), Some(_)) => return Err(format!("{path}.weight: the stream has a rate already")),
            (None, Some(own), None) => own.pps(streams[range.start].mean_size(), line).ok_or_else(|| {
                format!("{path}.rate: max is for a whole profile: give it a rate, and streams weights")
            })?,
            (None, None, _) => {
                return Err(format!("{path}.rate: missing; give every stream a rate, or the profile one for all"));
            }
        };
        if amount == 0.0 {
            return Err(format!("{path}.weight: a stream of weight 0 sends nothing"));
        }
        for stream in &mut streams[range.clone()] {
            stream.share = amount;
            total += amount;
        }
    }
    streams.iter_mut().for_each(|stream| stream.share /= total);
    Ok(rate.unwrap_or(Rate::Packets(total)))
}

fn stream(path: &str, entry: file::Stream) -> Checked<Stream> {
    let ports = |name: &str, given: Option<_>| match (entry.protocol, given) {
        (_, Some(ports)) => Ok(ports),
        (Protocol::Icmp, None) => Ok(Field::single(1)),
        (_, None) => Err(format!("{path}.{name}: missing")),
    };
    if entry.dscp > 63 {
        return Err(format!("{path}.dscp: {} does not fit 6 bits", entry.dscp));
    }
    if entry.ttl == 0 {
        return Err(format!("{path}.ttl: a packet with TTL 0 goes nowhere"));
    }
    let vxlan = entry.vxlan.as_ref().map(|vxlan| self::vxlan(path, vxlan)).transpose()?;
    let stream = Stream {
        name: entry.name,
        path: path.to_owned(),
        share: 0.0,
        sizes: sizes(path, entry.protocol, &entry.frame)?,
        protocol: entry.protocol,
        from_port: ports("from_port", entry.from_port.clone())?,
        to_port: ports("to_port", entry.to_port.clone())?,
        from: entry.from,
        to: entry.to,
        ttl: entry.ttl,
        dscp: entry.dscp,
        flows: entry.flows.count,
        first_flow: 0,
        zipf: zipf(path, &entry.flows)?,
        new_per_second: entry.flows.new_per_second.unwrap_or(0.0),
        ethernet: ethernet(path, &entry.ethernet)?,
        vxlan,
    };
    let longest = stream.longest();
    if longest > MAX_FRAME_LEN + FCS {
        return Err(format!("{path}.frame: {longest} bytes do not fit a buffer, which takes {}", MAX_FRAME_LEN + FCS));
    }
    flows(path, &stream, u64::from(entry.copies))?;
    Ok(stream)
}

/// As many flows as wanted must differ in something.
fn flows(path: &str, stream: &Stream, copies: u64) -> Checked<()> {
    let fields = [stream.from.count(), stream.from_port.count(), stream.to.count(), stream.to_port.count()];
    let different = fields.iter().fold(1_u64, |product, count| product.saturating_mul(*count));
    let wanted = u64::from(stream.flows) * copies;
    if wanted == 0 {
        return Err(format!("{path}.flows.count: 0 flows are no traffic"));
    }
    if wanted > different {
        return Err(format!(
            "{path}.flows.count: {wanted} flows are wanted, and from, from_port, to and to_port make {different} different ones"
        ));
    }
    if !(0.0..=1e9).contains(&stream.new_per_second) {
        return Err(format!("{path}.flows.new_per_second: {} is not a rate of new flows", stream.new_per_second));
    }
    if stream.new_per_second > 0.0 && stream.zipf.is_some() {
        return Err(format!(
            "{path}.flows.new_per_second: flows that come and go are taken in turn: skew must be uniform"
        ));
    }
    if stream.new_per_second > 0.0 && copies > 1 {
        return Err(format!("{path}.copies: a stream with new flows would soon send those of its copies"));
    }
    let ranges = [stream.from.range(), stream.from_port.range(), stream.to.range(), stream.to_port.range()];
    if stream.new_per_second > 0.0 && ranges.iter().any(Option::is_none) {
        return Err(format!(
            "{path}.flows.new_per_second: new flows are counted through ranges: no list and no random pick is possible"
        ));
    }
    Ok(())
}

fn zipf(path: &str, flows: &file::Flows) -> Checked<Option<f64>> {
    match (flows.skew, flows.exponent) {
        (Skew::Uniform, None) => Ok(None),
        (Skew::Uniform, Some(_)) => Err(format!("{path}.flows.exponent: only a Zipf skew has one")),
        (Skew::Zipf, exponent) => match exponent.unwrap_or(1.0) {
            exponent if exponent > 0.0 && exponent <= 10.0 => Ok(Some(exponent)),
            exponent => Err(format!("{path}.flows.exponent: {exponent} is not above 0 and at most 10")),
        },
    }
}

fn sizes(path: &str, protocol: Protocol, frame: &Frame) -> Checked<Vec<Size>> {
    let mix = |parts: &mut dyn Iterator<Item = (usize, u32)>| -> Vec<Size> {
        parts.map(|(bytes, weight)| Size { bytes, weight }).collect()
    };
    let sizes = match frame {
        Frame::Size(size) => mix(&mut std::iter::once((*size as usize, 1))),
        Frame::Named(name) if name == "imix" => mix(&mut IMIX.into_iter()),
        Frame::Named(name) => return Err(format!("{path}.frame: there is no mix '{name}', only \"imix\"")),
        Frame::List(list) => mix(&mut list.iter().map(|size| (*size as usize, 1))),
        Frame::Mix(parts) => mix(&mut parts.iter().map(|part| (part.size as usize, part.weight))),
    };
    if sizes.is_empty() {
        return Err(format!("{path}.frame: there is no size in the list"));
    }
    let least = headers_len(protocol) + signature::LEN + FCS;
    for size in &sizes {
        if size.bytes < SMALLEST {
            return Err(format!("{path}.frame: {} bytes are under {SMALLEST}, Ethernet's smallest frame", size.bytes));
        }
        if size.bytes < least {
            return Err(format!(
                "{path}.frame: {} bytes are too few: headers, the test's signature and the FCS take {least}",
                size.bytes
            ));
        }
        if size.bytes > MAX_FRAME_LEN + FCS {
            return Err(format!("{path}.frame: {} bytes are over {}", size.bytes, MAX_FRAME_LEN + FCS));
        }
        if size.weight == 0 {
            return Err(format!("{path}.frame: a size of weight 0 never comes"));
        }
    }
    Ok(sizes)
}

fn vxlan(path: &str, entry: &file::Vxlan) -> Checked<Vxlan> {
    if entry.vni >= 1 << 24 {
        return Err(format!("{path}.vxlan.vni: {} does not fit 24 bits", entry.vni));
    }
    let address = |key: &str, text: &str| {
        text.parse().map_err(|_| format!("{path}.vxlan.{key}: '{text}' is not an IPv4 address"))
    };
    let (from, to) = ethernet(&format!("{path}.vxlan"), &entry.ethernet)?;
    let inner = |key: &str, mac: Option<MacAddr>| {
        mac.ok_or_else(|| format!("{path}.vxlan.ethernet.{key}: missing: the inner frame's address"))
    };
    Ok(Vxlan {
        vni: entry.vni,
        port: entry.port,
        from: address("from", &entry.from)?,
        to: address("to", &entry.to)?,
        ethernet: (inner("from", from)?, inner("to", to)?),
    })
}

fn ethernet(path: &str, entry: &file::Ethernet) -> Checked<(Option<MacAddr>, Option<MacAddr>)> {
    let mac = |key: &str, text: &Option<String>| {
        let read =
            text.as_ref().map(|text| text.parse().map_err(|e| format!("{path}.ethernet.{key}: '{text}' is {e}")));
        read.transpose()
    };
    Ok((mac("from", &entry.from)?, mac("to", &entry.to)?))
}

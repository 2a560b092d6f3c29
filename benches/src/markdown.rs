//! The report as Markdown: prose that says how to read a table, and the tables.

use std::fmt::Write;

use crate::{
    machine::Machine,
    rows::{Part, Row},
    table::tables,
};

/// The whole file.
pub fn report(rows: &[Row], machine: &Machine) -> String {
    let mut text = String::from(
        "# Performance\n\n\
         <!-- Written by `./dev bench`. Do not edit: the next run replaces it. -->\n\n\
         Everybody below was measured in one session on one machine, contenders in turns. Compare figures of this page with\n\
         one another, not with those of other machines. A figure is the median of all rounds, with the least and the greatest\n\
         in brackets where there were several.\n\n| | |\n| --- | --- |\n",
    );
    for (name, fact) in &machine.facts {
        writeln!(text, "| {name} | {} |", fact.replace('|', "\\|")).expect(INFALLIBLE);
    }
    for part in Part::ALL {
        let tables = tables(rows, part);
        if tables.is_empty() {
            continue;
        }
        write!(text, "\n## {}\n\n{}\n", title(part), explained(part)).expect(INFALLIBLE);
        for table in tables {
            write!(text, "\n### {}\n\n{table}", capital(&table.family)).expect(INFALLIBLE);
        }
    }
    text
}

const INFALLIBLE: &str = "text takes what is written to it";

/// A part's heading.
pub fn title(part: Part) -> &'static str {
    match part {
        Part::Engine => "The engine, in memory",
        Part::Veth => "End to end over veth",
        Part::Applications => "Real applications between two nodes",
        Part::Control => "Control",
        Part::Generators => "Generators",
    }
}

/// How a part was measured, and how to read its figures.
pub fn explained(part: Part) -> &'static str {
    match part {
        Part::Engine => {
            "Cycles of the time stamp counter for a 64-byte packet, from a batch of 256 in hand to the batch queued for sending, over\n\
             devices in memory: no kernel, no I/O. The limit probe does the least memory work that translating and\n\
             encapsulating the same packets needs (it checks, decides and counts nothing); it runs in turns with the engine.\n\
             Where nothing else is said there are 131,072 flows, 4,750 routes beside those of 250 nodes and 250 pods, and, on\n\
             paths with services, 1,000 services of 10 endpoints. Packets of established flows come in another order than the flows\n\
             were opened in, in a table with room for as many; how many times the cost with 10,000 flows theirs is, is the median of turns with\n\
             these. *Times IPv4* compares a packet of IPv6, in the same overlay and at\n\
             the same scale, with one of IPv4: batches of both in turns."
        }
        Part::Veth => {
            "A source on core 0 sends UDP packets of 4,096 flows to ClusterIPs; the contender has core 1, translates, puts the\n\
             packet into VXLAN and sends it to another veth, where an XDP program counts it. Who does I/O only swaps addresses:\n\
             that is the ceiling. Each contender starts in a fresh network namespace, and a packet is looked at before anything\n\
             counts; each trial's counts are checked with the kernel's interface counters.\n\n\
             *No loss* is the highest rate at which one of three trials lost not a single packet; *loss up to 0.1%* the highest\n\
             at which one of three lost no more than that. Percentiles are one-way latency, from the source's program to the\n\
             sink's, at 10%, 50% and 90% of the rate without loss, to a sixteenth; the source's batches of up to 64 are in it.\n\
             Sizes of frames count the frame check sequence. AF_XDP copies on veth, and a transmitted packet costs the kernel\n\
             more than a microsecond: the engine's own cost is above."
        }
        Part::Applications => {
            "Two nodes with a pod each; the client in one talks to the server in the other through a ClusterIP and over VXLAN. Both\n\
             nodes, client and server share the machine's cores. The kernel forwards as flannel and nftables set it up, with\n\
             segmentation offload end to end, so that it moves segments of up to 64 KiB where Shunt moves packets."
        }
        Part::Control => {
            "From a request in hand to all workers forwarding by it: for Shunt a gRPC `Apply` (it answers when they do, and the\n\
             state is on disk), for the kernel `nft -f` of the rules that kube-proxy's nftables mode would write. *Cold load* is\n\
             all services on an empty node: for Shunt at once, for nft 500 in a transaction, since the kernel's time for one\n\
             grows with the square of its size. *One change* is another endpoint for one service. Shunt says how long its steps\n\
             took: fields and rules *checked*, services *compiled and published*, which ends when every worker forwards by them,\n\
             and *written* to disk; the rest is for gRPC. *Memory* is what the process has more after the load: desired state,\n\
             tables, and what the request took and is free again. In a storm, one service is changed after the other without a pause, while 64-byte packets go to all of them at half of what the contender\n\
             carries in quiet. Control has core 0 and shares it with the source; the contender forwards on core 1."
        }
        Part::Generators => {
            "Packets per second that the kernel counts out of a veth whose other end drops them: pktgen beside the public\n\
             generators that Debian has, each alone on core 1, in turns."
        }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

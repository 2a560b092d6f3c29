/* SPDX-License-Identifier: Apache-2.0
 *
 * Plays a script on live frames: run by BPF_PROG_TEST_RUN, it is called for one frame after the other, and when a packet
 * is due it writes the script's next one into the frame and redirects it into an interface. A frame that comes too early
 * is dropped, which costs next to nothing and is how the program waits.
 *
 * The kernel recycles frames as the receiver left them, so all headers are written anew; the payload behind them is zero
 * from the start and nobody changes it.
 */

#include "kernel.h"

/* A packet of the order. Header fields in network order. */
struct slot {
	u32 src;
	u32 dst;
	u32 ports;
	u16 ip_checksum;
	u16 transport_checksum;
	u16 entropy;
	u16 template;
	u32 stream;
};

enum { HEADER_WORDS = 16 }; /* of 8 bytes: outer headers, TCP and the signature */

/* A packet without what varies, up to the end of the longest headers of the script and their signature. */
struct template {
	u32 len;
	u16 words; /* whole 8-byte words to write */
	u16 tail;  /* where the last 4 bytes to write are, which may overlap; 0: nowhere */
	u16 ip;
	u16 ports;
	u16 checksum;
	u16 payload;
	u16 entropy; /* 0: no outer headers */
	u16 pad[3];
	u64 bytes[HEADER_WORDS + 1]; /* the last one keeps the tail's four bytes inside */
};

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct slot);
} slots SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct template);
} templates SEC(".maps");

/* How a stream's flows come and go: script.rs tells how a packet's number gives its flow. */
struct rolling {
	u64 step; /* new flows per packet, in 2^-32 */
	u32 open; /* flows at a time; 0: they stay, and are in the slots */
	u32 has_pseudo_header;
	u32 is_udp;
	u32 pad;
	u64 first[4]; /* of source address, source port, destination address and port */
	u64 count[4];
};

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct rolling);
} streams SEC(".maps");

/* The next sequence number of each stream. */
struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u32);
} sequences SEC(".maps");

enum { GAPS = 1088 };

/* Written by user space before a trial, read by it during and after; in between this program's. All programs of one
 * script run on one core, a batch at a time, so nobody else writes. */
struct {
	/* The plan. */
	u64 start;    /* ns */
	u64 end;      /* ns */
	u64 interval; /* from packet to packet, in 2^-16 ns; 0: without pause */
	u64 burst;
	u64 limit; /* packets */
	u64 epoch;
	/* How far it is. */
	u64 position; /* in the script */
	u64 due;      /* of the next burst after the start, in 2^-16 ns */
	u64 in_burst; /* packets of it that have left */
	u64 sent;
	u64 last;       /* when the last packet left */
	u64 gaps[GAPS]; /* between departures: 32 buckets for each doubling of ns */
} state;

/* Set before loading. */
const volatile u32 interface;
const volatile u32 slot_count;
const volatile u32 first_track;
const volatile u32 lane;
const volatile u32 lanes;
const volatile u32 frame_len; /* of a frame as it comes */

/* The number of the highest bit that is set; 0 for 0. */
INLINE u32 highest_bit(u64 value)
{
	u32 bit = 0;

	if (value >> 32) { bit += 32; value >>= 32; }
	if (value >> 16) { bit += 16; value >>= 16; }
	if (value >> 8) { bit += 8; value >>= 8; }
	if (value >> 4) { bit += 4; value >>= 4; }
	if (value >> 2) { bit += 2; value >>= 2; }
	return bit + (value >> 1 & 1);
}

/* Eleven significant bits under five bits of how far they are shifted. */
INLINE u16 small_float(u64 value)
{
	u32 bit = highest_bit(value), shift = bit > 10 ? bit - 10 : 0;

	if (shift > 31)
		return 0xffff;
	return shift << 11 | (value >> shift & 0x7ff);
}

INLINE void count_gap(u64 gap)
{
	u32 bit = highest_bit(gap), at = gap;

	if (bit >= 5)
		at = (bit - 4) * 32 + (gap >> (bit - 5) & 31);
	if (at >= GAPS)
		at = GAPS - 1;
	state.gaps[at]++;
}

INLINE u16 fold(u64 sum)
{
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return (sum >> 16) + (sum & 0xffff);
}

/* What of a packet depends on its flow, in network order. */
struct flow {
	u32 src;
	u32 dst;
	u32 ports;
	u16 ip_checksum;
	u16 transport_checksum;
};

/* The flow of packet `number` of a stream whose flows come and go. */
INLINE void roll(struct flow *flow, const struct slot *slot, const struct rolling *rolling, u32 number)
{
	u64 window = ((u64)number * rolling->step >> 32) + number % rolling->open;
	u64 n = window * lanes + lane, sources = rolling->count[0] * rolling->count[1];
	u64 source = n % sources, round = n / sources, along, src, dst, addresses;
	u16 src_port, dst_port;

	along = source + round % rolling->count[2] * sources;
	src = rolling->first[0] + source % rolling->count[0];
	src_port = rolling->first[1] + source / rolling->count[0];
	dst = rolling->first[2] + (round + source) % rolling->count[2];
	dst_port = rolling->first[3] + (round / rolling->count[2] + along) % rolling->count[3];
	flow->src = be32(src);
	flow->dst = be32(dst);
	flow->ports = be32((u32)src_port << 16 | dst_port);
	addresses = (src >> 16) + (src & 0xffff) + (dst >> 16) + (dst & 0xffff);
	flow->ip_checksum = ~be16(fold(be16(slot->ip_checksum) + addresses));
	if (!rolling->has_pseudo_header)
		addresses = 0;
	flow->transport_checksum = ~be16(fold(be16(slot->transport_checksum) + addresses + src_port + dst_port));
	if (rolling->is_udp && !flow->transport_checksum)
		flow->transport_checksum = 0xffff;
}

/* Where a field of the packet is, if it lies inside. */
#define FIELD(type, at)                                                             \
	({                                                                          \
		type *field = (type *)(packet + ((at) & 0xff));                     \
		if ((char *)(field + 1) > end)                                      \
			return XDP_ABORTED;                                         \
		field;                                                              \
	})

SEC("xdp")
int source(struct xdp_md *ctx)
{
	u64 now = bpf_ktime_get_ns(), late = 0, sum;
	u32 key, stream, *sequence;
	const struct template *template;
	const struct slot *slot;
	const struct rolling *rolling;
	struct flow flow;
	char *packet, *end;
	u16 *signature;

	if (now < state.start || now >= state.end || state.sent >= state.limit)
		return XDP_DROP;
	if (state.interval) {
		u64 due = state.start + (state.due >> 16);

		if (now < due)
			return XDP_DROP;
		late = now - due;
	}

	key = state.position;
	slot = bpf_map_lookup_elem(&slots, &key);
	if (!slot)
		return XDP_ABORTED;
	key = slot->template;
	template = bpf_map_lookup_elem(&templates, &key);
	stream = slot->stream;
	sequence = bpf_map_lookup_elem(&sequences, &stream);
	rolling = bpf_map_lookup_elem(&streams, &stream);
	if (!template || !sequence || !rolling)
		return XDP_ABORTED;
	flow.src = slot->src;
	flow.dst = slot->dst;
	flow.ports = slot->ports;
	flow.ip_checksum = slot->ip_checksum;
	flow.transport_checksum = slot->transport_checksum;
	if (rolling->open)
		roll(&flow, slot, rolling, *sequence);
	if (template->len != frame_len && bpf_xdp_adjust_tail(ctx, (int)template->len - (int)frame_len))
		return XDP_ABORTED;

	packet = (char *)(long)ctx->data;
	end = (char *)(long)ctx->data_end;
#pragma unroll
	for (int i = 0; i < HEADER_WORDS; i++) {
		if (i >= template->words || packet + i * 8 + 8 > end)
			break;
		((u64 *)packet)[i] = template->bytes[i];
	}
	if (template->tail)
		*FIELD(u32, template->tail) = *(u32 *)((char *)template->bytes + (template->tail & 0x7f));

	*FIELD(u32, template->ip + 12) = flow.src;
	*FIELD(u32, template->ip + 16) = flow.dst;
	*FIELD(u16, template->ip + 10) = flow.ip_checksum;
	*FIELD(u32, template->ports) = flow.ports;
	*FIELD(u16, template->checksum) = flow.transport_checksum;
	if (template->entropy)
		*FIELD(u16, template->entropy) = slot->entropy;

	/* The signature: packet/signature.rs tells its fields. */
	signature = (u16 *)(packet + (template->payload & 0xff));
	if ((char *)(signature + 9) > end)
		return XDP_ABORTED;
	signature[0] = be16('S' << 8 | (state.epoch & 0xff));
	signature[1] = be16(first_track + stream);
	signature[2] = be16(*sequence >> 16);
	signature[3] = be16(*sequence);
	signature[4] = be16(now >> 32);
	signature[5] = be16(now >> 16);
	signature[6] = be16(now);
	signature[7] = be16(small_float(late));
	sum = 0;
#pragma unroll
	for (int i = 0; i < 8; i++)
		sum += signature[i];
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	signature[8] = ~sum;

	++*sequence;
	state.position = state.position + 1 < slot_count ? state.position + 1 : 0;
	if (++state.in_burst >= state.burst) {
		state.due += state.interval * state.burst;
		state.in_burst = 0;
	}
	if (state.last)
		count_gap(now - state.last);
	state.last = now;
	state.sent++;
	return bpf_redirect(interface, 0);
}

char LICENSE[] SEC("license") = "Apache-2.0";

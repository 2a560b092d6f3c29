/* SPDX-License-Identifier: Apache-2.0
 *
 * The XDP classifier: which received frames are the switch's. Two programs, one of which is loaded per interface:
 *
 *   shunt_port    pod and host ports: every frame is the switch's.
 *   shunt_uplink  the switch takes VXLAN for our VTEP, what is routed to our pods natively, what is addressed to a
 *                 frontend of a service, and answers to masqueraded flows, both with the fragments that come after their
 *                 first one; all else (ssh, the API server, ARP, fragments of the outer packet) goes on to the kernel,
 *                 so the node stays reachable.
 *
 * No header of the system is included, so that the object builds the same everywhere clang is.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) ((u16)__builtin_bswap16(x))
#else
#define be16(x) ((u16)(x))
#endif

/* linux/bpf.h */
enum { XDP_DROP = 1, XDP_PASS = 2 };
enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_LRU_HASH = 9, BPF_MAP_TYPE_LPM_TRIE = 11 };
enum { BPF_MAP_TYPE_XSKMAP = 17 };
enum { BPF_F_NO_PREALLOC = 1 };

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static long (*const bpf_redirect_map)(void *map, u64 key, u64 flags) = (void *)51;

/* The BTF form of a map definition: an attribute's number is the length of an array type. */
#define NUMBER(name, value) int (*name)[value]
#define TYPE(name, value) typeof(value) *name

/* What the uplink takes. Addresses and ports in network order. */
struct filter {
	u32 vtep;
	u16 vxlan_port;
	u8 takes_vxlan;
	u8 takes_native;
};

struct prefix {
	u32 length;
	u32 address;
};

/* A frontend of a service: address and port in network order. */
struct frontend {
	u32 address;
	u16 port;
	u8 protocol;
	u8 zero;
};

/* The address in network order, its ports in the machine's. No port is taken if the first is above the last. */
struct masquerade {
	u32 address;
	u16 first;
	u16 last;
};

/* What the fragments of a datagram have in common (RFC 791, section 3.2). In network order. */
struct datagram {
	u32 source;
	u32 destination;
	u16 id;
	u8 protocol;
	u8 zero;
};

/* Sized to the interface's queues before it is created, as `frontends` and `fragmented` are to the port's role. */
struct {
	NUMBER(type, BPF_MAP_TYPE_XSKMAP);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, u32);
} sockets SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct filter);
} filter SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_LPM_TRIE);
	NUMBER(max_entries, 4096);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, struct prefix);
	TYPE(value, u8);
} native SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(max_entries, 1);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, struct frontend);
	TYPE(value, u8);
} frontends SEC(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct masquerade);
} masquerade SEC(".maps");

/* Datagrams whose first fragment the switch took: it alone has ports. */
struct {
	NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	NUMBER(max_entries, 1);
	TYPE(key, struct datagram);
	TYPE(value, u8);
} fragmented SEC(".maps");

struct ethernet {
	u8 destination[6];
	u8 source[6];
	u16 type;
};

struct ipv4 {
	u8 version_ihl;
	u8 tos;
	u16 total_length;
	u16 id;
	u16 fragment;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u32 source;
	u32 destination;
};

struct udp {
	u16 source;
	u16 destination;
	u16 length;
	u16 checksum;
};

/* TCP, UDP and SCTP begin with them. */
struct ports {
	u16 source;
	u16 destination;
};

struct icmp {
	u8 type;
	u8 code;
	u16 checksum;
	u16 id;
	u16 sequence;
};

enum { ETHERTYPE_IPV4 = 0x0800, MORE_FRAGMENTS = 0x2000, OFFSET = 0x1fff };
enum { PROTOCOL_ICMP = 1, PROTOCOL_TCP = 6, PROTOCOL_UDP = 17, PROTOCOL_SCTP = 132 };
enum { ECHO_REPLY = 0, UNREACHABLE = 3, TIME_EXCEEDED = 11, PARAMETER_PROBLEM = 12 };

/* A frame on a queue that has no socket yet, or no longer, is dropped: passed on, it would go round the switch through
 * the node's own forwarding, and so round every policy. */
SEC("xdp")
int shunt_port(struct xdp_md *ctx)
{
	return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
}

/* Whether a port of ours, in network order, is one that masqueraded flows have. */
INLINE int is_masqueraded(u32 address, u16 port)
{
	const u32 zero = 0;
	const struct masquerade *taken = bpf_map_lookup_elem(&masquerade, &zero);
	const u16 number = be16(port);

	return taken && address == taken->address && number >= taken->first && number <= taken->last;
}

/* Whether what is behind this address and port of ours is translated. */
INLINE int is_translated(u32 address, u16 port, u8 protocol)
{
	struct frontend key = { .address = address, .port = port, .protocol = protocol };

	if (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP && protocol != PROTOCOL_SCTP)
		return 0;
	return is_masqueraded(address, port) || bpf_map_lookup_elem(&frontends, &key);
}

/* Whether an ICMP message answers a masqueraded echo, or is about a packet that left translated: its source is ours. */
INLINE int is_icmp_of_translated(const struct ipv4 *ip, const struct icmp *icmp, const void *end)
{
	const struct ipv4 *quoted = (const void *)(icmp + 1);
	const struct ports *ports = (const void *)(quoted + 1);

	if ((const void *)(icmp + 1) > end)
		return 0;
	if (icmp->type == ECHO_REPLY)
		return is_masqueraded(ip->destination, icmp->id);
	if (icmp->type != UNREACHABLE && icmp->type != TIME_EXCEEDED && icmp->type != PARAMETER_PROBLEM)
		return 0;
	/* A quoted packet with IPv4 options is left to the kernel; so is one whose quote ends before its ports. */
	if ((const void *)((const struct icmp *)ports + 1) > end || quoted->version_ihl != 0x45 ||
	    quoted->fragment & be16(OFFSET) || quoted->source != ip->destination)
		return 0;
	if (quoted->protocol == PROTOCOL_ICMP)
		return is_masqueraded(quoted->source, ((const struct icmp *)ports)->id);
	return is_translated(quoted->source, ports->source, quoted->protocol);
}

/* Whether a packet, or the first fragment of one, is of a translated flow. */
INLINE int is_packet_of_translated(const struct ipv4 *ip, const void *l4, const void *end)
{
	const struct ports *ports = l4;

	if (ip->protocol == PROTOCOL_ICMP)
		return is_icmp_of_translated(ip, l4, end);
	return (const void *)(ports + 1) <= end && is_translated(ip->destination, ports->destination, ip->protocol);
}

/* Whether a fragment is. One that comes before the first one of its datagram is left to the kernel. */
INLINE int is_fragment_of_translated(const struct ipv4 *ip, const void *l4, const void *end)
{
	const struct datagram datagram = {
		.source = ip->source, .destination = ip->destination, .id = ip->id, .protocol = ip->protocol,
	};
	const u8 one = 1;

	if (ip->fragment & be16(OFFSET))
		return bpf_map_lookup_elem(&fragmented, &datagram) != 0;
	if (is_packet_of_translated(ip, l4, end)) {
		bpf_map_update_elem(&fragmented, &datagram, &one, 0);
		return 1;
	}
	/* Numbers are used again. */
	bpf_map_delete_elem(&fragmented, &datagram);
	return 0;
}

INLINE int is_ours(const struct filter *filter, const void *data, const void *end)
{
	const struct ethernet *ethernet = data;
	const struct ipv4 *ip = (const void *)(ethernet + 1);
	const struct udp *udp;
	u32 header;

	if ((const void *)(ip + 1) > end || ethernet->type != be16(ETHERTYPE_IPV4))
		return 0;
	header = (ip->version_ihl & 0x0f) * 4;
	if (ip->version_ihl >> 4 != 4 || header < sizeof(*ip))
		return 0;

	/* The kernel reassembles a fragmented outer packet and its own VXLAN device, if there is one, takes it. */
	udp = (const void *)ip + header;
	if (filter->takes_vxlan && ip->protocol == PROTOCOL_UDP && ip->destination == filter->vtep &&
	    !(ip->fragment & be16(MORE_FRAGMENTS | OFFSET)) && (const void *)(udp + 1) <= end &&
	    udp->destination == filter->vxlan_port)
		return 1;

	if (filter->takes_native) {
		struct prefix key = { .length = 32, .address = ip->destination };

		if (bpf_map_lookup_elem(&native, &key))
			return 1;
	}

	return ip->fragment & be16(MORE_FRAGMENTS | OFFSET) ? is_fragment_of_translated(ip, udp, end)
							    : is_packet_of_translated(ip, udp, end);
}

SEC("xdp")
int shunt_uplink(struct xdp_md *ctx)
{
	const u32 zero = 0;
	const struct filter *taken = bpf_map_lookup_elem(&filter, &zero);

	if (taken && is_ours(taken, (const void *)(long)ctx->data, (const void *)(long)ctx->data_end))
		return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
	return XDP_PASS;
}

/* No helper used here asks for the GPL. */
char LICENSE[] SEC("license") = "Apache-2.0";

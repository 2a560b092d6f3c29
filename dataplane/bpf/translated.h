/* SPDX-License-Identifier: Apache-2.0
 *
 * The maps that say what is the switch's, and which packets belong to flows that it translates.
 */

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

/* The node's address, in network order, and its ports that masqueraded flows have, in the machine's: none if the first is above
 * the last. And the pods' prefix: addresses that are `pods` under the mask. */
struct masquerade {
	u32 address;
	u16 first;
	u16 last;
	u32 pods;
	u32 pods_mask;
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

/* Whose the datagrams are whose first fragment was seen: it alone has ports. With the time when it was, in nanoseconds, whose
 * lowest bit makes room. */
enum { KERNEL, SWITCH };

/* After that, the same number is another datagram's (RFC 4963). As long as the switch itself knows ports. */
#define KNOWN_FOR 2000000000ULL

struct {
	NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	NUMBER(max_entries, 1);
	TYPE(key, struct datagram);
	TYPE(value, u64);
} fragmented SEC(".maps");

/* Whether a port of ours, in network order, is one that masqueraded flows have. */
INLINE int is_masqueraded(u32 address, u16 port)
{
	const u32 zero = 0;
	const struct masquerade *taken = bpf_map_lookup_elem(&masquerade, &zero);
	const u16 number = be16(port);

	return taken && address == taken->address && number >= taken->first && number <= taken->last;
}

INLINE int has_ports(u8 protocol)
{
	return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP || protocol == PROTOCOL_SCTP;
}

INLINE int is_frontend(u32 address, u16 port, u8 protocol)
{
	struct frontend key = { .address = address, .port = port, .protocol = protocol };

	return bpf_map_lookup_elem(&frontends, &key) != 0;
}

/* Whether what is behind this address and port of ours is translated. */
INLINE int is_translated(u32 address, u16 port, u8 protocol)
{
	return has_ports(protocol) && (is_masqueraded(address, port) || is_frontend(address, port, protocol));
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

INLINE struct datagram datagram_of(const struct ipv4 *ip)
{
	return (struct datagram){
		.source = ip->source, .destination = ip->destination, .id = ip->id, .protocol = ip->protocol,
	};
}

/* Notes whose a datagram is, by its first fragment. */
INLINE int note_whose(const struct ipv4 *ip, int is_switchs)
{
	const struct datagram datagram = datagram_of(ip);
	const u64 noted = (bpf_ktime_get_ns() & ~1ULL) | (is_switchs ? SWITCH : KERNEL);

	bpf_map_update_elem(&fragmented, &datagram, &noted, 0);
	return is_switchs;
}

/* Whose the datagram of a later fragment is; a negative number if its first one was not seen lately. */
INLINE int whose(const struct ipv4 *ip)
{
	const struct datagram datagram = datagram_of(ip);
	const u64 *noted = bpf_map_lookup_elem(&fragmented, &datagram);

	return noted && bpf_ktime_get_ns() - *noted < KNOWN_FOR ? (int)(*noted & 1) : -1;
}

/* Whether a fragment is of a translated flow. One that comes before the first one of its datagram is left to the kernel. */
INLINE int is_fragment_of_translated(const struct ipv4 *ip, const void *l4, const void *end)
{
	if (ip->fragment & be16(OFFSET))
		return whose(ip) == SWITCH;
	return note_whose(ip, is_packet_of_translated(ip, l4, end));
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What XDP cannot see or do, by programs of traffic control (tcx, Linux 6.6):
 *
 *   shunt_from_node  at the egress of uplink and lo: what the node's own processes send to a frontend of a service is led
 *                    to the host port, as if a route did; and so are their answers to clients that the switch led to them.
 *   shunt_to_node    at the ingress of the host port's other end: notes who was led to the node's own processes.
 *   shunt_guard      at the egress of uplinks, behind all others, and it stays when the daemon ends: while nobody leads
 *                    those answers, they must not leave as they are. Their client would reset the connection.
 *   shunt_overtaking at the ingress of an uplink: a fragment that came before its datagram's first one may be the switch's
 *                    and may be the kernel's, so both get it.
 */

enum { PACKET_HOST = 0, GSO_BY_FRAGS = 0xffff };

/* The way to the switch: the kernel's end of the host port. */
struct host_port {
	/* 0: there is none. */
	u32 ifindex;
	/* In bytes of IP packet. */
	u32 mtu;
	/* Of what is sent there. */
	struct stations stations;
	/* The same with another sender, by which the switch knows a copy. */
	struct stations of_copies;
};

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct host_port);
} host_port SEC(".maps");

/* What a process of the node sends to who was led to it. Addresses and ports in network order. */
struct answer {
	u32 source;
	u32 destination;
	struct ports ports;
	u8 protocol;
	u8 zero[3];
};

/* After that without a packet of its client, in nanoseconds, an answer may leave: there may be no daemon any more. */
#define GUARDED_FOR 600000000000ULL

/* With the time of their clients' last packets, in nanoseconds. Sized as `fragmented` is. The oldest ones that nobody uses give
 * way; a packet of their client brings them back. */
struct {
	NUMBER(type, BPF_MAP_TYPE_LRU_HASH);
	NUMBER(max_entries, 1);
	TYPE(key, struct answer);
	TYPE(value, u64);
} answers SEC(".maps");

INLINE const struct host_port *way_to_switch(void)
{
	const u32 zero = 0;
	const struct host_port *host = bpf_map_lookup_elem(&host_port, &zero);

	return host && host->ifindex ? host : 0;
}

/* A packet's IPv4 header; 0 if it has none. Bytes of its length are in `header`. */
INLINE const struct ipv4 *ipv4_of(const struct __sk_buff *skb, u32 *header)
{
	const void *end = (const void *)(long)skb->data_end;
	const struct ethernet *ethernet = (const void *)(long)skb->data;
	const struct ipv4 *ip = (const void *)(ethernet + 1);

	if (skb->vlan_present || (const void *)(ip + 1) > end || ethernet->type != be16(ETHERTYPE_IPV4))
		return 0;
	*header = (ip->version_ihl & 0x0f) * 4;
	return ip->version_ihl >> 4 == 4 && *header >= sizeof(*ip) ? ip : 0;
}

/* The ports of a packet, or of the first fragment of one; 0 if it has none. */
INLINE const struct ports *ports_of(const struct ipv4 *ip, const void *l4, const void *end)
{
	const struct ports *ports = l4;

	return has_ports(ip->protocol) && !(ip->fragment & be16(OFFSET)) && (const void *)(ports + 1) <= end ? ports : 0;
}

/* What answers a packet to a process of the node. */
INLINE struct answer answer_to(const struct ipv4 *ip, const struct ports *ports)
{
	return (struct answer){
		.source = ip->destination, .destination = ip->source, .protocol = ip->protocol,
		.ports = { .source = ports->destination, .destination = ports->source },
	};
}

/* When the client that a packet answers sent its last one; 0: it answers none that the switch led here. */
INLINE const u64 *answered(const struct ipv4 *ip, const struct ports *ports)
{
	struct answer answer = {
		.source = ip->source, .destination = ip->destination, .protocol = ip->protocol, .ports = *ports,
	};

	return bpf_map_lookup_elem(&answers, &answer);
}

/* Whether an ICMP message is about what such a client sent. */
INLINE int is_about_led(const struct icmp *icmp, const void *end)
{
	const struct ipv4 *quoted = (const void *)(icmp + 1);
	const struct ports *ports;
	struct answer answer;

	if ((const void *)(quoted + 1) > end || icmp->type != UNREACHABLE || quoted->version_ihl != 0x45)
		return 0;
	ports = ports_of(quoted, quoted + 1, end);
	if (!ports)
		return 0;
	answer = answer_to(quoted, ports);
	return bpf_map_lookup_elem(&answers, &answer) != 0;
}

/* Whether a packet of the node's goes by the switch. The kernel sends fragments in their order. */
INLINE int is_led(const struct ipv4 *ip, const void *l4, const void *end)
{
	const struct ports *ports;
	int taken;

	if (ip->protocol == PROTOCOL_ICMP)
		return !(ip->fragment & be16(OFFSET)) && is_about_led(l4, end);
	if (!has_ports(ip->protocol))
		return 0;
	if (ip->fragment & be16(OFFSET))
		return whose(ip) == SWITCH;
	ports = ports_of(ip, l4, end);
	taken = ports && (is_frontend(ip->destination, ports->destination, ip->protocol) || answered(ip, ports));
	return ip->fragment & be16(MORE_FRAGMENTS) ? note_whose(ip, taken) : taken;
}

/* The length of the longest IP packet that becomes of this one: the kernel may cut it later. */
INLINE u32 longest(const struct __sk_buff *skb, const struct ipv4 *ip, const void *l4, const void *end)
{
	const u32 header = l4 - (const void *)ip;
	const struct tcp *tcp = l4;

	if (!skb->gso_size)
		return skb->len - sizeof(struct ethernet);
	if (ip->protocol != PROTOCOL_TCP)
		return skb->gso_size == GSO_BY_FRAGS ? 0 : header + sizeof(struct udp) + skb->gso_size;
	if ((const void *)(tcp + 1) > end)
		return 0;
	return header + (tcp->offset >> 4) * 4 + skb->gso_size;
}

INLINE u16 checksum(const void *bytes, u32 len)
{
	u32 sum = bpf_csum_diff(0, 0, bytes, len, 0);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Makes the answer of a router that a packet is too long for out of it (RFC 1191, section 4), and lets it come in by the host
 * port. `lo` carries 64 KiB, and no MTU of a route says that the way is another one. */
INLINE int refuse(struct __sk_buff *skb, const struct host_port *host)
{
	const u32 header = sizeof(struct ethernet);
	struct stations back;
	struct {
		struct ipv4 ip;
		struct icmp icmp;
		struct ipv4 quoted;
		u8 ports_and_more[8];
	} answer = {};

	if (bpf_skb_load_bytes(skb, header, &answer.quoted, sizeof(answer.quoted) + sizeof(answer.ports_and_more)) ||
	    answer.quoted.version_ihl != 0x45 || answer.quoted.fragment & be16(OFFSET) ||
	    bpf_skb_change_tail(skb, header + sizeof(answer), 0))
		return TCX_DROP;
	answer.ip = (struct ipv4){
		.version_ihl = 0x45, .tos = 0xc0, .total_length = be16(sizeof(answer)), .ttl = 64,
		.protocol = PROTOCOL_ICMP, .source = answer.quoted.destination, .destination = answer.quoted.source,
	};
	answer.ip.checksum = checksum(&answer.ip, sizeof(answer.ip));
	/* The next hop's MTU is where an echo has its number. */
	answer.icmp = (struct icmp){ .type = UNREACHABLE, .code = FRAGMENTATION_NEEDED, .sequence = be16(host->mtu) };
	answer.icmp.checksum = checksum(&answer.icmp, sizeof(answer) - sizeof(answer.ip));
	__builtin_memcpy(back.destination, host->stations.source, sizeof(back.destination));
	__builtin_memcpy(back.source, host->stations.destination, sizeof(back.source));
	if (bpf_skb_store_bytes(skb, header, &answer, sizeof(answer), 0) ||
	    bpf_skb_store_bytes(skb, 0, &back, sizeof(back), 0))
		return TCX_DROP;
	return bpf_redirect(host->ifindex, BPF_F_INGRESS);
}

SEC("classifier")
int shunt_from_node(struct __sk_buff *skb)
{
	const void *end = (const void *)(long)skb->data_end;
	const struct host_port *host;
	const struct ipv4 *ip;
	const void *l4;
	u32 header;

	/* What the node forwards for others has come in somewhere: by the host port, for one. */
	if (skb->ingress_ifindex)
		return TCX_NEXT;
	ip = ipv4_of(skb, &header);
	if (!ip)
		return TCX_NEXT;
	l4 = (const void *)ip + header;
	if (!is_led(ip, l4, end))
		return TCX_NEXT;
	host = way_to_switch();
	if (!host)
		return TCX_NEXT;
	if (longest(skb, ip, l4, end) > host->mtu)
		return refuse(skb, host);
	if (bpf_skb_store_bytes(skb, 0, &host->stations, sizeof(host->stations), 0))
		return TCX_DROP;
	return bpf_redirect(host->ifindex, 0);
}

/* What comes in here for the node's own address the switch has translated, or is a pod's, whose answers have a route this way. */
SEC("classifier")
int shunt_to_node(struct __sk_buff *skb)
{
	const void *end = (const void *)(long)skb->data_end;
	const u32 zero = 0;
	const struct masquerade *own = bpf_map_lookup_elem(&masquerade, &zero);
	const struct ports *ports;
	const struct ipv4 *ip;
	const u64 now = bpf_ktime_get_ns();
	struct answer answer;
	u64 *noted;
	u32 header;

	ip = ipv4_of(skb, &header);
	if (!ip || !own || ip->destination != own->address || (ip->source & own->pods_mask) == own->pods)
		return TCX_NEXT;
	ports = ports_of(ip, (const void *)ip + header, end);
	if (!ports)
		return TCX_NEXT;
	answer = answer_to(ip, ports);
	noted = bpf_map_lookup_elem(&answers, &answer);
	if (noted)
		*noted = now;
	else
		bpf_map_update_elem(&answers, &answer, &now, 0);
	return TCX_NEXT;
}

SEC("classifier")
int shunt_guard(struct __sk_buff *skb)
{
	const void *end = (const void *)(long)skb->data_end;
	const struct ports *ports;
	const struct ipv4 *ip;
	const u64 *noted;
	u32 header;

	if (skb->ingress_ifindex)
		return TCX_NEXT;
	ip = ipv4_of(skb, &header);
	ports = ip ? ports_of(ip, (const void *)ip + header, end) : 0;
	noted = ports ? answered(ip, ports) : 0;
	return noted && bpf_ktime_get_ns() - *noted < GUARDED_FOR ? TCX_DROP : TCX_NEXT;
}

SEC("classifier")
int shunt_overtaking(struct __sk_buff *skb)
{
	const struct host_port *host;
	const struct ipv4 *ip;
	struct stations kept;
	u32 header;

	if (skb->pkt_type != PACKET_HOST)
		return TCX_NEXT;
	ip = ipv4_of(skb, &header);
	if (!ip || !(ip->fragment & be16(OFFSET)) || !has_ports(ip->protocol) || whose(ip) == KERNEL)
		return TCX_NEXT;
	host = way_to_switch();
	if (!host || skb->len - sizeof(struct ethernet) > host->mtu ||
	    bpf_skb_load_bytes(skb, 0, &kept, sizeof(kept)) ||
	    bpf_skb_store_bytes(skb, 0, &host->of_copies, sizeof(host->of_copies), 0))
		return TCX_NEXT;
	bpf_clone_redirect(skb, host->ifindex, 0);
	/* Nobody looks at them any more, but for those who capture packets. */
	bpf_skb_store_bytes(skb, 0, &kept, sizeof(kept), 0);
	return TCX_NEXT;
}

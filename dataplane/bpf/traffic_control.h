/* SPDX-License-Identifier: Apache-2.0
 *
 * What XDP cannot see or do, by two programs of traffic control (tcx, Linux 6.6):
 *
 *   shunt_from_node  at the egress of uplink and lo: what the node's own processes send to a frontend of a service is led
 *                    to the host port, as if a route did.
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

/* Whether a packet of the node's is to a frontend. The kernel sends fragments in their order. */
INLINE int is_to_frontend(const struct ipv4 *ip, const struct ports *ports, const void *end)
{
	int taken;

	if (!has_ports(ip->protocol))
		return 0;
	if (ip->fragment & be16(OFFSET))
		return whose(ip) == SWITCH;
	taken = (const void *)(ports + 1) <= end && is_frontend(ip->destination, ports->destination, ip->protocol);
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
	if (!is_to_frontend(ip, l4, end))
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

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
 * Beside shunt_uplink, and with the same maps, are the programs of traffic_control.h.
 */

#include "kernel.h"
#include "packet.h"
#include "translated.h"
#include "traffic_control.h"

/* A frame on a queue that has no socket yet, or no longer, is dropped: passed on, it would go round the switch through
 * the node's own forwarding, and so round every policy. */
SEC("xdp")
int shunt_port(struct xdp_md *ctx)
{
	return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
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

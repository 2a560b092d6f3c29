/* SPDX-License-Identifier: Apache-2.0
 *
 * Headers of packets.
 */

struct stations {
	u8 destination[6];
	u8 source[6];
};

struct ethernet {
	struct stations stations;
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

struct tcp {
	struct ports ports;
	u32 sequence;
	u32 acknowledged;
	u8 offset;
	u8 flags;
	u16 window;
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
enum { FRAGMENTATION_NEEDED = 4 };
enum { ECHO_REPLY = 0, UNREACHABLE = 3, TIME_EXCEEDED = 11, PARAMETER_PROBLEM = 12 };

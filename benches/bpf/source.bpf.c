/* SPDX-License-Identifier: Apache-2.0
 *
 * The traffic source: run by BPF_PROG_TEST_RUN on live frames, it writes the next flow's packet into each frame and
 * redirects it into an interface. The kernel recycles the frames as the receiver left them, so all of the headers is
 * written anew.
 */

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))

enum { XDP_ABORTED = 0, XDP_DROP = 1 };

struct xdp_md {
	u32 data;
	u32 data_end;
};

static long (*const bpf_redirect)(u32 ifindex, u64 flags) = (void *)23;

/* Set before loading. */
enum { HEADER_WORDS = 6 };
const volatile u64 header[HEADER_WORDS]; /* the packet's first 48 bytes, without what is below */
const volatile u32 interface;
const volatile u32 flow_mask;
const volatile u32 one_in;

struct {
	u32 sent;
	u32 skipped;
} count;

enum { SOURCE_PORT = 34, CHECKSUM_WEIGHT = 42, FIRST_PORT = 1024 };

SEC("xdp")
int source(struct xdp_md *ctx)
{
	char *packet = (char *)(long)ctx->data;
	u16 port;

	if (packet + HEADER_WORDS * sizeof(u64) > (char *)(long)ctx->data_end)
		return XDP_ABORTED;
	/* Slows the source down evenly, which pauses between batches could not. */
	if (++count.skipped < one_in)
		return XDP_DROP;
	count.skipped = 0;
#pragma unroll
	for (int i = 0; i < HEADER_WORDS; i++)
		((u64 *)packet)[i] = header[i];

	/* A word of the payload balances the port, so that one UDP checksum is right for all flows. */
	port = __builtin_bswap16(FIRST_PORT + (count.sent++ & flow_mask));
	*(u16 *)(packet + SOURCE_PORT) = port;
	*(u16 *)(packet + CHECKSUM_WEIGHT) = ~port;
	return bpf_redirect(interface, 0);
}

char LICENSE[] SEC("license") = "Apache-2.0";

/* SPDX-License-Identifier: Apache-2.0
 *
 * The traffic sink: counts pktgen's packets, takes the time since they were sent, and drops them. It costs who delivers the
 * packets some tens of nanoseconds each, where taking them to user space would cost a copy.
 */

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))

enum { XDP_DROP = 1, XDP_PASS = 2 };

struct xdp_md {
	u32 data;
	u32 data_end;
};

static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;

/* Set before loading: where pktgen's signature is (pktgen/src/packet/signature.rs). */
const volatile u32 signature_at;

enum { MARK = 'S', SENT = 8, SIGNATURE_LEN = 18 };

/* Times are counted in buckets: 16 to a power of two, each at most a sixteenth wide. */
enum { PER_OCTAVE = 16, OCTAVES = 40, BUCKETS = PER_OCTAVE * OCTAVES };

struct {
	u64 received;
	u64 bytes;
	u64 buckets[BUCKETS];
} arrivals;

static u32 bucket(u64 ns)
{
	u32 octave = 0;
	u64 rest = ns;

	/* Values below 16 have a bucket each. */
	if (rest >= 1ull << 36) { rest >>= 32; octave += 32; }
	if (rest >= 1ull << 20) { rest >>= 16; octave += 16; }
	if (rest >= 1ull << 12) { rest >>= 8; octave += 8; }
	if (rest >= 1ull << 8) { rest >>= 4; octave += 4; }
	if (rest >= 1ull << 6) { rest >>= 2; octave += 2; }
	if (rest >= 1ull << 5) { rest >>= 1; octave += 1; }
	return octave * PER_OCTAVE + rest;
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	unsigned char *data = (unsigned char *)(long)ctx->data, *at = data + (signature_at & 0xff);
	u64 sent = 0;
	u32 index;

	if (at + SIGNATURE_LEN > (unsigned char *)(long)ctx->data_end || at[0] != MARK)
		return XDP_PASS;
	/* The lower 48 bits of the clock. */
	for (int i = 0; i < 6; i++)
		sent = sent << 8 | at[SENT + i];
	arrivals.received++;
	arrivals.bytes += ctx->data_end - ctx->data;
	index = bucket((bpf_ktime_get_ns() - sent) & 0xffffffffffff);
	if (index < BUCKETS)
		arrivals.buckets[index]++;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Apache-2.0";

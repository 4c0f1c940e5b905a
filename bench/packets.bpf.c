// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Where the packets of bench/small_packets.py come from, and where they end: as little work as there can be, and the
 * same whoever mirrors. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define FLOWS 256
#define SOURCE_PORT_FIRST 1024
#define BATCH 64
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

/* Of a run: how many packets it has had, and when every 64th of them came. The call itself takes some milliseconds
 * before and after them. */
struct course {
	__u64 packets;
	__u64 first_ns;
	__u64 last_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct course);
} courses SEC(".maps");

/* The next packet, of the next of 256 flows: it gets its source port, of UDP without a checksum. */
SEC("xdp")
int generate(struct xdp_md *frame)
{
	__u8 *data = (void *)(long)frame->data, *end = (void *)(long)frame->data_end;
	__u32 first = 0;
	struct course *course = bpf_map_lookup_elem(&courses, &first);
	__u16 flow;

	if (!course || data + 56 > end)
		return XDP_ABORTED;
	if (course->packets % BATCH == 0) {
		course->last_ns = bpf_ktime_get_ns();
		if (!course->packets)
			course->first_ns = course->last_ns;
	}
	flow = course->packets++ % FLOWS;
	if (*(__be16 *)(data + 12) == bpf_htons(ETHERTYPE_IPV4))
		*(__be16 *)(data + 34) = bpf_htons(SOURCE_PORT_FIRST + flow);
	else
		*(__be16 *)(data + 54) = bpf_htons(SOURCE_PORT_FIRST + flow);
	return XDP_PASS;
}

/* A veth takes frames of BPF_PROG_TEST_RUN only while it has an XDP program. */
SEC("xdp")
int pass(struct xdp_md *frame __attribute__((unused)))
{
	return XDP_PASS;
}

static __always_inline int count_and_drop(struct __sk_buff *skb, __u32 which)
{
	__u64 *count = bpf_map_lookup_elem(&counts, &which);

	if (skb->protocol == bpf_htons(ETHERTYPE_ARP))
		return TCX_NEXT;
	if (count)
		*count += 1;
	return TCX_DROP;
}

SEC("tc")
int end_of_production(struct __sk_buff *skb)
{
	return count_and_drop(skb, 0);
}

SEC("tc")
int end_of_copies(struct __sk_buff *skb)
{
	return count_and_drop(skb, 1);
}

char _license[] SEC("license") = "GPL";

// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Gives each run of BPF_PROG_TEST_RUN another flow: writes the next addresses and ports of a list into the frame, then
 * goes on to the program under test, or to one that does nothing. */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#define FLOWS (1 << 20)
#define FLOWS_AHEAD 32	/* so far ahead the list is read, so that no run waits for memory that is not its own */
#define ADDRESSES_BYTES_MAX 32
#define PORTS_BYTES 4

struct flow {
	__u8 addresses[ADDRESSES_BYTES_MAX];
	__u8 ports[PORTS_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FLOWS);
	__type(key, __u32);
	__type(value, struct flow);
} flows_to_come SEC(".maps");

struct course {
	__u32 count;		/* of flows, before they begin again */
	__u32 is_ipv6;
	__u32 next;
	__u32 seen;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct course);
} courses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test SEC(".maps");

SEC("tc")
int next_flow(struct __sk_buff *skb)
{
	__u32 first = 0, index, index_ahead;
	struct course *course = bpf_map_lookup_elem(&courses, &first);
	struct flow *flow, *ahead;

	if (!course)
		return 0;
	index = course->next;
	index_ahead = index + FLOWS_AHEAD;
	course->next = index + 1 < course->count ? index + 1 : 0;
	flow = bpf_map_lookup_elem(&flows_to_come, &index);
	if (!flow)
		return 0;
	ahead = bpf_map_lookup_elem(&flows_to_come, &index_ahead);
	if (ahead)
		course->seen += ahead->ports[0];
	if (course->is_ipv6) {
		bpf_skb_store_bytes(skb, 22, flow->addresses, 32, 0);
		bpf_skb_store_bytes(skb, 54, flow->ports, 4, 0);
	} else {
		bpf_skb_store_bytes(skb, 26, flow->addresses, 8, 0);
		bpf_skb_store_bytes(skb, 34, flow->ports, 4, 0);
	}
	bpf_tail_call(skb, &under_test, 0);
	return 0;
}

SEC("tc")
int nothing(struct __sk_buff *skb)
{
	return skb->len ? -1 : 0;
}

char _license[] SEC("license") = "GPL";

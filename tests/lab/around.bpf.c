// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Ways around a tcx hook, for one kind of packet: IPv4, UDP, to port AROUND. All others go the ordinary way. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define AROUND 9999

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} to_ifindex SEC(".maps");

static __always_inline bool goes_around(void *data, void *data_end)
{
	const __u8 *frame = data;

	if (data + 42 > data_end)
		return false;
	return frame[12] == 8 && frame[13] == 0 && frame[14] == 0x45 && frame[23] == 17 &&
	       *(const __be16 *)(frame + 36) == bpf_htons(AROUND);
}

static __always_inline __u32 destination(void)
{
	__u32 first = 0;
	const __u32 *ifindex = bpf_map_lookup_elem(&to_ifindex, &first);

	return ifindex ? *ifindex : 0;
}

SEC("xdp")
int drop(struct xdp_md *frame)
{
	return goes_around((void *)(long)frame->data, (void *)(long)frame->data_end) ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int redirect(struct xdp_md *frame)
{
	if (!goes_around((void *)(long)frame->data, (void *)(long)frame->data_end))
		return XDP_PASS;
	return bpf_redirect(destination(), 0);
}

SEC("tc")
int redirect_peer(struct __sk_buff *skb)
{
	if (!goes_around((void *)(long)skb->data, (void *)(long)skb->data_end))
		return TCX_NEXT;
	return bpf_redirect_peer(destination(), 0);
}

char _license[] SEC("license") = "GPL";

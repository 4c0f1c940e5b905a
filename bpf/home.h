/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Whether a device is still where it was attached. A tcx link survives its device's move into another network namespace,
 * and all ifindexes are those of that one then: the device's own may be another's, and the hop's a stranger's.
 *
 * bpf_get_netns_cookie is there for tc programs since Linux 6.15 only; the fields that it reads are read here by BTF
 * (CO-RE), with a kfunc of Linux 6.2.
 */
#pragma once

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct net {
	__u64 net_cookie;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	possible_net_t nd_net;
};

struct sk_buff {
	struct net_device *dev;
};
#pragma clang attribute pop

extern void *bpf_cast_to_kern_ctx(void *skb) __attribute__((section(".ksyms")));

static __always_inline bool is_at_home(struct __sk_buff *skb)
{
	const struct sk_buff *kernel_skb = bpf_cast_to_kern_ctx(skb);
	__u32 first = 0;
	const __u64 *cookie = bpf_map_lookup_elem(&home, &first);

	return cookie && *cookie == kernel_skb->dev->nd_net.net->net_cookie;
}

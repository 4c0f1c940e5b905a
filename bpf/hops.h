/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Which way copies go from the hook to the wire (docs/decisions/0008, 0011), and that those of a session stay in order
 * when their way changes.
 *
 *   small traffic         hook → finishing hop → wire
 *   with super-packets    hook → wire, or → wrapping hop → wire, or → wrapping hop → splitting hop → wire
 *
 * The finishing hop is polled after production; on the others copies wait in line with it (the backlog of the CPU). A
 * copy that the kernel can finish on the way out leaves behind the wrapping hop, the others cross the splitting hop. A
 * session takes the wrapping hop from its first super-packet until there was none for a second; nothing can then be on
 * that way any more. What still waits on the finishing hop when it begins is let out first: until the two were once
 * empty, the wrapping hop leads into it. What leaves by a card leaves before the wrapping hop (leave_ahead), and waits
 * nowhere. */
#pragma once

#define SUPER_PACKETS_GONE_NS 1000000000ll
#define FINISHING_HOP_EMPTIED_NS 50000000ll	/* a full one is in some 3 ms */
#define CPUS_MAX 1024

/* Both directions of a flow wait in one lane, so that a request does not arrive behind its answer; other flows are for
 * other CPUs. */
static __always_inline const struct lane *lane_of(const struct headers *headers)
{
	__u32 first = 0, index;
	const struct lanes *lanes = bpf_map_lookup_elem(&hop_lanes, &first);

	if (!lanes)
		return NULL;
	index = flow_hash(headers) % lanes->count;
	barrier_var(index);
	return index < LANES_MAX ? &lanes->lanes[index] : NULL;
}

/* Whether a time is no longer ago than so. Another CPU may have written it after this one has looked at the clock. */
static __always_inline bool is_within(__u64 now, __u64 then, __s64 span_ns)
{
	return (__s64)(now - then) < span_ns;
}

/* Whether the next packet of a session is to take the wrapping hop. */
static __always_inline bool takes_wrapping_hop(struct __sk_buff *skb, const struct session_policy *session)
{
	__u32 slot = session->mark & MARK_SLOT_MASK;
	struct bulk *bulk = bpf_map_lookup_elem(&bulks, &slot);
	__u64 now;

	if (!bulk)
		return true;
	if (!skb->gso_size && !bulk->seen_ns)
		return false;
	now = bpf_ktime_get_ns();
	if (is_within(now, bulk->seen_ns, SUPER_PACKETS_GONE_NS)) {
		if (skb->gso_size)
			bulk->seen_ns = now;
		return true;
	}
	if (!skb->gso_size)
		return false;
	bulk->since_ns = now;
	barrier();	/* who sees the next line sees that one */
	bulk->passes_finishing_hop = true;
	bulk->seen_ns = now;
	return true;
}

static __always_inline struct passage *passage(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&passages, &first);
}

static __always_inline void enter_hop(__u64 packets)
{
	struct passage *here = passage();

	if (here)
		here->entered += packets;
}

static __always_inline void leave_hop(void)
{
	struct passage *here = passage();

	if (here)
		here->left++;
}

/* Whether what a session takes goes by the wrapping hop now. */
static __always_inline bool has_super_packets(__u32 slot)
{
	const struct bulk *bulk = bpf_map_lookup_elem(&bulks, &slot);

	return bulk && bulk->seen_ns && is_within(bpf_ktime_get_ns(), bulk->seen_ns, SUPER_PACKETS_GONE_NS);
}

/* A copy enters on one CPU and may leave on another. */
static __noinline int are_hops_empty(void)
{
	__u64 entered = 0, left = 0;
	__u32 first = 0;

	for (int cpu = 0; cpu < CPUS_MAX; cpu++) {
		const struct passage *there = bpf_map_lookup_percpu_elem(&passages, &first, cpu);

		if (!there)
			break;
		left += there->left;
		entered += there->entered;
	}
	return entered == left;
}

/* At both ends of the wrapping hop: whether a copy has to queue behind what waits on it and on the finishing hop. What was
 * lost there would keep them from ever being empty, so this has an end. */
static __always_inline bool passes_finishing_hop(__u32 slot)
{
	struct bulk *bulk = bpf_map_lookup_elem(&bulks, &slot);

	if (!bulk)
		return true;
	if (bulk->passes_finishing_hop &&
	    (are_hops_empty() || !is_within(bpf_ktime_get_ns(), bulk->since_ns, FINISHING_HOP_EMPTIED_NS)))
		bulk->passes_finishing_hop = false;
	return bulk->passes_finishing_hop;
}

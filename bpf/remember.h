/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What was decided of a flow is remembered, so that its next packet costs the same under any number of rules.
 *
 * Each CPU has a table of its own, direct-mapped: a newer flow takes the place of an older one. A decision depends on
 * the policy and on the fields of `struct headers` that are compared here, and on nothing else; what is never offered to
 * a session is not remembered, and of ICMP, where that depends on the type, is asked each time. A policy is never
 * written, and its generation never comes again, so what was remembered under it is gone with the swap of the policy.
 */
#pragma once

static __always_inline __u64 mix(__u64 hash, __u64 more)
{
	hash = (hash ^ more) * 0x9E3779B97F4A7C15ull;
	return hash ^ hash >> 32;
}

static __always_inline __u8 shape_of(const struct headers *headers, __u32 direction)
{
	return headers->family << 2 | (headers->has_ports & 1) << 1 | (direction & 1);
}

/* Where the flow is, or would be, remembered; the decision keeps it. */
static __always_inline struct flow *flow_of(const struct interface_policy *policy, const struct headers *headers,
					    struct decision *decision)
{
	__u64 hash = policy->generation;
	struct flow_block *block;
	__u32 index;

	hash = mix(hash, (__u64)headers->source_be[0] << 32 | headers->destination_be[0]);
	hash = mix(hash, (__u64)headers->source_port << 32 | headers->destination_port << 8 | headers->protocol);
	if (headers->family == 6) {
		hash = mix(hash, (__u64)headers->source_be[1] << 32 | headers->destination_be[1]);
		hash = mix(hash, (__u64)headers->source_be[2] << 32 | headers->destination_be[2]);
		hash = mix(hash, (__u64)headers->source_be[3] << 32 | headers->destination_be[3]);
	}
	index = hash % FLOW_BLOCKS;
	hash = hash / FLOW_BLOCKS % FLOWS_A_BLOCK;
	decision->flow_block = index;
	decision->flow_index = hash;
	block = bpf_map_lookup_elem(&flows, &index);
	return block ? &block->flows[hash] : NULL;
}

/* Where programs can be preempted (PREEMPT_RT), another one may run on this CPU in the middle of this: it finds the
 * sequence odd, leaves the flow alone and decides for itself. */
static __always_inline bool hold(struct flow *flow, __u32 sequence)
{
	return !(sequence & 1) && __sync_val_compare_and_swap(&flow->sequence, sequence, sequence + 1) == sequence;
}

static __always_inline void let_go(struct flow *flow)
{
	barrier();
	*(volatile __u32 *)&flow->sequence = flow->sequence + 1;
}

/* Whether it was remembered. The sequence changes meanwhile only where programs can be preempted. Where several
 * sessions reject the flow it is held, since the meters of their rules are read later. */
static __always_inline bool recall(struct flow *flow, const struct interface_policy *policy, __u32 direction,
				   const struct headers *headers, struct decision *decision)
{
	__u32 sequence = *(volatile __u32 *)&flow->sequence;

	barrier();
	if (sequence & 1 || flow->generation != policy->generation || flow->source_port != headers->source_port ||
	    flow->destination_port != headers->destination_port || flow->protocol != headers->protocol ||
	    flow->shape != shape_of(headers, direction) || !same_address(flow->source_be, headers->source_be) ||
	    !same_address(flow->destination_be, headers->destination_be))
		return false;
	decision->rejected = flow->rejected;
	decision->taken_by = flow->taken_by;
	decision->amazon_dns = flow->amazon_dns;
	decision->meter = flow->meter;
	decision->rejection = flow->rejection;
	barrier();
	if (!is_rejected_by_many(decision))
		return *(volatile __u32 *)&flow->sequence == sequence;
	decision->is_held = hold(flow, sequence);
	return decision->is_held;
}

static __always_inline void remember(struct flow *flow, const struct interface_policy *policy, __u32 direction,
				     const struct headers *headers, const struct decision *decision)
{
	flow->source_port = headers->source_port;
	flow->destination_port = headers->destination_port;
	flow->generation = policy->generation;
	__builtin_memcpy(flow->source_be, headers->source_be, sizeof(flow->source_be));
	__builtin_memcpy(flow->destination_be, headers->destination_be, sizeof(flow->destination_be));
	flow->rejected = decision->rejected;
	flow->protocol = headers->protocol;
	flow->shape = shape_of(headers, direction);
	flow->taken_by = decision->taken_by;
	flow->amazon_dns = decision->amazon_dns;
	flow->meter = decision->meter;
	flow->rejection = decision->rejection;
}

/* As `classify`, and remembered. What is held then is let go by `decided`. */
__noinline int decide_anew(const struct interface_policy *policy, __u32 direction, const struct headers *headers,
			   struct decision *decision)
{
	struct flow *flow;

	if (!policy || !headers || !decision)
		return 0;
	flow = policy->generation ? flow_of(policy, headers, decision) : NULL;
	decision->is_held = flow && hold(flow, *(volatile __u32 *)&flow->sequence);
	if (!decision->is_held)
		decision->flow_block = FLOW_BLOCKS;
	classify(policy, direction, headers, decision);
	if (!flow || !decision->is_held)
		return 0;
	remember(flow, policy, direction, headers, decision);
	if (!is_rejected_by_many(decision)) {
		let_go(flow);
		decision->is_held = false;
	}
	return 0;
}

/* Whether the decision is one that was remembered. What is held then is let go by `decided`. */
static __always_inline bool is_remembered(const struct interface_policy *policy, __u32 direction,
					  const struct headers *headers, struct decision *decision)
{
	struct flow *flow = policy->generation ? flow_of(policy, headers, decision) : NULL;

	return flow && recall(flow, policy, direction, headers, decision);
}

/* Nobody asks any more what a decision says of rejections. */
static __always_inline void decided(const struct decision *decision)
{
	__u32 index = decision->flow_block;
	struct flow_block *block;

	if (!decision->is_held)
		return;
	block = bpf_map_lookup_elem(&flows, &index);
	if (block)
		let_go(&block->flows[decision->flow_index % FLOWS_A_BLOCK]);
}

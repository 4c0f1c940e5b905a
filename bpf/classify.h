/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Which session takes a packet. src/pktmirror/model/evaluation.py is the reference; tests/kernel holds both together. */
#pragma once

#define DNS_PORT 53

/* A later fragment shows no port: it counts as DNS if a resolver sent or receives it (evaluation.py says why). */
__noinline int is_amazon_dns(const struct interface_policy *policy, const struct headers *headers)
{
	bool from_dns, to_dns;

	if (!policy || !headers)
		return false;
	from_dns = !headers->has_ports || headers->source_port == DNS_PORT;
	to_dns = !headers->has_ports || headers->destination_port == DNS_PORT;
	if (!has_filtered_ports(headers) || !(from_dns || to_dns))
		return false;
	for (__u32 i = 0; i < RESOLVERS_MAX && i < policy->resolver_count; i++) {
		if ((policy->resolvers_ipv6 >> i & 1) != (headers->family == 6))
			continue;
		if ((from_dns && same_address(policy->resolvers_be[i], headers->source_be)) ||
		    (to_dns && same_address(policy->resolvers_be[i], headers->destination_be)))
			return true;
	}
	return false;
}

/* What all sessions of an interface say of a packet. */
struct decision {
	__u64 rejected;		/* bit i: by a rule of session i; clear: it had no rule that matches */
	__u32 taken_by;		/* SESSIONS_MAX: by none */
	__u16 amazon_dns;
	__u16 meter;		/* of the session that takes it */
	__u16 rejection;	/* the meter of the first that rejects it */
	__u16 is_held;		/* the flow is, as the meters of the others are read (remember.h) */
	__u16 flow_block;	/* where those are */
	__u16 flow_index;
};

static __always_inline bool is_rejected_by_many(const struct decision *decision)
{
	return decision->rejected & (decision->rejected - 1);
}

static __always_inline struct rejections *rejections_of(const struct decision *decision)
{
	__u32 block_index = decision->flow_block;
	struct rejections_block *block = bpf_map_lookup_elem(&flow_rejections, &block_index);

	return block ? &block->flows[decision->flow_index % FLOWS_A_BLOCK] : NULL;
}

_Static_assert(VERDICT_TAKEN == 0 && VERDICT_REJECTED_BY_RULE == 1 && VERDICT_NO_RULE_MATCHED == 2,
	       "the loops below compute with verdicts, since each branch in them is one that the verifier follows");

__noinline int note_rejection(struct decision *decision, __u32 session)
{
	struct rejections *rejections;

	if (!decision)
		return 0;
	if (!decision->rejected) {
		decision->rejected = 1;	/* as good as any but 0, until all are known */
		decision->rejection = decision->meter;
		return 0;
	}
	rejections = rejections_of(decision);
	keep_check(session);
	if (rejections && session < SESSIONS_MAX)
		rejections->meters[session] = decision->meter;
	return 0;
}

/* Asks the sessions by ascending number; the first that accepts takes the packet, a reject goes on to the next
 * (spec 5.1). */
__noinline int classify(const struct interface_policy *policy, __u32 direction, const struct headers *headers,
			struct decision *decision)
{
	struct point point;
	__u64 rejected = 0;

	if (!policy || !headers || !decision)
		return 0;
	decision->rejected = 0;
	decision->taken_by = SESSIONS_MAX;
	place(&point, headers);
	point.amazon_dns = is_amazon_dns(policy, headers);
	for (__u32 i = 0; i < SESSIONS_MAX && i < policy->session_count; i++) {
		__u64 said = (__u32)decide(policy->sessions[i].filter_cell, direction, &point), by_rule;

		decision->meter = said >> VERDICT_BITS;
		if ((said & VERDICT_MASK) == VERDICT_TAKEN) {
			decision->taken_by = i;
			break;
		}
		rejected |= (said & 1) << i;
		by_rule = said;
		barrier_var(by_rule);	/* or what this branch knows would be in `rejected` */
		if (by_rule & 1)
			note_rejection(decision, i);
	}
	decision->amazon_dns = point.amazon_dns;
	decision->rejected = point.amazon_dns ? 0 : rejected;
	return 0;
}

static __always_inline void count_rejection(const struct session_policy *session, const struct decision *decision,
					    __u32 index, const struct tally *wire)
{
	const struct rejections *rejections;
	__u32 meter = decision->rejection;

	if (decision->rejected & ((1ull << index) - 1)) {
		rejections = rejections_of(decision);
		if (!rejections)
			return;
		meter = rejections->meters[index];
	}
	count_meter(session->meter, meter, wire);
}

/* A session that was asked counts its verdict, and the rule that decided it. */
static __always_inline void count_verdict_of(const struct session_policy *session, __u32 index,
					     const struct decision *decision, __u32 direction, const struct tally *wire)
{
	__u32 otherwise = decision->amazon_dns ? VERDICT_SERVICE_NOT_ENABLED : VERDICT_NO_RULE_MATCHED;
	__u32 rejected = decision->rejected >> index & 1;

	if (index == decision->taken_by) {
		count_verdict(session->ledger_row, direction, VERDICT_TAKEN, wire);
		count_meter(session->meter, decision->meter, wire);
		return;
	}
	count_verdict(session->ledger_row, direction, otherwise - rejected, wire);
	if (rejected)
		count_rejection(session, decision, index, wire);
}

/* Those behind the first. */
__noinline int count_other_verdicts(const struct interface_policy *policy, const struct decision *decision,
				    __u32 direction, const struct tally *wire)
{
	if (!policy || !decision || !wire)
		return 0;
	for (__u32 i = 1; i < SESSIONS_MAX && i < policy->session_count && i <= decision->taken_by; i++)
		count_verdict_of(&policy->sessions[i], i, decision, direction, wire);
	return 0;
}

/* The first session, which most interfaces have as the only one, without a call. */
static __always_inline void count_verdicts(const struct interface_policy *policy, const struct decision *decision,
					   __u32 direction, const struct tally *wire)
{
	if (!policy->session_count)
		return;
	count_verdict_of(&policy->sessions[0], 0, decision, direction, wire);
	if (decision->taken_by && policy->session_count > 1)
		count_other_verdicts(policy, decision, direction, wire);
}

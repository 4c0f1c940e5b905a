/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Which session takes a packet. src/pktmirror/model/evaluation.py is the reference; tests/kernel holds both together. */
#pragma once

#define DNS_PORT 53

static __always_inline bool same_address(const __be32 a_be[4], const __be32 b_be[4])
{
	return !((a_be[0] ^ b_be[0]) | (a_be[1] ^ b_be[1]) | (a_be[2] ^ b_be[2]) | (a_be[3] ^ b_be[3]));
}

static __always_inline bool excludes(const struct exclusion *line, const struct headers *headers)
{
	if ((line->protocol ^ headers->protocol) & line->protocol_mask)
		return false;
	if (line->family) {
		if (line->family != headers->family)
			return false;
		if (!same_address(line->address_be, headers->source_be) &&
		    !same_address(line->address_be, headers->destination_be))
			return false;
	}
	if (!line->names_ports)
		return true;
	if (headers->protocol == PROTOCOL_ICMPV6)
		return headers->has_icmp_type && within(line->first, headers->icmp_type, line->last);
	return headers->has_ports && (within(line->first, headers->source_port, line->last) ||
				      within(line->first, headers->destination_port, line->last));
}

static __always_inline bool hinted(const __u32 hint[HINT_BITS / 32], __u32 value)
{
	__u32 bit = HINT_BIT(value);

	return hint[bit >> 5] >> (bit & 31) & 1;
}

static __always_inline __u32 folded(const __be32 address_be[4])
{
	return address_be[0] ^ address_be[1] ^ address_be[2] ^ address_be[3];
}

static __always_inline bool may_be_excluded(const struct exclusion_table *table, const struct headers *headers)
{
	__u32 protocol = (__u32)headers->protocol << 16;

	if (hinted(table->addresses, folded(headers->source_be)) ||
	    hinted(table->addresses, folded(headers->destination_be)))
		return true;
	if (headers->has_ports)
		return hinted(table->ports, protocol | headers->source_port) ||
		       hinted(table->ports, protocol | headers->destination_port);
	return headers->has_icmp_type && hinted(table->ports, protocol | headers->icmp_type);
}

__noinline int is_in_the_lines(const struct exclusion_table *table, const struct headers *headers)
{
	if (!table || !headers)
		return false;
	for (__u32 i = 0; i < EXCLUSIONS_MAX && i < table->count; i++)
		if (excludes(&table->lines[i], headers))
			return true;
	return false;
}

static __always_inline bool is_never_mirrored(__u32 slot, const struct headers *headers)
{
	const struct exclusion_table *table = bpf_map_lookup_elem(&exclusions, &slot);

	return table && may_be_excluded(table, headers) && is_in_the_lines(table, headers);
}

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
	__u32 amazon_dns;
};

_Static_assert(VERDICT_TAKEN == 0 && VERDICT_REJECTED_BY_RULE == 1 && VERDICT_NO_RULE_MATCHED == 2,
	       "the loops below compute with verdicts, since each branch in them is one that the verifier follows");

/* Asks the sessions by ascending number; the first that accepts takes the packet, a reject goes on to the next
 * (spec 5.1). */
__noinline int classify(const struct interface_policy *policy, __u32 direction, const struct headers *headers,
			struct decision *decision)
{
	struct point point;
	__u64 rejected = 0;
	__u32 taken_by = SESSIONS_MAX;

	if (!policy || !headers || !decision)
		return 0;
	place(&point, headers);
	point.amazon_dns = is_amazon_dns(policy, headers);
	for (__u32 i = 0; i < SESSIONS_MAX && i < policy->session_count; i++) {
		__u64 verdict = (__u32)decide(policy->sessions[i].filter_cell, direction, &point);

		if (verdict == VERDICT_TAKEN) {
			taken_by = i;
			break;
		}
		rejected |= (verdict & 1) << i;
	}
	decision->amazon_dns = point.amazon_dns;
	decision->rejected = point.amazon_dns ? 0 : rejected;
	decision->taken_by = taken_by;
	return 0;
}

__noinline int count_one(__u32 row, __u32 direction, __u32 verdict, const struct tally *wire)
{
	if (wire)
		count_verdict(row, direction, verdict, wire);
	return 0;
}

/* Every session that was asked counts its verdict. */
__noinline int count_verdicts(const struct interface_policy *policy, const struct decision *decision, __u32 direction,
			      const struct tally *wire)
{
	__u32 otherwise;

	if (!policy || !decision || !wire)
		return 0;
	otherwise = decision->amazon_dns ? VERDICT_SERVICE_NOT_ENABLED : VERDICT_NO_RULE_MATCHED;
	for (__u32 i = 0; i < SESSIONS_MAX && i < policy->session_count && i < decision->taken_by; i++)
		count_one(policy->sessions[i].ledger_row, direction,
			  otherwise - (__u32)(decision->rejected >> i & 1), wire);
	if (decision->taken_by < SESSIONS_MAX)
		count_one(policy->sessions[decision->taken_by].ledger_row, direction, VERDICT_TAKEN, wire);
	return 0;
}

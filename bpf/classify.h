/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Which session takes a packet. src/pktmirror/model/evaluation.py is the reference; tests/kernel holds both together. */
#pragma once

#define DNS_PORT 53

static __always_inline bool same_address(const __be32 a_be[4], const __be32 b_be[4])
{
	return !((a_be[0] ^ b_be[0]) | (a_be[1] ^ b_be[1]) | (a_be[2] ^ b_be[2]) | (a_be[3] ^ b_be[3]));
}

static __always_inline bool within(__u16 first, __u16 port, __u16 last)
{
	return first <= port && port <= last;
}

static __always_inline bool has_filtered_ports(const struct headers *headers)
{
	return headers->protocol == PROTOCOL_TCP || headers->protocol == PROTOCOL_UDP;
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

__noinline int is_never_mirrored(__u32 slot, const struct headers *headers)
{
	const struct exclusion_table *table = bpf_map_lookup_elem(&exclusions, &slot);

	if (!table || !headers || !may_be_excluded(table, headers))
		return false;
	for (__u32 i = 0; i < EXCLUSIONS_MAX && i < table->count; i++)
		if (excludes(&table->lines[i], headers))
			return true;
	return false;
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

static __always_inline __u32 differs(const __be32 a_be[4], const __be32 b_be[4], const __be32 mask_be[4])
{
	return ((a_be[0] ^ b_be[0]) & mask_be[0]) | ((a_be[1] ^ b_be[1]) & mask_be[1]) |
	       ((a_be[2] ^ b_be[2]) & mask_be[2]) | ((a_be[3] ^ b_be[3]) & mask_be[3]);
}

static __always_inline bool rule_matches(const struct rule *rule, const struct headers *headers)
{
	if ((rule->family ^ headers->family) | ((rule->protocol ^ headers->protocol) & rule->protocol_mask) |
	    differs(headers->source_be, rule->source_be, rule->source_mask_be) |
	    differs(headers->destination_be, rule->destination_be, rule->destination_mask_be))
		return false;
	if (!rule->names_ports || !has_filtered_ports(headers))
		return true;
	return headers->has_ports &&
	       within(rule->source_port_first, headers->source_port, rule->source_port_last) &&
	       within(rule->destination_port_first, headers->destination_port, rule->destination_port_last);
}

/* The first rule that matches decides; what none accepts is not mirrored. */
__noinline int decide(__u32 slot, __u32 direction, const struct headers *headers, int amazon_dns)
{
	const struct filter *filter = bpf_map_lookup_elem(&filters, &slot);

	if (!filter || !headers || direction >= DIRECTION_COUNT)
		return VERDICT_NO_RULE_MATCHED;
	if (amazon_dns)
		return filter->amazon_dns ? VERDICT_TAKEN : VERDICT_SERVICE_NOT_ENABLED;
	for (__u32 i = 0; i < RULES_MAX && i < filter->rule_count[direction]; i++)
		if (rule_matches(&filter->rules[direction][i], headers))
			return filter->rules[direction][i].accepts ? VERDICT_TAKEN : VERDICT_REJECTED_BY_RULE;
	return VERDICT_NO_RULE_MATCHED;
}

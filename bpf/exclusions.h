/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Which packets are never mirrored, whatever a filter says. src/pktmirror/model/exclusions.py lists them;
 * src/pktmirror/agent/exclusions.py makes the table, with hints by which most packets need no look at its lines. */
#pragma once

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

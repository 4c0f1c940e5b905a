/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What becomes of a copy behind the hook: whose it is by its mark, its headers, and out; or why it is lost. The programs
 * along the hops do no more than put these together. */
#pragma once

#define AF_INET 2
#define AF_INET6 10

static __always_inline void count_stray(const struct tally *wire)
{
	__u32 first = 0;
	struct tally *stray = bpf_map_lookup_elem(&strays, &first);

	if (stray)
		add(stray, wire);
}

static __always_inline __u32 direction_of(struct __sk_buff *skb)
{
	return skb->mark >> MARK_DIRECTION_SHIFT & 1;
}

static __always_inline __u32 generation_of(struct __sk_buff *skb)
{
	return skb->mark >> MARK_GENERATION_SHIFT & MARK_GENERATION_MASK;
}

/* Whether the mark names a delivery as it is now. */
static __always_inline bool is_delivered_by(struct __sk_buff *skb, const struct delivery *to)
{
	return (skb->mark & MARK_MAGIC_MASK) == MARK_MAGIC && to && generation_of(skb) == to->generation;
}

/* Whose copy this is. NULL where it is nobody's, or nobody's any more; it is counted then. */
static __always_inline const struct delivery *delivery_of(struct __sk_buff *skb)
{
	__u32 direction = direction_of(skb);
	__u32 slot = skb->mark & MARK_SLOT_MASK;
	const struct delivery *to = bpf_map_lookup_elem(&deliveries, &slot);
	struct headers headers = {};
	struct tally wire;

	if (is_delivered_by(skb, to))
		return to;
	measure(skb, skb->gso_size && parse(skb, &headers) == PARSED_IP ? &headers : NULL, &wire);
	if ((skb->mark & MARK_MAGIC_MASK) == MARK_MAGIC && to) {
		if (generation_of(skb) == to->retired_generation) {
			count_stage(to->retired_ledger_row, direction, stage_of(skb, STAGE_STALE), &wire);
			trace_lost_copy(skb, STAGE_STALE, &wire);
			return NULL;
		}
	}
	count_stray(&wire);
	return NULL;
}

/* Where a copy that is encapsulated goes. */
static __always_inline int send_to(const struct delivery *to)
{
	struct bpf_redir_neigh next_hop = { .nh_family = AF_INET, .ipv4_nh = to->next_hop_be[0] };

	if (to->family == 6) {
		next_hop.nh_family = AF_INET6;
		__builtin_memcpy(next_hop.ipv6_nh, to->next_hop_be, sizeof(next_hop.ipv6_nh));
	}
	return bpf_redirect_neigh(to->ifindex, &next_hop, sizeof(next_hop), 0);
}

static __always_inline int fail(struct __sk_buff *skb, const struct delivery *to, const struct tally *wire)
{
	count_stage(to->ledger_row, direction_of(skb), stage_of(skb, STAGE_ENCAPSULATION_FAILED), wire);
	trace_lost_copy(skb, STAGE_ENCAPSULATION_FAILED, wire);
	return TCX_DROP;
}

/* One packet as it is on the wire: tags, cut, outer headers. */
static __always_inline int send_packet(struct __sk_buff *skb, const struct delivery *to, const struct headers *headers)
{
	__u32 direction = direction_of(skb), stage = STAGE_SENT, inner_bytes;
	int sent_short;
	struct tally wire = { .packets = 1, .bytes = skb->len + (skb->vlan_present ? VLAN_BYTES : 0) };
	struct tally sent = { .packets = 1 };

	inner_bytes = encapsulate_frame(skb, to, headers);
	if (!inner_bytes)
		return fail(skb, to, &wire);
	sent.bytes = inner_bytes;
	count_stage(to->ledger_row, direction, stage_of(skb, STAGE_SENT), &sent);
	if (!(skb->mark & MARK_PROBE) && inner_bytes == to->room_bytes_max && wire.bytes > inner_bytes &&
	    (!to->packet_bytes_max || to->packet_bytes_max > inner_bytes)) {
		stage = STAGE_CUT;
		count_stage(to->ledger_row, direction, STAGE_CUT, &sent);
	}
	if (skb->mark & MARK_TRACED)
		trace_sent_copy(skb, stage, flow_hash(headers), &wire, inner_bytes);
	sent_short = send_short(to);
	return sent_short < 0 ? send_to(to) : sent_short;
}

/* A super-packet each of whose segments has room at the target gets its outer headers here, once; the kernel repeats
 * them when it splits it. */
static __always_inline bool has_room_as_a_whole(struct __sk_buff *skb, const struct delivery *to,
						const struct headers *headers)
{
	__u32 header_bytes;

	if (skb->vlan_present || to->packet_bytes_max || headers->jumbo_bytes)
		return false;	/* within a tunnel the kernel does not take the jumbo header out rightly */
	header_bytes = segment_header_bytes(skb, headers);
	return header_bytes && header_bytes + skb->gso_size <= to->room_bytes_max;
}

/* Whether a copy gets its outer headers before it is split and its checksums are complete: a super-packet, and, where the
 * kernel finishes it as it leaves the host, any other. */
static __always_inline bool is_wrapped_whole(struct __sk_buff *skb, const struct delivery *to,
					     const struct headers *headers, bool leaves)
{
	if (skb->gso_size)
		return has_room_as_a_whole(skb, to, headers);
	return leaves && !skb->vlan_present && skb->len <= to->room_bytes_max;
}

static __always_inline int send_whole(struct __sk_buff *skb, const struct delivery *to, const struct headers *headers,
				      const struct tally *wire)
{
	count_stage(to->ledger_row, direction_of(skb), stage_of(skb, STAGE_SENT), wire);
	if (skb->mark & MARK_TRACED)
		trace_sent_copy(skb, STAGE_SENT, flow_hash(headers), wire, wire->bytes);
	return send_to(to);
}

/* At the far end of the finishing and of the splitting hop: everything here is a copy of wire size, and is sent or
 * dropped, never passed on to this host. */
static __always_inline int finish_packet(struct __sk_buff *skb)
{
	const struct delivery *to = delivery_of(skb);
	struct tally wire = { .packets = 1, .bytes = skb->len + (skb->vlan_present ? VLAN_BYTES : 0) };
	struct headers headers = {};
	int parsed;

	if (!to)
		return TCX_DROP;
	if (skb->mark & MARK_WRAPPED) {
		wire.bytes -= ETHERNET_BYTES + (to->family == 6 ? OUTER6_BYTES : OUTER_BYTES);
		if (skb->gso_size || (to->family == 6 ? complete_outer6(skb) : clear_outer_id(skb)))
			return fail(skb, to, &wire);
		count_stage(to->ledger_row, direction_of(skb), stage_of(skb, STAGE_SENT), &wire);
		if (skb->mark & MARK_TRACED)
			trace_sent_copy(skb, STAGE_SENT, flow_of_copy(skb, to), &wire, wire.bytes);
		return send_to(to);
	}
	parsed = parse(skb, &headers);
	/* A super-packet that the hop did not split carries a tunnel of the sender's own. */
	if (skb->gso_size || parsed != PARSED_IP) {
		measure(skb, parsed == PARSED_IP ? &headers : NULL, &wire);
		return fail(skb, to, &wire);
	}
	return send_packet(skb, to, &headers);
}

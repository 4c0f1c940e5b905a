/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A bounded trace of decisions, for `pktmirror explain --live`.
 *
 * Off, it costs each packet a look-up and a comparison. On, it is of one interface, and bounded by a time, a number of packets and a
 * rate, all of which hold here: it ends whether or not the agent that asked for it still lives. A traced packet gets a
 * record of what was decided; each of its copies has MARK_TRACED and gets another where it is sent or lost. The agent
 * looks into the ring by itself, so that no record wakes anybody.
 */
#pragma once

#define TRACE_COPIES_NS 1000000000ull	/* how long copies may be on their way after the last packet */

/* In a ring there is no type that clang would put into BTF; tests/kernel/test_abi.py reads this one. */
static const struct trace_record abi_trace_record __attribute__((used));

static __always_inline bool is_in_network(const __be32 address_be[4], const __be32 network_be[4],
					  const __be32 mask_be[4])
{
	return !(((address_be[0] ^ network_be[0]) & mask_be[0]) | ((address_be[1] ^ network_be[1]) & mask_be[1]) |
		 ((address_be[2] ^ network_be[2]) & mask_be[2]) | ((address_be[3] ^ network_be[3]) & mask_be[3]));
}

/* headers->family is 0 where the frame is not IP. */
static __always_inline bool is_asked_for(const struct trace_request *request, __u32 direction,
					 const struct headers *headers)
{
	if (!(request->directions >> (direction & 1) & 1))
		return false;
	if (request->names_ip && !headers->family)
		return false;
	if ((request->protocol ^ headers->protocol) & request->protocol_mask)
		return false;
	if (request->family &&
	    (request->family != headers->family ||
	     !is_in_network(headers->source_be, request->source_be, request->source_mask_be) ||
	     !is_in_network(headers->destination_be, request->destination_be, request->destination_mask_be)))
		return false;
	return !request->names_ports ||
	       (headers->has_ports &&
		within(request->source_port_first, headers->source_port, request->source_port_last) &&
		within(request->destination_port_first, headers->destination_port, request->destination_port_last));
}

/* Whether this packet is one of those that the trace may have; it is counted in then, or as skipped. */
__noinline int takes_trace(__u32 direction, const struct headers *headers)
{
	__u32 first = 0;
	const struct trace_request *request = bpf_map_lookup_elem(&trace, &first);
	struct trace_state *state = bpf_map_lookup_elem(&trace_state, &first);
	__u64 now_ns = bpf_ktime_get_ns();

	if (!request || !state || !headers || now_ns >= request->until_ns ||
	    !is_asked_for(request, direction, headers))
		return false;
	if (state->taken >= request->packets_max || state->spent >= now_ns * CAP_TICKS_PER_NS ||
	    __sync_fetch_and_add(&state->taken, 1) >= request->packets_max) {
		__sync_fetch_and_add(&state->skipped, 1);
		return false;
	}
	charge(&state->spent, now_ns * CAP_TICKS_PER_NS, request->packet_ticks, CAP_BURST_TICKS);
	return true;
}

static __always_inline bool is_traced(struct __sk_buff *skb, __u32 direction, const struct headers *headers)
{
	__u32 first = 0;
	const struct trace_request *request = bpf_map_lookup_elem(&trace, &first);

	return request && request->id && request->ifindex == skb->ifindex && takes_trace(direction, headers);
}

/* NULL, and counted, where the ring has no room. All of it is to be written. */
static __always_inline struct trace_record *new_record(void)
{
	__u32 first = 0;
	const struct trace_request *request = bpf_map_lookup_elem(&trace, &first);
	struct trace_state *state = bpf_map_lookup_elem(&trace_state, &first);
	__u64 now_ns = bpf_ktime_get_ns();
	struct trace_record *record;

	if (!request || !state || !request->id || now_ns >= request->until_ns + TRACE_COPIES_NS)
		return NULL;
	record = bpf_ringbuf_reserve(&trace_ring, sizeof(*record), 0);
	if (!record) {
		__sync_fetch_and_add(&state->lost, 1);
		return NULL;
	}
	__builtin_memset(record, 0, sizeof(*record));
	record->time_ns = now_ns;
	record->trace_id = request->id;
	return record;
}

/* how: direction, outcome and stage, a byte each from the lowest. */
__noinline int trace_decision(const struct interface_policy *policy, const struct headers *headers,
			      const struct decision *decision, const struct tally *wire, __u32 how)
{
	struct trace_record *record;
	__u32 taken_by;

	if (!policy || !headers || !decision || !wire)
		return 0;
	record = new_record();
	if (!record)
		return 0;
	taken_by = decision->taken_by;
	record->kind = TRACE_DECISION;
	record->wire_bytes = wire->bytes;
	record->wire_packets = wire->packets;
	record->generation = policy->generation;
	record->direction = how;
	record->outcome = how >> 8;
	record->stage = how >> 16;
	record->rejected = decision->rejected;
	record->taken_by = taken_by;
	record->amazon_dns = decision->amazon_dns;
	if (taken_by < SESSIONS_MAX)
		record->mark = policy->sessions[taken_by].mark;
	__builtin_memcpy(record->source_be, headers->source_be, sizeof(record->source_be));
	__builtin_memcpy(record->destination_be, headers->destination_be, sizeof(record->destination_be));
	record->flow = flow_hash(headers) & FLOW_SHOWN_MASK;
	record->source_port = headers->source_port;
	record->destination_port = headers->destination_port;
	record->family = headers->family;
	record->protocol = headers->protocol;
	record->has_ports = headers->has_ports;
	record->has_icmp_type = headers->has_icmp_type;
	record->icmp_type = headers->icmp_type;
	record->is_later_fragment = headers->is_later_fragment;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

/* how: stage and flow, a byte each from the lowest. */
__noinline int trace_copy(__u32 mark, __u32 how, const struct tally *wire, __u32 copied_bytes)
{
	struct trace_record *record;

	if (!wire)
		return 0;
	record = new_record();
	if (!record)
		return 0;
	record->kind = TRACE_COPY;
	record->mark = mark & ~(MARK_TRACED | MARK_WRAPPED | 1u << MARK_DIRECTION_SHIFT);
	record->direction = mark >> MARK_DIRECTION_SHIFT & 1;
	record->stage = how;
	record->flow = how >> 8;
	record->wire_bytes = wire->bytes;
	record->wire_packets = wire->packets;
	record->copied_bytes = copied_bytes;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

static __always_inline void trace_lost_copy(struct __sk_buff *skb, __u32 stage, const struct tally *wire)
{
	if (skb->mark & MARK_TRACED)
		trace_copy(skb->mark, stage | TRACE_FLOW_UNKNOWN << 8, wire, 0);
}

static __always_inline void trace_sent_copy(struct __sk_buff *skb, __u32 stage, __u32 flow, const struct tally *wire,
					    __u32 copied_bytes)
{
	trace_copy(skb->mark, stage | (flow & FLOW_SHOWN_MASK) << 8, wire, copied_bytes);
}

/* The flow of a copy that has its outer headers, by its outer source port. */
static __always_inline __u32 flow_of_copy(struct __sk_buff *skb, const struct delivery *to)
{
	__be16 port_be = 0;

	bpf_skb_load_bytes(skb, ETHERNET_BYTES + (to->family == 6 ? 40 : 20), &port_be, sizeof(port_be));
	return bpf_ntohs(port_be);
}

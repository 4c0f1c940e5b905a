// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* The data plane, in the order a packet goes:
 *
 *   production packet → hook_ingress, hook_egress   parse, classify, count, clone into a hop
 *   wrapping hop      → wrap                         outer headers for a whole super-packet
 *   finishing hop     → finish                       the kernel splits and completes checksums; tags, cut, outer headers
 *
 * A hop is a private veth pair, on which copies wait until production is handed on; each CPU has a lane of both. The
 * wrapping hop, and then the finishing one, is for sessions with super-packets; the others take the finishing one alone.
 *
 * The hooks never change, delay or decide about the production packet: they return TCX_NEXT, and the only field they
 * write, skb->mark, is as it was before they return. What they drop is no production: the error with which a target
 * answers to a copy (streams.h).
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "abi.h"
#include "maps.h"
#include "parse.h"
#include "count.h"
#include "trees.h"
#include "classify.h"
#include "remember.h"
#include "streams.h"
#include "cap.h"
#include "encap.h"
#include "home.h"

#define AF_INET 2
#define SUPER_PACKETS_GONE_NS 1000000000ull

/* clang puts into BTF only the types which something uses; tests/kernel/test_abi.py reads these. */
static const enum direction abi_direction __attribute__((used));
static const enum interface_outcome abi_outcome __attribute__((used));
static const enum verdict abi_verdict __attribute__((used));
static const enum stage abi_stage __attribute__((used));

static __always_inline const struct interface_policy *policy_of(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, first = 0;
	void *policy = bpf_map_lookup_elem(&interfaces, &ifindex);

	return policy && is_at_home(skb) ? bpf_map_lookup_elem(policy, &first) : NULL;
}

/* All packets of a session go one way at a time, so that they stay in order: those after a super-packet take its longer
 * way too, until none was seen for so long that none can be on it. */
static __always_inline bool takes_wrapping_hop(struct __sk_buff *skb, const struct session_policy *session)
{
	__u32 slot = session->mark & MARK_SLOT_MASK;
	__u64 *seen_ns = bpf_map_lookup_elem(&super_packet_seen, &slot);

	if (!seen_ns)
		return true;
	if (skb->gso_size) {
		*seen_ns = bpf_ktime_get_ns();
		return true;
	}
	return *seen_ns && bpf_ktime_get_ns() - *seen_ns < SUPER_PACKETS_GONE_NS;
}

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

static __always_inline void clone_into_hop(struct __sk_buff *skb, const struct interface_policy *policy,
					   const struct session_policy *session, __u32 direction,
					   const struct headers *headers, const struct tally *wire)
{
	const struct lane *lane;
	__u32 mark = skb->mark;
	long failed = -1;

	if (session->stage != STAGE_SENT) {
		count_stage(session->ledger_row, direction, session->stage, wire);
		return;
	}
	if (is_capped(policy, session, wire)) {
		count_stage(session->ledger_row, direction, STAGE_CAPPED, wire);
		return;
	}
	lane = lane_of(headers);
	if (lane) {
		skb->mark = session->mark | direction << MARK_DIRECTION_SHIFT;
		failed = bpf_clone_redirect(
			skb, takes_wrapping_hop(skb, session) ? lane->wrapping_ifindex : lane->finishing_ifindex, 0);
		skb->mark = mark;
	}
	if (failed)	/* never the verdict of the production packet */
		count_stage(session->ledger_row, direction, STAGE_CLONE_FAILED, wire);
}

/* Offers the packet to the sessions; at most one takes it. */
static __always_inline __u32 offer(struct __sk_buff *skb, const struct interface_policy *policy, __u32 direction,
				   const struct headers *headers, const struct tally *wire)
{
	struct decision decision = { .taken_by = SESSIONS_MAX };

	decide_all(policy, direction, headers, &decision);
	count_verdicts(policy, &decision, direction, wire);
	decided(&decision);
	if (decision.taken_by >= SESSIONS_MAX)
		return OUTCOME_NOT_TAKEN;
	clone_into_hop(skb, policy, &policy->sessions[decision.taken_by], direction, headers, wire);
	return OUTCOME_TAKEN;
}

/* A bridge floods frames for others to every port: what an interface receives is what is addressed to it (spec 5.20). */
static __always_inline bool is_for_somebody_else(const struct headers *headers, const struct interface_policy *policy)
{
	const __u8 *mac = headers->destination_mac;
	__u8 different = 0;

	if (mac[0] & 1)
		return false;
	for (int i = 0; i < 6; i++)
		different |= mac[i] ^ policy->mac[i];
	return different;
}

static __always_inline int mirror(struct __sk_buff *skb, bool at_ingress)
{
	const struct interface_policy *policy = policy_of(skb);
	struct headers headers = {};
	__u32 direction, outcome, refused_row = 0, is_certain = false;
	struct tally wire;
	int parsed;

	if (!policy)
		return TCX_NEXT;
	direction = at_ingress == !policy->is_host_side ? DIRECTION_INGRESS : DIRECTION_EGRESS;
	parsed = parse(skb, &headers);
	measure(skb, parsed == PARSED_IP ? &headers : NULL, &wire);

	if ((skb->mark & MARK_MAGIC_MASK) == MARK_MAGIC)
		outcome = OUTCOME_OWN_COPY;
	else if (direction == DIRECTION_INGRESS && is_for_somebody_else(&headers, policy))
		outcome = OUTCOME_NOT_FOR_THIS_INTERFACE;
	else if (parsed == PARSED_ARP)
		outcome = OUTCOME_NEVER_MIRRORED;
	else if (parsed == PARSED_NOT_IP)
		outcome = OUTCOME_NOT_IP;
	else if (parsed == PARSED_MALFORMED)
		outcome = OUTCOME_MALFORMED;
	else if (is_never_mirrored(policy->exclusion_slot, &headers))
		outcome = OUTCOME_NEVER_MIRRORED;
	else if (is_copy_on_the_wire(skb, &headers))
		outcome = OUTCOME_OWN_COPY;
	else if (is_error_about_a_copy(skb, &headers, &refused_row, &is_certain))
		outcome = OUTCOME_TARGET_REFUSED;
	else
		outcome = offer(skb, policy, direction, &headers, &wire);

	count_outcome(policy->ledger_row, direction, outcome, &wire);
	if (outcome == OUTCOME_TARGET_REFUSED && direction == DIRECTION_INGRESS) {
		count_stage(refused_row, direction, STAGE_TARGET_REFUSED, &wire);
		if (is_certain)
			return TCX_DROP; /* the source has sent nothing that it could be about */
	}
	return TCX_NEXT; /* a mirror never decides the fate of a packet of production */
}

SEC("tc")
int hook_ingress(struct __sk_buff *skb)
{
	return mirror(skb, true);
}

SEC("tc")
int hook_egress(struct __sk_buff *skb)
{
	return mirror(skb, false);
}

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

/* Whose copy this is. NULL where it is nobody's, or nobody's any more; it is counted then. */
static __always_inline const struct delivery *delivery_of(struct __sk_buff *skb)
{
	__u32 direction = direction_of(skb);
	__u32 generation = skb->mark >> MARK_GENERATION_SHIFT & MARK_GENERATION_MASK;
	__u32 slot = skb->mark & MARK_SLOT_MASK;
	const struct delivery *to = bpf_map_lookup_elem(&deliveries, &slot);
	struct headers headers = {};
	struct tally wire;

	if ((skb->mark & MARK_MAGIC_MASK) == MARK_MAGIC && to && generation == to->generation)
		return to;
	measure(skb, skb->gso_size && parse(skb, &headers) == PARSED_IP ? &headers : NULL, &wire);
	if ((skb->mark & MARK_MAGIC_MASK) == MARK_MAGIC && to) {
		if (generation == to->retired_generation) {
			count_stage(to->retired_ledger_row, direction, STAGE_STALE, &wire);
			return NULL;
		}
	}
	count_stray(&wire);
	return NULL;
}

/* Where a copy that is encapsulated goes. */
static __always_inline int send_to(const struct delivery *to)
{
	struct bpf_redir_neigh next_hop = { .nh_family = AF_INET, .ipv4_nh = to->next_hop_be };

	return bpf_redirect_neigh(to->ifindex, &next_hop, sizeof(next_hop), 0);
}

static __always_inline int fail(struct __sk_buff *skb, const struct delivery *to, const struct tally *wire)
{
	count_stage(to->ledger_row, direction_of(skb), STAGE_ENCAPSULATION_FAILED, wire);
	return TCX_DROP;
}

/* One packet as it is on the wire: tags, cut, outer headers. */
static __always_inline int send_packet(struct __sk_buff *skb, const struct delivery *to, const struct headers *headers)
{
	__u32 direction = direction_of(skb), inner_bytes;
	struct tally wire = { .packets = 1, .bytes = skb->len + (skb->vlan_present ? VLAN_BYTES : 0) };
	struct tally sent = { .packets = 1 };

	inner_bytes = encapsulate_frame(skb, to, headers);
	if (!inner_bytes)
		return fail(skb, to, &wire);
	sent.bytes = inner_bytes;
	count_stage(to->ledger_row, direction, STAGE_SENT, &sent);
	if (inner_bytes == to->room_bytes_max && wire.bytes > inner_bytes &&
	    (!to->packet_bytes_max || to->packet_bytes_max > inner_bytes))
		count_stage(to->ledger_row, direction, STAGE_CUT, &sent);
	return send_to(to);
}

/* A super-packet each of whose segments has room at the target gets its outer headers here, once; the kernel repeats
 * them when it splits it. */
static __always_inline bool has_room_as_a_whole(struct __sk_buff *skb, const struct delivery *to,
						const struct headers *headers)
{
	__u32 header_bytes;

	if (skb->vlan_present || to->packet_bytes_max)
		return false;
	header_bytes = segment_header_bytes(skb, headers);
	return header_bytes && header_bytes + skb->gso_size <= to->room_bytes_max;
}

/* At the far end of the wrapping hop. */
SEC("tc")
int wrap(struct __sk_buff *skb)
{
	const struct delivery *to = delivery_of(skb);
	struct tally wire = { .packets = 1, .bytes = skb->len };
	struct headers headers = {};
	const struct lane *lane;

	if (!to)
		return TCX_DROP;
	if (parse(skb, &headers) != PARSED_IP)
		return fail(skb, to, &wire);
	lane = lane_of(&headers);
	if (!lane)
		return fail(skb, to, &wire);
	if (skb->gso_size && has_room_as_a_whole(skb, to, &headers) && !wrap_whole(skb, to, &headers))
		skb->mark |= MARK_WRAPPED;
	return bpf_redirect(lane->finishing_ifindex, 0);
}

/* At the far end of the finishing hop: everything here is a copy of wire size, and is sent or dropped, never passed on
 * to this host. */
SEC("tc")
int finish(struct __sk_buff *skb)
{
	const struct delivery *to = delivery_of(skb);
	struct tally wire = { .packets = 1, .bytes = skb->len + (skb->vlan_present ? VLAN_BYTES : 0) };
	struct headers headers = {};
	int parsed;

	if (!to)
		return TCX_DROP;
	if (skb->mark & MARK_WRAPPED) {
		wire.bytes -= ETHERNET_BYTES + OUTER_BYTES;
		if (skb->gso_size || clear_outer_id(skb))
			return fail(skb, to, &wire);
		count_stage(to->ledger_row, direction_of(skb), STAGE_SENT, &wire);
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

/* A device with a generic XDP program merges nothing on receive (netif_elide_gro), so this keeps copies apart while the
 * hop's far end is polled. Frames that come from a tc redirect do not run it. */
SEC("xdp")
int keep_apart(struct xdp_md *frame __attribute__((unused)))
{
	return XDP_PASS;
}

/* The helpers used here are for programs under the GPL; this file is dual-licensed. */
char _license[] SEC("license") = "GPL";

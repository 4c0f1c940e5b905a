// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* The data plane, in the order a packet goes:
 *
 *   production packet → hook_ingress, hook_egress   parse, classify, count, clone into a hop
 *   before a hop      → leave_ahead                  outer headers for what leaves whole by a card, which never enters
 *   wrapping hop      → wrap                         outer headers for a whole super-packet
 *   finishing hop     → finish                       the kernel splits and completes checksums; tags, cut, outer headers
 *   splitting hop     → finish_split                 the same
 *
 * A hop is a private veth pair; each CPU has a lane of all three. hops.h says which way a copy goes.
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
#include "exclusions.h"
#include "classify.h"
#include "remember.h"
#include "streams.h"
#include "cap.h"
#include "lease.h"
#include "encap.h"
#include "encap6.h"
#include "hops.h"
#include "shortcut.h"
#include "trace.h"
#include "home.h"
#include "probe.h"
#include "deliver.h"

/* clang puts into BTF only the types which something uses; tests/kernel/test_abi.py reads these. */
static const enum direction abi_direction __attribute__((used));
static const enum interface_outcome abi_outcome __attribute__((used));
static const enum verdict abi_verdict __attribute__((used));
static const enum stage abi_stage __attribute__((used));

static __noinline const struct interface_policy *far_policy(__u32 ifindex)
{
	void *policy = bpf_map_lookup_elem(&far_interfaces, &ifindex);
	__u32 first = 0;

	return policy ? bpf_map_lookup_elem(policy, &first) : NULL;
}

static __always_inline const struct interface_policy *policy_of(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, first = 0;
	void *policy;

	if (!is_at_home(skb))
		return NULL;
	if (ifindex >= NEAR_INTERFACES)
		return far_policy(ifindex);
	policy = bpf_map_lookup_elem(&interfaces, &ifindex);
	return policy ? bpf_map_lookup_elem(policy, &first) : NULL;
}

/* Returns where the copy has come to; what is cloned is on its way to be STAGE_SENT. */
static __always_inline __u32 clone_into_hop(struct __sk_buff *skb, const struct interface_policy *policy,
					    const struct session_policy *session, __u32 direction,
					    const struct headers *headers, const struct tally *wire, bool traced)
{
	const struct lane *lane;
	__u32 mark = skb->mark;
	bool wraps;
	long failed = -1;

	if (session->stage != STAGE_SENT) {
		count_stage(session->ledger_row, direction, session->stage, wire);
		return session->stage;
	}
	if (is_lease_over(policy)) {
		count_stage(session->ledger_row, direction, STAGE_LEASE_ENDED, wire);
		return STAGE_LEASE_ENDED;
	}
	if (is_capped(policy, session, wire)) {
		count_stage(session->ledger_row, direction, STAGE_CAPPED, wire);
		return STAGE_CAPPED;
	}
	lane = lane_of(headers);
	if (lane) {
		wraps = takes_wrapping_hop(skb, session);
		skb->mark = session->mark | direction << MARK_DIRECTION_SHIFT | (traced ? MARK_TRACED : 0);
		failed = bpf_clone_redirect(skb, wraps ? lane->wrapping_ifindex : lane->finishing_ifindex, 0);
		skb->mark = mark;
		if (!failed && !wraps)
			enter_hop(1);
	}
	if (!failed)
		return STAGE_SENT;
	count_stage(session->ledger_row, direction, STAGE_CLONE_FAILED, wire);	/* never production's verdict */
	return STAGE_CLONE_FAILED;
}

/* Why no session is asked about an IP packet; OUTCOME_COUNT where they are. */
static __always_inline __u32 kept_from_sessions(struct __sk_buff *skb, const struct interface_policy *policy,
						const struct headers *headers, struct refusal *refusal)
{
	if (is_never_mirrored(policy->exclusion_slot, headers))
		return OUTCOME_NEVER_MIRRORED;
	if (may_be_copy_on_the_wire(headers) && is_copy_on_the_wire(skb, headers))
		return OUTCOME_OWN_COPY;
	if (may_be_error_about_a_copy(headers))
		refusal->error = error_about_a_copy(skb, headers, &refusal->ledger_row);
	return refusal->error ? OUTCOME_TARGET_REFUSED : OUTCOME_COUNT;
}

/* Offers an IP packet to the sessions; at most one takes it. That a flow is remembered also says that it is not kept from
 * them. Not so for what depends on more than is remembered: a copy, by its VNI, and any ICMP, by its type. */
static __always_inline __u32 offer(struct __sk_buff *skb, const struct interface_policy *policy, __u32 direction,
				   const struct headers *headers, const struct tally *wire, bool traced,
				   struct decision *decision, struct refusal *refusal, __u32 *stage)
{
	bool remembered = is_remembered(policy, direction, headers, decision);
	__u32 kept;

	if (!remembered || may_be_copy_on_the_wire(headers) || may_be_error_about_a_copy(headers)) {
		kept = kept_from_sessions(skb, policy, headers, refusal);
		if (kept != OUTCOME_COUNT) {
			decided(decision);
			return kept;
		}
	}
	if (!remembered)
		decide_anew(policy, direction, headers, decision);
	count_verdicts(policy, decision, direction, wire);
	decided(decision);
	if (decision->taken_by >= SESSIONS_MAX)
		return OUTCOME_NOT_TAKEN;
	*stage = clone_into_hop(skb, policy, &policy->sessions[decision->taken_by], direction, headers, wire, traced);
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
	struct decision decision = { .taken_by = SESSIONS_MAX };
	struct refusal refusal = { .error = ABOUT_NO_COPY };
	__u32 direction, outcome, stage = STAGE_COUNT;
	struct tally wire;
	bool traced;
	int parsed;

	if (!policy)
		return TCX_NEXT;
	direction = at_ingress == !policy->is_host_side ? DIRECTION_INGRESS : DIRECTION_EGRESS;
	parsed = parse(skb, &headers);
	measure(skb, parsed == PARSED_IP ? &headers : NULL, &wire);
	traced = is_traced(skb, direction, &headers);

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
	else
		outcome = offer(skb, policy, direction, &headers, &wire, traced, &decision, &refusal, &stage);

	count_outcome(policy->ledger_row, direction, outcome, &wire, skb->len);
	if (traced)
		trace_decision(policy, &headers, &decision, &wire, direction | outcome << 8 | stage << 16);
	if (outcome == OUTCOME_TARGET_REFUSED && direction == DIRECTION_INGRESS) {
		count_stage(refusal.ledger_row, direction, STAGE_TARGET_REFUSED, &wire);
		if (refusal.error == IS_ABOUT_A_COPY)
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

/* Before the wrapping hop: what may leave whole, by a card, leaves from here, and waits nowhere. All else enters the hop,
 * and counts as waiting until it has left it, so that nothing overtakes it. */
SEC("tc")
int leave_ahead(struct __sk_buff *skb)
{
	__u32 slot = skb->mark & MARK_SLOT_MASK;
	const struct delivery *to = bpf_map_lookup_elem(&deliveries, &slot);
	struct headers headers = {};
	struct tally wire;

	if (to && to->leaves_ahead && is_delivered_by(skb, to) && !(skb->mark & MARK_PROBE) &&
	    !passes_finishing_hop(slot) && parse(skb, &headers) == PARSED_IP) {
		measure(skb, &headers, &wire);
		if (is_wrapped_whole(skb, to, &headers, true) && !wrap_whole(skb, to, &headers))
			return send_whole(skb, to, &headers, &wire);
	}
	enter_hop(1);
	return TCX_NEXT;
}

/* At the far end of the wrapping hop. */
SEC("tc")
int wrap(struct __sk_buff *skb)
{
	const struct delivery *to = delivery_of(skb);
	struct tally wire = { .packets = 1, .bytes = skb->len };
	struct headers headers = {};
	const struct lane *lane;
	bool queues, leaves;

	leave_hop();
	if (!to)
		return TCX_DROP;
	if (parse(skb, &headers) != PARSED_IP)
		return fail(skb, to, &wire);
	measure(skb, &headers, &wire);
	queues = passes_finishing_hop(skb->mark & MARK_SLOT_MASK) ||
		 (skb->mark & MARK_PROBE && !has_super_packets(skb->mark & MARK_SLOT_MASK));
	leaves = to->leaves_whole && !queues;
	lane = lane_of(&headers);
	if (!lane)
		return fail(skb, to, &wire);
	if (is_wrapped_whole(skb, to, &headers, leaves) && !wrap_whole(skb, to, &headers)) {
		if (leaves)
			return send_whole(skb, to, &headers, &wire);
		skb->mark |= MARK_WRAPPED;
	}
	if (!queues)
		return bpf_redirect(lane->splitting_ifindex, 0);
	enter_hop(wire.packets);
	return bpf_redirect(lane->finishing_ifindex, 0);
}

SEC("tc")
int finish(struct __sk_buff *skb)
{
	if ((skb->mark & MARK_MAGIC_MASK) == MARK_MAGIC)	/* nobody has counted how a stray came in */
		leave_hop();
	return finish_packet(skb);
}

SEC("tc")
int finish_split(struct __sk_buff *skb)
{
	return finish_packet(skb);
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

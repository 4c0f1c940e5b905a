// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* The data plane, in the order a packet goes:
 *
 *   production packet → hook_ingress, hook_egress   parse, classify, count, clone into the hop
 *   the hop           → a private veth pair          the kernel splits a super-packet and completes its checksums
 *   copy              → encapsulate                  tags, cut, outer headers, send
 *
 * The hooks never change, delay or decide about the production packet: they return TCX_NEXT on every path, and the
 * only field they write, skb->mark, is as it was before they return.
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
#include "encap.h"

#define AF_INET 2

/* clang puts into BTF only the types which something uses; tests/kernel/test_abi.py reads these. */
static const enum direction abi_direction __attribute__((used));
static const enum interface_outcome abi_outcome __attribute__((used));
static const enum verdict abi_verdict __attribute__((used));
static const enum stage abi_stage __attribute__((used));

static __always_inline const struct interface_policy *policy_of(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, first = 0;
	void *policy = bpf_map_lookup_elem(&interfaces, &ifindex);

	return policy ? bpf_map_lookup_elem(policy, &first) : NULL;
}

static __always_inline void clone_into_hop(struct __sk_buff *skb, const struct interface_policy *policy,
					   const struct session_policy *session, __u32 direction,
					   const struct tally *wire)
{
	__u32 mark = skb->mark;
	long failed;

	if (session->stage != STAGE_SENT) {
		count_stage(session->ledger_row, direction, session->stage, wire);
		return;
	}
	skb->mark = session->mark | direction << MARK_DIRECTION_SHIFT;
	failed = bpf_clone_redirect(skb, policy->hop_ifindex, 0);
	skb->mark = mark;
	if (failed)	/* never the verdict of the production packet */
		count_stage(session->ledger_row, direction, STAGE_CLONE_FAILED, wire);
}

/* Offers the packet to the sessions; at most one takes it. */
static __always_inline __u32 offer(struct __sk_buff *skb, const struct interface_policy *policy, __u32 direction,
				   const struct headers *headers, const struct tally *wire)
{
	struct decision decision = {};

	decide_all(policy, direction, headers, &decision);
	count_verdicts(policy, &decision, direction, wire);
	if (decision.taken_by >= SESSIONS_MAX)
		return OUTCOME_NOT_TAKEN;
	clone_into_hop(skb, policy, &policy->sessions[decision.taken_by], direction, wire);
	return OUTCOME_TAKEN;
}

/* A bridge floods frames for others to every port: what an interface receives is what is addressed to it (spec 5.20). */
static __always_inline bool is_for_somebody_else(struct __sk_buff *skb, const struct interface_policy *policy)
{
	__u8 mac[6];
	__u8 different = 0;

	if (bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)) || mac[0] & 1)
		return false;
	for (int i = 0; i < 6; i++)
		different |= mac[i] ^ policy->mac[i];
	return different;
}

static __always_inline int mirror(struct __sk_buff *skb, bool at_ingress)
{
	const struct interface_policy *policy = policy_of(skb);
	struct headers headers = {};
	__u32 direction, outcome;
	struct tally wire;
	int parsed;

	if (!policy)
		return TCX_NEXT;
	direction = at_ingress == !policy->is_host_side ? DIRECTION_INGRESS : DIRECTION_EGRESS;
	parsed = parse(skb, &headers);
	measure(skb, parsed == PARSED_IP ? &headers : NULL, &wire);

	if ((skb->mark & MARK_MAGIC_MASK) == MARK_MAGIC)
		outcome = OUTCOME_OWN_COPY;
	else if (direction == DIRECTION_INGRESS && is_for_somebody_else(skb, policy))
		outcome = OUTCOME_NOT_FOR_THIS_INTERFACE;
	else if (parsed == PARSED_ARP)
		outcome = OUTCOME_NEVER_MIRRORED;
	else if (parsed == PARSED_NOT_IP)
		outcome = OUTCOME_NOT_IP;
	else if (parsed == PARSED_MALFORMED)
		outcome = OUTCOME_MALFORMED;
	else if (is_never_mirrored(policy->exclusion_slot, &headers))
		outcome = OUTCOME_NEVER_MIRRORED;
	else
		outcome = offer(skb, policy, direction, &headers, &wire);

	count_outcome(policy->ledger_row, direction, outcome, &wire);
	return TCX_NEXT; /* a mirror never decides the fate of a packet */
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

/* At the far end of the hop: everything here is a copy, and is sent or dropped, never passed on to this host. */
SEC("tc")
int encapsulate(struct __sk_buff *skb)
{
	__u32 direction = skb->mark >> MARK_DIRECTION_SHIFT & 1;
	__u32 generation = skb->mark >> MARK_GENERATION_SHIFT & MARK_GENERATION_MASK;
	__u32 slot = skb->mark & MARK_SLOT_MASK;
	const struct delivery *to = bpf_map_lookup_elem(&deliveries, &slot);
	struct bpf_redir_neigh next_hop = { .nh_family = AF_INET };
	struct headers headers = {};
	struct tally wire, sent = { .packets = 1 };
	__u32 inner_bytes, whole_bytes;
	int parsed;

	whole_bytes = skb->len + (skb->vlan_present ? VLAN_BYTES : 0);
	wire.packets = 1;
	wire.bytes = whole_bytes;
	if ((skb->mark & MARK_MAGIC_MASK) != MARK_MAGIC || !to) {
		count_stray(&wire);
		return TCX_DROP;
	}
	if (generation != to->generation) {
		if (generation == to->retired_generation)
			count_stage(to->retired_ledger_row, direction, STAGE_STALE, &wire);
		else
			count_stray(&wire);
		return TCX_DROP;
	}
	parsed = parse(skb, &headers);
	/* A super-packet that the hop did not split carries a tunnel of the sender's own. */
	if (skb->gso_size || parsed != PARSED_IP) {
		measure(skb, parsed == PARSED_IP ? &headers : NULL, &wire);
		count_stage(to->ledger_row, direction, STAGE_ENCAPSULATION_FAILED, &wire);
		return TCX_DROP;
	}
	inner_bytes = encapsulate_frame(skb, to, &headers);
	if (!inner_bytes) {
		count_stage(to->ledger_row, direction, STAGE_ENCAPSULATION_FAILED, &wire);
		return TCX_DROP;
	}
	sent.bytes = inner_bytes;
	count_stage(to->ledger_row, direction, STAGE_SENT, &sent);
	if (inner_bytes == to->room_bytes_max && whole_bytes > inner_bytes &&
	    (!to->packet_bytes_max || to->packet_bytes_max > inner_bytes))
		count_stage(to->ledger_row, direction, STAGE_CUT, &sent);
	next_hop.ipv4_nh = to->next_hop_be;
	return bpf_redirect_neigh(to->ifindex, &next_hop, sizeof(next_hop), 0);
}

/* The helpers used here are for programs under the GPL; this file is dual-licensed. */
char _license[] SEC("license") = "GPL";

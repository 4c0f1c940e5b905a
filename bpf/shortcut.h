/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The short way of a copy to a target on this host: into its device, past the neighbour table and the bridge. What hangs
 * on the device (tcx, nft's egress hook, its counters) sees the copy as it would else. agent/shortcuts.py says which
 * deliveries have one. */
#pragma once

#define AGENT_AWAY_NS 5000000000ull	/* it looks each second */

/* Whether what the agent knows of a target's place is still looked after. */
static __always_inline bool is_agent_here(void)
{
	__u32 first = 0;
	const __u64 *looked_ns = bpf_map_lookup_elem(&agent_looked, &first);

	return looked_ns && bpf_ktime_get_coarse_ns() < *looked_ns + AGENT_AWAY_NS;
}

/* For a copy of wire size that has its headers; -1 where it has to go as the kernel finds the way. */
static __always_inline int send_short(const struct delivery *to)
{
	return to->port_ifindex && is_agent_here() ? (int)bpf_redirect(to->port_ifindex, 0) : -1;
}

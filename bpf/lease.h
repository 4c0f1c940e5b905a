/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A host with a lease copies only as long as its control plane has been heard of lately, whether an agent is at work or
 * not. Nobody else pays for that: what is looked up here is only where there is a lease. Time goes on while the machine
 * is suspended. */
#pragma once

static __always_inline bool is_lease_over(const struct interface_policy *policy)
{
	const __u64 *heard_ns;
	__u32 first = 0;

	if (!policy->lease_ns)
		return false;
	heard_ns = bpf_map_lookup_elem(&control_heard, &first);
	return !heard_ns || bpf_ktime_get_boot_ns() > *heard_ns + policy->lease_ns;
}

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* How much copying there may be: by session, and by CPU, so that production keeps its share of each (spec 1.9).
 *
 * A bucket is one number, the time up to which its rate is spent; it is never further behind the clock than a burst.
 * Any packet passes while that time has not come, and what it costs is put on top: a super-packet may cost more than is
 * left, and the next ones wait it out. So there is no lock, and the average holds. */
#pragma once

/* What may be saved up: of a session's cap a tenth of a second, of a CPU's budget a twentieth: what is copied at once
 * stands in the CPU's backlog, which has a place for a thousand packets, production's too. */
#define CAP_BURST_TICKS (100ull * 1000 * 1000 * CAP_TICKS_PER_NS)
#define BUDGET_BURST_TICKS (CAP_BURST_TICKS / 2)

static __always_inline bool is_spent(const struct cap *cap, const struct bucket *bucket, __u64 now)
{
	return (cap->packet_ticks && bucket->packets >= now) || (cap->byte_ticks && bucket->bytes >= now);
}

static __always_inline void charge(__u64 *spent, __u64 now, __u64 ticks, __u64 burst_ticks)
{
	__u64 old = *spent, from = now - burst_ticks;

	if (!ticks)
		return;
	if (old > from)
		from = old;
	if (__sync_val_compare_and_swap(spent, old, from + ticks) != old)
		__sync_fetch_and_add(spent, ticks);	/* another CPU was first, and has caught up with the clock */
}

static __always_inline void spend(const struct cap *cap, struct bucket *bucket, __u64 now, __u64 burst_ticks,
				  const struct tally *wire)
{
	charge(&bucket->packets, now, cap->packet_ticks * wire->packets, burst_ticks);
	charge(&bucket->bytes, now, cap->byte_ticks * wire->bytes, burst_ticks);
}

static __always_inline bool is_capped(const struct interface_policy *policy, const struct session_policy *session,
				      const struct tally *wire)
{
	__u32 row = session->ledger_row, first = 0;
	struct bucket *of_session, *of_cpu;
	__u64 now;

	if (!policy->budget.packet_ticks && !policy->budget.byte_ticks && !session->cap.packet_ticks &&
	    !session->cap.byte_ticks)
		return false;
	of_session = bpf_map_lookup_elem(&session_buckets, &row);
	of_cpu = bpf_map_lookup_elem(&cpu_bucket, &first);
	if (!of_session || !of_cpu)
		return false;
	now = bpf_ktime_get_ns() * CAP_TICKS_PER_NS;
	if (is_spent(&session->cap, of_session, now) || is_spent(&policy->budget, of_cpu, now))
		return true;
	spend(&session->cap, of_session, now, CAP_BURST_TICKS, wire);
	spend(&policy->budget, of_cpu, now, BUDGET_BURST_TICKS, wire);
	return false;
}

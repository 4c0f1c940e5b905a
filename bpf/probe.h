/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Probes: frames that the agent puts into a hop under the mark of a session's copies, to learn whether these arrive
 * (`pktmirror verify`). They are treated as copies in all but the count: the figures of production are of production. */
#pragma once

/* Where this counts, for which a copy counts as stage. */
static __always_inline __u32 stage_of(struct __sk_buff *skb, __u32 stage)
{
	if (!(skb->mark & MARK_PROBE))
		return stage;
	return stage == STAGE_SENT ? STAGE_PROBE_SENT : STAGE_PROBE_LOST;
}

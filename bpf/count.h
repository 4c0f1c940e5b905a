/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The ledger. A figure is in packets as they are on the wire: a segmentation-offload super-packet counts as the
 * packets that it becomes. */
#pragma once

static __always_inline void add(struct tally *tally, const struct tally *more)
{
	tally->packets += more->packets;
	tally->bytes += more->bytes;
}

/* How long the headers are that each segment of a super-packet carries; 0 where that is not known. */
static __always_inline __u32 segment_header_bytes(struct __sk_buff *skb, const struct headers *headers)
{
	__u32 offset = headers->l4_offset - headers->jumbo_bytes;
	__u8 data_offset;

	if (headers->protocol == PROTOCOL_UDP)
		return offset + 8;
	if (headers->protocol != PROTOCOL_TCP || bpf_skb_load_bytes(skb, headers->l4_offset + 12, &data_offset, 1))
		return 0;
	return offset + (data_offset >> 4) * 4;
}

/* What the skb becomes on the wire. It is computed, since gso_segs is zero for frames from a VM's tap; every segment
 * carries the headers again. A tunnel of the sender's own has headers within that are not read here: then the
 * sender's number of segments counts, and the bytes are those of the super-packet. headers: NULL where the frame has
 * none that we read. */
static __always_inline void measure(struct __sk_buff *skb, const struct headers *headers, struct tally *wire)
{
	__u32 bytes = skb->len + (skb->vlan_present ? 4 : 0), frame_bytes;
	__u32 header_bytes;
	__u32 packets;

	wire->packets = 1;
	wire->bytes = bytes;
	if (!skb->gso_size || !headers)
		return;
	if (headers->protocol != PROTOCOL_TCP && headers->protocol != PROTOCOL_UDP) {
		packets = skb->gso_segs;
		wire->packets = packets ? packets : 1;
		return;
	}
	header_bytes = segment_header_bytes(skb, headers);
	if (!header_bytes)
		return;
	frame_bytes = skb->len - headers->jumbo_bytes;
	if (frame_bytes <= header_bytes)
		return;
	packets = (frame_bytes - header_bytes + skb->gso_size - 1) / skb->gso_size;
	if (headers->protocol == PROTOCOL_UDP && skb->gso_segs && skb->gso_segs != packets) {
		wire->packets = skb->gso_segs;
		return;
	}
	wire->packets = packets;
	wire->bytes = bytes - headers->jumbo_bytes + (packets - 1) * (header_bytes + (skb->vlan_present ? 4 : 0));
}

/* The compiler sees through functions that the verifier checks one by one, and would drop a bound that only the
 * verifier still needs. */
#define keep_check(index) barrier_var(index)

/* frame_bytes: what the skb itself has. */
static __always_inline void count_outcome(__u32 row, __u32 direction, __u32 outcome, const struct tally *wire,
					  __u32 frame_bytes)
{
	struct interface_counters *counters = bpf_map_lookup_elem(&interface_ledger, &row);

	keep_check(direction);
	keep_check(outcome);
	if (counters && direction < DIRECTION_COUNT && outcome < OUTCOME_COUNT) {
		add(&counters->outcomes[direction][outcome], wire);
		if (wire->packets > 1 && frame_bytes < WHOLE_BYTES_MAX)
			counters->extra_packets[direction] += wire->packets - 1;
	}
}

static __always_inline void count_verdict(__u32 row, __u32 direction, __u32 verdict, const struct tally *wire)
{
	struct session_counters *counters = bpf_map_lookup_elem(&session_ledger, &row);

	keep_check(direction);
	keep_check(verdict);
	if (counters && direction < DIRECTION_COUNT && verdict < VERDICT_COUNT)
		add(&counters->verdicts[direction][verdict], wire);
}

static __always_inline void count_stage(__u32 row, __u32 direction, __u32 stage, const struct tally *wire)
{
	struct session_counters *counters = bpf_map_lookup_elem(&session_ledger, &row);

	keep_check(direction);
	keep_check(stage);
	if (counters && direction < DIRECTION_COUNT && stage < STAGE_COUNT)
		add(&counters->stages[direction][stage], wire);
}

/* As in mirror.bpf.c: what no program uses is not in BTF. */
static const struct meter_notes abi_meter_notes __attribute__((used));

/* A rule of a session has decided. `first`: of the session's meters. */
static __always_inline void count_meter(__u32 first, __u32 meter, const struct tally *wire)
{
	__u32 cpu = bpf_get_smp_processor_id(), number = first + meter, block = number / METERS_A_BLOCK;
	void *rows = bpf_map_lookup_elem(&meters, &block);
	struct meter_row *row;

	if (!rows)
		return;
	row = bpf_map_lookup_elem(rows, &cpu);
	if (row)
		add(&row->meters[number % METERS_A_BLOCK], wire);
}

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* All state of the data plane. Keys are __u32: an enum as key makes the kernel refuse the map's BTF. */
#pragma once

#define FILTER_SLACK_BYTES 512
#define NEAR_INTERFACES 65536
#define FLOWS_A_BLOCK 256	/* an element of a per-CPU array has at most 32 KiB */
#define FLOW_BLOCKS 16
#define TRACE_RING_BYTES 262144

struct flow {
	__u32 sequence;		/* odd while it is written */
	__u16 source_port;
	__u16 destination_port;
	__u64 generation;	/* of the policy that decided */
	__be32 source_be[4];
	__be32 destination_be[4];
	__u64 rejected;
	__u8 protocol;
	__u8 shape;
	__u8 taken_by;
	__u8 amazon_dns;
	__u16 meter;		/* of the session that takes it */
	__u16 rejection;	/* that of the first session that rejects it */
};

struct flow_block {
	struct flow flows[FLOWS_A_BLOCK];
};

/* By session: the meters of the rules that reject a flow, but for the first session that does. */
struct rejections {
	__u16 meters[SESSIONS_MAX];
};

struct rejections_block {
	struct rejections flows[FLOWS_A_BLOCK];
};

struct policy_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct interface_policy);
};

/* By ifindex, below NEAR_INTERFACES. A policy is replaced as a whole, by the pointer to its inner map; the kernel waits for
 * every program that still reads the old one (maybe_wait_bpf_programs) before the update returns. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, NEAR_INTERFACES);
	__type(key, __u32);
	__array(values, struct policy_map);
} interfaces SEC(".maps");

/* By ifindex, from there on. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, INTERFACES_MAX);
	__type(key, __u32);
	__array(values, struct policy_map);
} far_interfaces SEC(".maps");

/* All filters, side by side, each in cells of its own (abi.h, struct filter). One value, so that a program reads it
 * without a look-up for each node; the agent writes it through mmap. The bytes behind the last cell are never used:
 * they spare a comparison at each read. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__uint(value_size, FILTER_CELLS * CELL_BYTES + FILTER_SLACK_BYTES);
} filters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EXCLUSION_SLOTS);
	__type(key, __u32);
	__type(value, struct exclusion_table);
} exclusions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DELIVERY_SLOTS);
	__type(key, __u32);
	__type(value, struct delivery);
} deliveries SEC(".maps");

/* The value: the session's ledger row on this host, or none where another host mirrors. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, STREAMS_MAX);
	__type(key, struct stream);
	__type(value, __u32);
} streams SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LEDGER_ROWS);
	__type(key, __u32);
	__type(value, struct session_counters);
} session_ledger SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, INTERFACES_MAX);
	__type(key, __u32);
	__type(value, struct interface_counters);
} interface_ledger SEC(".maps");

/* By ledger row. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LEDGER_ROWS);
	__type(key, __u32);
	__type(value, struct bucket);
} session_buckets SEC(".maps");

/* Of each CPU: each has its share of the budget. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bucket);
} cpu_bucket SEC(".maps");

/* The netns cookie of the network namespace in which all ifindexes here mean what they should. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} home SEC(".maps");

/* Written before the first policy, and when a hop had to be made anew. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lanes);
} hop_lanes SEC(".maps");

/* When a session last took a super-packet, and since when there is no second without one, in ns of the monotonic clock;
 * 0: never. */
struct bulk {
	__u64 seen_ns;
	__u64 since_ns;
	__u32 passes_finishing_hop;	/* what is taken still queues behind what waits there */
	__u32 reserved;
};

/* By delivery slot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DELIVERY_SLOTS);
	__type(key, __u32);
	__type(value, struct bulk);
} bulks SEC(".maps");

/* How many copies have entered the wrapping and the finishing hops, and how many have left them. What is lost there never
 * leaves. */
struct passage {
	__u64 entered;
	__u64 left;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct passage);
} passages SEC(".maps");

/* When the agent last looked at devices, routes and neighbours, in ns of the monotonic clock. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} agent_looked SEC(".maps");

/* When the agent last heard of its control plane, in ns of CLOCK_BOOTTIME; 0: not since this machine started. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} control_heard SEC(".maps");

/* Frames that reach a hop and are no copy of ours. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tally);
} strays SEC(".maps");

/* Meters of rules. The agent makes a block when it needs one, and reads and clears it through mmap: of a per-CPU array
 * it could clear no element while others are counted in. So a block has a row for each CPU: max_entries 0 says that, to
 * kernel/bpf.py. The number is known at load, since only then is the look-up inlined; a call of a helper is dearer than
 * all else that is done for a meter. */
struct meter_row {
	struct tally meters[METERS_A_BLOCK];
};

struct meter_block {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 0);
	__type(key, __u32);
	__type(value, struct meter_row);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, METER_BLOCKS);
	__type(key, __u32);
	__array(values, struct meter_block);
} meters SEC(".maps");

/* What the agent alone reads and writes of a block. */
struct meter_notes_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct meter_notes);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, METER_BLOCKS);
	__type(key, __u32);
	__array(values, struct meter_notes_map);
} meter_notes SEC(".maps");

/* By ledger row; nobody but the agent reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LEDGER_ROWS);
	__type(key, __u32);
	__type(value, struct meter_range);
} meter_ranges SEC(".maps");

/* What was decided of a flow (remember.h); nobody but the programs reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FLOW_BLOCKS);
	__type(key, __u32);
	__type(value, struct flow_block);
} flows SEC(".maps");

/* What is traced, and what it came to: apart, since the first is read for each packet and the second is written. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace_request);
} trace SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace_state);
} trace_state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TRACE_RING_BYTES);
} trace_ring SEC(".maps");

/* A flow has the same place here as there. Apart, since they are larger than a flow, and few flows are rejected by two
 * sessions. The last block is for what is not remembered. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FLOW_BLOCKS + 1);
	__type(key, __u32);
	__type(value, struct rejections_block);
} flow_rejections SEC(".maps");

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The contract between the data plane (C) and the agent (src/pktmirror/agent/abi.py).
 *
 *  - Fixed-width fields, no unions, no bit-fields, no implicit padding.
 *  - A suffix _be says network byte order; without it, host order.
 *  - An agent adopts what was pinned by the very same object only, so a layout may change freely.
 *  - Filters, deliveries and exclusion tables are never written while something refers to them. The agent writes a
 *    free slot, or free cells, then swaps the interface's policy, which is one pointer: no packet sees half of a change.
 */
#pragma once

#define RULES_MAX 10000		/* per filter, both directions together */
#define SESSIONS_MAX 64		/* per interface */
#define RESOLVERS_MAX 8		/* per interface */
#define EXCLUSIONS_MAX 32	/* lines of the never-mirrored table */
#define HINT_BITS 256

#define INTERFACES_MAX 4096
#define CELL_BYTES 16
#define FILTER_CELLS 2097152	/* all filters of the host together: 32 MiB */
#define DELIVERY_SLOTS 16384	/* 14 of the mark's 16 bits */
#define METER_BLOCKS 2048	/* made when they are needed: 2 million meters, 16 bytes a CPU each */
#define METERS_A_BLOCK 1024
#define NO_METER 0x80000000	/* no block has it, nor any meter behind it */
#define EXCLUSION_SLOTS 8
#define LEDGER_ROWS 8192
#define LANES_MAX 64
#define STREAMS_MAX 65536
#define VNI_NOT_QUOTED 0xffffffff
#define WHOLE_BYTES_MAX 65536	/* GSO_LEGACY_MAX_SIZE: what is shorter is no BIG TCP */
#define CAP_TICKS_PER_NS 64	/* 300 million packets/s are then still exact to half a per cent */

/* The mark of a copy, the only thing that crosses a hop: magic, whether it is a probe, direction, generation, whether the
 * outer headers are on already, whether it is traced, delivery slot. The agent writes it into session_policy with the
 * probe, direction, wrapped and traced bits clear. */
#define MARK_MAGIC 0xd6000000
#define MARK_MAGIC_MASK 0xfe000000
#define MARK_PROBE 0x01000000	/* of the agent, and no copy (probe.h) */
#define MARK_DIRECTION_SHIFT 23
#define MARK_GENERATION_SHIFT 16
#define MARK_GENERATION_MASK 0x7f
#define MARK_WRAPPED 0x8000	/* has its outer headers already */
#define MARK_TRACED 0x4000	/* what becomes of it is told (trace.h) */
#define MARK_SLOT_MASK 0x3fff

enum direction { DIRECTION_INGRESS, DIRECTION_EGRESS, DIRECTION_COUNT };

enum interface_outcome {
	OUTCOME_TAKEN,
	OUTCOME_NOT_TAKEN,
	OUTCOME_NEVER_MIRRORED,
	OUTCOME_NOT_IP,
	OUTCOME_MALFORMED,
	OUTCOME_NOT_FOR_THIS_INTERFACE,
	OUTCOME_OWN_COPY,
	OUTCOME_TARGET_REFUSED,
	OUTCOME_COUNT
};

enum verdict {
	VERDICT_TAKEN,
	VERDICT_REJECTED_BY_RULE,
	VERDICT_NO_RULE_MATCHED,
	VERDICT_SERVICE_NOT_ENABLED,
	VERDICT_COUNT
};

enum stage {
	STAGE_CAPPED,
	STAGE_LEASE_ENDED,
	STAGE_CLONE_FAILED,
	STAGE_STALE,
	STAGE_NO_ROUTE,
	STAGE_NEIGHBOUR_UNRESOLVED,
	STAGE_UNDELIVERABLE,
	STAGE_ENCAPSULATION_FAILED,
	STAGE_SENT,
	STAGE_CUT,	/* this one and the next count beside SENT */
	STAGE_TARGET_REFUSED,
	STAGE_PROBE_SENT,	/* probes are not taken, and count nowhere else */
	STAGE_PROBE_LOST,
	STAGE_COUNT
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

/* The meters of a session, side by side: what its filter lets through as Amazon DNS, by direction; what rules that are
 * its filter's no longer had matched, by direction and then rejected, accepted; then one for each rule. */
#define METER_AMAZON_DNS 0
#define METER_FORMER 2
#define METER_RULES 6

/* Whose a meter is. Empty: of rules that are no longer there. */
struct meter_name {
	__u8 rule_id[30];	/* tmfr-… */
	__u8 direction;
	__u8 accepts;
};

/* Of a block of meters: what they begin with, and whose they are. */
struct meter_notes {
	struct tally carried[METERS_A_BLOCK];
	struct meter_name names[METERS_A_BLOCK];
};

/* The meters of the session that has this ledger row; next_*: those that its next policy counts in. */
struct meter_range {
	__u32 first;
	__u32 count;
	__u32 next_first;
	__u32 next_count;	/* 0: there are none */
	__u32 is_whole;		/* nothing was counted without a meter */
	__u32 is_used;
	__u8 digest[16];	/* of the names */
	__u8 next_digest[16];
};

/* What a filter asks of a packet: one number a word, in host order. An IPv6 address has four words, an IPv4 address the
 * first of them. */
#define WORD_SOURCE 0
#define WORD_DESTINATION 4
#define WORD_SOURCE_PORT 8
#define WORD_DESTINATION_PORT 9
#define WORD_PROTOCOL 10
#define WORDS 16		/* of which some are not used */

/* A rule's ports count for some packets only (spec 1.4.4, 5.8), so each kind of packet has trees of its own, of the
 * rules that it can match. */
#define PORTS_SHOWN 0		/* TCP, UDP: ports are compared */
#define PORTS_HIDDEN 1		/* TCP, UDP, a later fragment: rules that name ports do not match */
#define PORTS_MEANINGLESS 2	/* any other protocol: whatever a rule says of ports holds */
#define KINDS 3

/* What a rule says beside its addresses. */
struct criteria {
	__u16 source_port_first;
	__u16 source_port_last;
	__u16 destination_port_first;
	__u16 destination_port_last;
	__u8 protocol;
	__u8 protocol_mask;	/* 0: any protocol */
	__u8 accepts;
	__u8 reserved;
	__u16 number;
	__u16 meter;		/* of those of a session */
};

struct rule4 {
	__u32 source;
	__u32 source_mask;
	__u32 destination;
	__u32 destination_mask;
	struct criteria criteria;
};

struct rule6 {
	__u32 source[4];
	__u32 source_mask[4];
	__u32 destination[4];
	__u32 destination_mask[4];
	struct criteria criteria;
};

/* A node of a tree. Its four children stand side by side, and word_children says where the last of them begins, in bytes
 * from the filter's beginning: it is next from all thresholds on, and the first below all of them. The last word,
 * WORD_LEAF, is above all thresholds, and what is next after a leaf is the leaf itself. At the first of a leaf's
 * thresholds, counted in __u16, stand how many rules it has and their positions, ascending. */
#define WORD_LEAF 15
#define NODE_CHILDREN 4
#define TREE_DEPTH_MAX 40	/* leaves included */
#define TREES_MAX 4

struct node {
	__u32 thresholds[NODE_CHILDREN - 1];	/* ascending */
	__u32 word_children;	/* the lowest bits are the word */
};

/* Trees whose leaves name together all rules that a packet may match; the lowest position decides. All are walked at
 * once, step by step, since the steps of one tree wait for each other. */
struct forest {
	__u32 roots[TREES_MAX];		/* beyond tree_count: an empty leaf */
	__u16 positions_min[TREES_MAX];	/* the lowest in each tree, ascending */
	__u16 tree_count;
	__u16 steps;			/* from a root to the deepest leaf */
	__u32 reserved;
};

/* A filter begins so, at a cell of its own; then come rules, nodes and positions. All offsets are from its beginning:
 * of rules and of nodes in cells. Families are IPv4, IPv6. */
struct filter {
	__u32 cell_count;
	__u32 amazon_dns;		/* the network service is enabled */
	__u32 rules[DIRECTION_COUNT][2];	/* in ascending number; the place in this list is the position */
	struct forest forests[DIRECTION_COUNT][2][KINDS];
};

/* Which bit of a hint stands for a value: an address's words folded into one, or protocol << 16 | port. */
#define HINT_BIT(value) ((__u32)(value) * 0x9E3779B1u >> 24)

struct exclusion {
	__be32 address_be[4];
	__u16 first;		/* ports, or ICMPv6 types */
	__u16 last;
	__u8 family;		/* 0: any address of any family */
	__u8 protocol;
	__u8 protocol_mask;
	__u8 names_ports;
};

/* A packet none of whose bits is set in the hints concerns no line. agent/exclusions.py sets them. */
struct exclusion_table {
	__u32 addresses[HINT_BITS / 32];
	__u32 ports[HINT_BITS / 32];
	__u32 count;
	__u32 reserved;
	struct exclusion lines[EXCLUSIONS_MAX];
};

/* The devices that copies enter, one of each kind for each CPU. */
struct lane {
	__u32 wrapping_ifindex;
	__u32 finishing_ifindex;
	__u32 splitting_ifindex;
	__u32 reserved;
};

struct lanes {
	__u32 count;		/* 1 at least */
	struct lane lanes[LANES_MAX];
};

/* What a packet, and a byte, costs of a rate, in 1/64 ns; 0: it is not limited. */
struct cap {
	__u64 packet_ticks;
	__u64 byte_ticks;
};

/* Up to when a rate is spent, in 1/64 ns of the monotonic clock. */
struct bucket {
	__u64 packets;
	__u64 bytes;
};

struct session_policy {
	__u32 filter_cell;
	__u32 mark;
	__u32 stage;		/* STAGE_SENT: clone; anything else: clone nothing, and count what is taken as this */
	__u32 ledger_row;
	struct cap cap;
	__u32 meter;		/* the first of the session's; NO_METER: its rules are not counted */
	__u32 reserved;
};

struct interface_policy {
	__u64 generation;	/* of what is remembered of flows: never the same again; 0: nothing is remembered */
	__u32 ledger_row;
	__u32 session_count;
	__u32 exclusion_slot;
	__u32 resolver_count;
	__u8 mac[6];		/* of the source interface itself */
	__u8 is_host_side;	/* what this device receives is what the source sends */
	__u8 resolvers_ipv6;	/* bit i: resolver i is an IPv6 address */
	__be32 resolvers_be[RESOLVERS_MAX][4];
	struct cap budget;	/* of a CPU, for all interfaces of the host together */
	__u64 lease_ns;		/* so long copies are made without a word of the control plane; 0: for ever */
	struct session_policy sessions[SESSIONS_MAX];	/* in ascending session number */
};

/* Where the copies of one session go. retired_*: whose packets may still be on their way under this slot. An address is
 * four words, of which IPv4 has the first; the other three are zero. */
struct delivery {
	__u8 session_id[24];	/* tms-…, so that the kernel's state explains itself */
	__be32 outer_source_be[4];
	__be32 outer_destination_be[4];
	__be32 next_hop_be[4];
	__be16 port_be;
	__u16 generation;
	__u32 family;		/* 4 or 6, of all three */
	__u32 vni;
	__u32 ifindex;
	__u32 packet_bytes_max;	/* the session's packet length; 0: whole packets */
	__u32 room_bytes_max;	/* what the target's MTU leaves for the inner frame */
	__u32 ledger_row;
	__u32 retired_generation;	/* above MARK_GENERATION_MASK: none */
	__u32 retired_ledger_row;
	__u32 leaves_whole;	/* every packet of its source has room, and the device it leaves by splits super-packets
				 * and completes checksums: nothing is left to be done here */
	__u32 leaves_ahead;	/* and it takes no place in a queue of this host on its way */
	__u32 port_ifindex;	/* the target's device on this host, for the short way; 0: none */
	__u8 target_mac[6];
	__u8 source_mac[6];	/* from which the target's host sends to it: the bridge's */
};

/* How the copies of a session are known on the wire, whoever sends them. Each is there twice, once without its VNI. */
struct stream {
	__be32 outer_source_be[4];
	__be32 outer_destination_be[4];
	__u32 vni;		/* or VNI_NOT_QUOTED */
	__u16 port;
	__u16 family;
};

struct session_counters {
	struct tally verdicts[DIRECTION_COUNT][VERDICT_COUNT];
	struct tally stages[DIRECTION_COUNT][STAGE_COUNT];
};

/* extra_packets: what the packets of super-packets are beyond one each, so that packets - extra_packets are the frames
 * at the hook, which is what most virtual devices count. Those of BIG TCP are left out: a device may have to split them
 * before it counts them. */
struct interface_counters {
	struct tally outcomes[DIRECTION_COUNT][OUTCOME_COUNT];
	__u64 extra_packets[DIRECTION_COUNT];
};

/* Which packets of one interface are traced, and how many of them at the most (trace.h). */
struct trace_request {
	__u64 until_ns;		/* of the monotonic clock */
	__u64 packet_ticks;	/* what a packet costs of the rate, as in struct cap */
	__u32 id;		/* never the same again, as long as a record may be left; 0: nothing is traced */
	__u32 ifindex;
	__u32 packets_max;
	__u8 directions;	/* bit i: enum direction i */
	__u8 family;		/* 0: whatever the frame is; then nothing below counts but protocol and ports */
	__u8 protocol;
	__u8 protocol_mask;	/* 0: any protocol */
	__be32 source_be[4];
	__be32 source_mask_be[4];
	__be32 destination_be[4];
	__be32 destination_mask_be[4];
	__u16 source_port_first;
	__u16 source_port_last;
	__u16 destination_port_first;
	__u16 destination_port_last;
	__u8 names_ports;
	__u8 names_ip;		/* frames that are not IP are not asked for */
	__u8 reserved[6];
};

struct trace_state {
	__u64 spent;		/* up to when the rate is spent, as in struct bucket */
	__u64 skipped;		/* packets that were asked for, and over the rate or the number */
	__u64 lost;		/* records for which the ring had no room */
	__u32 taken;
	__u32 reserved;
};

#define TRACE_DECISION 1	/* what a hook decided of a packet */
#define TRACE_COPY 2		/* what became of one copy at the far end of the hops */
#define FLOW_SHOWN_MASK 0x7f	/* what the outer source port shows of a flow's hash */
#define TRACE_FLOW_UNKNOWN 0x80

/* A decision has all fields but copied_bytes; a copy has those of the first line, mark, stage and the bytes. */
struct trace_record {
	__u64 time_ns;		/* of the monotonic clock */
	__u64 wire_bytes;
	__u64 generation;	/* of the policy */
	__u64 rejected;		/* as in struct decision */
	__be32 source_be[4];
	__be32 destination_be[4];
	__u32 trace_id;
	__u32 mark;		/* of the copies; 0: no session took it */
	__u32 wire_packets;
	__u32 copied_bytes;	/* of the inner frame, where a copy was sent */
	__u16 source_port;
	__u16 destination_port;
	__u8 kind;
	__u8 flow;
	__u8 direction;
	__u8 outcome;
	__u8 stage;		/* STAGE_SENT, of a decision: it was cloned; STAGE_COUNT: no session took it */
	__u8 taken_by;		/* SESSIONS_MAX: by none */
	__u8 amazon_dns;
	__u8 family;		/* 0: not IP, or malformed */
	__u8 protocol;
	__u8 has_ports;
	__u8 has_icmp_type;
	__u8 icmp_type;
	__u8 is_later_fragment;
	__u8 reserved[7];
};

_Static_assert(RESOLVERS_MAX <= 8, "a bit each");
_Static_assert(sizeof(struct rule4) == 2 * CELL_BYTES && sizeof(struct rule6) == 5 * CELL_BYTES, "whole cells");
_Static_assert(sizeof(struct node) == CELL_BYTES, "a cell");
_Static_assert(sizeof(struct filter) == 24 + 32 * DIRECTION_COUNT * 2 * KINDS, "no holes");
_Static_assert(sizeof(struct exclusion) == 24, "no holes");
_Static_assert(sizeof(struct stream) == 40, "no holes");
_Static_assert(sizeof(struct trace_request) == 112 && sizeof(struct trace_record) == 104, "no holes");
_Static_assert(sizeof(struct delivery) == 132, "no holes");
_Static_assert(sizeof(struct interface_policy) == 56 + 16 * RESOLVERS_MAX + 40 * SESSIONS_MAX, "no holes");
_Static_assert(sizeof(struct meter_name) == 32 && sizeof(struct meter_range) == 56, "no holes");
_Static_assert(METER_RULES + RULES_MAX <= 0xffff, "16 bits in a flow");

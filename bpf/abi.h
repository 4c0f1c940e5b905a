/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The contract between the data plane (C) and the agent (src/pktmirror/agent/abi.py).
 *
 *  - Fixed-width fields, no unions, no bit-fields, no implicit padding.
 *  - A suffix _be says network byte order; without it, host order.
 *  - An agent adopts what was pinned by the very same object only, so a layout may change freely.
 *  - Filters, deliveries and exclusion tables are never written while something refers to them. The agent writes a
 *    free slot, then swaps the interface's policy, which is one pointer: no packet sees half of a change.
 */
#pragma once

#define RULES_MAX 16		/* per filter and direction */
#define SESSIONS_MAX 3		/* per interface */
#define RESOLVERS_MAX 8		/* per interface */
#define EXCLUSIONS_MAX 32	/* lines of the never-mirrored table */
#define HINT_BITS 256

#define INTERFACES_MAX 4096
#define FILTER_SLOTS 2048
#define DELIVERY_SLOTS 16384	/* 14 of the mark's 16 bits */
#define EXCLUSION_SLOTS 8
#define LEDGER_ROWS 8192
#define LANES_MAX 64
#define STREAMS_MAX 65536
#define VNI_NOT_QUOTED 0xffffffff

/* The mark of a copy, the only thing that crosses the hop: magic, direction, generation, delivery slot.
 * The agent writes it into session_policy with the direction bit clear. */
#define MARK_MAGIC 0xd7000000
#define MARK_MAGIC_MASK 0xff000000
#define MARK_DIRECTION_SHIFT 23
#define MARK_GENERATION_SHIFT 16
#define MARK_GENERATION_MASK 0x7f
#define MARK_WRAPPED 0x8000	/* has its outer headers already */
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
	STAGE_CLONE_FAILED,
	STAGE_STALE,
	STAGE_NO_ROUTE,
	STAGE_UNDELIVERABLE,
	STAGE_ENCAPSULATION_FAILED,
	STAGE_SENT,
	STAGE_CUT,	/* this one and the next count beside SENT */
	STAGE_TARGET_REFUSED,
	STAGE_COUNT
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

struct rule {
	__be32 source_be[4];	/* IPv4: one word, then zeros */
	__be32 source_mask_be[4];
	__be32 destination_be[4];
	__be32 destination_mask_be[4];
	__u16 source_port_first;
	__u16 source_port_last;
	__u16 destination_port_first;
	__u16 destination_port_last;
	__u8 family;		/* 4 or 6 */
	__u8 protocol;
	__u8 protocol_mask;	/* 0: any protocol */
	__u8 names_ports;	/* at least one port range is set */
	__u8 accepts;
	__u8 reserved[3];
};

struct filter {
	__u32 rule_count[DIRECTION_COUNT];
	__u32 amazon_dns;	/* the network service is enabled */
	__u32 reserved;
	struct rule rules[DIRECTION_COUNT][RULES_MAX];	/* in ascending number */
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

/* The devices that clones enter, a pair for each CPU. */
struct lane {
	__u32 wrapping_ifindex;
	__u32 finishing_ifindex;
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
	__u32 filter_slot;
	__u32 mark;
	__u32 stage;		/* STAGE_SENT: clone; anything else: clone nothing, and count what is taken as this */
	__u32 ledger_row;
	struct cap cap;
};

struct interface_policy {
	__u32 ledger_row;
	__u32 session_count;
	__u32 exclusion_slot;
	__u32 resolver_count;
	__u8 mac[6];		/* of the source interface itself */
	__u8 is_host_side;	/* what this device receives is what the source sends */
	__u8 resolvers_ipv6;	/* bit i: resolver i is an IPv6 address */
	__be32 resolvers_be[RESOLVERS_MAX][4];
	struct cap budget;	/* of all interfaces of the host together */
	struct session_policy sessions[SESSIONS_MAX];	/* in ascending session number */
};

/* Where the copies of one session go. retired_*: whose packets may still be on their way under this slot. */
struct delivery {
	__u8 session_id[24];	/* tms-…, so that the kernel's state explains itself */
	__be32 outer_source_be;
	__be32 outer_destination_be;
	__be32 next_hop_be;
	__be16 port_be;
	__u16 generation;
	__u32 vni;
	__u32 ifindex;
	__u32 packet_bytes_max;	/* the session's packet length; 0: whole packets */
	__u32 room_bytes_max;	/* what the target's MTU leaves for the inner frame */
	__u32 ledger_row;
	__u32 retired_generation;	/* above MARK_GENERATION_MASK: none */
	__u32 retired_ledger_row;
};

/* How the copies of a session are known on the wire, whoever sends them. Each is there twice, once without its VNI. */
struct stream {
	__be32 outer_source_be;
	__be32 outer_destination_be;
	__u32 vni;		/* or VNI_NOT_QUOTED */
	__u16 port;
	__u16 reserved;
};

struct session_counters {
	struct tally verdicts[DIRECTION_COUNT][VERDICT_COUNT];
	struct tally stages[DIRECTION_COUNT][STAGE_COUNT];
};

struct interface_counters {
	struct tally outcomes[DIRECTION_COUNT][OUTCOME_COUNT];
};

_Static_assert(RESOLVERS_MAX <= 8, "a bit each");
_Static_assert(sizeof(struct rule) == 80, "no holes");
_Static_assert(sizeof(struct exclusion) == 24, "no holes");
_Static_assert(sizeof(struct stream) == 16, "no holes");
_Static_assert(sizeof(struct delivery) == 68, "no holes");
_Static_assert(sizeof(struct interface_policy) == 40 + 16 * RESOLVERS_MAX + 32 * SESSIONS_MAX, "no holes");

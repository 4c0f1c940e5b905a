/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What one filter says of a packet: its rules, by the trees that lead to the few which may match (abi.h, struct filter).
 * src/pktmirror/agent/classifier.py makes them; docs/decisions/0007 says why they are as they are. */
#pragma once

static __always_inline bool within(__u16 first, __u16 port, __u16 last)
{
	return first <= port && port <= last;
}

static __always_inline bool has_filtered_ports(const struct headers *headers)
{
	return headers->protocol == PROTOCOL_TCP || headers->protocol == PROTOCOL_UDP;
}

/* As in mirror.bpf.c: what only code uses is not in BTF. */
static const struct filter abi_filter __attribute__((used));
static const struct node abi_node __attribute__((used));
static const struct rule4 abi_rule4 __attribute__((used));
static const struct rule6 abi_rule6 __attribute__((used));

#define NO_POSITION 0xffff
#define LEAF_RULES 16	/* of a leaf's rules these are asked in a loop that the verifier unrolls, more by bpf_loop */
#define FILTER_BYTES (FILTER_CELLS * CELL_BYTES)

/* A packet as the trees see it. */
struct point {
	__u32 words[WORDS];
	__u32 is_ipv6;
	__u32 kind;		/* PORTS_… */
	__u64 compares_ports;	/* all bits set or clear */
	__u64 amazon_dns;
};

static __always_inline const void *filter_bytes(const __u8 *filters, __u32 offset)
{
	return filters + (offset & (FILTER_BYTES - 1));
}

static __always_inline void place(struct point *point, const struct headers *headers)
{
	__builtin_memset(point, 0, sizeof(*point));
	point->words[WORD_SOURCE] = bpf_ntohl(headers->source_be[0]);
	point->words[WORD_DESTINATION] = bpf_ntohl(headers->destination_be[0]);
	for (int i = 1; i < 4 && headers->family == 6; i++) {
		point->words[WORD_SOURCE + i] = bpf_ntohl(headers->source_be[i]);
		point->words[WORD_DESTINATION + i] = bpf_ntohl(headers->destination_be[i]);
	}
	point->words[WORD_SOURCE_PORT] = headers->source_port;
	point->words[WORD_DESTINATION_PORT] = headers->destination_port;
	point->words[WORD_PROTOCOL] = headers->protocol;
	point->words[WORD_LEAF] = ~0;
	point->is_ipv6 = headers->family == 6;
	point->kind = !has_filtered_ports(headers) ? PORTS_MEANINGLESS :
		      headers->has_ports	     ? PORTS_SHOWN :
						       PORTS_HIDDEN;
	point->compares_ports = point->kind == PORTS_SHOWN ? ~0ull : 0;
}

/* Below, numbers that are not zero say "no": one branch for a rule is cheaper than one for each thing it says, since
 * the CPU cannot know beforehand which of them fails. */
static __always_inline __u64 lies_outside(__u64 first, __u64 number, __u64 last)
{
	__u64 below = number - first, above = last - number;

	barrier_var(below);
	barrier_var(above);
	return (below | above) >> 63;
}

static __always_inline __u64 misses(const struct criteria *criteria, const struct point *point)
{
	__u64 ports = lies_outside(criteria->source_port_first, point->words[WORD_SOURCE_PORT],
				   criteria->source_port_last) |
		      lies_outside(criteria->destination_port_first, point->words[WORD_DESTINATION_PORT],
				   criteria->destination_port_last);

	return ((criteria->protocol ^ point->words[WORD_PROTOCOL]) & criteria->protocol_mask) |
	       (ports & point->compares_ports);
}

typedef __u64 __attribute__((may_alias)) two_words;

static __always_inline __u64 differs(const __u32 a[4], const __u32 b[4], const __u32 mask[4])
{
	const two_words *as = (const two_words *)a, *bs = (const two_words *)b, *masks = (const two_words *)mask;

	return ((as[0] ^ bs[0]) & masks[0]) | ((as[1] ^ bs[1]) & masks[1]);
}

static __always_inline bool matches4(const struct rule4 *rule, const struct point *point)
{
	return !(((point->words[WORD_SOURCE] ^ rule->source) & rule->source_mask) |
		 ((point->words[WORD_DESTINATION] ^ rule->destination) & rule->destination_mask) |
		 misses(&rule->criteria, point));
}

static __always_inline bool matches6(const struct rule6 *rule, const struct point *point)
{
	return !(differs(point->words + WORD_SOURCE, rule->source, rule->source_mask) |
		 differs(point->words + WORD_DESTINATION, rule->destination, rule->destination_mask) |
		 misses(&rule->criteria, point));
}

static __always_inline bool rule_matches(const __u8 *filters, __u32 rules, __u32 position, const struct point *point)
{
	return point->is_ipv6 ? matches6(filter_bytes(filters, rules + position * sizeof(struct rule6)), point) :
				matches4(filter_bytes(filters, rules + position * sizeof(struct rule4)), point);
}

/* The rest of a leaf that no tree could split: rules that all overlap. */
struct long_leaf {
	const __u8 *filters;
	const struct point *point;
	__u32 positions;
	__u32 rules;
	__u32 best;
};

static long ask_next(__u64 index, void *data)
{
	struct long_leaf *leaf = data;
	__u32 position = *(const __u16 *)filter_bytes(leaf->filters, leaf->positions + (__u32)index * 2);

	if (position >= leaf->best)
		return 1;
	if (!rule_matches(leaf->filters, leaf->rules, position, leaf->point))
		return 0;
	leaf->best = position;
	return 1;
}

/* The lowest position below `best` whose rule matches, among those of a leaf; `best` where there is none.
 * filter, leaf, rules: where the filter, the leaf and the list of rules begin, in bytes. */
__noinline int search(__u32 filter, __u32 leaf, __u32 rules, const struct point *point, __u32 best)
{
	__u32 first = 0, count, positions;
	const struct node *node;
	const __u8 *bytes;

	bytes = bpf_map_lookup_elem(&filters, &first);
	if (!bytes || !point)
		return best;
	node = filter_bytes(bytes, leaf);
	positions = filter + node->thresholds[0] * 2;
	count = *(const __u16 *)filter_bytes(bytes, positions);
	positions += 2;
	for (__u32 i = 0; i < LEAF_RULES; i++) {
		__u32 position;

		if (i >= count)
			return best;
		position = *(const __u16 *)filter_bytes(bytes, positions + i * 2);
		if (position >= best)
			return best;
		if (rule_matches(bytes, rules, position, point))
			return position;
	}
	if (count > LEAF_RULES) {
		struct long_leaf rest = { bytes, point, positions + LEAF_RULES * 2, rules, best };

		bpf_loop(count - LEAF_RULES, ask_next, &rest, 0);
		return rest.best;
	}
	return best;
}

/* 1 or 0. clang must not find that a comparison is meant, or it branches. */
static __always_inline __u64 is_below(__u64 word, __u64 threshold)
{
	__u64 difference = word - threshold;

	barrier_var(difference);
	return difference >> 63;
}

/* From a node to its child on the way of a packet, without a branch: half of them would be guessed wrong. `at`: where
 * the node is among all filters. */
static __always_inline __u64 step(const __u8 *filters, __u64 filter, __u64 at, const struct point *point)
{
	const struct node *node = (const void *)(filters + (at & (FILTER_BYTES - 1)));
	__u64 word_children = node->word_children;
	__u64 word = point->words[word_children & (WORDS - 1)];
	__u64 last = filter + (word_children & ~(WORDS - 1ull));

	return last - (is_below(word, node->thresholds[0]) + is_below(word, node->thresholds[1]) +
		       is_below(word, node->thresholds[2])) * sizeof(*node);
}

#define VERDICT_BITS 2
#define VERDICT_MASK ((1 << VERDICT_BITS) - 1)
_Static_assert(VERDICT_COUNT <= 1 << VERDICT_BITS, "below the meter");

/* The first rule that matches decides; what none accepts is not mirrored. A verdict, and above it which of the session's
 * meters counts it: where a rule, or Amazon DNS, decided. */
__noinline int decide(__u32 filter_cell, __u32 direction, const struct point *point)
{
	__u32 first = 0, best = NO_POSITION, start = filter_cell * CELL_BYTES, family, kind, rules;
	__u64 a, b, c, d;
	const struct criteria *criteria;
	const struct filter *filter;
	const struct forest *forest;
	const __u8 *bytes;

	bytes = bpf_map_lookup_elem(&filters, &first);
	if (!bytes || !point)
		return VERDICT_NO_RULE_MATCHED;
	kind = point->kind;
	keep_check(kind);
	keep_check(direction);
	if (direction >= DIRECTION_COUNT || kind >= KINDS)
		return VERDICT_NO_RULE_MATCHED;
	family = point->is_ipv6 & 1;
	filter = filter_bytes(bytes, start);
	if (point->amazon_dns)
		return filter->amazon_dns ? VERDICT_TAKEN | (METER_AMAZON_DNS + direction) << VERDICT_BITS :
					    VERDICT_SERVICE_NOT_ENABLED;
	forest = &filter->forests[direction][family][kind];
	rules = start + filter->rules[direction][family] * CELL_BYTES;
	a = start + (__u64)forest->roots[0] * sizeof(struct node);
	b = start + (__u64)forest->roots[1] * sizeof(struct node);
	c = start + (__u64)forest->roots[2] * sizeof(struct node);
	d = start + (__u64)forest->roots[3] * sizeof(struct node);
	for (__u32 i = 0; i < TREE_DEPTH_MAX && i < forest->steps; i++) {
		a = step(bytes, start, a, point);
		b = step(bytes, start, b, point);
		c = step(bytes, start, c, point);
		d = step(bytes, start, d, point);
	}
	if (forest->tree_count > 0)
		best = search(start, a, rules, point, best);
	if (forest->tree_count > 1 && forest->positions_min[1] < best)
		best = search(start, b, rules, point, best);
	if (forest->tree_count > 2 && forest->positions_min[2] < best)
		best = search(start, c, rules, point, best);
	if (forest->tree_count > 3 && forest->positions_min[3] < best)
		best = search(start, d, rules, point, best);
	if (best == NO_POSITION)
		return VERDICT_NO_RULE_MATCHED;
	barrier();	/* the family is read again: a chain of calls has 512 bytes of stack, and this one has none left */
	criteria = point->is_ipv6 & 1 ? &((const struct rule6 *)filter_bytes(bytes, rules + best * sizeof(struct rule6)))->criteria :
				      &((const struct rule4 *)filter_bytes(bytes, rules + best * sizeof(struct rule4)))->criteria;
	return (criteria->accepts ? VERDICT_TAKEN : VERDICT_REJECTED_BY_RULE) |
	       criteria->meter << VERDICT_BITS;
}

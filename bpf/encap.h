/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What a copy looks like on its way: outer IPv4, UDP, VXLAN, then the frame (spec 1.12); over IPv6: encap6.h. */
#pragma once

#define OUTER_BYTES (20 + 8 + 8)	/* IPv4, UDP, VXLAN (RFC 7348 section 5) */
#define OUTER6_BYTES (40 + 8 + 8)
#define VLAN_BYTES 4
#define SHORT_COPY_BYTES_MAX 128	/* the longest copy that ends within its own headers */

struct outer {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_bytes_be;
	__be16 id_be;
	__be16 fragment_be;
	__u8 ttl;
	__u8 protocol;
	__sum16 checksum;
	__be32 source_be;
	__be32 destination_be;
	__be16 source_port_be;
	__be16 destination_port_be;
	__be16 udp_bytes_be;
	__be16 udp_checksum_be;
	__be32 vxlan_flags_be;
	__be32 vni_be;		/* in the upper 24 bits */
};
_Static_assert(sizeof(struct outer) == OUTER_BYTES, "as it goes onto the wire");

/* Symmetric: both directions of a flow, and all fragments of a datagram, get one value (spec 5.8).
 * packet.headers.flow_hash says the same in Python. */
static __always_inline __u32 flow_hash(const struct headers *headers)
{
	__u32 mixed = 0, sum = 0, ports = 0, hash;

	for (int i = 0; i < 4; i++) {
		__u32 source = bpf_ntohl(headers->source_be[i]);
		__u32 destination = bpf_ntohl(headers->destination_be[i]);

		mixed ^= source ^ destination;
		sum += source + destination;
	}
	if (headers->has_ports && !headers->is_fragment)
		ports = (__u32)(headers->source_port ^ headers->destination_port) << 16 |
			((headers->source_port + headers->destination_port) & 0xffff);
	hash = mixed * 0x9E3779B1u ^ sum * 0x85EBCA77u ^ ports * 0xC2B2AE3Du ^ headers->protocol * 0x27D4EB2Fu;
	hash ^= hash >> 15;
	hash *= 0x2C1B3C6Du;
	hash ^= hash >> 12;
	hash *= 0x297A2D39u;
	return hash ^ hash >> 15;
}

static __always_inline __be16 outer_source_port_be(__u32 hash)
{
	return bpf_htons(OUTER_SOURCE_PORT_MIN | (hash & FLOW_SHOWN_MASK));
}

static __always_inline __sum16 ipv4_checksum(const struct outer *outer)
{
	const __u16 *words = (const void *)outer;
	__u32 sum = 0;

	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline void write_outer(struct outer *outer, const struct delivery *to, __u32 hash, __u32 inner_bytes)
{
	__builtin_memset(outer, 0, sizeof(*outer));
	outer->version_ihl = 0x45;
	outer->total_bytes_be = bpf_htons(OUTER_BYTES + inner_bytes);
	outer->ttl = 255;
	outer->protocol = PROTOCOL_UDP;
	outer->source_be = to->outer_source_be[0];
	outer->destination_be = to->outer_destination_be[0];
	outer->checksum = ipv4_checksum(outer);
	outer->source_port_be = outer_source_port_be(hash);
	outer->destination_port_be = to->port_be;
	outer->udp_bytes_be = bpf_htons(OUTER_BYTES - 20 + inner_bytes);
	outer->vxlan_flags_be = bpf_htonl(VXLAN_FLAGS);
	outer->vni_be = bpf_htonl(to->vni << 8);
}

/* How short the frame becomes before it gets its outer headers, and how many bytes are still too many then.
 *
 * bpf_skb_change_tail cuts neither an encapsulated packet nor below the transport header, so a packet length that ends
 * within the headers (spec fact 77: 35 leaves one byte after the IPv4 header) takes two steps. */
static __always_inline int cut_frame(struct __sk_buff *skb, __u32 frame_bytes, __u32 l4_offset, __u32 *excess_bytes)
{
	*excess_bytes = 0;
	if (frame_bytes >= l4_offset && !bpf_skb_change_tail(skb, frame_bytes, 0))
		return 0;
	if (bpf_skb_change_tail(skb, l4_offset, 0) || frame_bytes > l4_offset)
		return -1;
	*excess_bytes = l4_offset - frame_bytes;
	return 0;
}

/* The second step: takes the excess out from behind the Ethernet header, where the helper allows it, and writes anew
 * what stood there. outer_bytes: OUTER_BYTES or OUTER6_BYTES. */
static __noinline int shorten_copy(struct __sk_buff *skb, const void *outer, __u32 outer_bytes, __u32 inner_bytes,
				   __u32 excess_bytes)
{
	__u8 inner[SHORT_COPY_BYTES_MAX];

	barrier_var(inner_bytes);
	if (inner_bytes < 1 || inner_bytes > sizeof(inner))
		return -1;
	if (bpf_skb_load_bytes(skb, ETHERNET_BYTES + outer_bytes, inner, inner_bytes) ||
	    bpf_skb_adjust_room(skb, -(__s32)excess_bytes, BPF_ADJ_ROOM_MAC, 0) ||
	    (outer_bytes == OUTER_BYTES ? bpf_skb_store_bytes(skb, ETHERNET_BYTES, outer, OUTER_BYTES, 0) :
					  bpf_skb_store_bytes(skb, ETHERNET_BYTES, outer, OUTER6_BYTES, 0)))
		return -1;
	barrier_var(inner_bytes);
	if (inner_bytes < 1 || inner_bytes > sizeof(inner))
		return -1;
	return bpf_skb_store_bytes(skb, ETHERNET_BYTES + outer_bytes, inner, inner_bytes, 0);
}

/* The Ethernet header before all: as the short way has it (shortcut.h). On any other the kernel writes it anew when it
 * knows the next hop; nobody's address is there until then, since bpf_redirect_neigh drops what is addressed to a
 * group. */
struct link {
	__u8 target_mac[6];
	__u8 source_mac[6];
	__be16 ethertype_be;
};
_Static_assert(sizeof(struct link) == ETHERNET_BYTES, "as it goes onto the wire");

static __always_inline void write_link(struct link *link, const struct delivery *to, __u16 ethertype)
{
	__builtin_memcpy(link->target_mac, to->target_mac, sizeof(link->target_mac));
	__builtin_memcpy(link->source_mac, to->source_mac, sizeof(link->source_mac));
	link->ethertype_be = bpf_htons(ethertype);
}

/* All that stands before the inner frame's IP header in the copy. */
struct head {
	__u8 padding[2];
	struct link link;
	struct outer outer;
	__u8 ethernet[ETHERNET_BYTES + VLAN_TAGS_MAX * VLAN_BYTES];
	__u8 reserved[2];
};

/* Takes the tags out of the frame into head->ethernet, where the copy has them again. tag_bytes: how much shorter the
 * frame is then, counted with the tag that was beside it.
 *
 * The kernel keeps the first tag beside the frame, and bpf_skb_vlan_pop moves a second one there in its place: left
 * where it is, it would become the tag of the outer frame. */
static __always_inline int take_tags(struct __sk_buff *skb, struct head *head, __u32 *tag_bytes)
{
	__be16 outer_tag_be[2] = { (__be16)skb->vlan_proto, bpf_htons(skb->vlan_tci) };
	__u8 *type = head->ethernet + 12;
	__be16 ethertype_be;

	*tag_bytes = 0;
	if (read_ethernet(skb, head->ethernet))
		return -1;
	if (!skb->vlan_present)
		return 0;
	__builtin_memcpy(&ethertype_be, type, 2);
	if (ethertype_be != bpf_htons(ETHERTYPE_VLAN) && ethertype_be != bpf_htons(ETHERTYPE_QINQ)) {
		__builtin_memcpy(type + VLAN_BYTES, type, 2);
		__builtin_memcpy(type, outer_tag_be, VLAN_BYTES);
		*tag_bytes = VLAN_BYTES;
		return bpf_skb_vlan_pop(skb);
	}
	if (bpf_skb_load_bytes(skb, 12, type + VLAN_BYTES, VLAN_BYTES + 2) || bpf_skb_vlan_pop(skb) ||
	    bpf_skb_vlan_pop(skb) || skb->vlan_present)
		return -1;
	__builtin_memcpy(type, outer_tag_be, VLAN_BYTES);
	*tag_bytes = 2 * VLAN_BYTES;
	return 0;
}

/* The number of bytes is one that the verifier knows, so each case is a call of its own. */
static __always_inline long put_head(struct __sk_buff *skb, const struct head *head, __u32 ethernet_bytes,
				     __u64 flags)
{
	return bpf_skb_adjust_room(skb, OUTER_BYTES + ethernet_bytes, BPF_ADJ_ROOM_MAC,
				   BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
					   BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(ethernet_bytes) |
					   flags) ||
	       bpf_skb_store_bytes(skb, 0, &head->link, ETHERNET_BYTES + OUTER_BYTES + ethernet_bytes, 0);
}

/* How a frame was cut: what it has become as part of a copy, how much of this are tags, and cut_frame's excess. */
struct cut {
	__u32 inner_bytes;
	__u32 tag_bytes;
	__u32 excess_bytes;
};

static int encapsulate6(struct __sk_buff *skb, const struct delivery *to, const __u8 *ethernet, __u32 hash,
			const struct cut *cut);
static int wrap_whole6(struct __sk_buff *skb, const struct delivery *to, __u32 hash);

/* Turns the frame into its copy: tags, cut, outer headers. Returns the bytes of the inner frame, 0 on failure; a frame
 * that cannot be cut is not sent, for it would show more than the session may. */
static __always_inline __u32 encapsulate_frame(struct __sk_buff *skb, const struct delivery *to,
					       const struct headers *headers)
{
	__u32 inner_bytes, whole_bytes, l4_offset, tag_bytes, excess_bytes = 0;
	struct head head;

	__builtin_memset(&head, 0, sizeof(head));
	whole_bytes = skb->len + (skb->vlan_present ? VLAN_BYTES : 0);
	if (take_tags(skb, &head, &tag_bytes))
		return 0;
	l4_offset = headers->l4_offset - (tag_bytes > VLAN_BYTES ? VLAN_BYTES : 0);
	inner_bytes = whole_bytes;
	if (to->packet_bytes_max && inner_bytes > to->packet_bytes_max)
		inner_bytes = to->packet_bytes_max;
	if (inner_bytes > to->room_bytes_max)
		inner_bytes = to->room_bytes_max;
	if (inner_bytes < whole_bytes) {
		/* a cut within the tags leaves nothing of the frame but its first bytes, which step two writes */
		__u32 frame_bytes = inner_bytes > tag_bytes ? inner_bytes - tag_bytes : 0;

		if (cut_frame(skb, frame_bytes, l4_offset, &excess_bytes))
			return 0;
		if (excess_bytes)
			excess_bytes = l4_offset + tag_bytes - inner_bytes;
	}
	if (to->family == 6) {
		struct cut cut = { inner_bytes, tag_bytes, excess_bytes };

		return encapsulate6(skb, to, head.ethernet, flow_hash(headers), &cut) ? 0 : inner_bytes;
	}
	write_link(&head.link, to, ETHERTYPE_IPV4);
	write_outer(&head.outer, to, flow_hash(headers), inner_bytes);
	if (tag_bytes == 0 ? put_head(skb, &head, ETHERNET_BYTES, 0) :
	    tag_bytes == VLAN_BYTES ? put_head(skb, &head, ETHERNET_BYTES + VLAN_BYTES, 0) :
				      put_head(skb, &head, ETHERNET_BYTES + 2 * VLAN_BYTES, 0))
		return 0;
	if (excess_bytes && shorten_copy(skb, &head.outer, OUTER_BYTES, inner_bytes, excess_bytes))
		return 0;
	return inner_bytes;
}

/* Puts the outer headers before a whole packet; the kernel repeats them when it splits a super-packet, with lengths and
 * checksums of their own. 0 on success; the frame is as it was where the kernel refuses (a tunnel of the sender's own). */
static __always_inline long wrap_whole(struct __sk_buff *skb, const struct delivery *to, const struct headers *headers)
{
	struct head head;

	if (to->family == 6)
		return wrap_whole6(skb, to, flow_hash(headers));
	__builtin_memset(&head, 0, sizeof(head));
	if (read_ethernet(skb, head.ethernet))
		return -1;
	write_link(&head.link, to, ETHERTYPE_IPV4);
	write_outer(&head.outer, to, flow_hash(headers), skb->len);
	return put_head(skb, &head, ETHERNET_BYTES, BPF_F_ADJ_ROOM_FIXED_GSO);
}

/* The kernel numbers the packets that it splits; AWS's copies have no id (spec 1.12). */
static __always_inline long clear_outer_id(struct __sk_buff *skb)
{
	struct outer outer;

	if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, &outer, 20))
		return -1;
	outer.id_be = 0;
	outer.checksum = 0;
	outer.checksum = ipv4_checksum(&outer);
	return bpf_skb_store_bytes(skb, ETHERNET_BYTES, &outer, 20, 0);
}

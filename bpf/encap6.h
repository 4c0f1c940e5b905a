/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What a copy looks like over IPv6: outer IPv6, UDP, VXLAN, then the frame (spec 5.16, docs/decisions/0014).
 *
 * An ordinary socket drops a datagram over IPv6 that has no checksum (RFC 8200 section 8.1), so each copy has one, over
 * all that it carries. It is summed when everything else of the copy stands, since nothing that the kernel knows of the
 * frame's own checksums holds for a frame that is cut, or that was wrong when it came. */
#pragma once

#define SUMMED_FROM (ETHERNET_BYTES + 8)	/* the outer addresses: of the pseudo header the rest is two numbers */
#define SUMMED_BYTES_MAX 63488			/* the longest frame; the verifier knows no offset beyond 65,535 */
#define SUM_BLOCK_BYTES 512			/* what bpf_csum_diff took at once before Linux 6.13 */

struct outer6 {
	__be32 version_class_label_be;
	__be16 payload_bytes_be;
	__u8 next_header;
	__u8 hop_limit;
	__be32 source_be[4];
	__be32 destination_be[4];
	__be16 source_port_be;
	__be16 destination_port_be;
	__be16 udp_bytes_be;
	__sum16 udp_checksum;
	__be32 vxlan_flags_be;
	__be32 vni_be;		/* in the upper 24 bits */
};
_Static_assert(sizeof(struct outer6) == OUTER6_BYTES, "as it goes onto the wire");

struct head6 {
	__u8 padding[2];
	struct link link;
	struct outer6 outer;
	__u8 ethernet[ETHERNET_BYTES + VLAN_TAGS_MAX * VLAN_BYTES];
	__u8 reserved[2];
};

/* The checksum is left zero. */
static __always_inline void write_outer6(struct outer6 *outer, const struct delivery *to, __u32 hash,
					 __u32 inner_bytes)
{
	outer->version_class_label_be = bpf_htonl(6u << 28);
	outer->payload_bytes_be = bpf_htons(OUTER6_BYTES - 40 + inner_bytes);
	outer->next_header = PROTOCOL_UDP;
	outer->hop_limit = 255;
	__builtin_memcpy(outer->source_be, to->outer_source_be, sizeof(outer->source_be));
	__builtin_memcpy(outer->destination_be, to->outer_destination_be, sizeof(outer->destination_be));
	outer->source_port_be = outer_source_port_be(hash);
	outer->destination_port_be = to->port_be;
	outer->udp_bytes_be = outer->payload_bytes_be;
	outer->udp_checksum = 0;
	outer->vxlan_flags_be = bpf_htonl(VXLAN_FLAGS);
	outer->vni_be = bpf_htonl(to->vni << 8);
}

/* The one's complement sum goes on over `bytes` of the packet; leaves the function with -1 where it has fewer. */
#define SUM_ON(skb, at, bytes, sum)                                                                                 \
	({                                                                                                          \
		const __u8 *block = (const __u8 *)(long)(skb)->data + (at);                                         \
		if (block + (bytes) > (const __u8 *)(long)(skb)->data_end)                                          \
			return -1;                                                                                  \
		sum = (__u32)bpf_csum_diff(NULL, 0, (__be32 *)block, bytes, sum);                                   \
	})

/* Puts the checksum into a copy whose checksum field is zero; 0 on success. The packet is read in place, in blocks whose
 * lengths the verifier knows: whole ones, then smaller ones, and from a copy what is left in the end. */
static __noinline int complete_outer6(struct __sk_buff *skb)
{
	__u32 end = skb->len, udp_bytes = end - ETHERNET_BYTES - 40, blocks, at, left;
	__u32 sum = bpf_htonl(udp_bytes + PROTOCOL_UDP);
	__u8 rest[64] __attribute__((aligned(4))) = {};
	__sum16 checksum;

	if (end < ETHERNET_BYTES + OUTER6_BYTES || end > SUMMED_BYTES_MAX || bpf_skb_pull_data(skb, end))
		return -1;
	blocks = (end - SUMMED_FROM) / SUM_BLOCK_BYTES;
	barrier_var(blocks);
	for (__u32 i = 0; i < SUMMED_BYTES_MAX / SUM_BLOCK_BYTES; i++) {
		if (i >= blocks)
			break;
		SUM_ON(skb, SUMMED_FROM + i * SUM_BLOCK_BYTES, SUM_BLOCK_BYTES, sum);
	}
	left = (end - SUMMED_FROM) % SUM_BLOCK_BYTES;
	barrier_var(left);
	at = end - SUMMED_FROM;
	barrier_var(at);
	at = SUMMED_FROM + (at & ~(SUM_BLOCK_BYTES - 1));
	barrier_var(at);
	if (at > SUMMED_BYTES_MAX)	/* the verifier does not see that it cannot be */
		return -1;
	barrier_var(at);
#pragma unroll
	for (__u32 bytes = SUM_BLOCK_BYTES / 2; bytes >= sizeof(rest); bytes /= 2) {
		if (left & bytes) {
			SUM_ON(skb, at, bytes, sum);
			at += bytes;
		}
	}
	left %= sizeof(rest);
	barrier_var(left);
	if (left) {
		if (left >= sizeof(rest) || bpf_skb_load_bytes(skb, at, rest, left))
			return -1;
		sum = (__u32)bpf_csum_diff(NULL, 0, (__be32 *)rest, sizeof(rest), sum);
	}
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	checksum = ~sum;
	if (!checksum)
		checksum = 0xffff;	/* RFC 8200 section 8.1: zero would say that there is none */
	return bpf_skb_store_bytes(skb, ETHERNET_BYTES + 40 + 6, &checksum, sizeof(checksum), 0);
}

/* As put_head, for IPv6. */
static __always_inline long put_head6(struct __sk_buff *skb, const struct head6 *head, __u32 ethernet_bytes,
				      __u64 flags)
{
	return bpf_skb_adjust_room(skb, OUTER6_BYTES + ethernet_bytes, BPF_ADJ_ROOM_MAC,
				   BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
					   BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(ethernet_bytes) |
					   flags) ||
	       bpf_skb_store_bytes(skb, 0, &head->link, ETHERNET_BYTES + OUTER6_BYTES + ethernet_bytes, 0);
}

/* The outer headers before a frame that is as long as its copy will be, or excess_bytes longer (cut_frame). ethernet: of
 * struct head. Returns 0 on success. */
static __noinline int encapsulate6(struct __sk_buff *skb, const struct delivery *to, const __u8 *ethernet, __u32 hash,
				   const struct cut *cut)
{
	struct head6 head;

	write_link(&head.link, to, ETHERTYPE_IPV6);
	write_outer6(&head.outer, to, hash, cut->inner_bytes);
	__builtin_memcpy(head.ethernet, ethernet, sizeof(head.ethernet));
	if (cut->tag_bytes == 0 ? put_head6(skb, &head, ETHERNET_BYTES, 0) :
	    cut->tag_bytes == VLAN_BYTES ? put_head6(skb, &head, ETHERNET_BYTES + VLAN_BYTES, 0) :
					   put_head6(skb, &head, ETHERNET_BYTES + 2 * VLAN_BYTES, 0))
		return -1;
	if (cut->excess_bytes &&
	    shorten_copy(skb, &head.outer, OUTER6_BYTES, cut->inner_bytes, cut->excess_bytes))
		return -1;
	return complete_outer6(skb);
}

/* As wrap_whole, for IPv6. The kernel repeats the header without a checksum (BPF can ask for none), and each segment gets
 * its own at the far end of the hop before which it was split. */
static __noinline int wrap_whole6(struct __sk_buff *skb, const struct delivery *to, __u32 hash)
{
	struct head6 head;

	__builtin_memset(&head, 0, sizeof(head));
	if (read_ethernet(skb, head.ethernet))
		return -1;
	write_link(&head.link, to, ETHERTYPE_IPV6);
	write_outer6(&head.outer, to, hash, 0);
	return put_head6(skb, &head, ETHERNET_BYTES, BPF_F_ADJ_ROOM_FIXED_GSO);
}

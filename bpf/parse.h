/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A frame's headers, as far as a filter can ask for them. src/pktmirror/packet/headers.py says the same in Python.
 *
 * Nothing here pulls or writes the production packet's buffer: what lies in its linear part is read there, the rest by
 * bpf_skb_load_bytes.
 *
 * A function that is not static is verified by itself, once, instead of once for each path that leads to it; the
 * price is that the verifier wants a check of each pointer argument. This holds for all of bpf/.
 */
#pragma once

#define ETHERNET_BYTES 14
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_QINQ 0x88a8
#define VLAN_TAGS_MAX 2
#define EXTENSION_HEADERS_MAX 8

#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_SCTP 132

#define IPV6_HOP_BY_HOP 0
#define IPV6_ROUTING 43
#define IPV6_FRAGMENT 44
#define IPV6_AUTHENTICATION 51
#define IPV6_DESTINATION 60
#define IPV6_MOBILITY 135

#define IPV6_OPTION_JUMBO 0xc2		/* RFC 2675 section 2 */
#define JUMBO_HEADER_BYTES 8
#define LEGACY_SUPER_PACKET_BYTES_MAX 65536	/* GRO_LEGACY_MAX_SIZE in include/linux/netdevice.h */

struct headers {
	__be32 source_be[4];	/* IPv4: one word, then zeros */
	__be32 destination_be[4];
	__u32 l4_offset;
	__u16 source_port;
	__u16 destination_port;
	__u8 family;		/* 4 or 6 */
	__u8 protocol;
	__u8 has_ports;
	__u8 has_icmp_type;
	__u8 icmp_type;
	__u8 is_fragment;	/* of a fragmented datagram, the first included */
	__u8 is_later_fragment;
	__u8 destination_mac[6];
	__u8 jumbo_bytes;	/* of the headers, how many the kernel takes out when it splits a super-packet */
	__u8 reserved[2];
};

enum parsed { PARSED_IP, PARSED_ARP, PARSED_NOT_IP, PARSED_MALFORMED };

static __always_inline bool same_address(const __be32 a_be[4], const __be32 b_be[4])
{
	return !((a_be[0] ^ b_be[0]) | (a_be[1] ^ b_be[1]) | (a_be[2] ^ b_be[2]) | (a_be[3] ^ b_be[3]));
}

static __always_inline int parse_ports(struct __sk_buff *skb, struct headers *headers)
{
	if (headers->is_later_fragment)
		return PARSED_IP;
	switch (headers->protocol) {
	case PROTOCOL_TCP:
	case PROTOCOL_UDP:
	case PROTOCOL_SCTP: {
		__be16 ports_be[2];

		if (!bpf_skb_load_bytes(skb, headers->l4_offset, ports_be, sizeof(ports_be))) {
			headers->source_port = bpf_ntohs(ports_be[0]);
			headers->destination_port = bpf_ntohs(ports_be[1]);
			headers->has_ports = 1;
		}
		break;
	}
	case PROTOCOL_ICMP:
	case PROTOCOL_ICMPV6:
		headers->has_icmp_type = !bpf_skb_load_bytes(skb, headers->l4_offset, &headers->icmp_type, 1);
		break;
	}
	return PARSED_IP;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, __u32 offset, struct headers *headers)
{
	__u8 ip[20];
	__u16 fragment;
	__u32 header_bytes;
	__u8 last;

	if (bpf_skb_load_bytes(skb, offset, ip, sizeof(ip)))
		return PARSED_MALFORMED;
	header_bytes = (ip[0] & 0x0f) * 4;
	if (ip[0] >> 4 != 4 || header_bytes < sizeof(ip))
		return PARSED_MALFORMED;
	if (header_bytes > sizeof(ip) && bpf_skb_load_bytes(skb, offset + header_bytes - 1, &last, 1))
		return PARSED_MALFORMED;
	headers->family = 4;
	headers->protocol = ip[9];
	__builtin_memcpy(&headers->source_be[0], ip + 12, 4);
	__builtin_memcpy(&headers->destination_be[0], ip + 16, 4);
	fragment = (ip[6] << 8 | ip[7]) & 0x3fff;	/* more fragments, and the offset */
	headers->is_fragment = fragment != 0;
	headers->is_later_fragment = (fragment & 0x1fff) != 0;
	headers->l4_offset = offset + header_bytes;
	return parse_ports(skb, headers);
}

/* BIG TCP over IPv6: an IPv6 header cannot tell a length of more than 64 KiB, so from Linux 5.19 on super-packets of that
 * size carry a hop-by-hop header that does. No wire sees it; the condition is that of ipv6_has_hopopt_jumbo. */
static __always_inline bool is_jumbo_header(struct __sk_buff *skb, __u32 ip_offset, const __u8 extension[4])
{
	return skb->gso_size && skb->len - ip_offset > LEGACY_SUPER_PACKET_BYTES_MAX &&
	       extension[0] == PROTOCOL_TCP && !extension[1] && extension[2] == IPV6_OPTION_JUMBO;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, __u32 offset, struct headers *headers)
{
	__u32 ip_offset = offset;
	__u8 ip[40];
	__u8 next;

	if (bpf_skb_load_bytes(skb, offset, ip, sizeof(ip)) || ip[0] >> 4 != 6)
		return PARSED_MALFORMED;
	headers->family = 6;
	__builtin_memcpy(headers->source_be, ip + 8, 16);
	__builtin_memcpy(headers->destination_be, ip + 24, 16);
	next = ip[6];
	offset += sizeof(ip);
	for (int i = 0; i <= EXTENSION_HEADERS_MAX; i++) {
		__u8 extension[4];
		__u32 extension_bytes;
		__u8 last;

		if (next != IPV6_HOP_BY_HOP && next != IPV6_ROUTING && next != IPV6_FRAGMENT &&
		    next != IPV6_AUTHENTICATION && next != IPV6_DESTINATION && next != IPV6_MOBILITY) {
			headers->protocol = next;
			headers->l4_offset = offset;
			return parse_ports(skb, headers);
		}
		if (i == EXTENSION_HEADERS_MAX)
			break;
		if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)))
			return PARSED_MALFORMED;
		if (i == 0 && next == IPV6_HOP_BY_HOP && is_jumbo_header(skb, ip_offset, extension))
			headers->jumbo_bytes = JUMBO_HEADER_BYTES;
		if (next == IPV6_FRAGMENT)
			extension_bytes = 8;
		else if (next == IPV6_AUTHENTICATION)
			extension_bytes = (extension[1] + 2) * 4;
		else
			extension_bytes = (extension[1] + 1) * 8;
		if (bpf_skb_load_bytes(skb, offset + extension_bytes - 1, &last, 1))
			return PARSED_MALFORMED;
		if (next == IPV6_FRAGMENT) {
			__u16 fragment = extension[2] << 8 | extension[3];

			headers->is_fragment |= (fragment & 0xfff9) != 0;	/* RFC 8200 4.5; an atomic one is whole */
			headers->is_later_fragment = (fragment & 0xfff8) != 0;
		}
		next = extension[0];
		offset += extension_bytes;
		if (headers->is_later_fragment) {
			headers->protocol = next;
			headers->l4_offset = offset;
			return PARSED_IP;
		}
	}
	return PARSED_MALFORMED;
}

/* What most frames are: Ethernet, IPv4 without options or IPv6 without extension headers, and ports or an ICMP type, all
 * in the linear part of the buffer. Read where it lies: a helper's call costs more than all of this. Such an address may
 * have any alignment, as with all programs for the CPUs whose kernel lays packets out so (NET_IP_ALIGN 0). */
#define PLAIN_IPV4_BYTES (ETHERNET_BYTES + 20 + 4)
#define PLAIN_IPV6_BYTES (ETHERNET_BYTES + 40 + 4)

#define BE16_AT(bytes) (*(const __be16 *)(bytes))
#define BE32_AT(bytes) (*(const __be32 *)(bytes))

/* The first bytes of a frame, where they lie or by a call. 0 on success. */
static __always_inline long read_ethernet(struct __sk_buff *skb, __u8 ethernet[ETHERNET_BYTES])
{
	const __u8 *frame = (const void *)(long)skb->data;

	if (frame + ETHERNET_BYTES > (const __u8 *)(long)skb->data_end)
		return bpf_skb_load_bytes(skb, 0, ethernet, ETHERNET_BYTES);
	for (int at = 0; at < 12; at += 4)
		*(__be32 *)(ethernet + at) = BE32_AT(frame + at);
	*(__be16 *)(ethernet + 12) = BE16_AT(frame + 12);
	return 0;
}

static __always_inline void copy_mac(struct headers *headers, const __u8 *frame)
{
	__builtin_memcpy(headers->destination_mac, frame, sizeof(headers->destination_mac));
}

/* What stands behind the IP header. */
static __always_inline void take_plain_ports(const __u8 *l4, struct headers *headers)
{
	if (headers->protocol == PROTOCOL_ICMP || headers->protocol == PROTOCOL_ICMPV6) {
		headers->icmp_type = l4[0];
		headers->has_icmp_type = 1;
	} else if (headers->protocol == PROTOCOL_TCP || headers->protocol == PROTOCOL_UDP ||
		   headers->protocol == PROTOCOL_SCTP) {
		headers->source_port = bpf_ntohs(BE16_AT(l4));
		headers->destination_port = bpf_ntohs(BE16_AT(l4 + 2));
		headers->has_ports = 1;
	}
}

/* Whether it was such a frame; headers are complete then, and untouched otherwise. */
static __always_inline bool parse_plain(struct __sk_buff *skb, struct headers *headers)
{
	const __u8 *frame = (const void *)(long)skb->data, *end = (const void *)(long)skb->data_end;
	const __u8 *ip = frame + ETHERNET_BYTES;
	__u16 fragment;

	if (frame + PLAIN_IPV4_BYTES > end)
		return false;
	if (BE16_AT(frame + 12) == bpf_htons(ETHERTYPE_IPV4) && ip[0] == 0x45) {
		copy_mac(headers, frame);
		fragment = bpf_ntohs(BE16_AT(ip + 6)) & 0x3fff;	/* more fragments, and the offset */
		headers->family = 4;
		headers->protocol = ip[9];
		headers->source_be[0] = BE32_AT(ip + 12);
		headers->destination_be[0] = BE32_AT(ip + 16);
		headers->l4_offset = ETHERNET_BYTES + 20;
		headers->is_fragment = fragment != 0;
		headers->is_later_fragment = (fragment & 0x1fff) != 0;
		if (!headers->is_later_fragment)
			take_plain_ports(ip + 20, headers);
		return true;
	}
	if (BE16_AT(frame + 12) != bpf_htons(ETHERTYPE_IPV6) || frame + PLAIN_IPV6_BYTES > end || ip[0] >> 4 != 6 ||
	    (ip[6] != PROTOCOL_TCP && ip[6] != PROTOCOL_UDP && ip[6] != PROTOCOL_ICMPV6))
		return false;
	copy_mac(headers, frame);
	headers->family = 6;
	headers->protocol = ip[6];
	for (int i = 0; i < 4; i++) {
		headers->source_be[i] = BE32_AT(ip + 8 + 4 * i);
		headers->destination_be[i] = BE32_AT(ip + 24 + 4 * i);
	}
	headers->l4_offset = ETHERNET_BYTES + 40;
	take_plain_ports(ip + 40, headers);
	return true;
}

/* Any frame. VLAN tags count whether the kernel has moved them into the metadata or not. */
__noinline int parse_any(struct __sk_buff *skb, struct headers *headers)
{
	__u32 offset = ETHERNET_BYTES, tags_left;
	__u8 ethernet[ETHERNET_BYTES];
	__be16 ethertype_be;

	if (!headers)
		return PARSED_MALFORMED;
	if (bpf_skb_load_bytes(skb, 0, ethernet, sizeof(ethernet)))
		return PARSED_MALFORMED;
	copy_mac(headers, ethernet);
	__builtin_memcpy(&ethertype_be, ethernet + 12, sizeof(ethertype_be));
	tags_left = skb->vlan_present ? VLAN_TAGS_MAX - 1 : VLAN_TAGS_MAX;
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		if (!tags_left ||
		    (ethertype_be != bpf_htons(ETHERTYPE_VLAN) && ethertype_be != bpf_htons(ETHERTYPE_QINQ)))
			break;
		if (bpf_skb_load_bytes(skb, offset + 2, &ethertype_be, 2))
			return PARSED_MALFORMED;
		offset += 4;
		tags_left--;
	}
	if (ethertype_be == bpf_htons(ETHERTYPE_IPV4))
		return parse_ipv4(skb, offset, headers);
	if (ethertype_be == bpf_htons(ETHERTYPE_IPV6))
		return parse_ipv6(skb, offset, headers);
	return ethertype_be == bpf_htons(ETHERTYPE_ARP) ? PARSED_ARP : PARSED_NOT_IP;
}

/* headers must be zeroed. */
static __always_inline int parse(struct __sk_buff *skb, struct headers *headers)
{
	return parse_plain(skb, headers) ? PARSED_IP : parse_any(skb, headers);
}

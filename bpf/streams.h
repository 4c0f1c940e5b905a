/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Copies that come by on the wire, ours or another host's, and what a target without a listener answers to them. */
#pragma once

#define UDP_HEADER_BYTES 8
#define ICMP_HEADER_BYTES 8
#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMPV6_UNREACHABLE 1	/* then: packet too big, time exceeded */
#define ICMPV6_PARAMETER_PROBLEM 4

#define VXLAN_FLAGS 0x08000000	/* the VNI is valid */
#define OUTER_SOURCE_PORT_MIN 0xff80	/* of copies, as AWS's (spec 1.12) */
_Static_assert(OUTER_SOURCE_PORT_MIN + FLOW_SHOWN_MASK == 65535, "what a port shows of a flow are its other bits");

struct vxlan {
	__be32 flags_be;
	__be32 vni_be;		/* in the upper 24 bits */
};

/* What an ICMP error quotes of a copy: no options, no extension headers, as we send it. */
struct quoted {
	__u8 version_ihl;
	__u8 unread[8];
	__u8 protocol;
	__be16 checksum;
	__be32 source_be;
	__be32 destination_be;
	__be16 source_port_be;
	__be16 destination_port_be;
	__be16 udp_bytes_be;
	__be16 udp_checksum_be;
};
_Static_assert(sizeof(struct quoted) == 20 + UDP_HEADER_BYTES, "as it is on the wire");

struct quoted6 {
	__u8 version_class;
	__u8 unread[5];
	__u8 next_header;
	__u8 hop_limit;
	__be32 source_be[4];
	__be32 destination_be[4];
	__be16 source_port_be;
	__be16 destination_port_be;
	__be16 udp_bytes_be;
	__be16 udp_checksum_be;
};
_Static_assert(sizeof(struct quoted6) == 40 + UDP_HEADER_BYTES, "as it is on the wire");

/* Whether it is worth a call to find out; few packets are. */
static __always_inline bool may_be_copy_on_the_wire(const struct headers *headers)
{
	return headers->protocol == PROTOCOL_UDP && headers->source_port >= OUTER_SOURCE_PORT_MIN;
}

/* Any ICMP: also whether such a packet is never mirrored depends on its type, which is not remembered of a flow. */
static __always_inline bool may_be_error_about_a_copy(const struct headers *headers)
{
	return headers->protocol == PROTOCOL_ICMP || headers->protocol == PROTOCOL_ICMPV6;
}

/* A copy of a session that this network knows (spec 5.19), or its first fragment: by the outer addresses, the ports
 * and the VNI. Any other VXLAN is ordinary traffic. */
__noinline int is_copy_on_the_wire(struct __sk_buff *skb, const struct headers *headers)
{
	struct stream stream = {};
	struct vxlan vxlan;

	if (!headers || headers->protocol != PROTOCOL_UDP || !headers->has_ports ||
	    headers->source_port < OUTER_SOURCE_PORT_MIN ||
	    bpf_skb_load_bytes(skb, headers->l4_offset + UDP_HEADER_BYTES, &vxlan, sizeof(vxlan)) ||
	    vxlan.flags_be != bpf_htonl(VXLAN_FLAGS))
		return false;
	__builtin_memcpy(stream.outer_source_be, headers->source_be, sizeof(stream.outer_source_be));
	__builtin_memcpy(stream.outer_destination_be, headers->destination_be, sizeof(stream.outer_destination_be));
	stream.vni = bpf_ntohl(vxlan.vni_be) >> 8;
	stream.port = headers->destination_port;
	stream.family = headers->family;
	return bpf_map_lookup_elem(&streams, &stream) != NULL;
}

/* RFC 792; RFC 4443 section 3: packet too big is an error there, and what a smaller MTU on the way to the target makes
 * of copies, which routers do not fragment over IPv6. */
static __always_inline bool is_about_a_packet(const struct headers *headers)
{
	if (!headers->has_icmp_type)
		return false;
	if (headers->family == 6)
		return headers->protocol == PROTOCOL_ICMPV6 &&
		       within(ICMPV6_UNREACHABLE, headers->icmp_type, ICMPV6_PARAMETER_PROBLEM);
	return headers->protocol == PROTOCOL_ICMP &&
	       (headers->icmp_type == ICMP_UNREACHABLE || headers->icmp_type == ICMP_TIME_EXCEEDED ||
		headers->icmp_type == ICMP_PARAMETER_PROBLEM);
}

/* The stream of the copy that is quoted at the offset, but for its VNI. Returns where the VXLAN header stands; 0 where the
 * quoted packet cannot be a copy. */
static __always_inline __u32 read_quoted(struct __sk_buff *skb, __u32 offset, struct stream *stream)
{
	struct quoted quoted;

	if (bpf_skb_load_bytes(skb, offset, &quoted, sizeof(quoted)) || quoted.version_ihl != 0x45 ||
	    quoted.protocol != PROTOCOL_UDP || bpf_ntohs(quoted.source_port_be) < OUTER_SOURCE_PORT_MIN)
		return 0;
	stream->outer_source_be[0] = quoted.source_be;
	stream->outer_destination_be[0] = quoted.destination_be;
	stream->port = bpf_ntohs(quoted.destination_port_be);
	return offset + sizeof(quoted);
}

static __always_inline __u32 read_quoted6(struct __sk_buff *skb, __u32 offset, struct stream *stream)
{
	struct quoted6 quoted;

	if (bpf_skb_load_bytes(skb, offset, &quoted, sizeof(quoted)) || quoted.version_class >> 4 != 6 ||
	    quoted.next_header != PROTOCOL_UDP || bpf_ntohs(quoted.source_port_be) < OUTER_SOURCE_PORT_MIN)
		return 0;
	__builtin_memcpy(stream->outer_source_be, quoted.source_be, sizeof(quoted.source_be));
	__builtin_memcpy(stream->outer_destination_be, quoted.destination_be, sizeof(quoted.destination_be));
	stream->port = bpf_ntohs(quoted.destination_port_be);
	return offset + sizeof(quoted);
}

/* An ICMP error about one of our copies (spec 5.17). A router need not quote more than the UDP header (RFC 792): then it
 * may as well be about something that the source sent to the same port itself. */
enum error_about_a_copy { ABOUT_NO_COPY, MAY_BE_ABOUT_A_COPY, IS_ABOUT_A_COPY };

struct refusal {
	int error;
	__u32 ledger_row;	/* of the session whose copy it is about */
};

__noinline int error_about_a_copy(struct __sk_buff *skb, const struct headers *headers, __u32 *ledger_row)
{
	int answer = MAY_BE_ABOUT_A_COPY;
	struct stream stream = {};
	struct vxlan vxlan;
	__u32 offset, *row;

	if (!headers || !ledger_row || !is_about_a_packet(headers))
		return ABOUT_NO_COPY;
	offset = headers->l4_offset + ICMP_HEADER_BYTES;	/* as long in ICMPv6 */
	stream.family = headers->family;
	offset = headers->family == 6 ? read_quoted6(skb, offset, &stream) : read_quoted(skb, offset, &stream);
	if (!offset || !same_address(stream.outer_source_be, headers->destination_be))
		return ABOUT_NO_COPY;
	stream.vni = VNI_NOT_QUOTED;
	if (!bpf_skb_load_bytes(skb, offset, &vxlan, sizeof(vxlan))) {
		if (vxlan.flags_be != bpf_htonl(VXLAN_FLAGS))
			return ABOUT_NO_COPY;
		stream.vni = bpf_ntohl(vxlan.vni_be) >> 8;
		answer = IS_ABOUT_A_COPY;	/* its VNI is quoted too */
	}
	row = bpf_map_lookup_elem(&streams, &stream);
	if (!row)
		return ABOUT_NO_COPY;
	*ledger_row = *row;
	return answer;
}

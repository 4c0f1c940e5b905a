"""How large a super-packet a device of this thread's namespace is handed before the kernel splits it. An edge module.

The limits are of Linux 5.19 (IPv6) and 6.3 (IPv4; an older kernel ignores the attribute, and has no such packets). They
are written as bytes, since pyroute2 has no name for the newer one.
"""

import errno
import os
import socket
import struct

SUPER_PACKET_BYTES_MAX = 8 * 65535  # GSO_MAX_SIZE in include/linux/netdevice.h; a veth takes as much

_NETLINK_ROUTE, _RTM_NEWLINK, _NLMSG_ERROR = 0, 16, 2
_NLM_F_REQUEST, _NLM_F_ACK = 0x1, 0x4
_IFLA_GSO_MAX_SIZE, _IFLA_GSO_IPV4_MAX_SIZE = 41, 63  # linux/if_link.h
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_LINK = struct.Struct("=BxHiII")  # ifinfomsg
_ATTRIBUTE = struct.Struct("=HHI")  # a header and 32 bits


def take_super_packets(device: str, bytes_max: int = SUPER_PACKET_BYTES_MAX) -> None:
    """Let the device have super-packets of so many bytes, of TCP over IPv6 and over IPv4 (BIG TCP). Raises OSError."""
    link = _LINK.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(device), 0, 0)
    limits = (_IFLA_GSO_MAX_SIZE, _IFLA_GSO_IPV4_MAX_SIZE)
    attributes = b"".join(_ATTRIBUTE.pack(_ATTRIBUTE.size, limit, bytes_max) for limit in limits)
    request = _HEADER.pack(_HEADER.size + len(link) + len(attributes), _RTM_NEWLINK, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        netlink.send(request + link + attributes)
        answer = netlink.recv(4096)
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    (code,) = struct.unpack_from("=i", answer, _HEADER.size)
    if kind != _NLMSG_ERROR or code:
        code = -code or errno.EPROTO
        raise OSError(code, f"let {device} have super-packets of {bytes_max} bytes: {os.strerror(code)}")

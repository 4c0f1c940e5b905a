"""The never-mirrored table (spec 5.18) as the kernel reads it. Pure: values in, bytes out.

Most packets concern no line of the table. So that they need not be held against each, the table begins with two hints,
a bit for every address and every (protocol, port) that some line names: a packet whose own bits are all clear is none
of them, and one that has a bit set is held against the lines, which decide.
"""

from collections.abc import Iterable

from pktmirror.agent import abi
from pktmirror.model.exclusions import Exclusion
from pktmirror.model.filter import ICMPV6, TCP, UDP, PortRange

_SCTP = 132
_PORTS_AND_TYPES = (TCP, UDP, _SCTP, ICMPV6)  # whose packets have a port or a type (bpf/parse.h)
_EVERY_BIT = (1 << abi.HINT_BITS) - 1
_PORTS_WORTH_A_BIT_EACH = abi.HINT_BITS  # a wider range sets nearly all of them


def exclusion_bytes(lines: Iterable[Exclusion]) -> bytes:
    """The table of these lines, which are abi.EXCLUSIONS_MAX at most."""
    table = abi.ExclusionTable()
    addresses = ports = 0
    for position, line in enumerate(lines):
        entry = table.lines[position]
        if line.address is not None:
            entry.family = line.address.version
            entry.address_be[:] = abi.address_bytes(line.address)
        if line.protocol is not None:
            entry.protocol, entry.protocol_mask = line.protocol, 0xFF
        if line.ports is not None:
            entry.names_ports, entry.first, entry.last = 1, line.ports.first, line.ports.last
        table.count = position + 1
        if line.address is not None:
            addresses |= 1 << abi.hint_bit(_folded(bytes(entry.address_be)))
        elif line.ports is not None:
            ports |= _port_bits(line.protocol, line.ports)
        else:
            addresses = _EVERY_BIT
    table.addresses[:] = _words(addresses)
    table.ports[:] = _words(ports)
    return bytes(table)


def _folded(address_be: bytes) -> int:
    """The exclusive or of an address's four words, as the kernel loads them."""
    folded = 0
    for offset in range(0, len(address_be), 4):
        folded ^= int.from_bytes(address_be[offset : offset + 4], "little")
    return folded


def _port_bits(protocol: int | None, ports: PortRange) -> int:
    if ports.last - ports.first >= _PORTS_WORTH_A_BIT_EACH:
        return _EVERY_BIT
    bits = 0
    for number in _PORTS_AND_TYPES if protocol is None else (protocol,):
        for port in range(ports.first, ports.last + 1):
            bits |= 1 << abi.hint_bit(number << 16 | port)
    return bits


def _words(bits: int) -> list[int]:
    return [bits >> 32 * index & 0xFFFFFFFF for index in range(abi.HINT_BITS // 32)]

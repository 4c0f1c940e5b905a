from ipaddress import IPv4Address

import pytest

from pktmirror.model.probe import TOKEN_BYTES
from pktmirror.packet import probe
from pktmirror.packet.checksum import Check, Checksums, checksums_of
from pktmirror.packet.headers import UDP, Headers, parse

TOKEN = bytes(range(100, 100 + TOKEN_BYTES))
SESSION = "tms-0123456789abcdef0"
SENT_AT_NS = 1_700_000_000_123_456_789


def test_a_probe_is_a_datagram_between_addresses_that_no_host_has() -> None:
    frame = probe.frame(TOKEN, SENT_AT_NS, SESSION)
    headers = parse(frame)
    assert isinstance(headers, Headers)
    assert (headers.source, headers.destination) == (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"))
    assert (headers.protocol, headers.source_port, headers.destination_port) == (UDP, 9, 9)
    assert checksums_of(frame) == Checksums(Check.RIGHT, Check.RIGHT)
    assert int.from_bytes(frame[16:18]) == len(frame) - 14, "the IPv4 total length"
    assert int.from_bytes(frame[38:40]) == len(frame) - 34, "the UDP length"


def test_the_fields_stand_where_the_reference_says() -> None:
    frame = probe.frame(TOKEN, SENT_AT_NS, SESSION)
    assert frame[42:58] == TOKEN
    assert int.from_bytes(frame[58:66]) == SENT_AT_NS
    assert frame[66:] == b"pktmirror probe tms-0123456789abcdef0"
    assert len(frame) == probe.FRAME_BYTES == 103


def test_a_probe_is_known_whole_and_cut_as_long_as_its_token_is_there() -> None:
    frame = probe.frame(TOKEN, SENT_AT_NS, SESSION)
    for bytes_ in range(len(frame) + 1):
        known = probe.token_in(frame[:bytes_])
        assert known == (TOKEN if bytes_ >= probe.RECOGNISED_BYTES else None), bytes_


def test_what_differs_before_the_token_or_goes_on_behind_the_end_is_no_probe() -> None:
    frame = probe.frame(TOKEN, SENT_AT_NS, SESSION)
    for at in range(40):
        assert probe.token_in(frame[:at] + bytes((frame[at] ^ 1,)) + frame[at + 1 :]) is None, at
    assert probe.token_in(frame + b"\0") is None
    assert probe.token_in(b"") is None


@pytest.mark.parametrize(("token", "session"), [(TOKEN[:-1], SESSION), (TOKEN + b"\0", SESSION), (TOKEN, "tms-1")])
def test_no_probe_is_made_of_a_token_or_an_id_of_another_length(token: bytes, session: str) -> None:
    with pytest.raises(ValueError, match="no probe can be made"):
        probe.frame(token, SENT_AT_NS, session)

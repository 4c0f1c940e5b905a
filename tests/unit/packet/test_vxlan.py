import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktmirror.packet.vxlan import Encapsulated, Malformed, Reason

FRAME = bytes(range(14))


def test_the_header_is_that_of_rfc_7348() -> None:
    assert Encapsulated(0x6D3EDD, FRAME).encode() == bytes.fromhex("08000000 6d3edd00") + FRAME


@given(st.integers(0, (1 << 24) - 1), st.binary(min_size=1, max_size=2000))
def test_what_was_encapsulated_comes_out_again(vni: int, frame: bytes) -> None:
    assert Encapsulated.decode(Encapsulated(vni, frame).encode()) == Encapsulated(vni, frame)


@pytest.mark.parametrize("frame_bytes", [1, 13])
def test_a_frame_may_be_cut_within_its_ethernet_header(frame_bytes: int) -> None:
    """Packet lengths from 1 on are allowed (spec facts 22 and 76)."""
    cut = FRAME[:frame_bytes]
    assert Encapsulated.decode(bytes.fromhex("08000000 00000700") + cut) == Encapsulated(7, cut)


def test_reserved_bits_are_ignored_on_receipt() -> None:
    assert Encapsulated.decode(bytes.fromhex("ffffffff 000007ff") + FRAME) == Encapsulated(7, FRAME)


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        pytest.param(b"", Reason.TOO_SHORT, id="nothing"),
        pytest.param(bytes.fromhex("08000000 00000700"), Reason.TOO_SHORT, id="a header and no frame"),
        pytest.param(bytes.fromhex("08000000 000007"), Reason.TOO_SHORT, id="a byte less than a header"),
        pytest.param(bytes.fromhex("f7000000 00000700") + FRAME, Reason.NO_VNI, id="every flag but the I flag"),
    ],
)
def test_what_is_no_vxlan_says_why(datagram: bytes, reason: Reason) -> None:
    with pytest.raises(Malformed) as refused:
        Encapsulated.decode(datagram)
    assert refused.value.reason is reason
    assert str(refused.value) == reason.value


@given(st.binary(max_size=100))
def test_any_bytes_are_decoded_or_malformed(datagram: bytes) -> None:
    try:
        inner = Encapsulated.decode(datagram)
    except Malformed:
        assert len(datagram) < 9 or not datagram[0] & 0x08
    else:
        assert inner.frame == datagram[8:]


@pytest.mark.parametrize("vni", [-1, 1 << 24])
def test_a_vni_has_24_bits(vni: int) -> None:
    with pytest.raises(ValueError, match="24 bits"):
        Encapsulated(vni, FRAME)

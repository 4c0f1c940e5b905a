from hypothesis import given
from hypothesis import strategies as st

from pktmirror.monitor.demux import (
    DatagramRefused,
    FrameMirrored,
    Received,
    Receiver,
    Refused,
    Stream,
    StreamAppeared,
)
from pktmirror.packet.vxlan import Encapsulated

WEB, SENSOR = "10.0.0.48", "10.0.0.9"
FRAME = bytes(range(60))


def test_a_stream_appears_once_and_each_frame_comes_out() -> None:
    receiver = Receiver()
    stream = Stream(7, WEB, SENSOR)
    datagram = Encapsulated(7, FRAME).encode()
    assert receiver.datagram_received(datagram, WEB, SENSOR, 100) == [
        StreamAppeared(stream),
        FrameMirrored(stream, FRAME, 100),
    ]
    assert receiver.datagram_received(datagram, WEB, SENSOR, 200) == [FrameMirrored(stream, FRAME, 200)]
    assert receiver.streams == {stream: Received(2, 120, 100, 200)}
    assert receiver.refused == {}


def test_vni_source_and_destination_each_make_a_stream_of_their_own() -> None:
    receiver = Receiver()
    streams = [Stream(7, WEB, SENSOR), Stream(8, WEB, SENSOR), Stream(7, "10.0.0.49", SENSOR), Stream(7, WEB, "::1")]
    for stream in streams:
        datagram = Encapsulated(stream.vni, FRAME).encode()
        receiver.datagram_received(datagram, stream.outer_source, stream.outer_destination, 5)
    assert receiver.streams == {stream: Received(1, 60, 5, 5) for stream in streams}


def test_garbage_is_counted_by_reason_and_makes_no_stream() -> None:
    receiver = Receiver()
    assert receiver.datagram_received(b"hello", WEB, SENSOR, 1) == [DatagramRefused(WEB, Refused.TOO_SHORT)]
    assert receiver.datagram_received(bytes(60), WEB, SENSOR, 1) == [DatagramRefused(WEB, Refused.NO_VNI)]
    assert receiver.datagram_received(bytes(60), WEB, SENSOR, 1) == [DatagramRefused(WEB, Refused.NO_VNI)]
    assert receiver.datagram_truncated(WEB) == [DatagramRefused(WEB, Refused.TRUNCATED)]
    assert receiver.refused == {Refused.TOO_SHORT: 1, Refused.NO_VNI: 2, Refused.TRUNCATED: 1}
    assert receiver.streams == {}


def test_a_stream_too_many_is_refused_and_those_there_go_on() -> None:
    receiver = Receiver(streams_max=2)
    for vni in (1, 2):
        receiver.datagram_received(Encapsulated(vni, FRAME).encode(), WEB, SENSOR, 1)
    refused = receiver.datagram_received(Encapsulated(3, FRAME).encode(), WEB, SENSOR, 2)
    assert refused == [DatagramRefused(WEB, Refused.TOO_MANY_STREAMS)]
    receiver.datagram_received(Encapsulated(1, FRAME).encode(), WEB, SENSOR, 3)
    assert receiver.streams == {
        Stream(1, WEB, SENSOR): Received(2, 120, 1, 3),
        Stream(2, WEB, SENSOR): Received(1, 60, 1, 1),
    }
    assert receiver.refused == {Refused.TOO_MANY_STREAMS: 1}


@given(st.lists(st.binary(max_size=40) | st.binary(min_size=14).map(lambda frame: Encapsulated(3, frame).encode())))
def test_every_datagram_is_received_or_refused(datagrams: list[bytes]) -> None:
    receiver = Receiver(streams_max=3)
    for datagram in datagrams:
        receiver.datagram_received(datagram, WEB, SENSOR, 1)
    received = sum(stream.packets for stream in receiver.streams.values())
    assert received + receiver.refused.total() == len(datagrams)

from hypothesis import given
from hypothesis import strategies as st

from pktmirror.model.probe import new_token
from pktmirror.monitor.demux import (
    PROBES_MAX,
    DatagramRefused,
    Event,
    FrameMirrored,
    GaveWay,
    ProbeArrived,
    Received,
    Receiver,
    Refused,
    Stream,
    StreamAppeared,
    StreamGaveWay,
)
from pktmirror.packet import probe
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


def test_the_stream_that_is_silent_the_longest_gives_way_and_its_figures_stay_in_the_sum() -> None:
    receiver = Receiver(streams_max=2)
    one, two, three = (Stream(vni, WEB, SENSOR) for vni in (1, 2, 3))

    def receive(stream: Stream, now_ns: int) -> list[Event]:
        return receiver.datagram_received(Encapsulated(stream.vni, FRAME).encode(), WEB, SENSOR, now_ns)

    receive(one, 1)
    receive(two, 2)
    receive(one, 3)  # appeared first, and two has been silent for longer
    assert (receiver.given_way, receiver.gave_way) == (Received(), {})
    assert receive(three, 4) == [
        StreamGaveWay(two, GaveWay.TOO_MANY_STREAMS),
        StreamAppeared(three),
        FrameMirrored(three, FRAME, 4),
    ]
    assert receiver.streams == {one: Received(2, 120, 1, 3), three: Received(1, 60, 4, 4)}
    assert (receiver.given_way, receiver.gave_way) == (Received(1, 60, 2, 2), {GaveWay.TOO_MANY_STREAMS: 1})
    assert receive(two, 5) == [
        StreamGaveWay(one, GaveWay.TOO_MANY_STREAMS),
        StreamAppeared(two),
        FrameMirrored(two, FRAME, 5),
    ]
    assert receiver.streams == {three: Received(1, 60, 4, 4), two: Received(1, 60, 5, 5)}
    assert (receiver.given_way, receiver.gave_way) == (Received(3, 180, 1, 3), {GaveWay.TOO_MANY_STREAMS: 2})
    assert receiver.refused == {}


def test_invented_vnis_never_displace_a_stream_that_goes_on() -> None:
    receiver = Receiver(streams_max=3)
    session = Stream(1, WEB, SENSOR)
    for vni in range(2, 100):
        receiver.datagram_received(Encapsulated(1, FRAME).encode(), WEB, SENSOR, vni)
        receiver.datagram_received(Encapsulated(vni, FRAME).encode(), WEB, SENSOR, vni)
    assert receiver.streams[session] == Received(98, 98 * 60, 2, 99)
    assert [stream.vni for stream in receiver.streams] == [98, 1, 99]
    assert receiver.given_way == Received(96, 96 * 60, 2, 97)
    assert receiver.gave_way == {GaveWay.TOO_MANY_STREAMS: 96}


SHARED, SESSION = b"shared", "tms-0123456789abcdef0"


def probe_datagram(token: bytes, vni: int = 7) -> bytes:
    return Encapsulated(vni, probe.frame(token, 1, SESSION)).encode()


def test_a_probe_is_counted_by_itself_and_makes_no_stream() -> None:
    receiver, token = Receiver(probe_key=SHARED), new_token(SHARED)
    arrived = ProbeArrived(token, Stream(7, WEB, SENSOR), 100)
    assert receiver.datagram_received(probe_datagram(token), WEB, SENSOR, 100) == [arrived]
    assert (list(receiver.probes), receiver.probe_count) == ([arrived], 1)
    assert (receiver.streams, receiver.given_way, receiver.refused) == ({}, Received(), {})


def test_what_only_looks_like_a_probe_is_a_copy() -> None:
    receiver, token = Receiver(probe_key=SHARED), new_token(SHARED)
    stream = Stream(7, WEB, SENSOR)
    receiver.datagram_received(probe_datagram(token), WEB, SENSOR, 1)
    for looks_like_one in (new_token(b"guessed"), bytes(16), token):
        datagram = probe_datagram(looks_like_one)
        assert receiver.datagram_received(datagram, WEB, SENSOR, 2)[-1] == FrameMirrored(stream, datagram[8:], 2)
    assert receiver.streams[stream].packets == 3, "also the very probe when it comes again"
    assert receiver.probe_count == 1


def test_without_the_shared_secret_a_probe_is_a_copy() -> None:
    receiver = Receiver()
    datagram = probe_datagram(new_token(SHARED))
    assert receiver.datagram_received(datagram, WEB, SENSOR, 2)[-1] == FrameMirrored(
        Stream(7, WEB, SENSOR), datagram[8:], 2
    )
    assert receiver.probe_count == 0


def test_the_last_probes_are_kept_and_all_of_them_are_counted() -> None:
    receiver = Receiver(probe_key=SHARED)
    tokens = [new_token(SHARED) for _ in range(PROBES_MAX + 3)]
    for token in tokens:
        receiver.datagram_received(probe_datagram(token), WEB, SENSOR, 1)
    assert [arrived.token for arrived in receiver.probes] == tokens[3:]
    assert receiver.probe_count == PROBES_MAX + 3
    assert receiver.streams == {}


VALID = st.builds(
    lambda vni, frame: Encapsulated(vni, frame).encode(), st.integers(0, 9), st.binary(min_size=1, max_size=40)
)


@given(st.lists(st.binary(max_size=40) | VALID))
def test_every_datagram_is_received_or_refused(datagrams: list[bytes]) -> None:
    receiver = Receiver(streams_max=3)
    frame_bytes = 0
    for datagram in datagrams:
        events = receiver.datagram_received(datagram, WEB, SENSOR, 1)
        frame_bytes += sum(len(event.frame) for event in events if isinstance(event, FrameMirrored))
        assert len(receiver.streams) <= 3
    kept = [receiver.given_way, *receiver.streams.values()]
    assert sum(received.packets for received in kept) + receiver.refused.total() == len(datagrams)
    assert sum(received.bytes for received in kept) == frame_bytes

"""Live traces at the control plane: one a host, told to its asker, and over when one of both sides is gone."""

from typing import Any

import msgspec
import pytest

from pktmirror.aws import ApiError
from pktmirror.control.traces import ASKER_GONE_S, KEPT_S, PACKETS_A_TIME, TRACE_SILENT_S, TRACES_MAX, Traces
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceOutcome
from pktmirror.tracing import TraceBatch, TracedPacket, TraceWish

PACKET = TracedPacket(
    time_ns=1, direction=Direction.INGRESS, bytes=60, packets=1, outcome=InterfaceOutcome.NOT_IP, offers=()
)


def wish(**changed: Any) -> TraceWish:
    return TraceWish(**{"interface_id": "eni-1", "packets_max": 1000, "seconds": 60.0, **changed})


def asked(traces: Traces, now_s: float = 100.0, host: str = "host-1", **changed: Any) -> str:
    return traces.ask(wish(**changed), host, "netns:web/eth0", now_s).trace_id


def refused(traces: Traces, host: str = "host-1", now_s: float = 100.0) -> str:
    with pytest.raises(ApiError) as error:
        asked(traces, now_s, host)
    return error.value.code


def batch(trace_id: str, packets: int = 0, **changed: Any) -> TraceBatch:
    return TraceBatch(trace_id=trace_id, packets=(PACKET,) * packets, **changed)


def test_a_trace_goes_from_its_wish_to_the_agent_and_back_packet_by_packet():
    traces = Traces()
    trace_id = asked(traces)
    order = traces.order("host-1", 100.5)
    assert order is not None
    assert (order.trace_id, order.key, order.packets_max) == (trace_id, "netns:web/eth0", 1000)
    assert traces.order("host-2", 100.5) is None
    assert traces.read(trace_id, 0, 101.0).began is False

    assert traces.tell("host-1", batch(trace_id, 2, skipped=3, lost=1), 101.0)
    assert traces.order("host-1", 101.0) is None, "it has begun"
    progress = traces.read(trace_id, 0, 101.0)
    assert (len(progress.packets), progress.began, progress.skipped, progress.lost) == (2, True, 3, 1)
    assert traces.read(trace_id, 2, 101.0).packets == ()

    assert traces.tell("host-1", batch(trace_id, 1, ended="60 s have passed"), 102.0) is False
    progress = traces.read(trace_id, 2, 102.0)
    assert (len(progress.packets), progress.ended) == (1, "60 s have passed")


def test_the_end_is_told_after_the_last_packet():
    traces = Traces()
    trace_id = asked(traces)
    for _ in range(2):
        traces.tell("host-1", batch(trace_id, 400), 101.0)
    traces.tell("host-1", batch(trace_id, ended="all of them"), 101.0)
    first = traces.read(trace_id, 0, 101.0)
    assert (len(first.packets), first.ended) == (PACKETS_A_TIME, None)
    last = traces.read(trace_id, PACKETS_A_TIME, 101.0)
    assert (len(last.packets), last.ended) == (300, "all of them")


def test_a_host_has_one_trace_at_a_time_and_another_when_that_has_ended():
    traces = Traces()
    first = asked(traces)
    assert refused(traces) == "TraceInProgress"
    assert asked(traces, host="host-2") != first
    traces.stop(first, 100.0)
    assert asked(traces) != first


def test_there_are_not_more_traces_than_the_memory_is_for():
    traces = Traces()
    for number in range(TRACES_MAX):
        asked(traces, host=f"host-{number}")
    assert refused(traces, "one-more") == "TraceLimitExceeded"


def test_no_more_packets_are_kept_than_were_asked_for():
    traces = Traces()
    trace_id = asked(traces, packets_max=3)
    traces.tell("host-1", batch(trace_id, 5), 100.0)
    assert len(traces.read(trace_id, 0, 100.0).packets) == 3


def test_an_asker_who_reads_no_more_ends_the_trace_and_the_agent_hears_of_it():
    traces = Traces()
    trace_id = asked(traces)
    assert traces.tell("host-1", batch(trace_id), 100.0 + ASKER_GONE_S)
    traces.read(trace_id, 0, 100.0 + ASKER_GONE_S)
    assert traces.tell("host-1", batch(trace_id), 101.0 + ASKER_GONE_S)
    assert traces.tell("host-1", batch(trace_id), 101.0 + 2 * ASKER_GONE_S) is False


@pytest.mark.parametrize("began", [False, True])
def test_an_agent_that_is_silent_ends_the_trace_and_the_asker_hears_of_it(began: bool):
    traces = Traces()
    trace_id = asked(traces)
    if began:
        traces.tell("host-1", batch(trace_id), 100.0)
    assert traces.read(trace_id, 0, 100.0 + TRACE_SILENT_S).ended is None
    ended = traces.read(trace_id, 0, 100.1 + TRACE_SILENT_S).ended
    assert ended is not None
    assert "the agent of host-1 has" in ended
    assert traces.tell("host-1", batch(trace_id, 1), 101.0 + TRACE_SILENT_S) is False


def test_a_batch_of_another_host_or_of_no_trace_is_not_taken_in():
    traces = Traces()
    trace_id = asked(traces)
    assert traces.tell("host-2", batch(trace_id, 1), 100.0) is False
    assert traces.tell("host-1", batch("trace-0000000000000000", 1), 100.0) is False
    assert traces.read(trace_id, 0, 100.0).packets == ()


def test_what_has_ended_is_forgotten_in_time():
    traces = Traces()
    trace_id = asked(traces)
    traces.stop(trace_id, 100.0)
    assert traces.read(trace_id, 0, 100.0 + KEPT_S).ended == "stopped by whoever asked for it"
    asked(traces, 101.0 + 2 * KEPT_S)
    with pytest.raises(ApiError, match="does not exist"):
        traces.read(trace_id, 0, 101.0 + 2 * KEPT_S)


def test_whoever_waits_is_woken_by_each_change():
    traces = Traces()
    seen = [traces.changes]
    trace_id = asked(traces)
    seen.append(traces.changes)
    traces.tell("host-1", batch(trace_id), 100.0)
    seen.append(traces.changes)
    traces.stop(trace_id, 100.0)
    seen.append(traces.changes)
    assert len(set(seen)) == 4


def test_a_stage_of_a_later_version_passes_from_replica_to_replica_in_its_own_words():
    later = msgspec.structs.replace(PACKET, stage="new in the next version", copies={"lost by what is new": 1})
    told = batch("trace-" + 16 * "0", packets=1)
    told = msgspec.structs.replace(told, packets=(*told.packets, later))
    document = msgspec.json.encode(("host-1", 3, told))
    assert msgspec.json.decode(document, type=tuple[str, int, TraceBatch]) == ("host-1", 3, told)

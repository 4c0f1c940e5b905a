"""The agent's line to the control plane: what is followed, what is kept, and what is told when that fails."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pktmirror.agent.controller import Controller, next_relist_s
from pktmirror.agent.daemon import Settings
from pktmirror.agent.line import refuse_bad_url
from pktmirror.desired import (
    DesiredState,
    ExclusionDocument,
    Report,
    StreamDocument,
    decode_desired_state,
    decode_report,
    encode,
)
from pktmirror.model.refusal import Refusal
from tests.unit.agent import plane as stub
from tests.unit.agent.plane import HOST
from tests.waiting import wait_until

WITHIN_S = 30.0


class Plane(stub.Plane):
    """Answers with `answer` until the agent has revision `known`, and keeps the reports."""

    def __init__(self) -> None:
        super().__init__(self._desired, self._report)
        self.answer = b""
        self.asked_after: list[int] = []
        self.reports: list[Report] = []

    def desire(self, revision: int, host_id: str = HOST) -> DesiredState:
        state = DesiredState(host_id=host_id, revision=revision)
        self.answer = encode(state)
        return state

    def _desired(self, query: str) -> bytes | None:
        known = int(query.split("after=")[1].split("&", maxsplit=1)[0])
        self.asked_after.append(known)
        return None if not self.answer or f'"revision":{known},'.encode() in self.answer else self.answer

    def _report(self, body: bytes) -> bool:
        self.reports.append(decode_report(body))
        return True


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = Plane()
    with stub.answering(plane):
        yield plane


@contextmanager
def following(
    plane: Plane, kept: Path, on_change: Callable[[], None] = lambda: None, relist_s: float = 300.0
) -> Iterator[Controller]:
    controller = Controller(plane.uplink(), kept, on_change=on_change, retry_s=0.01, relist_s=relist_s)
    controller.start()
    try:
        yield controller
    finally:
        controller.stop()


def revision(controller: Controller) -> int | None:
    return None if controller.desired is None else controller.desired.revision


def follows_to(controller: Controller, number: int) -> None:
    wait_until(lambda: revision(controller) == number, WITHIN_S, lambda: f"it stands at {revision(controller)}")


def told(plane: Plane, controller: Controller, count: int) -> tuple[str, ...]:
    """The problems of the first report of which there are so many, and one of the agent's own among them."""

    def fits() -> Report | None:
        controller.report(Report(host_id=HOST, agent_version="", applied_revision=0, problems=("own",)))
        return plane.reports[-1] if plane.reports and len(plane.reports[-1].problems) == count else None

    problems = wait_until(fits, WITHIN_S, "no such report").problems
    assert problems[0] == "own"
    return problems[1:]


def test_what_is_desired_is_followed_and_kept_for_its_owner_alone(plane: Plane, tmp_path: Path) -> None:
    kept = tmp_path / f"desired-{HOST}.json"
    changes: list[int] = []
    earlier = kept.with_suffix(".new")  # as a run that was killed has left it, open to everybody
    earlier.touch()
    earlier.chmod(0o644)
    with earlier.open("rb") as reader:
        state = plane.desire(1)
        with following(plane, kept, lambda: changes.append(1)) as controller:
            follows_to(controller, 1)
            wait_until(lambda: changes == [1], WITHIN_S, "nobody was told")
            assert told(plane, controller, 1) == ()
        assert decode_desired_state(kept.read_bytes()) == state
        assert kept.stat().st_mode & 0o777 == 0o600
        assert reader.read() == b"", "who had the other file open has nothing of this one"
    assert list(tmp_path.iterdir()) == [kept]


def test_a_disk_that_keeps_nothing_is_a_problem_and_never_the_end_of_following(plane: Plane, tmp_path: Path) -> None:
    kept = tmp_path / f"desired-{HOST}.json"
    kept.mkdir()
    plane.desire(1)
    with following(plane, kept) as controller:
        follows_to(controller, 1)
        [problem] = told(plane, controller, 2)
        assert "cannot be kept" in problem
        assert str(kept) in problem
        # between two tries: each writes beside the place first
        wait_until(lambda: list(tmp_path.iterdir()) == [kept], WITHIN_S, "half of a document is left")
        second = plane.desire(2)
        follows_to(controller, 2)
        kept.rmdir()
        wait_until(kept.is_file, WITHIN_S, "it is not tried again")
        assert decode_desired_state(kept.read_bytes()) == second
        assert told(plane, controller, 1) == ()


def test_an_agent_that_starts_knows_what_was_kept(plane: Plane, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_bytes(encode(DesiredState(host_id=HOST, revision=7)))
    controller = Controller(plane.uplink(), kept, on_change=lambda: None)
    assert revision(controller) == 7
    controller.stop()  # which was never started


@pytest.mark.parametrize("what", [b"{", b"", b"\xff", encode(DesiredState(host_id="somebody-else", revision=7)), None])
def test_what_was_kept_and_is_no_document_of_this_host_is_not_taken(
    plane: Plane, tmp_path: Path, what: bytes | None
) -> None:
    kept = tmp_path / "kept.json"
    if what is None:
        kept.mkdir()
    else:
        kept.write_bytes(what)
    plane.desire(1)
    controller = Controller(plane.uplink(), kept, on_change=lambda: None, retry_s=0.01)
    assert controller.desired is None
    controller.start()
    follows_to(controller, 1)
    controller.stop()


@pytest.mark.parametrize("what", [b"{", b"[]", encode(DesiredState(host_id="somebody-else", revision=7))])
def test_an_answer_that_is_no_document_of_this_host_is_not_taken_and_the_next_is(
    plane: Plane, tmp_path: Path, what: bytes
) -> None:
    kept = tmp_path / "kept.json"
    plane.answer = what
    with following(plane, kept) as controller:
        wait_until(controller.unreachable, WITHIN_S, "nothing is said")
        assert controller.desired is None
        assert not kept.exists()
        plane.desire(8)
        follows_to(controller, 8)
        wait_until(lambda: controller.unreachable() is None, WITHIN_S, "it is still said to be away")


def test_the_control_plane_is_heard_of_by_a_document_and_by_a_report_that_it_takes(
    plane: Plane, tmp_path: Path
) -> None:
    report = Report(host_id=HOST, agent_version="", applied_revision=0)
    plane.answer = b"{"
    plane.told = lambda _body: False
    began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with following(plane, tmp_path / "kept.json") as controller:
        controller.report(report)
        wait_until(lambda: len(plane.asked_after) > 2, WITHIN_S, "it does not ask")
        assert controller.heard_ns is None, "what answers there is no control plane"
        plane.told = plane._report
        controller.report(report)
        wait_until(lambda: controller.heard_ns is not None, WITHIN_S, "the report was taken")
        assert began_ns <= (controller.heard_ns or 0) <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    plane.desire(1)
    began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with following(plane, tmp_path / "kept.json") as controller:
        wait_until(lambda: controller.heard_ns is not None, WITHIN_S, "the document was taken")
        assert began_ns <= (controller.heard_ns or 0) <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize("lease_s", [-1, 9, 10**7 + 1])
def test_a_lease_that_no_agent_could_keep_is_refused(tmp_path: Path, lease_s: int) -> None:
    with pytest.raises(Refusal, match="lease"):
        Settings("http://127.0.0.1:1", "token", HOST, tmp_path, lease_s=lease_s)
    for good_s in (0, 10, 10**7):
        assert Settings("http://127.0.0.1:1", "token", HOST, tmp_path, lease_s=good_s).lease_s == good_s


def test_nothing_that_goes_wrong_with_a_change_ends_the_following(plane: Plane, tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("of our own")

    plane.desire(1)
    with following(plane, tmp_path / "kept.json", fail) as controller:
        follows_to(controller, 1)
        plane.desire(2)
        follows_to(controller, 2)


def test_what_was_kept_is_followed_from_the_whole_whatever_its_revision(plane: Plane, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    stale = DesiredState(host_id=HOST, revision=7, exclusions=(ExclusionDocument(why="of another store"),))
    kept.write_bytes(encode(stale))
    state = plane.desire(7)
    with following(plane, kept) as controller:
        wait_until(lambda: controller.desired == state, WITHIN_S, "the revision alone was compared")
        wait_until(lambda: 7 in plane.asked_after, WITHIN_S, "it never waits for a change")
    assert plane.asked_after[0] == -1
    assert plane.asked_after.count(-1) == 1, "from then on it waits for what comes after"


def test_hosts_that_start_together_ask_for_the_whole_at_times_of_their_own() -> None:
    asked_in_s = [next_relist_s(300.0, drawn / 100) for drawn in range(100)]
    assert min(asked_in_s) == 240.0
    assert 358.0 < max(asked_in_s) < 360.0
    assert asked_in_s == sorted(set(asked_in_s)), "each drawn number is a time of its own"


def test_the_whole_is_asked_for_again_whatever_is_known(plane: Plane, tmp_path: Path) -> None:
    with following(plane, tmp_path / "kept.json", relist_s=0.05) as controller:
        plane.desire(3)
        follows_to(controller, 3)
        other = DesiredState(host_id=HOST, revision=3, exclusions=(ExclusionDocument(why="missed"),))
        plane.answer = encode(other)
        wait_until(lambda: controller.desired == other, WITHIN_S, "what was missed stays missed")


@pytest.mark.parametrize("url", ["foo", "", "http://", "http://127.0.0.1:bad", "ftp://127.0.0.1", "127.0.0.1:8773"])
def test_what_is_no_url_of_a_control_plane_is_refused(url: str) -> None:
    with pytest.raises(Refusal, match="not the URL of a control plane"):
        refuse_bad_url(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8773", "https://control.example/", "http://[::1]:8773"])
def test_urls_of_control_planes_are_taken(url: str) -> None:
    refuse_bad_url(url)


def test_streams_that_are_not_told_again_stay(plane: Plane, tmp_path: Path) -> None:
    streams = (StreamDocument("10.0.0.1", "10.0.0.2", 7),)
    first = DesiredState(host_id=HOST, revision=1, streams_id="some", streams=streams)
    plane.answer = encode(first)
    with following(plane, tmp_path / "kept") as controller:
        follows_to(controller, 1)
        plane.answer = encode(DesiredState(host_id=HOST, revision=2, streams_id="some", streams_kept=True))
        follows_to(controller, 2)
        whole = DesiredState(host_id=HOST, revision=2, streams_id="some", streams=streams)
        assert controller.desired == whole
        assert decode_desired_state((tmp_path / "kept").read_bytes()) == whole, "an agent starts from it alone"
        plane.answer = encode(DesiredState(host_id=HOST, revision=3, streams_id="others", streams_kept=True))
        wait_until(controller.unreachable, WITHIN_S, "what cannot be made whole is taken")
        assert revision(controller) == 2

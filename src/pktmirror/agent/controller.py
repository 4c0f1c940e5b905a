"""What the agent follows and tells: the desired state, and its reports. An edge module.

What was last desired is kept on disk: an agent that starts without its control plane makes true what it knew.
"""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import structlog

from pktmirror.agent.identity import write_at_once
from pktmirror.agent.line import RETRY_S, Line, Uplink
from pktmirror.desired import DesiredState, Report, decode_desired_state, encode

_log = structlog.get_logger("agent")

RELIST_S = 300.0
"""How often the whole is asked for whatever is known, so that no mistake about what is known lasts."""
_LAST_REPORT_S = 5.0
_NOTHING = -1


def next_relist_s(relist_s: float, drawn: float) -> float:
    """In how many seconds all is asked for again: a fifth sooner or later than ``relist_s`` at the most.

    ``drawn`` in [0, 1) keeps hosts that have started together from asking together for ever.
    """
    return relist_s * (0.8 + 0.4 * drawn)


class Controller:
    """``on_change`` is called in a thread of its own whenever `desired` has changed.

    No failure ends the following: one of the control plane is logged and tried again, one of the disk is a problem
    in the reports until the document is kept.
    """

    def __init__(
        self,
        uplink: Uplink,
        kept: Path,
        *,
        on_change: Callable[[], None],
        retry_s: float = RETRY_S,
        relist_s: float = RELIST_S,
    ) -> None:
        self._uplink = uplink
        self._kept = kept
        self._on_change = on_change
        self._relist_s = relist_s
        self._relist_at_s = 0.0  # the first question is for the whole
        self._report: Report | None = None
        self._report_is_new = threading.Event()
        self._unkept: bytes | None = None
        self._problems: tuple[str, ...] = ()
        self.heard_ns: int | None = None
        """When the control plane last answered as it should, in ns of CLOCK_BOOTTIME; None: not yet."""
        self.desired = self._read_kept()
        self._watch = Line("watch", self._watch_once, tells_absence=True, retry_s=retry_s)
        self._reports = Line("report", self._report_once, tells_absence=True, retry_s=retry_s)

    def start(self) -> None:
        self._watch.start()
        self._reports.start()

    def stop(self) -> None:
        """Ends both lines, if they were started; a report that is under way is finished."""
        self._watch.stop()
        self._reports.stop()
        self._report_is_new.set()
        self._reports.join(_LAST_REPORT_S)

    def report(self, report: Report) -> None:
        """Hand in a report, to which the problems met here are added; one that was not sent yet is replaced."""
        self._report = report
        self._report_is_new.set()

    def unreachable(self) -> str | None:
        """Why the control plane cannot be reached, if so."""
        return self._watch.problem or self._reports.problem

    def _watch_once(self) -> None:
        if self._unkept is not None:
            self._keep(self._unkept)
        asks_for_all = self._is_relisting()  # asked once: time goes on while the answer is waited for
        before = None if asks_for_all else self.desired
        after = _NOTHING if before is None else before.revision
        streams = {} if before is None else {"streams": before.streams_id}
        document = self._uplink.ask("desired", after=after, **streams)
        desired = None if document is None else self._decoded(document)
        if desired is not None and desired.streams_kept:
            try:
                desired = _with_streams_of(before, desired)
            except msgspec.ValidationError:
                self._relist_at_s = 0.0  # the same question would have the same answer
                raise
            document = encode(desired)
        self.heard_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if document is None or desired is None:
            return
        if asks_for_all:
            self._relist_at_s = time.monotonic() + next_relist_s(self._relist_s, random.random())
        if desired != self.desired and not self._watch.stopping:
            self._keep(document)
            self.desired = desired
            self._on_change()

    def _is_relisting(self) -> bool:
        return time.monotonic() >= self._relist_at_s

    def _report_once(self) -> None:
        self._report_is_new.wait()
        self._report_is_new.clear()
        report = self._report
        if report is not None and not self._reports.stopping:
            try:
                told = msgspec.structs.replace(report, problems=report.problems + self._problems)
                self._uplink.tell("report", encode(told))
                self.heard_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            except httpx.HTTPError:
                self._report_is_new.set()  # it is sent again, or the next one in its place
                raise

    def _read_kept(self) -> DesiredState | None:
        try:
            return self._decoded(self._kept.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("the kept desired state cannot be read; waiting for the control plane", why=str(error))
            return None

    def _decoded(self, document: bytes) -> DesiredState:
        desired = decode_desired_state(document)
        if desired.host_id != self._uplink.host_id:
            raise msgspec.ValidationError(
                f"the document is for the host {desired.host_id}, this is {self._uplink.host_id}"
            )
        return desired

    def _keep(self, document: bytes) -> None:
        """What cannot be kept is followed all the same, told, and tried again at the next answer."""
        try:
            write_at_once(self._kept, document)
        except OSError as error:
            self._unkept = document
            problem = f"the desired state cannot be kept for the next start: {error}"
            if self._problems != (problem,):
                _log.error(problem)
            self._problems = (problem,)
        else:
            self._unkept = None
            self._problems = ()


def _with_streams_of(before: DesiredState | None, desired: DesiredState) -> DesiredState:
    """The whole document, where it was told that the streams are those of the one before."""
    if before is None or before.streams_id != desired.streams_id:
        raise msgspec.ValidationError("the document is told without streams that were never told")
    return msgspec.structs.replace(desired, streams=before.streams, streams_kept=False)

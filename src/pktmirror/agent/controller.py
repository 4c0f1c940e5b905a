"""The agent's line to the control plane: it follows the desired state and hands in reports. An edge module.

Two threads, so that a slow or absent control plane never delays the data plane. What was last desired is kept on
disk: an agent that starts without its control plane makes true what it knew.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import structlog

from pktmirror.desired import DesiredState, Report, decode_desired_state, encode
from pktmirror.model.refusal import Refusal

_log = structlog.get_logger("agent")

WAIT_S = 20
RETRY_S = 1.0


def refuse_bad_url(url: str) -> None:
    """Refusal where no control plane can have this URL."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        found = str(error)
    else:
        if parsed.scheme in ("http", "https") and parsed.host:
            return
        found = f"the scheme {parsed.scheme!r} and the host {parsed.host!r}"
    raise Refusal(f"{url!r} is not the URL of a control plane.", found=found, do="write it as in http://127.0.0.1:8773")


class Controller:
    """``on_change`` is called in a thread of its own whenever `desired` has changed.

    No failure ends the following: one of the control plane is logged and tried again, one of the disk is a problem
    in the reports until the document is kept.
    """

    def __init__(
        self, url: str, token: str, host_id: str, kept: Path, *, on_change: Callable[[], None], retry_s: float = RETRY_S
    ) -> None:
        self._client = httpx.Client(
            base_url=f"{url.rstrip('/')}/pktmirror/v1/agents/{host_id}",
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(5.0, read=WAIT_S + 5.0),
            trust_env=False,  # the control plane is named by the operator; no proxy stands between
        )
        self._host_id = host_id
        self._kept = kept
        self._on_change = on_change
        self._retry_s = retry_s
        self._stop = threading.Event()
        self._report: Report | None = None
        self._report_is_new = threading.Event()
        self._last_failure: dict[str, str] = {}
        self._unkept: bytes | None = None
        self._problems: tuple[str, ...] = ()
        self.desired = self._read_kept()
        self._threads = [
            threading.Thread(target=self._repeat, args=(name, step), name=f"agent-{name}", daemon=True)
            for name, step in (("watch", self._watch_once), ("report", self._report_once))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends both threads, if they were started; a report that is under way is finished."""
        self._stop.set()
        self._report_is_new.set()
        if self._threads[1].is_alive():
            self._threads[1].join(timeout=5)
        self._client.close()

    def report(self, report: Report) -> None:
        """Hand in a report, to which the problems met here are added; one that was not sent yet is replaced."""
        self._report = report
        self._report_is_new.set()

    def unreachable(self) -> str | None:
        """Why the control plane cannot be reached, if so."""
        return next(iter(self._last_failure.values()), None)

    def _repeat(self, name: str, step: Callable[[], None]) -> None:
        while not self._stop.is_set():
            try:
                step()
                if self._last_failure.pop(name, None) is not None:
                    _log.info("the control plane answers again", call=name)
            except Exception as error:  # a thread that ended here would never follow again
                if self._stop.is_set():
                    return
                expected = isinstance(error, (httpx.HTTPError, msgspec.DecodeError, Refusal, OSError))
                if self._last_failure.get(name) != str(error):
                    _log.warning(
                        "the control plane cannot be used; mirroring goes on as last desired",
                        why=str(error),
                        exc_info=not expected,
                    )
                self._last_failure[name] = str(error)
                self._stop.wait(self._retry_s)

    def _watch_once(self) -> None:
        if self._unkept is not None:
            self._keep(self._unkept)
        known = -1 if self.desired is None else self.desired.revision
        answer = self._client.get("desired", params={"after": known, "wait_s": WAIT_S})
        if answer.status_code == httpx.codes.NO_CONTENT:
            return
        _accepted(answer)
        desired = self._decoded(answer.content)
        if desired != self.desired and not self._stop.is_set():
            self._keep(answer.content)
            self.desired = desired
            self._on_change()

    def _report_once(self) -> None:
        self._report_is_new.wait()
        self._report_is_new.clear()
        report = self._report
        if report is not None and not self._stop.is_set():
            try:
                told = msgspec.structs.replace(report, problems=report.problems + self._problems)
                _accepted(self._client.post("report", content=encode(told)))
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
        if desired.host_id != self._host_id:
            raise msgspec.ValidationError(f"the document is for the host {desired.host_id}, this is {self._host_id}")
        return desired

    def _keep(self, document: bytes) -> None:
        """What cannot be kept is followed all the same, told, and tried again at the next answer."""
        try:
            _write_at_once(self._kept, document)
        except OSError as error:
            self._unkept = document
            problem = f"the desired state cannot be kept for the next start: {error}"
            if self._problems != (problem,):
                _log.error(problem)
            self._problems = (problem,)
        else:
            self._unkept = None
            self._problems = ()


def _write_at_once(path: Path, document: bytes) -> None:
    """All of the document or none, readable by its owner alone; nothing is left of a failure."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(document)
        fresh.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def _accepted(answer: httpx.Response) -> None:
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise Refusal(
            "The control plane does not accept this agent's token.",
            found=f"{answer.status_code} from {answer.request.url.host}",
            do="give the agent the token that `pktmirror serve` keeps in STATE/agent-token",
        )
    answer.raise_for_status()

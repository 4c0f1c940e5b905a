"""The agent's line to the control plane: it follows the desired state and hands in reports. An edge module.

Two threads, so that a slow or absent control plane never delays the data plane. What was last desired is kept on
disk: an agent that starts without its control plane makes true what it knew.
"""

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


class Controller:
    """``on_change`` is called in a thread of its own whenever `desired` has changed."""

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
        self.desired = self._read_kept()
        self._threads = [
            threading.Thread(target=self._repeat, args=(name, step), name=f"agent-{name}", daemon=True)
            for name, step in (("watch", self._watch_once), ("report", self._report_once))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends both threads; a report that is under way is finished."""
        self._stop.set()
        self._report_is_new.set()
        self._threads[1].join(timeout=5)
        self._client.close()

    def report(self, report: Report) -> None:
        """Hand in a report; one that was not sent yet is replaced."""
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
            except (httpx.HTTPError, msgspec.DecodeError, Refusal) as error:
                if self._stop.is_set():
                    return
                if self._last_failure.get(name) != str(error):
                    _log.warning("the control plane cannot be used; mirroring goes on as last desired", why=str(error))
                self._last_failure[name] = str(error)
                self._stop.wait(self._retry_s)

    def _watch_once(self) -> None:
        known = -1 if self.desired is None else self.desired.revision
        answer = self._client.get("desired", params={"after": known, "wait_s": WAIT_S})
        if answer.status_code == httpx.codes.NO_CONTENT:
            return
        _accepted(answer)
        desired = decode_desired_state(answer.content)
        if desired != self.desired:
            self._keep(answer.content)
            self.desired = desired
            self._on_change()

    def _report_once(self) -> None:
        self._report_is_new.wait()
        self._report_is_new.clear()
        report = self._report
        if report is not None and not self._stop.is_set():
            try:
                _accepted(self._client.post("report", content=encode(report)))
            except httpx.HTTPError:
                self._report_is_new.set()  # it is sent again, or the next one in its place
                raise

    def _read_kept(self) -> DesiredState | None:
        try:
            return decode_desired_state(self._kept.read_bytes())
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            _log.warning("the kept desired state cannot be read; waiting for the control plane", why=str(error))
            return None

    def _keep(self, document: bytes) -> None:
        fresh = self._kept.with_suffix(".new")
        fresh.write_bytes(document)
        fresh.chmod(0o600)
        fresh.rename(self._kept)


def _accepted(answer: httpx.Response) -> None:
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise Refusal(
            "The control plane does not accept this agent's token.",
            found=f"{answer.status_code} from {answer.request.url.host}",
            do="give the agent the token that `pktmirror serve` keeps in STATE/agent-token",
        )
    answer.raise_for_status()

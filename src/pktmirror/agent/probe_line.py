"""The agent's second line to the control plane: probes that are asked for, and what became of them. An edge module.

A thread of its own, as what is asked for is not desired state: it is neither kept nor repeated. An answer that the
control plane did not take is handed in again when it asks again, without a second probe.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable

import httpx
import msgspec
import structlog

from pktmirror.model.probe import ProbeAnswer, ProbeNotSent, ProbeRequest

_log = structlog.get_logger("agent")

WAIT_S = 20
RETRY_S = 1.0
ANSWERS_KEPT = 1024


class ProbeLine:
    """``send`` is called in this line's thread, once for each probe."""

    def __init__(
        self,
        url: str,
        token: str,
        host_id: str,
        send: Callable[[ProbeRequest], ProbeAnswer],
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._client = httpx.Client(
            base_url=f"{url.rstrip('/')}/pktmirror/v1/agents/{host_id}",
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(5.0, read=WAIT_S + 5.0),
            trust_env=False,  # as the agent's other line
        )
        self._send = send
        self._retry_s = retry_s
        self._answers: OrderedDict[str, ProbeAnswer] = OrderedDict()
        self._stop = threading.Event()
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._repeat, name="agent-probes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No probe is sent any more; one that is under way is finished."""
        self._stop.set()
        with self._sending:
            self._client.close()

    def _repeat(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn()
            except Exception as error:  # a thread that ended here would never answer again
                if self._stop.is_set():
                    return
                if not isinstance(error, (httpx.HTTPError, msgspec.DecodeError)):
                    _log.exception("probes cannot be followed")
                self._stop.wait(self._retry_s)  # that the control plane is away the other line says

    def _turn(self) -> None:
        answer = self._client.get("probes", params={"wait_s": WAIT_S})
        answer.raise_for_status()
        if answer.status_code == httpx.codes.NO_CONTENT:
            return
        asked = msgspec.json.decode(answer.content, type=tuple[ProbeRequest, ...])
        answers = [self._answer(request) for request in asked]
        self._client.post("probes", content=msgspec.json.encode(answers)).raise_for_status()

    def _answer(self, request: ProbeRequest) -> ProbeAnswer:
        known = self._answers.get(request.probe_id)
        if known is not None:
            return known
        with self._sending:
            if self._stop.is_set():
                return ProbeNotSent(probe_id=request.probe_id, reason="the agent ends")
            try:
                answer = self._send(request)
            except OSError as error:
                answer = ProbeNotSent(probe_id=request.probe_id, reason=f"the agent failed: {error}")
        self._answers[request.probe_id] = answer
        if len(self._answers) > ANSWERS_KEPT:
            self._answers.popitem(last=False)
        return answer

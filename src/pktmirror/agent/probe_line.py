"""The agent's line for probes: those that are asked for, and what became of them. An edge module.

A line of its own, as what is asked for is not desired state: it is neither kept nor repeated. An answer that the
control plane did not take is handed in again when it asks again, without a second probe.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from pktmirror.agent.line import RETRY_S, Line, Uplink
from pktmirror.model.probe import ProbeAnswer, ProbeNotSent, ProbeRequest

ANSWERS_KEPT = 1024


class ProbeLine:
    """``send`` is called in this line's thread, once for each probe."""

    def __init__(
        self, uplink: Uplink, send: Callable[[ProbeRequest], ProbeAnswer], *, retry_s: float = RETRY_S
    ) -> None:
        self._uplink = uplink
        self._send = send
        self._answers: OrderedDict[str, ProbeAnswer] = OrderedDict()
        self._sending = threading.Lock()
        self._line = Line("probes", self._turn, retry_s=retry_s)

    def start(self) -> None:
        self._line.start()

    def stop(self) -> None:
        """No probe is sent any more; one that is under way is finished."""
        self._line.stop()
        with self._sending:
            pass

    def _turn(self) -> None:
        document = self._uplink.ask("probes")
        if document is None:
            return
        asked = msgspec.json.decode(document, type=tuple[ProbeRequest, ...])
        answers = [self._answer(request) for request in asked]
        self._uplink.tell("probes", msgspec.json.encode(answers))

    def _answer(self, request: ProbeRequest) -> ProbeAnswer:
        known = self._answers.get(request.probe_id)
        if known is not None:
            return known
        with self._sending:
            if self._line.stopping:
                return ProbeNotSent(probe_id=request.probe_id, reason="the agent ends")
            try:
                answer = self._send(request)
            except OSError as error:
                answer = ProbeNotSent(probe_id=request.probe_id, reason=f"the agent failed: {error}")
        self._answers[request.probe_id] = answer
        if len(self._answers) > ANSWERS_KEPT:
            self._answers.popitem(last=False)
        return answer

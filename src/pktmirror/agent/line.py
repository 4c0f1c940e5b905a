"""The agent's way to the control plane: one client for all that is asked, and one loop that asks again. An edge module.

A slow or absent control plane never delays the data plane: each line has a thread of its own. Nothing that a turn
raises ends its line; it is told once, and tried again.
"""

import threading
from collections.abc import Callable

import httpx
import msgspec
import structlog

from pktmirror.model.refusal import Refusal

_log = structlog.get_logger("agent")

WAIT_S = 20
"""How long the control plane may keep a question until there is something to answer."""
RETRY_S = 1.0
_CONNECT_TIMEOUT_S = 5.0
_EXPECTED = (httpx.HTTPError, msgspec.DecodeError, Refusal, OSError)


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


class Uplink:
    """What an agent shows and asks at the control plane, as the host ``host_id``. Safe to use from several threads.

    Every question raises `Refusal` where the agent is not accepted, and httpx.HTTPError where there is no good answer.
    """

    def __init__(self, url: str, token: str, host_id: str) -> None:
        self.host_id = host_id
        self._client = httpx.Client(
            base_url=f"{url.rstrip('/')}/pktmirror/v1/agents/{host_id}",
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(_CONNECT_TIMEOUT_S, read=WAIT_S + 5.0),
            trust_env=False,  # the control plane is named by the operator; no proxy stands between
        )

    def ask(self, what: str, **parameters: int) -> bytes | None:
        """A long poll: the answer as soon as there is one, or None when there was none in time."""
        answer = _accepted(self._client.get(what, params={**parameters, "wait_s": WAIT_S}))
        return None if answer.status_code == httpx.codes.NO_CONTENT else answer.content

    def tell(self, what: str, document: bytes) -> bytes:
        """Hand in a document; the answer."""
        return _accepted(self._client.post(what, content=document)).content

    def close(self) -> None:
        self._client.close()


class Line:
    """``turn`` is repeated in a thread of its own until `stop`, and after each that fails there is a pause.

    ``broken`` is called then too. That the control plane is away is told by the lines with ``tells_absence`` alone, as
    all would say the same.
    """

    def __init__(
        self,
        name: str,
        turn: Callable[[], None],
        *,
        broken: Callable[[], None] = lambda: None,
        tells_absence: bool = False,
        retry_s: float = RETRY_S,
    ) -> None:
        self.problem: str | None = None
        self._name = name
        self._turn = turn
        self._broken = broken
        self._tells_absence = tells_absence
        self._retry_s = retry_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=f"agent-{name}", daemon=True)

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No further turn begins. The line ends with the process at the latest: a poll under way is not waited for."""
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        """Wait until the last turn has ended; nothing to wait for where the line was never started."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _repeat(self) -> None:
        while not self.stopping:
            try:
                self._turn()
            except Exception as error:  # a thread that ended here would never ask again
                if self.stopping:
                    return
                self._broken()
                self._tell(error)
                self._stop.wait(self._retry_s)
            else:
                self._answered()

    def _answered(self) -> None:
        if self.problem is not None and self._tells_absence:
            _log.info("the control plane answers again", line=self._name)
        self.problem = None

    def _tell(self, error: Exception) -> None:
        problem, before = str(error), self.problem
        self.problem = problem
        if problem == before or (isinstance(error, httpx.TransportError) and not self._tells_absence):
            return
        event = (
            "the control plane cannot be used; mirroring goes on as last desired"
            if self._tells_absence
            else "a line to the control plane is broken"
        )
        _log.warning(event, line=self._name, why=problem, exc_info=not isinstance(error, _EXPECTED))


def _accepted(answer: httpx.Response) -> httpx.Response:
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise Refusal(
            "The control plane does not accept this agent's token.",
            found=f"{answer.status_code} from {answer.request.url.host}",
            do="give the agent the token that `pktmirror serve` keeps in STATE/agent-token",
        )
    return answer.raise_for_status()

"""The agent's way to the control plane: one client for all that is asked, and one loop that asks again. An edge module.

A slow or absent control plane never delays the data plane: each line has a thread of its own. Nothing that a turn
raises ends its line; it is told once, and tried again.
"""

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
import msgspec
import structlog

from pktmirror.agent.identity import Identity
from pktmirror.model.join import PLANE_NAME
from pktmirror.model.refusal import Refusal

_log = structlog.get_logger("agent")

WAIT_S = 20
"""How long the control plane may keep a question until there is something to answer."""
RETRY_S = 1.0
RETRY_S_MAX = 5.0
_CONNECT_TIMEOUT_S = 5.0
_SAID_CHARACTERS_MAX = 300
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


def pause_s(failures: int, retry_s: float, drawn: float) -> float:
    """The wait after so many failures in a row; ``drawn`` in [0, 1) keeps hosts from coming back all at once."""
    longest_s = min(retry_s * 2.0 ** min(failures - 1, 16), max(retry_s, RETRY_S_MAX))
    return longest_s * (0.5 + 0.5 * drawn)


class Uplink:
    """What an agent shows and asks at the control plane, as the host ``host_id``. Safe to use from several threads.

    So does a monitor, as ``kind`` "monitors".

    ``credential`` is the token that the agents of a control plane share, or what the host has of its joining. Every
    question raises `Refusal` where the agent is not accepted, and httpx.HTTPError where there is no good answer.
    """

    def __init__(
        self, url: str, credential: str | Identity, host_id: str, *, kind: Literal["agents", "monitors"] = "agents"
    ) -> None:
        self.host_id = host_id
        self._kind = kind
        self._url = url.rstrip("/")
        self._credential = credential
        if isinstance(credential, Identity) and httpx.URL(url).scheme != "https":
            raise Refusal(
                f"{url} is not by TLS, and this host has joined a control plane by TLS.",
                do=f"name {credential.joined.control_url}; or the agents' token with --token-file",
            )
        self._opening = threading.Lock()
        self._shown = b""  # the key and certificate that the client was made with
        self._former: httpx.Client | None = None
        self._client = self._opened()

    def ask(self, what: str, **parameters: int) -> bytes | None:
        """A long poll: the answer as soon as there is one, or None when there was none in time."""
        answer = self._answered("GET", what, params={**parameters, "wait_s": WAIT_S})
        return None if answer.status_code == httpx.codes.NO_CONTENT else answer.content

    def tell(self, what: str, document: bytes) -> bytes:
        """Hand in a document; the answer."""
        return self._answered("POST", what, content=document).content

    def reopen(self) -> bool:
        """Show from now on the certificate that is kept now; whether it is another. What is under way is finished."""
        with self._opening:
            if isinstance(self._credential, str) or self._credential.pem.read_bytes() == self._shown:
                return False
            if self._former is not None:
                self._former.close()
            self._former, self._client = self._client, self._opened()
            return True

    def close(self) -> None:
        self._client.close()
        if self._former is not None:
            self._former.close()

    def _opened(self) -> httpx.Client:
        base_url = f"{self._url}/pktmirror/v1/{self._kind}/{self.host_id}"
        timeout = httpx.Timeout(_CONNECT_TIMEOUT_S, read=WAIT_S + 5.0)
        # The control plane is named by the operator; no proxy stands between.
        match self._credential:
            case str() as token:
                headers = {"authorization": f"Bearer {token}"}
                return httpx.Client(base_url=base_url, headers=headers, timeout=timeout, trust_env=False)
            case Identity() as identity:
                self._shown = identity.pem.read_bytes()
                return httpx.Client(base_url=base_url, verify=identity.context(), timeout=timeout, trust_env=False)

    def _answered(self, method: str, what: str, **more: Any) -> httpx.Response:
        # Its CA names a control plane by one name, at whatever address it is.
        extensions = {"sni_hostname": PLANE_NAME} if isinstance(self._credential, Identity) else {}
        try:
            answer = self._client.request(method, what, extensions=extensions, **more)
        except httpx.TransportError as error:
            raise self._explained(error) from error
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise self._not_accepted(answer)
        return answer.raise_for_status()

    def _not_accepted(self, answer: httpx.Response) -> Refusal:
        if isinstance(self._credential, str):
            return Refusal(
                "The control plane does not accept this agent's token.",
                found=f"{answer.status_code} from {answer.request.url.host}",
                do="give the agent the token that `pktmirror serve` keeps in STATE/agent-token",
            )
        self.reopen()  # the host may have joined again
        return Refusal(
            "The control plane does not accept this host's certificate.",
            found=f"{answer.status_code} from {answer.request.url.host}: {answer.text[:_SAID_CHARACTERS_MAX]}",
            do="join again with `pktmirror agent join` and a token for this host, where it is still to belong there",
        )

    def _explained(self, error: httpx.TransportError) -> Exception:
        """What no waiting mends, as a Refusal; else the error itself."""
        if isinstance(self._credential, str):
            return error
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Refusal(
                f"What answers at {self._url} is not the control plane that this host has joined.",
                found=str(error),
                do="name that one with --control; or join this one with `pktmirror agent join` and a token of it",
            )
        if self.reopen():  # another process of this host has renewed it: the next try shows it
            return error
        ended = self._credential.certificate().not_valid_after_utc
        if ended < datetime.now(UTC):
            return Refusal(
                f"The certificate of this host ended on {ended:%Y-%m-%d %H:%M} UTC.",
                do="check the clock; and join again with `pktmirror agent join` and a token for this host",
            )
        return error


class Line:
    """``turn`` is repeated in a thread of its own until `stop`, and after each that fails there is a pause
    (`pause_s`).

    ``broken`` is called then too. That the control plane is away, or does not accept the agent, is told by the lines
    with ``tells_absence`` alone, as all would say the same.
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
        self._failures = 0  # in a row
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

    def pause(self, seconds: float) -> None:
        """Within a turn: wait, but no longer than until `stop`."""
        self._stop.wait(seconds)

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
                self._failures += 1
                self._stop.wait(pause_s(self._failures, self._retry_s, random.random()))
            else:
                self._answered()

    def _answered(self) -> None:
        if self.problem is not None and self._tells_absence:
            _log.info("the control plane answers again", line=self._name)
        self.problem = None
        self._failures = 0

    def _tell(self, error: Exception) -> None:
        problem, before = str(error), self.problem
        self.problem = problem
        if problem == before or (isinstance(error, (httpx.TransportError, Refusal)) and not self._tells_absence):
            return
        event = (
            "the control plane cannot be used; what was last desired stays in force, until a lease ends if there is one"
            if self._tells_absence
            else "a line to the control plane is broken"
        )
        _log.warning(event, line=self._name, why=problem, exc_info=not isinstance(error, _EXPECTED))

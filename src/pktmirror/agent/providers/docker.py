"""Containers of Docker and Podman, by the Docker Engine API over its unix socket. An edge module.

One request is made, GET /containers/json?all=true: of all versions of the API, whose answer has what is needed since
1.21 (Docker 1.9). Podman answers it alike. Nothing is ever sent that could change anything.
"""

import time
from pathlib import Path

import httpx
import msgspec

from pktmirror.agent.providers.engine import (
    ANSWER_BYTES_MAX,
    ANSWER_WITHIN_S,
    Instance,
    NoAnswer,
    Told,
    labels,
    word,
)

READ_WITHIN_S = 3.0
ASK_EVERY_S = {"docker": 5.0, "podman": 30.0}
"""Podman's service is started by the question where systemd holds its socket, and ends after it."""

COMPOSE_PROJECT = "com.docker.compose.project"
"""The label by which Compose, of Docker and of Podman, says to which project a container belongs."""


class _Container(msgspec.Struct, frozen=True, rename="pascal"):
    """As the API's ContainerSummary; what else it has is not read."""

    id: str
    names: list[str] | None = None
    labels: dict[str, str] | None = None


class Docker:
    """An engine at a socket; ``name`` is "docker" or "podman", which differ in nothing that is asked."""

    provider = "container"

    def __init__(
        self,
        name: str,
        socket: Path,
        *,
        configured: bool = False,
        within_s: float = ANSWER_WITHIN_S,
        read_within_s: float = READ_WITHIN_S,
    ) -> None:
        self.name = name
        self.where = str(socket)
        self.ask_every_s = ASK_EVERY_S[name]
        self._socket = socket
        self._configured = configured
        self._within_s = within_s
        self._read_within_s = read_within_s

    def is_there(self) -> bool:
        return self._configured or self._socket.is_socket()

    def ask(self) -> Told:
        transport = httpx.HTTPTransport(uds=self.where)
        try:
            with httpx.Client(
                transport=transport, base_url="http://engine", timeout=self._read_within_s, trust_env=False
            ) as client:
                return read(answer_of(client, "/containers/json", {"all": "true"}, self._within_s))
        except NoAnswer as error:
            raise NoAnswer(f"{self.name} at {self.where}: {error}") from error
        except (httpx.HTTPError, OSError) as error:
            raise NoAnswer(f"{self.name} at {self.where} does not answer: {error or type(error).__name__}") from error


def read(answer: bytes) -> Told:
    """The containers in an answer. Raises NoAnswer for one that has no such form."""
    try:
        containers = msgspec.json.decode(answer, type=list[_Container])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoAnswer(f"the answer is no list of containers: {error}") from error
    return Told({container.id: _instance(container) for container in containers})


def _instance(container: _Container) -> Instance:
    """Of a container with several names the first is its own; the others are links of other containers to it."""
    own = [name.removeprefix("/") for name in container.names or () if name.count("/") <= 1]
    told = container.labels or {}
    owner = word(told.get(COMPOSE_PROJECT, ""))
    return Instance(container.id, word(own[0]) if own else container.id[:12], owner or None, labels(told))


def answer_of(client: httpx.Client, path: str, parameters: dict[str, str], within_s: float) -> bytes:
    """The body of an answer that is 200, of bounded length and in time. Raises NoAnswer, httpx.HTTPError."""
    deadline_s = time.monotonic() + within_s
    body = bytearray()
    with client.stream("GET", path, params=parameters) as response:
        for part in response.iter_bytes():
            body += part
            if len(body) > ANSWER_BYTES_MAX:
                raise NoAnswer(f"the answer is longer than {ANSWER_BYTES_MAX >> 20} MiB")
            if time.monotonic() > deadline_s:
                raise NoAnswer(f"the answer has not ended after {within_s:.0f} s")
    if response.status_code != httpx.codes.OK:
        raise NoAnswer(f"the answer is {response.status_code}: {word(body[:200].decode(errors='replace'))}")
    return bytes(body)

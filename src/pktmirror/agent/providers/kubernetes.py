"""Pods of this node, by the API server of Kubernetes. An edge module.

Of the three that know pods, the API server alone is the same for every runtime and version, is read by plain HTTP and
JSON, and grants no more than the list of pods: a runtime's CRI socket is as good as root, and so is the kubelet's own
port. One request is made: the pods of one node, from the server's cache (``resourceVersion=0``).
"""

import platform
import ssl
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import msgspec

from pktmirror.agent.providers.docker import READ_WITHIN_S, answer_of
from pktmirror.agent.providers.engine import ANSWER_WITHIN_S, Instance, NoAnswer, Told, labels, word
from pktmirror.model.refusal import Refusal

ASK_EVERY_S = 15.0
CREDENTIALS = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod has the token of its service account, and the CA of the API server."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _OwnerReference(msgspec.Struct, frozen=True):
    kind: str
    name: str
    controller: bool | None = None


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    uid: str
    labels: dict[str, str] | None = None
    owner_references: list[_OwnerReference] | None = None


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Metadata


class _Pods(msgspec.Struct, frozen=True):
    """A PodList of core/v1."""

    kind: str
    items: list[_Pod] | None


class Kubernetes:
    """The pods that are bound to ``node``, as ``server`` tells who holds the token in ``credentials``."""

    name = "kubernetes"
    provider = "pod"
    ask_every_s = ASK_EVERY_S

    def __init__(self, server: str, node: str, credentials: Path, *, within_s: float = ANSWER_WITHIN_S) -> None:
        self.where = f"{server} (node {node})"
        self._server = server
        self._node = node
        self._credentials = credentials
        self._within_s = within_s

    @classmethod
    def of(cls, url: str) -> "Kubernetes":
        """By ``https://HOST:PORT?node=NAME&credentials=DIRECTORY``; both have a default. Raises Refusal."""
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query))
        is_private = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        if not is_private or not parts.hostname or given.keys() - {"node", "credentials"}:
            raise Refusal(
                f"{url!r} is no API server of Kubernetes.",
                do="write https://HOST:PORT?node=NAME&credentials=DIRECTORY; http is for loopback alone",
            )
        node = given.get("node", platform.node().lower())
        return cls(f"{parts.scheme}://{parts.netloc}", node, Path(given.get("credentials", CREDENTIALS)))

    def is_there(self) -> bool:
        return True  # it is asked only where the operator says so

    def ask(self) -> Told:
        asked = {"fieldSelector": f"spec.nodeName={self._node}", "resourceVersion": "0"}
        try:
            with self._client() as client:
                return read(answer_of(client, "/api/v1/pods", asked, self._within_s))
        except NoAnswer as error:
            raise NoAnswer(f"{self.name} at {self.where}: {error}") from error
        except (httpx.HTTPError, OSError) as error:
            raise NoAnswer(f"{self.name} at {self.where} does not answer: {error or type(error).__name__}") from error

    def _client(self) -> httpx.Client:
        """With what the directory holds now: such a token is exchanged every hour."""
        token = (self._credentials / "token").read_text().strip()
        if not token.isascii() or not token.isprintable():
            raise NoAnswer("its token is none")
        trusted: ssl.SSLContext | bool = False
        if self._server.startswith("https:"):
            trusted = ssl.create_default_context(cafile=str(self._credentials / "ca.crt"))
        return httpx.Client(
            base_url=self._server,
            headers={"authorization": f"Bearer {token}", "accept": "application/json"},
            timeout=READ_WITHIN_S,
            trust_env=False,
            verify=trusted,
        )


def read(answer: bytes) -> Told:
    """The pods in a PodList. Raises NoAnswer for what is none."""
    try:
        pods = msgspec.json.decode(answer, type=_Pods)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoAnswer(f"the answer is no list of pods: {error}") from error
    if pods.kind != "PodList":
        raise NoAnswer(f"the answer is no list of pods: it is of the kind {word(pods.kind)}")
    return Told({pod.metadata.uid: _instance(pod.metadata) for pod in pods.items or ()})


def _instance(pod: _Metadata) -> Instance:
    owner = next((each for each in pod.owner_references or () if each.controller), None)
    owned_by = None if owner is None else word(f"{owner.kind}/{owner.name}")
    return Instance(pod.uid, word(f"{pod.namespace}/{pod.name}"), owned_by, labels(pod.labels))

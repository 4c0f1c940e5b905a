"""What Kubernetes tells of the pods of a node.

No API server runs here: the answers are written by the API's documentation (PodList of core/v1, Status of meta/v1), and
served by a real HTTP server.
"""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pktmirror.agent.providers.engine import Instance, NoAnswer
from pktmirror.agent.providers.kubernetes import CREDENTIALS, Kubernetes
from pktmirror.agent.providers.standard import engines_of
from pktmirror.model.refusal import Refusal

UID, BARE_UID = "3f0c2d3e-8b7a-4d1c-9b43-5a2f1f0a7c11", "8d1f6c1e-52a0-4f0e-8a3e-3f6f0f8f2b10"
PODS = {
    "kind": "PodList",
    "apiVersion": "v1",
    "metadata": {"resourceVersion": "81231"},
    "items": [
        {
            "metadata": {
                "name": "web-5d4f8c7b9-x2x7q",
                "generateName": "web-5d4f8c7b9-",
                "namespace": "shop",
                "uid": UID,
                "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9"},
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "ReplicaSet",
                        "name": "web-5d4f8c7b9",
                        "uid": "aaaaaaaa-0000-4000-8000-000000000001",
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": {"nodeName": "node-1"},
            "status": {"phase": "Running", "podIP": "10.244.1.7"},
        },
        {"metadata": {"name": "bare", "namespace": "default", "uid": BARE_UID}, "spec": {}, "status": {}},
    ],
}
FORBIDDEN = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403}


class ApiServer(HTTPServer):
    answer: tuple[int, Any] = (200, PODS)
    asked: list[tuple[str, str | None]]

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["authorization"]))
        code, document = self.server.answer
        self.send_response(code)
        self.end_headers()
        self.wfile.write(msgspec.json.encode(document))

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def api_server(context: ssl.SSLContext | None = None) -> Iterator[ApiServer]:
    server = ApiServer(("127.0.0.1", 0), Handler)
    server.asked = []
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def credentials(tmp_path: Path, token: str = "first") -> Path:
    (tmp_path / "token").write_text(f"{token}\n")
    return tmp_path


def certificate(directory: Path) -> ssl.SSLContext:
    """A server for 127.0.0.1 that is its own CA, whose certificate is ``directory``/ca.crt."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kube-apiserver")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "ca.crt", directory / "key")
    return context


def test_pods_are_told_with_their_namespace_controller_and_labels(tmp_path: Path) -> None:
    with api_server() as server:
        engine = Kubernetes(f"http://127.0.0.1:{server.port}", "node-1", credentials(tmp_path))
        assert engine.ask().instances == {
            UID: Instance(
                UID,
                "shop/web-5d4f8c7b9-x2x7q",
                "ReplicaSet/web-5d4f8c7b9",
                {"app": "web", "pod-template-hash": "5d4f8c7b9"},
            ),
            BARE_UID: Instance(BARE_UID, "default/bare"),
        }
        credentials(tmp_path, "second")
        server.answer = (200, {**PODS, "items": None})
        assert engine.ask().instances == {}, "as a server of Go writes an empty list"
        path = "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1&resourceVersion=0"
        assert server.asked == [(path, "Bearer first"), (path, "Bearer second")], "of its node alone, and nothing else"


@pytest.mark.parametrize(
    ("code", "document", "why"),
    [
        (403, FORBIDDEN, "the answer is 403"),
        (401, {}, "the answer is 401"),
        (200, FORBIDDEN, "the answer is no list of pods"),
        (200, {"kind": "NodeList", "items": []}, "of the kind NodeList"),
        (302, {}, "the answer is 302"),
    ],
)
def test_what_is_no_list_of_pods_deletes_none(tmp_path: Path, code: int, document: Any, why: str) -> None:
    with api_server() as server:
        server.answer = (code, document)
        with pytest.raises(NoAnswer, match=why):
            Kubernetes(f"http://127.0.0.1:{server.port}", "node-1", credentials(tmp_path)).ask()


def test_its_token_goes_to_the_server_of_its_ca_and_to_no_other(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for directory in (mine, theirs):
        directory.mkdir()
    trusted, stranger = certificate(mine), certificate(theirs)
    for context, answers in ((trusted, True), (stranger, False)):
        with api_server(context) as server:
            engine = Kubernetes(f"https://127.0.0.1:{server.port}", "node-1", credentials(mine))
            if answers:
                assert engine.ask().instances.keys() == {UID, BARE_UID}
            else:
                with pytest.raises(NoAnswer, match="CERTIFICATE_VERIFY_FAILED"):
                    engine.ask()
                assert server.asked == []


def test_without_a_token_or_ca_it_is_not_asked(tmp_path: Path) -> None:
    with api_server() as server:
        with pytest.raises(NoAnswer, match="No such file"):
            Kubernetes(f"http://127.0.0.1:{server.port}", "node-1", tmp_path).ask()
        with pytest.raises(NoAnswer, match="No such file"):
            Kubernetes(f"https://127.0.0.1:{server.port}", "node-1", credentials(tmp_path)).ask()
        assert server.asked == []


def test_the_operator_names_server_node_and_credentials(tmp_path: Path) -> None:
    [engine] = engines_of([f"kubernetes=https://10.0.0.1:6443?node=n1&credentials={tmp_path}"])
    assert engine.where == "https://10.0.0.1:6443 (node n1)"
    assert engine.is_there()
    assert str(CREDENTIALS).startswith("/var/run/secrets/")


@pytest.mark.parametrize("url", ["http://10.0.0.1:6443", "https://", "ftp://localhost", "https://a?token=x", "a"])
def test_what_is_no_server_or_would_be_read_on_the_way_is_refused(url: str) -> None:
    with pytest.raises(Refusal, match="no API server"):
        engines_of([f"kubernetes={url}"])

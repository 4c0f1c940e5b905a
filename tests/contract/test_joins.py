"""A host joins over TLS: what becomes of a token, and who is let in with which certificate."""

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import httpx
import msgspec
import pytest
from botocore.config import Config
from botocore.exceptions import SSLError
from typer.testing import CliRunner

from pktmirror import agent
from pktmirror.agent.identity import Identity, Joined, new_key, of_key
from pktmirror.agent.line import Uplink
from pktmirror.agent.renewal import Renewal
from pktmirror.cli.program import app
from pktmirror.control.authority import HOST_S, Authority, pem_of, requested_key
from pktmirror.desired import FoundInterface, Report, SessionStatus, decode_desired_state, encode
from pktmirror.model.join import PLANE_NAME
from pktmirror.model.probe import probe_key
from pktmirror.model.refusal import Refusal
from pktmirror.tracing import TraceBatch
from tests.contract.conftest import Maker
from tests.contract.plane import Plane, found, running
from tests.waiting import wait_until

WITHIN_S = 30.0
_numbers = count(1)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with running(tmp_path_factory.mktemp("plane") / "state", listen_tls="127.0.0.1:0") as plane:
        yield plane


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A control plane with another CA."""
    with running(tmp_path_factory.mktemp("other") / "state", listen_tls="127.0.0.1:0") as plane:
        yield plane


@dataclass
class Host:
    """A host that has joined, and its way to the control plane."""

    name: str
    state: Path
    identity: Identity
    uplink: Uplink

    @property
    def serial(self) -> int:
        return self.identity.certificate().serial_number

    def report(self, interface: FoundInterface | None = None, *session_ids: str) -> None:
        told = Report(
            host_id=self.name,
            agent_version="test",
            applied_revision=0,
            interfaces=(interface or found(self.name),),
            statuses=tuple(SessionStatus(session_id=session_id) for session_id in session_ids),
        )
        self.uplink.tell("report", encode(told))


@pytest.fixture
def join(plane: Plane, tmp_path: Path) -> Iterator[Any]:
    """``join()`` makes a host; what it opened is closed after the test."""
    hosts: list[Host] = []

    def joined() -> Host:
        name = f"host.{next(_numbers)}"
        identity = agent.join(tls(plane), token(plane, name), name, tmp_path / name)
        hosts.append(Host(name, tmp_path / name, identity, Uplink(tls(plane), identity, name)))
        return hosts[-1]

    yield joined
    for host in hosts:
        host.uplink.close()


def tls(plane: Plane) -> str:
    assert plane.tls_url is not None
    return plane.tls_url


def token(plane: Plane, host: str | None = None, valid_s: float = 600.0) -> str:
    wish = msgspec.json.encode({"host_id": host, "valid_s": valid_s}).decode()
    answer = plane.own_answer("join-tokens", method="POST", body=wish)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


def pktmirror(state: Path, *words: str) -> tuple[int, str]:
    """Exit status, and what is said or why it is refused."""
    result = CliRunner().invoke(app, [*words, f"--state={state}"])
    return result.exit_code, str(result.exception) if isinstance(result.exception, Refusal) else result.stdout


def refusals(plane: Plane) -> dict[str, int]:
    counted: dict[str, int] = plane.own("status")["refused_requests"]
    return counted


@contextmanager
def refused(code: str, plane: Plane) -> Iterator[None]:
    """What is done within is refused with this code, and that is counted, and nothing else."""
    before = refusals(plane)
    with pytest.raises(Refusal) as refusal:
        yield
    assert code in str(refusal.value)
    assert refusals(plane) == before | {code: before.get(code, 0) + 1}


def test_the_commands_make_a_host_of_a_machine_and_take_it_back(plane: Plane, tmp_path: Path) -> None:
    status, text = pktmirror(plane.state, "agent", "token", "--host=machine-1")
    assert status == 0
    joining = ("agent", "join", tls(plane), "--token", text.strip(), "--host-id=machine-1")
    status, _ = pktmirror(tmp_path, *joining)
    assert status == 0
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "joined-machine-1.json": 0o600,
        "joined-machine-1.pem": 0o600,
    }
    identity = Identity.found(tmp_path, "machine-1")
    assert identity is not None
    uplink = Uplink(identity.joined.control_url, identity, "machine-1")
    document = uplink.ask("desired", after=-1)
    assert document is not None
    assert decode_desired_state(document).host_id == "machine-1"
    status, said = pktmirror(tmp_path / "again", *joining)
    assert (status, "JoinTokenUsed" in said) == (1, True)
    assert not (tmp_path / "again").exists()
    assert pktmirror(plane.state, "agent", "revoke", "machine-1")[0] == 0
    with refused("CertificateRevoked", plane):
        uplink.ask("desired", after=-1)
    status, said = pktmirror(plane.state, "agent", "revoke", "machine-1")
    assert (status, "no certificate that counts" in said) == (1, True)
    uplink.close()


def test_each_wrong_token_is_refused_and_counted_beside_the_one_that_works(plane: Plane, tmp_path: Path) -> None:
    name = f"host-{next(_numbers)}"
    good, used, expired, elsewhere = token(plane, name), token(plane), token(plane, name, 0.001), token(plane, "x")
    agent.join(tls(plane), used, f"{name}-first", tmp_path / "first")
    wrong = f"pktmirror-join.{'A' * 11}.{'A' * 43}.{good.rpartition('.')[2]}"
    for text, code in (
        (wrong, "InvalidJoinToken"),
        (used, "JoinTokenUsed"),
        (expired, "JoinTokenExpired"),
        (elsewhere, "JoinTokenNotOfHost"),
    ):
        with refused(code, plane):
            agent.join(tls(plane), text, name, tmp_path / "state")
    assert not (tmp_path / "state").exists()
    assert agent.join(tls(plane), good, name, tmp_path / "state").joined.control_url == tls(plane)


@pytest.mark.parametrize("text", ["", "x", "pktmirror-join.a.b.c"])
def test_what_is_no_token_is_sent_nowhere(plane: Plane, tmp_path: Path, text: str) -> None:
    before = refusals(plane)
    with pytest.raises(Refusal, match="no token to join with"):
        agent.join(tls(plane), text, "host-x", tmp_path)
    with pytest.raises(Refusal, match="joins by TLS alone"):
        agent.join(plane.url, token(plane), "host-x", tmp_path)
    assert refusals(plane) == before


def test_a_host_gives_its_token_to_no_server_of_another_ca(plane: Plane, other: Plane, tmp_path: Path) -> None:
    name = f"host-{next(_numbers)}"
    text = token(plane, name)
    before = refusals(other)
    with pytest.raises(Refusal, match="not the control plane that made this token"):
        agent.join(tls(other), text, name, tmp_path / "state")
    assert refusals(other) == before, "nobody there was shown anything"
    assert not (tmp_path / "state").exists()
    identity = agent.join(tls(plane), text, name, tmp_path / "state")
    astray = Uplink(tls(other), identity, name)
    with pytest.raises(Refusal, match="not the control plane that this host has joined"):
        astray.ask("desired", after=-1)
    astray.close()
    failed = before | {"HandshakeFailed": before.get("HandshakeFailed", 0) + 1}
    wait_until(
        lambda: refusals(other) == failed, WITHIN_S, lambda: f"nothing but the handshake failed: {refusals(other)}"
    )


def test_a_host_reads_and_writes_what_is_its_own_and_nothing_of_another(plane: Plane, join: Any) -> None:
    mine, theirs = join(), join()
    mine.report()
    theirs.report()
    known = {host["host_id"] for host in plane.own("status")["hosts"]}
    assert {mine.name, theirs.name} <= known
    as_other = Uplink(tls(plane), mine.identity, theirs.name)
    told = encode(Report(host_id=theirs.name, agent_version="x", applied_revision=0))
    calls = [
        lambda: as_other.ask("desired", after=-1),
        lambda: as_other.ask("probes"),
        lambda: as_other.ask("trace"),
        lambda: as_other.tell("report", told),
        lambda: as_other.tell("probes", b"[]"),
        lambda: as_other.tell("trace", b"{}"),
        lambda: as_other.tell("certificate", b"{}"),
    ]
    for call in calls:
        with refused("CertificateOfAnotherHost", plane):
            call()
    interfaces = [each for each in plane.own("interfaces") if each["host_id"] == theirs.name]
    assert [each["attached"] for each in interfaces] == [True], "a report of nothing was not taken"
    document = mine.uplink.ask("desired", after=-1)
    assert decode_desired_state(document).host_id == mine.name
    as_other.close()


def test_that_a_host_speaks_of_anothers_session_is_counted_and_of_its_own_not(plane: Plane, join: Any) -> None:
    mine, theirs = join(), join()
    make = Maker(plane, plane.client())
    for host in (mine, theirs):
        host.report(found(host.name, "10.0.0.1"))
    ids = {known["host_id"]: known["interface_id"] for known in plane.own("interfaces")}
    target_id = make.target()
    own, others = (
        make.session(NetworkInterfaceId=ids[host.name], TrafficMirrorTargetId=target_id)["TrafficMirrorSessionId"]
        for host in (mine, theirs)
    )
    before = refusals(plane)
    mine.report(found(mine.name, "10.0.0.1"), own)
    assert refusals(plane) == before
    mine.report(found(mine.name, "10.0.0.1"), own, others)
    assert refusals(plane) == before | {"SessionOfAnotherHost": 1}
    plane.client().delete_traffic_mirror_session(TrafficMirrorSessionId=own)
    mine.report(found(mine.name, "10.0.0.1"), own)
    assert refusals(plane) == before | {"SessionOfAnotherHost": 1}, "it was its own"


def test_a_monitor_reports_under_the_name_of_its_host_and_no_other(plane: Plane, join: Any) -> None:
    host = join()
    report = msgspec.json.encode({"listening": "10.0.0.9:4789"})
    mine = Uplink(tls(plane), host.identity, host.name, kind="monitors")
    other = Uplink(tls(plane), host.identity, "monitor", kind="monitors")
    mine.tell("report", report)
    with refused("CertificateOfAnotherHost", plane):
        other.tell("report", report)
    assert [each["monitor_id"] for each in plane.own("status")["monitors"]] == [host.name]
    assert host.identity.joined.probe_key == probe_key(plane.token).hex()
    for uplink in (mine, other):
        uplink.close()


def test_by_tls_the_shared_token_opens_no_hosts_state_whatever_a_header_says(plane: Plane, join: Any) -> None:
    host = join()
    headers = {"authorization": f"Bearer {plane.token}", "x-forwarded-proto": "http", "x-forwarded-for": "127.0.0.1"}
    ca = ssl.create_default_context(cafile=str(plane.state / "ca.pem"))
    for path in (f"agents/{host.name}/desired", "agents/host-1/desired"):
        url = f"{tls(plane)}/pktmirror/v1/{path}"
        answer = httpx.get(url, headers=headers, verify=ca, trust_env=False, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (401, "AuthFailure")
    on_loopback = plane.agent("GET", f"agents/{host.name}/desired", headers=headers | {"x-forwarded-proto": "https"})
    assert on_loopback.status_code == 200, "on loopback it goes on as it was"
    answer = plane.agent("POST", "join", json={"token": token(plane), "host_id": "h", "csr": ""})
    assert (answer.status_code, answer.json()["code"]) == (403, "AuthFailure"), "a token is shown by TLS alone"


def with_certificate_of(
    authority: Authority, trusted: Plane, name: str, directory: Path, made_at_s: float | None = None
) -> Identity:
    """A host that trusts the control plane, with a certificate that it has never seen."""
    key, request = new_key()
    certificate = authority.for_host(requested_key(request), name, made_at_s or time.time())
    pem = of_key(pem_of(certificate).decode(), key, authority.certificate_pem.decode())
    ca = (trusted.state / "ca.pem").read_text()
    return Identity.keep(directory, name, Joined(control_url=tls(trusted), ca=ca, probe_key="00"), pem)


def test_a_certificate_of_another_ca_or_unknown_or_ended_is_refused(plane: Plane, join: Any, tmp_path: Path) -> None:
    host = join()
    forged = with_certificate_of(Authority.made(time.time()), plane, host.name, tmp_path / "forged")
    uplink = Uplink(tls(plane), forged, host.name)
    with pytest.raises(httpx.TransportError):
        uplink.ask("desired", after=-1)
    uplink.close()
    own = Authority.of((plane.state / "ca.pem").read_bytes(), (plane.state / "ca-key.pem").read_bytes())
    stray = Uplink(tls(plane), with_certificate_of(own, plane, host.name, tmp_path / "stray"), host.name)
    with refused("CertificateUnknown", plane):
        stray.ask("desired", after=-1)
    stray.close()
    long_ago_s = time.time() - HOST_S - 3600
    ended = Uplink(tls(plane), with_certificate_of(own, plane, host.name, tmp_path / "ended", long_ago_s), host.name)
    with pytest.raises(Refusal, match="The certificate of this host ended on"):
        ended.ask("desired", after=-1)
    ended.close()
    host.report()


def test_a_host_cannot_stand_as_the_control_plane(plane: Plane, join: Any) -> None:
    victim, attacker = join(), join()
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(attacker.identity.pem)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    astray = Uplink(f"https://127.0.0.1:{server.server_address[1]}", victim.identity, victim.name)
    with pytest.raises(Refusal, match="not the control plane that this host has joined"):
        astray.ask("desired", after=-1)
    thread.join()
    server.server_close()
    astray.close()
    victim.report()


def test_a_host_that_is_revoked_while_it_waits_is_told_nothing_more(plane: Plane, join: Any) -> None:
    host, bystander = join(), join()
    document = host.uplink.ask("desired", after=-1)
    revision = decode_desired_state(document).revision
    said: list[str] = []

    def wait() -> None:
        with pytest.raises(Refusal) as refusal:
            host.uplink.ask("desired", after=revision)
        said.append(str(refusal.value))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert plane.own_answer(f"hosts/{host.name}/certificates", method="DELETE").status_code == 204
    waiting.join()
    assert "CertificateRevoked" in said[0]
    bystander.report()


@pytest.mark.parametrize(
    "path", ["agents/{}/certificate", "agents/{}/report", "agents/{}/trace", "agents/{}/probes", "monitors/{}/report"]
)
def test_a_host_that_is_revoked_before_its_request_is_whole_is_refused(plane: Plane, join: Any, path: str) -> None:
    host = join()
    body = whole_body(path, host.name)
    with beginning(plane, host, path.format(host.name), body) as send_the_rest:
        assert plane.own_answer(f"hosts/{host.name}/certificates", method="DELETE").status_code == 204
        before = refusals(plane)
        answer = send_the_rest()
    assert answer.startswith("HTTP/1.1 403 ")
    assert '"CertificateRevoked"' in answer
    assert refusals(plane) == before | {"CertificateRevoked": before.get("CertificateRevoked", 0) + 1}
    bystander = join()
    with beginning(plane, bystander, path.format(bystander.name), whole_body(path, bystander.name)) as send_the_rest:
        assert send_the_rest().startswith("HTTP/1.1 20"), "the same request of a host that counts is taken"


def whole_body(path: str, name: str) -> bytes:
    match path.rpartition("/")[2]:
        case "certificate":
            return msgspec.json.encode({"csr": new_key()[1]})
        case "trace":
            return msgspec.json.encode(TraceBatch(trace_id=f"trace-{0:016x}"))
        case "probes":
            return b"[]"
        case _ if path.startswith("monitors"):
            return msgspec.json.encode({"listening": "10.0.0.9:4789"})
    return encode(Report(host_id=name, agent_version="test", applied_revision=0))


@contextmanager
def beginning(plane: Plane, host: Host, path: str, body: bytes) -> Iterator[Callable[[], str]]:
    """A request of which the server waits for the body: it asks for it when it has let the host in. What is yielded
    sends that, and gives the answer."""
    url = httpx.URL(tls(plane))
    head = f"POST /pktmirror/v1/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    with (
        socket.create_connection((url.host, url.port), timeout=WITHIN_S) as plain,
        host.identity.context().wrap_socket(plain, server_hostname=PLANE_NAME) as connection,
        connection.makefile("rb") as answer,
    ):
        connection.sendall(f"{head}expect: 100-continue\r\n\r\n".encode())
        assert answer.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert answer.readline() == b"\r\n"

        def send_the_rest() -> str:
            connection.sendall(body)
            return answer.read().decode()

        yield send_the_rest


def test_a_certificate_is_renewed_before_it_ends_and_the_one_before_still_counts(plane: Plane, join: Any) -> None:
    host = join()
    first = host.serial
    before = Uplink(tls(plane), host.identity, host.name)
    assert not Renewal(host.uplink, host.identity).renew_if_due()
    assert host.serial == first
    shortly_before_its_end_s = time.time() + HOST_S - 3600
    assert Renewal(host.uplink, host.identity, clock=lambda: shortly_before_its_end_s).renew_if_due()
    assert host.serial != first
    assert not host.uplink.reopen(), "it shows the next one already"
    host.report()
    assert before.ask("desired", after=-1) is not None
    assert plane.own_answer(f"hosts/{host.name}/certificates", method="DELETE").status_code == 204
    for uplink in (before, host.uplink):
        with refused("CertificateRevoked", plane):
            uplink.ask("desired", after=-1)
    before.close()


def test_an_agent_at_work_goes_on_when_its_host_has_joined_again(plane: Plane, join: Any) -> None:
    host = join()
    host.report()
    agent.join(tls(plane), token(plane, host.name), host.name, host.state)
    with refused("CertificateRevoked", plane):
        host.uplink.ask("desired", after=-1)
    host.report()


def test_any_client_reaches_the_whole_api_by_tls_with_the_ca(plane: Plane, make: Maker) -> None:
    filter_id = make.filter()
    known = plane.environment

    def client(**options: Any) -> Any:
        return boto3.client(
            "ec2",
            region_name=known["AWS_REGION"],
            endpoint_url=tls(plane),
            aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 1}),
            **options,
        )

    filters = client(verify=str(plane.state / "ca.pem")).describe_traffic_mirror_filters()["TrafficMirrorFilters"]
    assert filter_id in [each["TrafficMirrorFilterId"] for each in filters]
    with pytest.raises(SSLError):
        client().describe_traffic_mirror_filters()


def test_the_commands_reach_it_from_anywhere_by_tls_with_the_ca(plane: Plane) -> None:
    variables = {**plane.environment, "AWS_ENDPOINT_URL": tls(plane), "AWS_CA_BUNDLE": str(plane.state / "ca.pem")}
    shown = CliRunner().invoke(app, ["status", "--json"], env=variables)
    assert shown.exit_code == 0, shown.exception
    assert msgspec.json.decode(shown.stdout)["account_id"] == plane.own("status")["account_id"]
    assert CliRunner().invoke(app, ["interfaces"], env=variables).exit_code == 0
    for strange in ("", str(plane.state / "aws-config"), str(plane.state / "nowhere")):
        refused_ = CliRunner().invoke(app, ["status"], env=variables | {"AWS_CA_BUNDLE": strange}).exception
        assert isinstance(refused_, Refusal)
        assert "does not answer" in str(refused_)


def test_without_tls_nobody_joins_and_the_command_says_what_is_missing(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        status, said = pktmirror(plane.state, "agent", "token")
        assert status == 1
        assert "--listen-tls" in said
        assert plane.agent("GET", "ca").json()["code"] == "UnsupportedOperation"
        assert not (plane.state / "server.pem").exists()
        assert (plane.state / "ca-key.pem").stat().st_mode & 0o777 == 0o600, "there for a replica that has TLS"


def test_the_ca_outlives_a_restart_and_its_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state, listen_tls="127.0.0.1:0") as plane:
        identity = agent.join(tls(plane), token(plane), "host-1", tmp_path / "host")
    assert {name: (state / name).stat().st_mode & 0o777 for name in ("ca-key.pem", "server.pem")} == {
        "ca-key.pem": 0o600,
        "server.pem": 0o600,
    }
    with running(state, listen_tls="127.0.0.1:0") as plane:
        uplink = Uplink(tls(plane), identity, "host-1")
        wait_until(lambda: uplink.ask("desired", after=-1), WITHIN_S, "it is not known any more")
        uplink.close()

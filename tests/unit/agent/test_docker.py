"""What Docker and Podman tell of their containers: recorded answers (`engine_server`) over a real unix socket."""

from pathlib import Path

import msgspec
import pytest

from pktmirror.agent.providers.docker import Docker, read
from pktmirror.agent.providers.engine import ANSWER_BYTES_MAX, LABELS_BYTES_MAX, Instance, NoAnswer
from pktmirror.desired import LABELS_MAX
from tests.unit.agent.engine_server import EngineServer, recorded

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def told(tmp_path: Path, answer: bytes, name: str = "docker", within_s: float = 5.0) -> dict[str, Instance]:
    """What is made of an answer, by the containers' names."""
    with EngineServer(tmp_path / "engine.sock", answer) as server:
        instances = Docker(name, server.path, within_s=within_s).ask().instances
        assert server.requests == ["GET /containers/json?all=true HTTP/1.1"], "nothing else is ever asked"
    assert all(key == instance.instance_id for key, instance in instances.items())
    return {instance.name: instance for instance in instances.values()}


def no_answer(tmp_path: Path, answer: bytes, within_s: float = 5.0) -> str:
    with EngineServer(tmp_path / "engine.sock", answer) as server, pytest.raises(NoAnswer) as found:
        Docker("docker", server.path, within_s=within_s).ask()
    return str(found.value)


def test_docker_tells_all_its_containers_with_their_labels_and_their_compose_project(tmp_path: Path) -> None:
    found = told(tmp_path, recorded("docker-running"))
    assert found.keys() == {"web", "db", "host", "made"}
    assert found["web"].owner == "shop"
    assert found["web"].labels == {
        "com.docker.compose.project": "shop",
        "com.docker.compose.service": "web",
        "com.example.team": "shop",
        "tier": "front",
    }
    assert (found["db"].owner, found["db"].labels) == (None, {"tier": "back"})
    assert len(found["web"].instance_id) == 64


def test_podman_tells_the_same_way(tmp_path: Path) -> None:
    found = told(tmp_path, recorded("podman-running"), "podman")
    assert found["web"].labels == {"com.example.team": "shop", "tier": "front"}
    assert {"web", "db"} < found.keys()
    (infra,) = found.keys() - {"web", "db"}
    assert infra.endswith("-infra"), "the container that holds a pod's network namespace"


def test_a_stopped_container_is_there_and_a_renamed_one_is_the_same(tmp_path: Path) -> None:
    running, stopped = (told(tmp_path, recorded(f"docker-{state}")) for state in ("running", "stopped"))
    assert stopped == running
    restarted = told(tmp_path, recorded("docker-restarted"))
    assert restarted["web-1"].instance_id == running["web"].instance_id
    assert "web" not in restarted


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_a_removed_container_is_not_there(tmp_path: Path, engine: str) -> None:
    before, after = (told(tmp_path, recorded(f"{engine}-{state}"), engine) for state in ("running", "removed"))
    assert before.keys() - after.keys() == {"web"}


def test_an_engine_without_containers_has_none(tmp_path: Path) -> None:
    assert told(tmp_path, recorded("docker-none")) == {}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(recorded("docker-newapi"), "the answer is 400: ", id="an error of Docker's"),
        pytest.param(recorded("docker-notfound"), "the answer is 404: ", id="another one"),
        pytest.param(OK + b"\r\n{}", "the answer is no list of containers", id="an object"),
        pytest.param(OK + b'\r\n[{"Id": 7}]', "the answer is no list of containers", id="another type"),
        pytest.param(OK + b"\r\n[" + b'{"Id":"\xff"}' + b"]", "the answer is no list of containers", id="not UTF-8"),
        pytest.param(OK + b"Content-Length: 9\r\n\r\n[", "docker at ", id="it breaks off"),
        pytest.param(b"220 mail.example ESMTP\r\n", "docker at ", id="another protocol"),
        pytest.param(b"", "docker at ", id="nothing"),
        pytest.param(OK + b"\r\n" + b" " * (ANSWER_BYTES_MAX + 1), "longer than 32 MiB", id="endless"),
    ],
)
def test_what_is_no_list_of_containers_is_no_answer(tmp_path: Path, answer: bytes, why: str) -> None:
    assert why in no_answer(tmp_path, answer)


def test_an_engine_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    with EngineServer(tmp_path / "engine.sock", recorded("docker-running")) as server:
        server.hold()
        with pytest.raises(NoAnswer, match="does not answer: timed out"):
            Docker("docker", server.path, read_within_s=0.05).ask()


def test_nor_is_one_that_answers_word_by_word(tmp_path: Path) -> None:
    with (
        EngineServer(tmp_path / "engine.sock", recorded("docker-running")) as server,
        pytest.raises(NoAnswer, match="the answer has not ended after 0 s"),
    ):
        Docker("docker", server.path, within_s=0.0).ask()


def test_an_engine_that_is_not_there_is_said_to_be_away_only_where_it_is_configured(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.sock"
    assert not Docker("docker", nowhere).is_there()
    assert Docker("docker", nowhere, configured=True).is_there()
    with pytest.raises(NoAnswer, match=f"docker at {nowhere} does not answer: .*No such file"):
        Docker("docker", nowhere).ask()
    with EngineServer(nowhere, b""):
        assert Docker("docker", nowhere).is_there()


def test_what_people_write_into_labels_is_kept_within_bounds() -> None:
    many = ",".join(f'"k{number:03}":"v"' for number in range(LABELS_MAX + 1))
    much = read(msgspec.json.encode([{"Id": "dd", "Labels": {**{f"k{n:02}": "x" * 256 for n in range(20)}, "z": "y"}}]))
    kept = much.instances["dd"].labels
    assert sum(len(key + value) for key, value in kept.items()) <= LABELS_BYTES_MAX
    assert (len(kept), kept["z"]) == (LABELS_BYTES_MAX // 259 + 1, "y")
    odd = r'{"": "a", "b": "two\nlines", "c": "\u001b[31m", "long": "' + "x" * 257 + r'", "d": "kept", "e": ""}'
    found = read(
        b'[{"Id":"aa","Names":["/a"],"Labels":{%s}},{"Id":"bb","Names":["/web/alias","/b\\u0007"],"Labels":%s},'
        b'{"Id":"cc0123456789abcdef","Names":null,"Labels":null}]' % (many.encode(), odd.encode())
    ).instances
    assert len(found["aa"].labels) == LABELS_MAX
    assert "k000" in found["aa"].labels
    assert found["bb"].labels == {"d": "kept", "e": ""}
    assert found["bb"].name == "b", "its own name, without what cannot be shown"
    assert (found["cc0123456789abcdef"].name, found["cc0123456789abcdef"].labels) == ("cc0123456789", {})

"""Replicas of one store: each knows what the others were told, and any of them may end, or its server be away."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from sqlalchemy import text

from pktmirror.aws import ApiError, Call
from pktmirror.control import Settings
from pktmirror.control.keys import Key
from pktmirror.control.plane import ControlPlane
from pktmirror.control.schema import VERSION
from pktmirror.control.store import Store
from pktmirror.control.trail import Trail
from pktmirror.desired import SessionStatus
from pktmirror.model.limits import Quotas
from pktmirror.model.refusal import Refusal
from tests.calls import perform
from tests.contract.conftest import Maker
from tests.contract.plane import Plane, found, replicas, running
from tests.contract.test_life import everything, refusal
from tests.postgresql import Server
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, postgresql: Server) -> Iterator[tuple[Plane, Plane]]:
    with replicas(tmp_path_factory.mktemp("replicas"), postgresql.database()) as planes:
        yield planes


def test_replicas_answer_alike(both: tuple[Plane, Plane]) -> None:
    first, second = both
    Maker(first, second.client()).session()
    assert everything(first) == everything(second)
    token = first.client().describe_traffic_mirror_filters(MaxResults=5).get("NextToken")
    assert token is None
    for _ in range(6):
        Maker(first, first.client()).filter(Description="page")
    page = first.client().describe_traffic_mirror_filters(MaxResults=5)
    rest = second.client().describe_traffic_mirror_filters(MaxResults=5, NextToken=page["NextToken"])
    ids = [each["TrafficMirrorFilterId"] for each in (*page["TrafficMirrorFilters"], *rest["TrafficMirrorFilters"])]
    assert len(set(ids)) == 7, "a page of one goes on at another"


def test_a_poll_at_one_replica_ends_with_a_change_at_another(both: tuple[Plane, Plane]) -> None:
    first, second = both
    make = Maker(first, first.client())
    parameters = make.session_parameters()
    before = second.desired()
    assert before is not None
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(second.desired(after=before.revision, wait_s=25)))
    waiting.start()
    session = make.session(**parameters)
    waiting.join()
    assert got[0] is not None, "nobody woke the poll"
    sessions = [each.session_id for interface in got[0].interfaces for each in interface.sessions]
    assert session["TrafficMirrorSessionId"] in sessions


def test_what_an_agent_tells_one_replica_all_know(both: tuple[Plane, Plane]) -> None:
    first, second = both
    first.report(found("elsewhere", "10.0.1.9"), host="host-2")

    def host(plane: Plane) -> Any:
        [known] = [each for each in plane.own("status")["hosts"] if each["host_id"] == "host-2"]
        return {name: value for name, value in known.items() if name != "reported_s_ago"}

    assert host(second) == host(first)
    assert host(second)["applied_revision"] == 0, "known from the report itself, not from the store"
    refused = second.own_answer("hosts/host-2", method="DELETE")
    assert refused.json()["code"] == "IncorrectState", "it reports, to whomever"


def test_a_key_that_is_gone_at_one_replica_is_soon_in_the_ready_files_of_none(both: tuple[Plane, Plane]) -> None:
    one, two = both
    gone = two.environment["AWS_ACCESS_KEY_ID"]
    kept = one.client("iam").create_access_key()["AccessKey"]["AccessKeyId"]
    one.client("iam").delete_access_key(AccessKeyId=gone)
    assert one.environment["AWS_ACCESS_KEY_ID"] == kept
    wait_until(lambda: two.environment["AWS_ACCESS_KEY_ID"] == kept, 10.0, "the other replica's files name the old key")
    two.client("sts").get_caller_identity()


def test_a_change_is_told_to_all_who_listen(postgresql: Server) -> None:
    url = postgresql.database()
    ours, other = Store.open(url), Store.open(url)
    told: list[str] = []
    with ours.listening(told.append):
        wait_until(lambda: told == [""], 30, "it never listened")
        with other.write() as transaction:
            transaction.set_setting("x", "y")
        with other.write() as transaction:
            transaction.bump_revision()
        wait_until(lambda: len(told) > 1, 30, "nothing was told")
        assert told == ["", "1"], "only what concerns desired state"
        postgresql.execute(OTHERS_END)
        wait_until(lambda: told.count("") == 2, 30, "it does not listen again")
    ours.close()
    other.close()


OTHERS_END = sql.SQL(
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'pktmirror'"
)


def test_a_server_that_was_away_is_used_again(both: tuple[Plane, Plane], postgresql: Server) -> None:
    first, _ = both
    before = everything(first)
    postgresql.execute(OTHERS_END)
    assert everything(first) == before


def test_a_connection_that_died_is_replaced_before_it_is_used(postgresql: Server) -> None:
    store = Store.open(postgresql.database())
    for _ in range(3):
        with store.read() as transaction:
            assert transaction.revision == 0
        postgresql.execute(OTHERS_END)
    with store.write() as transaction:
        transaction.bump_revision()
    store.close()


def test_a_write_that_is_cut_off_is_told_to_come_again_and_leaves_nothing(postgresql: Server) -> None:
    store = Store.open(postgresql.database())

    def cut_off() -> None:
        with store.write() as transaction:
            transaction.bump_revision()
            postgresql.execute(OTHERS_END)
            transaction.bump_revision()

    with pytest.raises(ApiError) as caught:
        cut_off()
    assert (caught.value.code, caught.value.status) == ("Unavailable", 503)
    with store.read() as transaction:
        assert transaction.revision == 0
    store.close()


def test_a_replica_of_an_upgraded_store_does_nothing_more(postgresql: Server, tmp_path: Path) -> None:
    store = Store.open(postgresql.database())
    plane = ControlPlane(
        store,
        Key(bytes(32)),
        Trail(tmp_path),
        region="local-1",
        networks=None,
        quotas=Quotas(),
        eni_forget_s=None,
        now_s=time.time(),
    )
    with store.write() as transaction:
        transaction.connection.execute(text(f"UPDATE schema_version SET version = {VERSION + 1}"))
    for operation in ("CreateTrafficMirrorFilter", "DescribeTrafficMirrorFilters"):
        with pytest.raises(ApiError) as caught:
            perform(plane, Call("ec2", operation, {}), time.time())
        assert caught.value.code == "Unavailable"
        assert "upgraded" in caught.value.message
    store.close()


def test_a_replica_without_what_all_share_is_told_so(postgresql: Server, tmp_path: Path) -> None:
    url = postgresql.database()
    with running(tmp_path / "one" / "state", store=url):
        pass
    settings = Settings(store=url)
    refused = refusal("127.0.0.1:0", tmp_path / "two", settings=settings)
    assert refused.found == "no key, agent-token, metrics-token, ca-key.pem, ca.pem"
    assert not (tmp_path / "two" / "key").exists(), "one of its own would open nothing"
    shutil.copy(tmp_path / "one" / "state" / "key", tmp_path / "two" / "key")
    refused = refusal("127.0.0.1:0", tmp_path / "two", settings=settings)
    assert refused.found == "no agent-token, metrics-token, ca-key.pem, ca.pem"


@pytest.mark.parametrize("url", ["postgresql://:@:x/", "mysql://u:secret@h/d", "/var/lib/pktmirror"])
def test_what_is_no_store_is_refused(url: str, tmp_path: Path) -> None:
    refused = refusal("127.0.0.1:0", tmp_path / "state", settings=Settings(store=url))
    assert "secret" not in str(refused)


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="cannot be opened") as caught:
        Store.open(f"postgresql://nobody:secret@/none?host={tmp_path}")
    assert str(tmp_path) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_what_an_agent_told_of_a_session_is_forgotten_when_that_is_deleted_at_another_replica(
    both: tuple[Plane, Plane],
) -> None:
    """Also where it told no figures of it: whose it was is known as long as it is there."""
    first, second = both
    session_id = Maker(second, second.client()).session()["TrafficMirrorSessionId"]
    told = SessionStatus(session_id=session_id, outer_source="10.0.0.3")
    first.report(*second.reported.values(), statuses=(told,))
    first.report(host="host-4", statuses=(told,))
    assert of_another_host(first) == 1
    second.client().delete_traffic_mirror_session(TrafficMirrorSessionId=session_id)
    assert of_another_host(first) == 1
    first.report(host="host-4", statuses=(told,))
    assert of_another_host(first) == 1, "it is nobody's now"


def of_another_host(plane: Plane) -> int:
    """How many reports this replica has been given that spoke of another host's sessions."""
    return int(plane.own("status")["refused_requests"].get("SessionOfAnotherHost", 0))


def test_a_host_that_is_unknown_elsewhere_reports_on(both: tuple[Plane, Plane]) -> None:
    """Reports may come to either by turns: none of them takes the others' for an old one."""
    first, second = both
    for plane in (first, second, first, second):
        plane.report(found("turns", "10.0.1.20"), host="host-3")
        [known] = [each for each in plane.own("interfaces") if each["host_id"] == "host-3"]
        assert known["attached"]

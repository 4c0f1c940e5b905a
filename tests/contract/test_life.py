"""A control plane's own life: restarts, settings, what it refuses to start with."""

import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from pktmirror.control import Settings, environment, serve
from pktmirror.control.records import HostCertificateRecord
from pktmirror.model.limits import Quotas
from pktmirror.model.refusal import Refusal
from tests.contract.conftest import Maker, rule
from tests.contract.plane import Plane, code_of, found, running, wait_until


def everything(plane: Plane) -> Any:
    ec2 = plane.client()
    return [
        ec2.describe_traffic_mirror_targets()["TrafficMirrorTargets"],
        ec2.describe_traffic_mirror_filters()["TrafficMirrorFilters"],
        ec2.describe_traffic_mirror_filter_rules()["TrafficMirrorFilterRules"],
        ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"],
        ec2.describe_network_interfaces()["NetworkInterfaces"],
        ec2.describe_tags()["Tags"],
        plane.environment["AWS_SECRET_ACCESS_KEY"],
        plane.token,
    ]


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        make, ec2 = Maker(plane, plane.client()), plane.client()
        filter_id = make.filter(ClientToken="kept")
        make.rule(filter_id)
        make.session(TrafficMirrorFilterId=filter_id)
        ec2.create_tags(Resources=[filter_id], Tags=[{"Key": "a", "Value": "b"}])
        for _ in range(6):
            make.filter(Description="page")
        asked: dict[str, Any] = {"Filters": [{"Name": "description", "Values": ["page"]}], "MaxResults": 5}
        token = ec2.describe_traffic_mirror_filters(**asked)["NextToken"]
        before, desired = everything(plane), plane.desired()
    assert desired is not None
    with running(tmp_path / "state") as plane:
        assert everything(plane) == before
        ec2 = plane.client()
        page = ec2.describe_traffic_mirror_filters(**asked, NextToken=token)["TrafficMirrorFilters"]
        assert len(page) == 1, "decision 5.10"
        assert Maker(plane, ec2).filter(ClientToken="kept") == filter_id
        again = plane.desired()
        assert again is not None
        assert again.revision > desired.revision
        assert again.interfaces == desired.interfaces


def test_a_poll_that_waits_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with running(tmp_path / "state") as plane:
        first = plane.desired()
        assert first is not None

        def poll() -> None:
            with suppress(httpx.TransportError):  # on a busy machine it comes too late, and nobody answers
                plane.desired(after=first.revision, wait_s=30)

        waiting = threading.Thread(target=poll)
        waiting.start()
        assert plane.stop() == 0
        waiting.join(timeout=20)
        assert not waiting.is_alive(), "it waited for as long as it had asked to"


@pytest.mark.fact(45)
def test_fact_45_an_interface_that_is_forgotten_takes_its_sessions_along(tmp_path: Path) -> None:
    with running(tmp_path / "state", eni_forget_s=0.2) as plane:
        ec2 = plane.client()
        make = Maker(plane, ec2)
        [gone_id] = plane.find(found("gone", "10.0.0.7"))
        kept = make.session()
        make.session(NetworkInterfaceId=gone_id, TrafficMirrorTargetId=kept["TrafficMirrorTargetId"])
        gone = plane.reported.pop("netns:gone/eth0")
        plane.report(*plane.reported.values())

        def ids() -> list[str]:
            return [i["NetworkInterfaceId"] for i in ec2.describe_network_interfaces()["NetworkInterfaces"]]

        wait_until(lambda: gone_id not in ids(), within_s=30, else_say="the interface was never forgotten")
        assert ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"] == [kept]
        assert plane.find(gone) != [gone_id], "what comes back is a new interface"


def test_quotas_are_settings(tmp_path: Path) -> None:
    quotas = Quotas(rules_per_filter=1, filters_per_account=1, targets_per_account=1, sessions_per_account=1)
    state = tmp_path / "state"
    stop, ready = threading.Event(), threading.Event()
    serving = threading.Thread(
        target=serve,
        args=("127.0.0.1:0", state),
        kwargs={"settings": Settings(quotas=quotas), "stop": stop, "ready": lambda _url: ready.set()},
    )
    serving.start()
    try:
        assert ready.wait(60)
        plane = Plane(state, environment(state)["AWS_ENDPOINT_URL"], None)  # type: ignore[arg-type]
        ec2 = plane.client()
        make = Maker(plane, ec2)
        session = make.session()
        filter_id = session["TrafficMirrorFilterId"]
        make.rule(filter_id)
        asked = {name: session[name] for name in ("TrafficMirrorTargetId", "TrafficMirrorFilterId")}
        asked |= {"NetworkInterfaceId": make.interface(), "SessionNumber": 1}
        assert code_of(ec2.create_traffic_mirror_session, **asked) == "TrafficMirrorSessionLimitExceeded"
        assert code_of(ec2.create_traffic_mirror_filter) == "TrafficMirrorFilterLimitExceeded"
        assert code_of(ec2.create_traffic_mirror_filter_rule, **rule(filter_id, 9)) == (
            "TrafficMirrorFilterRuleLimitExceeded"
        )
        target = {"NetworkInterfaceId": make.interface()}
        assert code_of(ec2.create_traffic_mirror_target, **target) == "TrafficMirrorTargetLimitExceeded"
    finally:
        stop.set()
        serving.join(60)
    assert not serving.is_alive()


def test_the_quotas_are_the_published_ones_until_the_operator_says_otherwise() -> None:
    assert Quotas() == Quotas(
        sessions_per_account=10_000,
        sessions_per_interface=3,
        targets_per_account=10_000,
        filters_per_account=10_000,
        rules_per_filter=10,
        sources_per_interface_target=10,
        sessions_per_target=1_000_000,
    )


def test_a_target_takes_no_more_sessions_than_the_operator_says(tmp_path: Path) -> None:
    with running(tmp_path / "state", quotas=Quotas(sessions_per_target=2)) as plane:
        make, ec2 = Maker(plane, plane.client()), plane.client()
        limit = "TrafficMirrorSessionsPerTargetLimitExceeded"
        for target_id in (make.target(), make.nlb_target()):
            made = [make.session(TrafficMirrorTargetId=target_id) for _ in range(2)]
            before = ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"]
            asked = make.session_parameters(TrafficMirrorTargetId=target_id)
            assert code_of(ec2.create_traffic_mirror_session, **asked) == limit
            assert ec2.describe_traffic_mirror_sessions()["TrafficMirrorSessions"] == before
            own = {"TrafficMirrorSessionId": made[0]["TrafficMirrorSessionId"], "TrafficMirrorTargetId": target_id}
            ec2.modify_traffic_mirror_session(**own, Description="it has its place already")
            other = {"TrafficMirrorSessionId": make.session()["TrafficMirrorSessionId"]}
            to_it = {"TrafficMirrorTargetId": target_id}
            assert code_of(ec2.modify_traffic_mirror_session, **other, **to_it) == limit
            ec2.delete_traffic_mirror_session(TrafficMirrorSessionId=made[1]["TrafficMirrorSessionId"])
            ec2.modify_traffic_mirror_session(**other, **to_it)
        endpoint = make.target(GatewayLoadBalancerEndpointId="vpce-0123456789abcdef0")
        for _ in range(3):
            make.session(TrafficMirrorTargetId=endpoint)


def test_quotas_may_be_raised(tmp_path: Path) -> None:
    raised = Quotas(sessions_per_interface=5, sources_per_interface_target=12)
    with running(tmp_path / "state", quotas=raised) as plane:
        make = Maker(plane, plane.client())
        asked = make.session_parameters()
        for number in range(1, 6):
            make.session(**asked | {"SessionNumber": number})
        for source in make.interfaces(11):
            last = make.session(**asked | {"NetworkInterfaceId": source})
        create = plane.client().create_traffic_mirror_session
        assert code_of(create, **asked | {"SessionNumber": 6}) == "TrafficMirrorSessionsPerInterfaceLimitExceeded"
        more = asked | {"NetworkInterfaceId": make.interface()}
        assert code_of(create, **more) == "TrafficMirrorSourcesPerTargetLimitExceeded"
        assert last["TrafficMirrorTargetId"] == asked["TrafficMirrorTargetId"]


def refusal(*arguments: Any, **more: Any) -> Refusal:
    """Why a start is refused; one that is not refused ends at once."""
    stop = threading.Event()
    with pytest.raises(Refusal) as caught:
        serve(*arguments, stop=stop, ready=lambda _url: stop.set(), **more)
    assert caught.value.do
    return caught.value


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in str(refusal(address, tmp_path / "state"))
    assert not (tmp_path / "state").exists()


def test_only_loopback_without_being_told_otherwise(tmp_path: Path) -> None:
    said = str(refusal("0.0.0.0:0", tmp_path / "state"))
    assert "0.0.0.0" in said
    assert "--listen-tls" in said
    assert "--allow-remote-without-tls" in said
    assert not (tmp_path / "state").exists()
    assert "no address" in str(refusal("localhost", tmp_path / "state"))


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in str(refusal("127.0.0.1:0", tmp_path / "file"))


def test_a_state_directory_has_one_control_plane(tmp_path: Path) -> None:
    with running(tmp_path / "state"):
        assert "in use" in str(refusal("127.0.0.1:0", tmp_path / "state"))


def test_bad_networks_are_refused(tmp_path: Path) -> None:
    networks = tmp_path / "networks.toml"
    assert str(networks) in str(refusal("127.0.0.1:0", tmp_path / "state", networks))
    networks.write_text("[[vpc]]\nname = 'x'\ncidr = 'everywhere'\n")
    assert "everywhere" in str(refusal("127.0.0.1:0", tmp_path / "state", networks))


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    with running(tmp_path / "state"):
        pass
    engine = create_engine(f"sqlite:///{tmp_path}/state/pktmirror.sqlite")
    with engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version = 99"))
    engine.dispose()
    refused = refusal("127.0.0.1:0", tmp_path / "state")
    assert "99" in str(refused)
    assert "--state" in refused.do


def test_quotas_do_not_exceed_the_data_plane(tmp_path: Path) -> None:
    settings = Settings(quotas=Quotas(rules_per_filter=10_001))
    assert "rules_per_filter" in str(refusal("127.0.0.1:0", tmp_path / "state", settings=settings))


def test_there_is_no_environment_before_the_first_start(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="pktmirror serve"):
        environment(tmp_path)


def test_a_store_whose_key_is_lost_is_refused_and_gets_no_other(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state):
        pass
    for name in ("key", "agent-token"):
        (state / name).unlink()
    assert refusal("127.0.0.1:0", state).found == "no key", "a token is made anew, which is how it is changed"
    assert not (state / "key").exists()


def test_the_ready_files_have_a_key_that_counts_also_when_the_first_is_gone(tmp_path: Path) -> None:
    def who(plane: Plane) -> str:
        plane.client("sts").get_caller_identity()
        assert plane.environment["AWS_ACCESS_KEY_ID"] in (plane.state / "aws-credentials").read_text()
        return plane.environment["AWS_ACCESS_KEY_ID"]

    with running(tmp_path / "state") as plane:
        first, iam = who(plane), plane.client("iam")
        iam.create_user(UserName="ann")
        iam.create_access_key(UserName="ann")
        second = iam.create_access_key()["AccessKey"]["AccessKeyId"]
        assert who(plane) == first, "it counts as before"
        iam.update_access_key(AccessKeyId=first, Status="Inactive")
        assert who(plane) == second
        plane.client("iam").update_access_key(AccessKeyId=first, Status="Active")
        assert who(plane) == second
        plane.client("iam").delete_access_key(AccessKeyId=second)
        assert who(plane) == first


def test_a_store_whose_ca_is_lost_is_refused_and_gets_another_only_when_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    with running(state):
        pass
    first = [(state / name).read_bytes() for name in ("ca.pem", "ca-key.pem")]
    (state / "ca.pem").unlink()
    refused = refusal("127.0.0.1:0", state)
    assert refused.found == "no ca.pem"
    assert "--new-ca" in (refused.do or "")
    assert not (state / "ca.pem").exists()
    assert (state / "ca-key.pem").read_bytes() == first[1], "its key is not overwritten"
    (state / "ca.pem").write_bytes(first[0])
    starts(state)
    for name in ("ca.pem", "ca-key.pem"):
        (state / name).unlink()
    capsys.readouterr()
    starts(state, Settings(new_ca=True))
    assert "all of them have to join again" in "".join(capsys.readouterr())
    second = [(state / name).read_bytes() for name in ("ca.pem", "ca-key.pem")]
    assert first[0] != second[0]
    refused = refusal("127.0.0.1:0", state, settings=Settings(new_ca=True))
    assert "drop --new-ca" in (refused.do or ""), "where it is left in a unit file, nothing would be checked any more"
    assert [(state / name).read_bytes() for name in ("ca.pem", "ca-key.pem")] == second
    starts(state)
    for name, content in zip(("ca.pem", "ca-key.pem"), first, strict=True):
        (state / name).write_bytes(content)
    assert "fingerprint" in (refusal("127.0.0.1:0", state).found or ""), "the one of before is another by now"


def test_a_store_of_before_there_was_a_ca_gets_one(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state) as plane:
        pass
    for name in ("ca.pem", "ca-key.pem"):
        (state / name).unlink()
    store = plane.opened()
    with store.write() as transaction:
        transaction.connection.execute(text("DELETE FROM settings WHERE name = 'ca_fingerprint'"))
    starts(state)
    with store.write() as transaction:
        transaction.connection.execute(text("DELETE FROM settings WHERE name = 'ca_fingerprint'"))
        transaction.host_certificates.put(HostCertificateRecord("1", "host-1", 0.0))
    store.close()
    (state / "ca.pem").unlink()
    assert refusal("127.0.0.1:0", state).found == "no ca.pem", "a host has joined one"


def starts(state: Path, settings: Settings | None = None) -> None:
    """A control plane of this state directory starts, and ends again."""
    stop = threading.Event()
    serve("127.0.0.1:0", state, settings=settings, stop=stop, ready=lambda _url: stop.set())

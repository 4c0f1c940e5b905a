"""Whose a process is, as its control group says."""

import msgspec
import pytest

from pktmirror.agent.containers import Owner, Process, is_made_up, owner_of
from tests.unit.agent.engine_server import RECORDED

ID, OTHER = "3f" * 32, "c0" * 32
UID = "0f3a1c7e-52d1-4b0e-9d59-0a4b8f1f2a11"
UID_OF_SYSTEMD = UID.replace("-", "_")


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        (f"/system.slice/docker-{ID}.scope", Owner("container", ID)),
        (f"/docker/{ID}", Owner("container", ID)),
        (f"/machine.slice/libpod-{ID}.scope/container", Owner("container", ID)),
        (f"/kubepods/burstable/pod{UID}/{ID}", Owner("pod", UID)),
        (
            f"/kubepods.slice/kubepods-pod{UID_OF_SYSTEMD}.slice/cri-containerd-{ID}.scope",
            Owner("pod", UID),
        ),
        (f"/kubepods/pod{UID}/{ID}/docker/{OTHER}", Owner("container", OTHER)),
        ("/lxc.payload.web/system.slice", Owner("lxc", "web")),
        ("/user.slice/user-1000.slice/session-2.scope", None),
        (f"/backup-{ID[:40]}.scope", None),
        ("/", None),
    ],
)
def test_the_control_group_names_the_owner(path: str, owner: Owner | None) -> None:
    assert owner_of([Process(5, f"0::{path}\n")]) == owner
    assert owner_of([Process(5, f"4:memory:/init.scope\n0::{path}\n")]) == owner


def test_a_namespace_that_containers_share_is_the_first_ones() -> None:
    processes = [Process(9, f"0::/docker/{OTHER}"), Process(7, f"0::/docker/{ID}"), Process(3, "0::/init.scope")]
    assert owner_of(processes) == Owner("container", ID)
    assert owner_of([]) is None


def test_names_that_runtimes_make_up_are_known_by_their_form() -> None:
    """Podman's are recorded of 4.3.1; ``cni-`` is what containerd and CRI-O write."""
    uuid = "fe6840ab-f20c-1347-9d40-4e459af23f04"
    assert [is_made_up(name) for name in (f"netns-{uuid}", f"cni-{uuid}")] == [True, True]
    assert not any(is_made_up(name) for name in ("web", "netns-1", uuid, f"cni-{uuid}-x", f"CNI-{uuid}"))


@pytest.mark.parametrize(
    ("engine", "names"), [("docker", ["docker-running/web"]), ("podman", ["podman-running/web", "podman-running/db"])]
)
def test_the_control_groups_of_real_engines_tell_the_ids_that_the_engines_list(engine: str, names: list[str]) -> None:
    """Recorded of Docker 20.10.24 and Podman 4.3.1, ``db`` within a pod of Podman's."""
    lines = (RECORDED / f"{engine}-cgroup").read_text().splitlines()
    groups = ["\n".join(lines[at : at + 10]) for at in range(0, len(lines), 10)]
    owners = [owner_of([Process(1, group)]) for group in groups]
    ids = {}
    for name in names:
        state, _, container = name.partition("/")
        listed = msgspec.json.decode((RECORDED / f"{state}.json").read_bytes())
        ids[name] = next(each["Id"] for each in listed if f"/{container}" in each["Names"])
    assert owners == [Owner("container", ids[name]) for name in names]

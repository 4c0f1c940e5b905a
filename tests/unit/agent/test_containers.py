"""Whose a process is, as its control group says."""

import pytest

from pktmirror.agent.containers import Owner, Process, owner_of

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

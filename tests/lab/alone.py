"""A machine of its own for a test that looks at everything: fresh network, fresh /run, fresh bpffs."""

import ctypes
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.waiting import wait_until

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)

_LOOKS = {
    "links": "ip -details link show",
    "addresses": "ip address show",
    "rules": "ip rule show",
    "IPv4 routes": "ip -4 route show table all",
    "IPv6 routes": "ip -6 route show table all",
    "neighbours": "ip neighbour show",
    "namespace ids": "ip netns list-id",
}
_PLACES = ("/run/netns", "/run/pktmirror/", "/sys/fs/bpf")


def alone(scene: Callable[[], None]) -> None:
    """Run ``scene`` in a child with its own network and mount namespaces, furnished; fail when it raises."""
    pid = os.fork()
    if pid == 0:
        try:
            _move_out()
            scene()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "see the traceback on stderr"


def snapshot() -> dict[str, str]:
    """All that a lab might have touched: links, routes, neighbours, sysctls, mounts, /run and bpffs."""
    seen = {
        what: subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
        for what, command in _LOOKS.items()
    }
    # Elsewhere others may be at work: a mount of theirs that ends takes its copies in every namespace along.
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    seen["mounts"] = "\n".join(line for line in mounts if line.split()[4].startswith(_PLACES))
    for directory in ("/run", "/sys/fs/bpf"):
        seen[directory] = "\n".join(sorted(str(path) for path in Path(directory).rglob("*")))
    for family in ("ipv4", "ipv6", "bridge"):
        seen[f"{family} sysctls"] = "\n".join(
            f"{path}={_content(path)}"
            for path in sorted(Path("/proc/sys/net", family).rglob("*"))
            if path.is_file() and path.stat().st_mode & 0o400
        )
    return seen


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:  # stable_secret, while there is none
        return str(error)


def _move_out() -> None:
    assert _libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    assert _libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) == 0
    # The copies of the machine's own named namespaces would vanish from our mounts when those are removed.
    subprocess.run(["umount", "--recursive", "--lazy", "/run/netns"], stderr=subprocess.DEVNULL, check=False)
    for command in (
        "mount -t tmpfs run /run",
        "mkdir /run/netns",
        "mount --bind /run/netns /run/netns",  # as iproute2 leaves it
        "mount --make-shared /run/netns",
        "mount -t bpf bpf /sys/fs/bpf",
        "mkdir /sys/fs/bpf/others",
        "ip link set lo up",
        "sysctl -qw net.ipv6.conf.default.addr_gen_mode=1",  # no addresses that come a moment later
        "ip link add wan0 type veth peer name wan1",
        "ip address add 192.0.2.1/24 dev wan0",
        "ip address add 2001:db8:ffff::1/64 dev wan0 nodad",
        "ip link set wan0 up",
        "ip link set wan1 up",
        "ip route add default via 192.0.2.254",
        "ip route add 198.51.100.0/24 via 192.0.2.254 table 100",
        "ip neighbour add 192.0.2.254 lladdr 0a:00:00:00:00:01 dev wan0 nud permanent",
        "ip netns add bystander",
    ):
        subprocess.run(command.split(), check=True)
    wait_until(lambda: _up("wan0") and _up("wan1"), 5, "the veth pair is not up")  # or it changes in mid-test


def _up(device: str) -> bool:
    return b" state UP " in subprocess.run(["ip", "link", "show", device], capture_output=True, check=True).stdout

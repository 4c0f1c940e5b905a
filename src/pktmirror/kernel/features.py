"""What this machine's kernel can do, found out by doing it. An edge module.

Every probe answers None where the feature works, and otherwise what was found, in a few words. Nothing is left behind:
what has to be made is made in a network namespace of its own that ends with the probe.
"""

import os
import platform
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from pktmirror.kernel import bpf, bpffs, netns
from pktmirror.kernel.netlink import Netlink, poll_what_it_receives, turn_offloads_off

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor, *_ = platform.release().split(".")
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)


def missing_capabilities() -> str | None:
    """Of what programs, devices and namespaces need."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    return f"this process lacks {', '.join(missing)}" if missing else None


def missing_btf() -> str | None:
    return None if Path("/sys/kernel/btf/vmlinux").exists() else "no /sys/kernel/btf/vmlinux"


def missing_libbpf() -> str | None:
    try:
        bpf.libbpf()
    except OSError as error:
        return str(error).splitlines()[0]
    return None


def missing_tool(name: str) -> str | None:
    return None if shutil.which(name) else f"no {name} in PATH"


def taken_port(address: str, port: int, kind: socket.SocketKind) -> str | None:
    """Why a server could not listen there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as server:
        if kind is socket.SOCK_STREAM:  # as servers do: a connection that has just ended takes no port
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((address, port))
        except OSError as error:
            return f"{address}:{port}: {error.strerror}"
    return None


def unusable_bpffs(directory: Path) -> str | None:
    """A mount for the probe, or the one that is there."""
    if bpffs.is_mounted(directory):
        return None
    made = [parent for parent in (directory, *directory.parents) if not parent.exists()]
    try:
        bpffs.mount(directory)
    except OSError as error:
        return str(error)
    else:
        bpffs.unmount(directory)
        return None
    finally:
        for parent in made:
            if parent.is_dir():
                parent.rmdir()


def refused_hop() -> str | None:
    """A veth pair as the agent makes its finishing hops: offloads off, with a queue, and polled."""
    return _in_a_namespace(_try_hop)


def refused_programs(object_path: Path, program: str) -> str | None:
    """The object, loaded, and one of its programs attached to a device by tcx."""
    return _in_a_namespace(lambda: _try_programs(object_path, program))


def _try_hop() -> None:
    with Netlink() as netlink:
        netlink.create_veth("probe0", "probe1", mtu=65535)
        netlink.queue_before("probe0", 1)
        turn_offloads_off("probe0")
        poll_what_it_receives("probe1")


def _try_programs(object_path: Path, program: str) -> None:
    with Netlink() as netlink:
        netlink.create_veth("probe0", "probe1", mtu=1500)
        device = netlink.link_named("probe0")
        assert device is not None
    loaded = bpf.Object(object_path)
    try:
        with loaded.program(program) as hook, bpf.Link.attach(hook, device.ifindex, bpf.TCX_INGRESS):
            pass
    finally:
        loaded.close()


def _in_a_namespace(attempt: Callable[[], None]) -> str | None:
    name = f"pktmirror-doctor-{os.getpid()}"
    try:
        netns.create(name)
        try:
            with netns.Visitor(name) as inside:
                inside.run(attempt)
        finally:
            netns.remove(name)
    except OSError as error:
        return str(error).splitlines()[0]
    return None

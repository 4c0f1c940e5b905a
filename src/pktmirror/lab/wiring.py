"""Carries out the steps of a plan: netlink and sysctls, inside the lab's namespaces only. An edge module."""

import errno
import time
from collections.abc import Callable
from ipaddress import IPv6Interface
from pathlib import Path
from types import TracebackType
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pktmirror.kernel import netns
from pktmirror.lab.plan import AddAddress, AddRoute, MakeBridge, MakeCable, MakeNamespace, SetMtu, Step
from pktmirror.model.refusal import Refusal

LINK_GROUP = 0x706B746D  # marks the lab's own links (netdev groups, ip-link(8)), so that one message removes them all
FORWARDING_WITHIN_S = 5.0
LOOK_AGAIN_S = 0.002

_FORWARDING = 3  # BR_STATE_FORWARDING, linux/if_bridge.h
_IFA_F_NODAD = 0x02
_LOOPBACK_INDEX = 1
_NEEDED_MODULES = "veth and bridge"

# Written before a namespace has links, as each link copies `default` when it is made. A new namespace may have
# inherited any of these from its machine (net.core.devconf_inherit_init_net).
_SYSCTLS = {
    "net/ipv4/conf/*/rp_filter": "0",  # a host with two subnets gets answers by another way than it asked
    "net/ipv4/conf/*/send_redirects": "0",
    "net/ipv6/conf/*/accept_ra": "0",
    "net/ipv6/conf/*/autoconf": "0",
    "net/ipv6/conf/*/accept_dad": "0",  # an address works at once
    "net/ipv6/conf/*/addr_gen_mode": "1",  # the plan says which device has a link-local address
    "net/ipv6/conf/*/mldv2_unsolicited_report_interval": "1",  # ms: reports are over when the lab is up
    # A bridge of the lab passes on every frame as it is; br_netfilter would drop malformed ones and join fragments.
    "net/bridge/bridge-nf-call-arptables": "0",
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
}


class Wiring:
    """The namespaces under construction, each with a thread and a netlink socket of its own."""

    def __init__(self) -> None:
        self._visitors: dict[str, netns.Visitor] = {}
        self._netlink: dict[str, Any] = {}

    def carry_out(self, step: Step) -> None:
        """Raises `Refusal` for a missing privilege or kernel module, otherwise the kernel's own error."""
        try:
            self._carry_out(step)
        except NetlinkError as error:
            if error.code in (errno.EOPNOTSUPP, errno.ENODEV) and isinstance(step, MakeBridge | MakeCable):
                raise Refusal(
                    f"The lab's {step} cannot be made: this kernel has no such device.",
                    found=str(error),
                    do=f"load the modules {_NEEDED_MODULES}",
                ) from None
            raise

    def wait_until_forwarding(self, namespace: str) -> None:
        """Return when every bridge port of the namespace passes frames on, so that the first one is not lost."""
        deadline_s = time.monotonic() + FORWARDING_WITHIN_S
        while waiting := self._run(namespace, _ports_not_forwarding):
            if time.monotonic() > deadline_s:
                raise TimeoutError(
                    f"bridge ports of {namespace} not forwarding after {FORWARDING_WITHIN_S} s: {', '.join(waiting)}"
                )
            time.sleep(LOOK_AGAIN_S)

    def remove_links(self, namespace: str) -> None:
        """Remove every link that a lab has made there, and with them the links' other ends."""
        self._run(namespace, _remove_links)

    def devices(self, namespace: str) -> tuple[list[Any], list[Any]]:
        """The kernel's messages for all links and all addresses."""
        links = self._run(namespace, lambda ip: list(ip.get_links()))
        return links, self._run(namespace, lambda ip: list(ip.get_addr()))

    def close(self) -> None:
        for namespace, visitor in self._visitors.items():
            if namespace in self._netlink:
                visitor.run(self._netlink[namespace].close)
            visitor.close()
        self._visitors.clear()
        self._netlink.clear()

    def __enter__(self) -> "Wiring":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _carry_out(self, step: Step) -> None:
        match step:
            case MakeNamespace(namespace):
                netns.create(namespace)
                self._visitor(namespace).run(_write_sysctls, step)
                self._run(namespace, lambda ip: ip.link("set", index=_LOOPBACK_INDEX, state="up"))
            case MakeBridge():
                self._run(step.namespace, lambda ip: _make_bridge(ip, step))
            case MakeCable():
                self._run(step.namespace, lambda ip: _make_cable(ip, step))
                self._run(step.peer_namespace, lambda ip: _set(ip, step.peer_device, state="up"))
            case SetMtu(namespace, device, mtu):
                self._run(namespace, lambda ip: _set(ip, device, mtu=mtu))
            case AddAddress():
                self._run(step.namespace, lambda ip: _add_address(ip, step))
            case AddRoute(namespace, to, via):
                self._run(namespace, lambda ip: ip.route("add", dst=str(to), gateway=str(via)))

    def _visitor(self, namespace: str) -> netns.Visitor:
        if namespace not in self._visitors:
            self._visitors[namespace] = netns.Visitor(namespace)
        return self._visitors[namespace]

    def _run(self, namespace: str, act: Callable[[Any], Any]) -> Any:
        """``act`` with the namespace's netlink socket, in its thread: pyroute2 keeps an event loop per thread."""
        visitor = self._visitor(namespace)
        if namespace not in self._netlink:
            self._netlink[namespace] = visitor.run(IPRoute)
        return visitor.run(act, self._netlink[namespace])


def _write_sysctls(step: MakeNamespace) -> None:
    forwarding = {
        "net/ipv4/conf/*/forwarding": str(int(step.forwards)),
        "net/ipv6/conf/*/forwarding": str(int(step.forwards_ipv6)),
    }
    for pattern, value in (forwarding | _SYSCTLS).items():
        for conf in ("all", "default") if "*" in pattern else ("",):
            file = Path("/proc/sys", pattern.replace("*", conf))
            if file.exists():  # a kernel without IPv6 or br_netfilter does not have them, and needs none
                file.write_text(value)


def _make_bridge(ip: Any, step: MakeBridge) -> None:
    ip.link(
        "add",
        ifname=step.device,
        kind="bridge",
        address=step.mac,
        group=LINK_GROUP,
        br_stp_state=0,
        br_forward_delay=0,
        br_mcast_snooping=0,  # floods multicast, and sends no queries of its own
        state="up",
    )


def _make_cable(ip: Any, step: MakeCable) -> None:
    peer = {
        "ifname": step.peer_device,
        "address": step.peer_mac,
        "mtu": step.mtu,
        "group": LINK_GROUP,
        "net_ns_fd": str(netns.path(step.peer_namespace)),
    }
    ip.link(
        "add",
        ifname=step.device,
        kind="veth",
        address=step.mac,
        mtu=step.mtu,
        group=LINK_GROUP,
        peer=peer,
        master=_index(ip, step.bridge),
        state="up",
    )


def _add_address(ip: Any, step: AddAddress) -> None:
    flags = {"flags": _IFA_F_NODAD} if isinstance(step.interface, IPv6Interface) else {}
    ip.addr(
        "add",
        index=_index(ip, step.device),
        address=str(step.interface.ip),
        prefixlen=step.interface.network.prefixlen,
        **flags,
    )


def _set(ip: Any, device: str, **attributes: str | int) -> None:
    ip.link("set", index=_index(ip, device), **attributes)


def _index(ip: Any, device: str) -> int:
    [index] = ip.link_lookup(ifname=device)
    return int(index)


def _ports_not_forwarding(ip: Any) -> list[str]:
    return [
        link.get("ifname")
        for link in ip.get_links()
        if link.get("master")
        and link.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA", "IFLA_BRPORT_STATE") != _FORWARDING
    ]


def _remove_links(ip: Any) -> None:
    # An empty group answers ENODEV; a namespace that was never furnished has one.
    if any(link.get("group") == LINK_GROUP for link in ip.get_links()):
        ip.link("del", group=LINK_GROUP)

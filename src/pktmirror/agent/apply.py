"""The agent's hand in the kernel: loads and pins the programs, carries out changes, reads tables and counters.

Everything lives under ``<bpffs>/pktmirror/<agent id>/<digest of the object>/``, so that a dead agent interrupts
nothing and its successor finds all of it. All methods run in the network namespace of the interfaces. An edge module.
"""

import contextlib
import hashlib
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from pktmirror.agent import abi
from pktmirror.agent.allotment import CarryMeters, DropMeters, PutMeters, WriteMeters
from pktmirror.agent.bypass import HookFigures
from pktmirror.agent.classifier import cell_count
from pktmirror.agent.hops import HOP_PREFIX, PROGRAMS, Hops
from pktmirror.agent.meter_blocks import MeterBlocks
from pktmirror.agent.plan import (
    Attach,
    Change,
    ClearInterfaceRow,
    ClearSessionRow,
    Detach,
    DropStream,
    ForgetSpent,
    PutStream,
    SwapPolicy,
    Tables,
    WriteDelivery,
    WriteExclusions,
    WriteFilter,
)
from pktmirror.agent.policies import Policies
from pktmirror.agent.tracer import KernelTrace
from pktmirror.kernel import bpf, bpffs, grace_periods, netns
from pktmirror.kernel.netlink import Link, Netlink
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceLedger, RuleLedger, SessionLedger, Tally

OBJECT = Path(__file__).with_name("mirror.bpf.o")
_MAPS = (
    *("interfaces", "far_interfaces", "filters", "exclusions", "deliveries", "streams"),
    *("session_buckets", "cpu_bucket", "home", "hop_lanes", "bulks", "passages", "agent_looked", "control_heard"),
    *("session_ledger", "interface_ledger", "strays", "flows", "flow_rejections"),
    *("meters", "meter_notes", "meter_ranges"),
    *("trace", "trace_state", "trace_ring"),
)
_HOOKS = (("hook_ingress", bpf.TCX_INGRESS), ("hook_egress", bpf.TCX_EGRESS))
_PROGRAMS = (*(name for name, _ in _HOOKS), *PROGRAMS)
_LINKS_LOOKED_AT_MAX = 128  # in a turn of the agent; each costs some 10 µs
_STAGING = "staging"
_WAITS_MANY = 32  # changes that wait for the kernel, 10 ms and more each: below, nobody notices
_UNSPENT = bytes(bytearray(abi.Bucket()))
_AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # as the control plane takes it in a path


def is_agent_id(text: str) -> bool:
    """Whether an agent may be called so: a name that stays below the directory it is put in."""
    return _AGENT_ID.fullmatch(text) is not None


def pins_of(bpffs_root: Path, agent_id: str) -> Path:
    """Where an agent's pins live. Raises ValueError for what cannot be an agent's id."""
    if not is_agent_id(agent_id):
        raise ValueError(f"{agent_id!r} cannot be the id of an agent")
    return bpffs_root / "pktmirror" / agent_id.replace(".", ":")  # a bpffs takes no name with a dot


def hop_prefix(agent_id: str) -> str:
    """How the names of all devices of an agent begin."""
    return HOP_PREFIX + hashlib.sha256(agent_id.encode()).hexdigest()[:4]


def version_prefix(agent_id: str, version: str) -> str:
    """Each version of the programs has hops of its own: a copy meets the tables by which it was made, also while one
    version takes over from another."""
    return hop_prefix(agent_id) + version[:3]


class DataPlane:
    """The programs and maps of one agent, adopted from its predecessor or loaded anew.

    OSError where the kernel refuses; what was pinned or mounted for a load that failed is gone then.
    """

    def __init__(self, netlink: Netlink, bpffs_root: Path, agent_id: str, object_path: Path = OBJECT) -> None:
        self._root = pins_of(bpffs_root, agent_id)
        bpffs.mount(bpffs_root)
        self._netlink = netlink
        version = hashlib.sha256(object_path.read_bytes()).hexdigest()[:12]
        self._agent_id = agent_id
        self._pins = self._root / version
        cookie = netns.cookie().to_bytes(8, "little")
        self._forget_other_namespaces(cookie)
        if not self._pins.is_dir():
            try:
                self._load(object_path)
            except BaseException:
                self._leave_nothing_of_a_failed_load(bpffs_root)
                raise
        self._programs = {name: bpf.Program.pinned(self._pins / name) for name in _PROGRAMS}
        self._maps = {name: bpf.Map.pinned(self._pins / name) for name in _MAPS}
        self._maps["home"].put(_key(0), cookie)
        self._carry_what_was_heard()
        self._hops = Hops(netlink, version_prefix(agent_id, version), self._pins, self._programs)
        self._filters = self._maps["filters"].memory()
        self._policies = Policies(self._maps["interfaces"], self._maps["far_interfaces"])
        trace, state, ring = (self._maps[name] for name in ("trace", "trace_state", "trace_ring"))
        self.trace = KernelTrace(trace, state, ring, self._policies)
        self.trace.end()
        self._meters = MeterBlocks(self._maps["meters"], self._maps["meter_notes"], self._maps["meter_ranges"])
        self._generation = 0
        self._to_look_at: list[str] = []
        self.tables = self._read_tables()

    def close(self) -> None:
        """Let go of everything; what is pinned goes on, but for a trace, which nobody would read."""
        self.trace.end()
        self._filters.close()
        self._meters.close()
        for handle in (*self._programs.values(), *self._maps.values()):
            handle.close()

    def is_pinned(self) -> bool:
        """Whether the pins are where they were made."""
        return self._pins.is_dir()

    def mend_pins(self) -> tuple[str, ...]:
        """The pins that somebody has removed since the last call. OSError where their directory is gone.

        Maps and programs, which this process holds, are pinned again. A device that has lost a hook counts as not
        attached, so that the next plan attaches it; of those whose pins are there a part is looked at each time.
        """
        there = {entry.name for entry in self._pins.iterdir()}
        held = {**self._maps, **self._programs}
        lost = [name for name in held if name not in there]
        for name in lost:
            held[name].pin(self._pins / name)
        links = {f"link-{ifindex}-{hook}": ifindex for ifindex in self.tables.attached for hook, _ in _HOOKS}
        unpinned = [pin for pin in links if pin not in there]
        self._to_look_at = self._to_look_at or sorted(links)
        looked_at = self._to_look_at[:_LINKS_LOOKED_AT_MAX]
        del self._to_look_at[:_LINKS_LOOKED_AT_MAX]
        dead = [pin for pin in looked_at if pin in links and pin in there and not self._is_at(pin, links[pin])]
        unhooked = {links[pin] for pin in (*unpinned, *dead)}
        if unhooked:
            self.tables = replace(self.tables, attached=self.tables.attached - unhooked)
        return (*lost, *unpinned)

    def read_again(self) -> None:
        """Bring `tables` in step with the kernel after a change that failed half-way."""
        self.tables = self._read_tables()

    def make_hops(self, links: Iterable[Link]) -> None:
        """Make or mend the hops, and let clones enter them. ``links`` are those of the namespace, as they are now."""
        lanes = self._hops.made(links)
        entry = abi.Lanes(count=len(lanes))
        for index, lane in enumerate(lanes):
            entry.lanes[index] = abi.LaneEntry(lane.wrapping_ifindex, lane.finishing_ifindex, lane.splitting_ifindex)
        if self._maps["hop_lanes"].get(_key(0)) != bytes(entry):
            self._maps["hop_lanes"].put(_key(0), bytes(entry))

    def carry_out(self, changes: Iterable[Change]) -> None:
        """Make the changes, in order. The caller keeps `tables` in step."""
        changes = list(changes)
        waits = sum(isinstance(change, SwapPolicy | Attach | Detach) for change in changes)
        with grace_periods.expedited() if waits >= _WAITS_MANY else contextlib.nullcontext():
            for change in changes:
                self._carry_out(change)

    def looked(self, now_ns: int) -> None:
        """What the tables say of devices, routes and neighbours was right just now; ``now_ns`` is of the monotonic
        clock."""
        self._maps["agent_looked"].put(_key(0), now_ns.to_bytes(8, "little"))

    def heard(self, now_ns: int) -> None:
        """The control plane was heard of then; ``now_ns`` is of CLOCK_BOOTTIME, which goes on while all sleeps."""
        self._maps["control_heard"].put(_key(0), now_ns.to_bytes(8, "little"))

    def forget_predecessors(self) -> None:
        """Remove the pins and hops of other versions, once everything they did is done by this one."""
        others = [other for other in self._root.iterdir() if other != self._pins]
        if others:
            _delete_hops(self._netlink, self._agent_id, but=self._hops.device_names)
        for other in others:  # the last: while they are there, a successor knows that there is something to remove
            bpffs.remove_tree(other)

    def session_figures(self) -> dict[str, dict[Direction, SessionLedger]]:
        """The counters by session id, of every session that has a ledger row."""
        ledger = self._maps["session_ledger"]
        return {
            session_id: abi.session_ledgers(ledger.get_percpu(_key(row)))
            for session_id, row in self._session_rows().items()
        }

    def rule_figures(self) -> dict[str, tuple[tuple[RuleLedger, ...], bool]]:
        """By session id: the rules that have decided anything, and whether these are all that rules decided."""
        found = {}
        for session_id, row in self._session_rows().items():
            range_ = self.tables.meters.get(row)
            found[session_id] = ((), False) if range_ is None else (self._meters.figures(row, range_), range_.is_whole)
        return found

    def figures_of(self, ledger_row: int) -> dict[Direction, SessionLedger]:
        """The counters of one session, by its ledger row."""
        return abi.session_ledgers(self._maps["session_ledger"].get_percpu(_key(ledger_row)))

    def hop_entered(self) -> int | None:
        """Where a probe enters, by ifindex: the wrapping hop of the first lane, which leads on as the copies go now
        (bpf/hops.h); None before there were hops."""
        lanes = abi.Lanes.from_buffer_copy(self._maps["hop_lanes"].get(_key(0)) or bytes(abi.Lanes()))
        return lanes.lanes[0].wrapping_ifindex if lanes.count else None

    def interface_figures(self) -> dict[int, dict[Direction, InterfaceLedger]]:
        """The counters by ifindex."""
        ledger = self._maps["interface_ledger"]
        return {
            ifindex: abi.interface_ledgers(
                ledger.get_percpu(_key(abi.InterfacePolicy.from_buffer_copy(policy).ledger_row))
            )
            for ifindex, policy in self.tables.policies.items()
        }

    def hook_figures(self, ifindex: int) -> dict[Direction, HookFigures]:
        """How much the hooks of a mirrored device have seen."""
        row = abi.InterfacePolicy.from_buffer_copy(self.tables.policies[ifindex]).ledger_row
        return abi.hook_figures(self._maps["interface_ledger"].get_percpu(_key(row)))

    def mirrored(self) -> dict[int, bool]:
        """By the ifindex of each mirrored device, whether it is the far end of the source."""
        return {
            ifindex: bool(abi.InterfacePolicy.from_buffer_copy(policy).is_host_side)
            for ifindex, policy in self.tables.policies.items()
            if ifindex in self.tables.attached
        }

    def known_macs(self) -> dict[int, str]:
        """The MAC address of each mirrored interface, by the ifindex of its device."""
        return {
            ifindex: bytes(abi.InterfacePolicy.from_buffer_copy(policy).mac).hex(":")
            for ifindex, policy in self.tables.policies.items()
        }

    def strays(self) -> Tally:
        """Frames that reached a hop and were no copy, or a copy of which no session is known any more."""
        return abi.tally(self._maps["strays"].get_percpu(_key(0)))

    def _session_rows(self) -> dict[str, int]:
        """The ledger rows by session id, of every session that has one."""
        deliveries = [abi.Delivery.from_buffer_copy(value) for value in self.tables.deliveries.values()]
        return {
            bytes(delivery.session_id).rstrip(b"\0").decode(): delivery.ledger_row
            for delivery in deliveries
            if delivery.ledger_row != abi.NO_ROW
        }

    def _forget_other_namespaces(self, cookie: bytes) -> None:
        """What was pinned for a namespace that is no more: its links are dead, and the ifindexes mean other devices."""
        for pins in self._root.iterdir() if self._root.is_dir() else ():
            if (pins / "home").exists():
                with bpf.Map.pinned(pins / "home") as home:
                    is_of_another = home.get(_key(0)) not in (bytes(8), cookie)
                if is_of_another:
                    bpffs.remove_tree(pins)

    def _carry_what_was_heard(self) -> None:
        """A lease goes on from when the control plane was last heard of, by whichever version that was."""
        heard_ns = int.from_bytes(self._maps["control_heard"].get(_key(0)) or b"", "little")
        for pins in self._root.iterdir():
            if pins != self._pins and (pins / "control_heard").exists():
                with bpf.Map.pinned(pins / "control_heard") as control_heard:
                    heard_ns = max(heard_ns, int.from_bytes(control_heard.get(_key(0)) or b"", "little"))
        self.heard(heard_ns)

    def _load(self, object_path: Path) -> None:
        """All or nothing: pin into a staging directory, then rename it into place."""
        staging = self._root / _STAGING
        bpffs.remove_tree(staging)
        staging.mkdir(parents=True, mode=0o700)
        loaded = bpf.Object(object_path)
        try:
            for name in _MAPS:
                with loaded.map(name) as map_:
                    map_.pin(staging / name)
            for name in _PROGRAMS:
                with loaded.program(name) as program:
                    program.pin(staging / name)
        finally:
            loaded.close()
        staging.rename(self._pins)

    def _leave_nothing_of_a_failed_load(self, bpffs_root: Path) -> None:
        """A predecessor's pins, of another version, stay."""
        with contextlib.suppress(OSError):  # the failure itself is what is to be told
            bpffs.remove_tree(self._root / _STAGING)
            _remove_if_empty(self._root)
            _remove_if_empty(self._root.parent)
            bpffs.unmount_if_unused(bpffs_root)

    def _carry_out(self, change: Change) -> None:
        match change:
            case WriteFilter(cell, value):
                self._filters[cell * abi.CELL_BYTES : cell * abi.CELL_BYTES + len(value)] = value
            case WriteExclusions(slot, value):
                self._maps["exclusions"].put(_key(slot), value)
            case WriteDelivery(slot, value):
                self._maps["deliveries"].put(_key(slot), value)
            case ClearSessionRow(row):
                ledger = self._maps["session_ledger"]
                ledger.put(_key(row), bytes(ledger.value_bytes))
                self._maps["session_buckets"].put(_key(row), _UNSPENT)
                self._meters.drop(row)
            case WriteMeters(row, range_, names):
                self._meters.write(row, range_, names)
            case CarryMeters(row, _):
                self._meters.carry(row)
            case PutMeters(row, range_):
                self._meters.put(row, range_)
            case DropMeters(row):
                self._meters.drop(row)
            case ClearInterfaceRow(row):
                ledger = self._maps["interface_ledger"]
                ledger.put(_key(row), bytes(ledger.value_bytes))
            case ForgetSpent(row):
                name = "cpu_bucket" if row is None else "session_buckets"
                self._maps[name].put(_key(row or 0), _UNSPENT)
            case PutStream(key, owner):
                self._maps["streams"].put(key, _key(owner))
            case DropStream(key):
                self._maps["streams"].delete(key)
            case SwapPolicy(ifindex, value):
                self._policies.put(ifindex, abi.stamped(value, self._new_generation()))
            case Attach(ifindex, is_host_side):
                # First the hook by which the source receives: it keeps the errors about the first copies from it.
                for name, hook in reversed(_HOOKS) if is_host_side else _HOOKS:
                    self._take_over(f"link-{ifindex}-{name}", self._programs[name], ifindex, hook)
            case Detach(ifindex):
                for name, _ in _HOOKS:
                    self._let_go(self._pins / f"link-{ifindex}-{name}")
                self._policies.drop(ifindex)
            case _:
                assert_never(change)

    def _let_go(self, pin: Path) -> None:
        """Detach a link and remove its pin; were it left to the end of the pin, the kernel would do it later."""
        if pin.exists():
            with bpf.Link.pinned(pin) as link:
                link.detach()
            pin.unlink()

    def _take_over(self, pin: str, program: bpf.Program, ifindex: int, hook: int) -> None:
        """Put the program at a hook: into the predecessor's link where there is one, so that there is no gap."""
        if (self._pins / pin).exists():
            if self._is_at(pin, ifindex):  # an agent that was killed had come so far
                return
            (self._pins / pin).unlink()
        for other in self._root.iterdir():
            if other != self._pins and (other / pin).exists():
                with bpf.Link.pinned(other / pin) as link:
                    link.update(program)
                (other / pin).rename(self._pins / pin)
                return
        with bpf.Link.attach(program, ifindex, hook) as link:
            link.pin(self._pins / pin)

    def _is_at(self, pin: str, ifindex: int) -> bool:
        """Whether a link that was pinned is there, and its program at the device."""
        try:
            with bpf.Link.pinned(self._pins / pin) as link:
                return link.ifindex() == ifindex
        except FileNotFoundError:
            return False

    def _read_tables(self) -> Tables:
        policies = {ifindex: abi.unstamped(value) for ifindex, value in self._policies.all().items()}
        entries = [abi.InterfacePolicy.from_buffer_copy(value) for value in policies.values()]
        sessions = [session for entry in entries for session in entry.sessions[: entry.session_count]]
        filter_cells = {session.filter_cell for session in sessions}
        counted_in: dict[int, set[int]] = {}
        for session in sessions:
            counted_in.setdefault(session.ledger_row, set()).add(session.meter)
        return Tables(
            policies=policies,
            filters={cell: self._filter(cell) for cell in filter_cells},
            exclusions=self._values("exclusions", {entry.exclusion_slot for entry in entries}),
            deliveries=self._used_deliveries(),
            streams=self._streams(),
            meters=self._meters.ranges(counted_in),
            attached=frozenset(self._attached()),
        )

    def _streams(self) -> dict[bytes, int]:
        streams = self._maps["streams"]
        return {
            key: int.from_bytes(row, "little")
            for key in streams.keys()  # noqa: SIM118 -- a BPF map, not a dict
            if (row := streams.get(key)) is not None
        }

    def _filter(self, cell: int) -> bytes:
        begin = cell * abi.CELL_BYTES
        return self._filters[begin : begin + cell_count(self._filters[begin : begin + abi.CELL_BYTES]) * abi.CELL_BYTES]

    def _new_generation(self) -> int:
        """A number that no policy of these maps ever had: they end with the boot, whose clock never goes back."""
        self._generation = max(self._generation + 1, time.monotonic_ns())
        return self._generation

    def _values(self, name: str, slots: Iterable[int]) -> dict[int, bytes]:
        found = {slot: self._maps[name].get(_key(slot)) for slot in slots}
        return {slot: value for slot, value in found.items() if value is not None}

    def _used_deliveries(self) -> dict[int, bytes]:
        """Slots are given out from the lowest, so the first that was never written ends the search."""
        deliveries: dict[int, bytes] = {}
        for slot in range(self._maps["deliveries"].entries_max):
            value = self._maps["deliveries"].get(_key(slot))
            if value is None or not any(value[: abi.SESSION_ID_BYTES]):
                break
            deliveries[slot] = value
        return deliveries

    def _attached(self) -> set[int]:
        pinned = {entry.name for entry in self._pins.iterdir()}
        ifindexes = {int(name.split("-")[1]) for name in pinned if name.startswith("link-")}
        return {ifindex for ifindex in ifindexes if all(f"link-{ifindex}-{hook}" in pinned for hook, _ in _HOOKS)}


def purge(netlink: Netlink, bpffs_root: Path, agent_id: str) -> bool:
    """Remove every pin and device of an agent: nothing is mirrored any more. Whether there was anything."""
    unpinned = remove_pins(bpffs_root, agent_id)
    return _delete_hops(netlink, agent_id) or unpinned


def remove_pins(bpffs_root: Path, agent_id: str) -> bool:
    """Remove every pin of an agent whose devices went with their network namespace. Whether there was any.

    They are put aside first, by one rename: an agent at work finds all of them gone, and puts back none while the
    others are removed. OSError where its directory lies in no bpffs; nothing is removed then.
    """
    root = pins_of(bpffs_root, agent_id)
    aside = root.with_name(f"_purged-{root.name}")  # which no agent can be called
    found = aside.is_dir()  # of a purge that was killed
    bpffs.remove_tree(aside)
    if root.is_dir():
        found = True
        bpffs.refuse_elsewhere(root)
        root.rename(aside)
        bpffs.remove_tree(aside)
    if bpffs.is_mounted(root.parent):
        _remove_if_empty(root.parent)
    bpffs.unmount_if_unused(bpffs_root)
    return found


def _delete_hops(netlink: Netlink, agent_id: str, *, but: frozenset[str] = frozenset()) -> bool:
    names = [link.name for link in netlink.links() if link.name.startswith(hop_prefix(agent_id))]
    return any([netlink.delete_link(name) for name in names if name not in but])  # an end takes the other with it


def _remove_if_empty(directory: Path) -> None:
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def _key(number: int) -> bytes:
    return int(number).to_bytes(4, "little")

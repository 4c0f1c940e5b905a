"""Virtual machines of libvirt, by `virsh` and its read-only connection. An edge module.

`virsh -r` can change nothing, and is told neither secrets nor passwords. A machine that is defined or runs is there;
one that is neither has been deleted. Owner and labels are of the machine's metadata: ours (``urn:pktmirror:instance``,
docs/reference/networks.md), or OpenStack Nova's.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from pktmirror.agent.providers.engine import (
    ANSWER_BYTES_MAX,
    ANSWER_WITHIN_S,
    Instance,
    NoAnswer,
    Tap,
    Told,
    labels,
    word,
)

URI = "qemu:///system"
SOCKETS = (Path("/run/libvirt/libvirt-sock-ro"), Path("/run/libvirt/virtqemud-sock-ro"))
"""Of libvirtd, and of libvirt's daemon for QEMU alone."""

ASK_EVERY_S = 10.0
NAMESPACE = "urn:pktmirror:instance"
_GENERATED = "vnet"  # VIR_NET_GENERATED_VNET_PREFIX: libvirt gives such names out anew, whoever wrote them
_MACHINES_AT_ONCE = 500  # in one command line
_DOMAIN = "<domain "


class Libvirt:
    """The machines of one libvirt connection; ``configured`` or not, it is asked where `virsh` and a socket are."""

    name = "libvirt"
    provider = "libvirt"
    ask_every_s = ASK_EVERY_S

    def __init__(
        self,
        uri: str = URI,
        *,
        sockets: Sequence[Path] = SOCKETS,
        virsh: str = "virsh",
        configured: bool = False,
        within_s: float = ANSWER_WITHIN_S,
    ) -> None:
        self.where = uri
        self._sockets = sockets
        self._virsh = virsh
        self._configured = configured
        self._within_s = within_s

    def is_there(self) -> bool:
        return self._configured or (
            shutil.which(self._virsh) is not None and any(socket.is_socket() for socket in self._sockets)
        )

    def ask(self) -> Told:
        try:
            return self._asked()
        except NoAnswer as error:
            raise NoAnswer(f"{self.name} at {self.where}: {error}") from error

    def _asked(self) -> Told:
        deadline_s = time.monotonic() + self._within_s
        ids = self._said("list --all --uuid", deadline_s).split()
        instances: dict[str, Instance] = {}
        for at in range(0, len(ids), _MACHINES_AT_ONCE):
            commands = [f"dumpxml {machine_id}" for machine_id in ids[at : at + _MACHINES_AT_ONCE]]
            instances |= read(self._said("; ".join(commands), deadline_s)).instances
        missing = set(ids) - instances.keys()
        if missing:  # it ended in between, and the next answer says so
            raise NoAnswer(f"it tells nothing of the machine {min(missing)}")
        return Told(instances)

    def _said(self, command: str, deadline_s: float) -> str:
        """What `virsh` writes. Of several commands some may fail; only what they would have written is lacking then."""
        argv = [self._virsh, "-r", "-q", "-c", self.where, command]
        environment = {**os.environ, "LC_ALL": "C"}
        left_s = max(0.1, deadline_s - time.monotonic())
        try:
            done = subprocess.run(
                argv, capture_output=True, timeout=left_s, stdin=subprocess.DEVNULL, env=environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise NoAnswer(f"it has not answered after {self._within_s:.0f} s") from error
        except OSError as error:
            raise NoAnswer(f"{self._virsh} cannot be run: {error.strerror}") from error
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            why = word("; ".join(line.removeprefix("error: ") for line in lines)) or f"exit {done.returncode}"
            raise NoAnswer(f"it does not answer: {why}")
        if len(done.stdout) > ANSWER_BYTES_MAX:
            raise NoAnswer(f"the answer is longer than {ANSWER_BYTES_MAX >> 20} MiB")
        return done.stdout.decode(errors="replace")


def read(answer: str) -> Told:
    """The machines in what `virsh dumpxml` writes, one description after the other. Raises NoAnswer for nonsense."""
    instances: dict[str, Instance] = {}
    for text in answer.split(f"\n{_DOMAIN}"):
        if not text.strip():
            continue
        if "<!DOCTYPE" in text:  # libvirt writes none; without it there are no entities to expand
            raise NoAnswer("a machine's description has a document type")
        try:
            machine = ElementTree.fromstring(text if text.lstrip().startswith(_DOMAIN) else _DOMAIN + text)
        except ElementTree.ParseError as error:
            raise NoAnswer(f"a machine's description cannot be read: {error}") from error
        machine_id = machine.findtext("uuid", "")
        if not machine_id:
            raise NoAnswer("a machine has no UUID")
        owner, given = _metadata(machine)
        name = word(machine.findtext("name", ""))
        instances[machine_id] = Instance(machine_id, name, owner, given, tuple(_taps(machine)))
    return Told(instances)


def _taps(machine: ElementTree.Element) -> Iterator[Tap]:
    """Of a machine that runs: each interface has a device then. What has none, or no MAC address, is not told."""
    if machine.get("id") is None:
        return
    for interface in machine.iterfind("devices/interface"):
        device, mac = interface.find("target"), interface.find("mac")
        name = None if device is None else device.get("dev")
        address = None if mac is None else mac.get("address")
        if name and address:
            yield Tap(name, address.lower(), generated=is_generated(name))


def is_generated(device: str) -> bool:
    """Whether libvirt makes up such names, and gives them out anew."""
    return device.startswith(_GENERATED) and device[len(_GENERATED) :].isdecimal()


def _metadata(machine: ElementTree.Element) -> tuple[str | None, dict[str, str]]:
    """The owner and the labels. Nova's own names come as labels, by which it would be selected."""
    ours = machine.find(f"metadata/{{{NAMESPACE}}}instance")
    if ours is not None:
        given = {each.get("key", ""): (each.text or "").strip() for each in ours.iterfind(f"{{{NAMESPACE}}}label")}
        return word(ours.get("owner", "")) or None, labels(given)
    nova = machine.find("metadata/{*}instance/{*}owner/{*}project/../..")
    if nova is None:
        return None, {}
    project = word(nova.findtext("{*}owner/{*}project", ""))
    named = {"nova:name": nova.findtext("{*}name", ""), "nova:project": project}
    flavor = nova.find("{*}flavor")
    if flavor is not None:
        named["nova:flavor"] = flavor.get("name", "")
    return project or None, labels({key: value for key, value in named.items() if value})

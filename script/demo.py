"""The main job as a person does it, step by step, on the demo lab. Started by script/demo.

Every step prints the command that a person would type, runs that very command, and shows what came of it. With
--once each step is checked, and a step that was not seen to work ends the demo with exit status 1.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from pktmirror import lab

BIN = Path(sys.executable).parent
CLIENT_IP, WEB_IP, MONITOR_IP = "10.0.0.6", "10.0.0.48", "10.0.0.90"
CONTROL = "127.0.0.1:8773"
MTU, ETHERNET_BYTES = 1500, 14
OVERHEAD_BYTES = ETHERNET_BYTES + 20 + 8 + 8  # outer Ethernet, IPv4, UDP, VXLAN
HOST = "--netns pktmirror-host --host-id pktmirror-demo"
console = Console(highlight=False, soft_wrap=True)


class StepFailed(Exception):
    """A step that was not seen to work."""


def main() -> int:
    parser = argparse.ArgumentParser(description="The main job of pktmirror on a lab of network namespaces.")
    parser.add_argument("--once", action="store_true", help="check each step, tear everything down, exit")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.ExitStack() as stage:
            try:
                Demo(stage).play(once=arguments.once)
                if not arguments.once:
                    console.print("\nThe lab stays up. [bold]Ctrl-C[/bold] takes it down.")
                    signal.pause()
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C does not stop the taking down
    except KeyboardInterrupt:
        console.print("\ntaken down")
        return 130 if arguments.once else 0
    except StepFailed as failure:
        console.print("[bold red]not seen to work:[/bold red] ", end="")
        console.print(str(failure), markup=False)
        return 1
    return 0


class Demo:
    """The stage: everything entered into ``stage`` is taken down at its end, in reverse."""

    def __init__(self, stage: contextlib.ExitStack) -> None:
        self._stage = stage
        self._state = Path(stage.enter_context(tempfile.TemporaryDirectory(prefix="pktmirror-demo-")))
        self._captures = self._state / "captures"
        self._captures.mkdir()
        self._environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "AWS_PAGER": ""}

    @property
    def agent_command(self) -> str:
        return f"pktmirror agent --control http://{CONTROL} --state {self._state} {HOST}"

    def play(self, *, once: bool) -> None:
        self.examine_machine()
        self.build_lab()
        self.start_services()
        source, target = self.find_interfaces()
        session = self.mirror(source, target)
        self.login_and_look(session)
        self.account(session)
        if once:
            self.explain(source)
            self.upload(session)
            self.restart_agent(session)
            self.shorten(session)
            self.take_back(session)
        self.tell_where()

    def examine_machine(self) -> None:
        heading("Has this machine what the mirror needs?")
        self.run("pktmirror doctor")

    def build_lab(self) -> None:
        heading("A VPC of three instances, in network namespaces")
        if lab.DEMO.name in lab.names():  # left by a demo that was killed
            self.run("pktmirror lab down pktmirror")
        self._stage.callback(self.take_lab_down)  # before it is up: an interruption may come in between
        self.run("pktmirror lab up")
        self.run("pktmirror lab show pktmirror")
        (self._state / "networks.toml").write_text(self.run("pktmirror lab show --networks", quiet=True))
        self.start_sshd()

    def take_lab_down(self) -> None:
        if lab.DEMO.name in lab.names():
            self.run("pktmirror lab down pktmirror", quiet=True)

    def start_sshd(self) -> None:
        keys = self._state / "ssh"
        keys.mkdir()
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
        (keys / "authorized_keys").write_bytes((keys / "user.pub").read_bytes())
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation asks for it
        options = {
            "HostKey": keys / "host",
            "PidFile": "none",
            "AuthorizedKeysFile": keys / "authorized_keys",
            "ListenAddress": WEB_IP,
            "PasswordAuthentication": "no",
            "PermitRootLogin": "yes",
            "StrictModes": "no",  # the keys are below a temporary directory
            "UsePAM": "no",
        }
        given = [argument for name, value in options.items() for argument in ("-o", f"{name}={value}")]
        sshd = ["/usr/sbin/sshd", "-D", "-f", "/dev/null", *given]
        self.start("sshd", ["pktmirror", "lab", "exec", "pktmirror", "web", "--", *sshd])

    def start_services(self) -> None:
        heading("The control plane, an agent for the lab's host, a monitor at the monitoring instance")
        state = self._state
        self.start("serve", f"pktmirror serve --listen {CONTROL} --state {state} --networks {state}/networks.toml")
        wait_until((state / "aws-credentials").exists, 15, "the control plane's first start")
        self._stage.callback(self.run, f"pktmirror purge {HOST}", quiet=True)
        self._agent = self.start("agent", self.agent_command)
        self.start(
            "monitor",
            f"pktmirror monitor --listen {MONITOR_IP}:4789 --netns pktmirror-monitor --captures {self._captures}"
            f" --control http://{CONTROL} --state {state}",
        )
        wait_until(lambda: any(self._captures.glob("*.pcapng")), 10, "the monitor's capture file")
        show_command(f'eval "$(pktmirror env --state {state})"')
        exports = self.run(f"pktmirror env --state {state}", quiet=True)
        self._environment |= dict(
            shlex.split(line.removeprefix("export "))[0].split("=", 1) for line in exports.splitlines()
        )

    def find_interfaces(self) -> tuple[str, str]:
        heading("Which interfaces are there? Nothing was installed in them")
        query = "NetworkInterfaces[].[NetworkInterfaceId,PrivateIpAddress,Description]"
        command = f"aws ec2 describe-network-interfaces --query '{query}' --output text"
        wait_until(lambda: WEB_IP in self.run(command, quiet=True), 15, "the agent's first report")
        found = {line.split("\t")[1]: line.split("\t")[0] for line in self.run(command).splitlines()}
        return found[WEB_IP], found[MONITOR_IP]

    def mirror(self, source: str, target: str) -> dict[str, Any]:
        heading("A target, a filter that takes inbound TCP, a session")
        made_target = self.aws(
            f"aws ec2 create-traffic-mirror-target --network-interface-id {target} --description 'the monitor'"
        )["TrafficMirrorTarget"]
        made_filter = self.aws("aws ec2 create-traffic-mirror-filter --description 'inbound TCP'")[
            "TrafficMirrorFilter"
        ]
        filter_id = made_filter["TrafficMirrorFilterId"]
        self.aws(
            f"aws ec2 create-traffic-mirror-filter-rule --traffic-mirror-filter-id {filter_id}"
            " --traffic-direction ingress --rule-number 100 --rule-action accept --protocol 6"
            " --source-cidr-block 0.0.0.0/0 --destination-cidr-block 0.0.0.0/0"
        )
        session: dict[str, Any] = self.aws(
            f"aws ec2 create-traffic-mirror-session --network-interface-id {source}"
            f" --traffic-mirror-target-id {made_target['TrafficMirrorTargetId']}"
            f" --traffic-mirror-filter-id {filter_id} --session-number 1"
        )["TrafficMirrorSession"]
        return session

    def login_and_look(self, session: dict[str, Any]) -> None:
        capture = self.listen_at_monitor("login")
        heading(f"A ping, which the filter does not take, then an SSH login from {CLIENT_IP} to {WEB_IP}")
        self.run(f"pktmirror lab exec pktmirror client -- ping -c 2 -i 0.2 {WEB_IP}")
        self.login()
        heading("What arrived at the monitoring instance")
        wait_until(
            lambda: any(copy.is_last for copy in self.copies(capture)), 10, "the copy of the login's last packet"
        )
        wait_until(lambda: self.sent() == len(self.copies(capture)), 10, "as many copies as the ledger says were sent")
        copies = self.copies(capture)
        self.check_copies(copies, session["VirtualNetworkId"])
        show_copies(copies)
        self._login = copies

    def account(self, session: dict[str, Any]) -> None:
        heading("The ledger: where every packet of the source went")
        self.balanced()
        self.run("pktmirror ledger")
        heading("And all that a flow log would have kept of this login")
        line = flow_log_line(self._login, session["OwnerId"], session["NetworkInterfaceId"])
        console.print(line, style="yellow")

    def balanced(self) -> dict[str, Any]:
        """The ledger once both ends have told all, and it adds up."""

        def adds_up() -> bool:
            ledger = json.loads(self.run("pktmirror ledger --json", quiet=True))
            collectors = [row["collector"] for row in ledger["sessions"]]
            return bool(ledger["adds_up"]) and all(
                collector.get("written") == row["sent"]
                for collector, row in zip(collectors, ledger["sessions"], strict=True)
            )

        wait_until(adds_up, 10, "a ledger that adds up, with as much written at the monitor as was sent")
        ledger: dict[str, Any] = json.loads(self.run("pktmirror ledger --json", quiet=True))
        return ledger

    def explain(self, source: str) -> None:
        heading("Why is a packet mirrored, or not?")
        explained = self.run(f"pktmirror explain {source} ingress tcp {CLIENT_IP}:50000 {WEB_IP}:22")
        expect("taken" in explained, "explain says that the session takes it")
        explained = self.run(f"pktmirror explain {source} ingress icmp {CLIENT_IP} {WEB_IP}")
        expect("no rule matched" in explained, "explain says that no rule matches")

    def restart_agent(self, session: dict[str, Any]) -> None:
        heading("The agent is killed: mirroring goes on without it, and its successor takes over")
        capture, before = self.listen_at_monitor("agentless"), self.sent()
        show_command(f"kill -9 {self._agent.pid}")
        self._agent.kill()
        self._agent.wait()
        self.login()
        self.start("agent-again", self.agent_command)
        copies = self.copies_at_rest(capture, before)
        self.check_copies(copies, session["VirtualNetworkId"])
        console.print(f"{len(copies)} copies came while there was no agent; the ledger went on", style="green")

    def tell_where(self) -> None:
        [capture] = self._captures.glob("*.pcapng")
        heading("The capture")
        packets = len(tshark(capture))
        expect(packets > 0, "the monitor's capture holds packets")
        console.print(f"{packets} packets in {capture}, one interface a session. Open it with:")
        show_command(f"wireshark {capture}")
        console.print("It goes with the lab; copy it to keep it.")

    def upload(self, session: dict[str, Any]) -> None:
        heading("An upload of 4 MB: the sender hands super-packets to its kernel, the copies are of wire size")
        capture, before = self.listen_at_monitor("upload"), self.sent()
        self.run(
            f"pktmirror lab exec pktmirror client -- sh -c 'head -c 4000000 /dev/zero | {self.ssh('cat >/dev/null')}'"
        )
        copies = self.copies_at_rest(capture, before)
        self.check_copies(copies, session["VirtualNetworkId"])
        largest = max(int(copy.frame_bytes) for copy in copies)
        expect(largest <= ETHERNET_BYTES + MTU, f"no copy is larger than the underlay's MTU, as one of {largest} bytes")
        console.print(f"{len(copies)} copies were sent and arrived, the largest of {largest} bytes", style="green")

    def shorten(self, session: dict[str, Any]) -> None:
        heading("A packet length of 64: that many bytes of each packet follow the VXLAN header")
        modify = (
            f"aws ec2 modify-traffic-mirror-session --traffic-mirror-session-id {session['TrafficMirrorSessionId']}"
        )
        self.aws(f"{modify} --packet-length 64")
        capture, before = self.listen_at_monitor("short"), self.sent()
        self.applied()
        self.login()
        copies = self.copies_at_rest(capture, before)
        lengths = {int(copy.frame_bytes) - OVERHEAD_BYTES for copy in copies}
        expect(lengths == {64}, f"the copies hold 64 bytes of the packet, not {lengths}")
        console.print(f"all {len(copies)} copies hold 64 bytes", style="green")
        self.aws(f"{modify} --remove-fields packet-length")

    def take_back(self, session: dict[str, Any]) -> None:
        heading("Describe, modify, delete: afterwards a login is not mirrored any more")
        session_id, filter_id = session["TrafficMirrorSessionId"], session["TrafficMirrorFilterId"]
        described = self.aws("aws ec2 describe-traffic-mirror-sessions")["TrafficMirrorSessions"]
        expect(described == [session], f"the session is described as it was made, not {described}")
        rules = self.aws(f"aws ec2 describe-traffic-mirror-filter-rules --traffic-mirror-filter-id {filter_id}")
        rule_id = rules["TrafficMirrorFilterRules"][0]["TrafficMirrorFilterRuleId"]
        self.aws(
            f"aws ec2 modify-traffic-mirror-filter-rule --traffic-mirror-filter-rule-id {rule_id}"
            " --destination-port-range FromPort=80,ToPort=80 --protocol 6"
        )
        capture = self.listen_at_monitor("no-longer")
        self.applied()
        self.login()
        self.aws(f"aws ec2 delete-traffic-mirror-session --traffic-mirror-session-id {session_id}")
        self.aws(f"aws ec2 delete-traffic-mirror-filter --traffic-mirror-filter-id {filter_id}")
        target_id = session["TrafficMirrorTargetId"]
        self.aws(f"aws ec2 delete-traffic-mirror-target --traffic-mirror-target-id {target_id}")
        self.applied()
        self.login()
        expect(not self.copies(capture), "neither login was mirrored: by the modified rule, and by no session")
        console.print("neither login was mirrored", style="green")

    def applied(self) -> None:
        """Wait until the agent has made true what was asked last."""

        def is_applied() -> bool:
            status = json.loads(self.run("pktmirror status --json", quiet=True))
            return all(host["applied_revision"] == status["revision"] for host in status["hosts"])

        wait_until(is_applied, 5, "the agent's word that the change is applied")

    def login(self) -> None:
        self.run(f"pktmirror lab exec pktmirror client -- {self.ssh('echo logged in')}")

    def ssh(self, command: str) -> str:
        return (
            f"ssh -i {self._state}/ssh/user -F none -o BatchMode=yes -o LogLevel=ERROR -o StrictHostKeyChecking=no"
            f' -o UserKnownHostsFile={self._state}/ssh/known root@{WEB_IP} "{command}"'
        )

    def listen_at_monitor(self, name: str) -> Path:
        """tcpdump at the monitoring instance, for the outer headers.

        In immediate mode each packet takes a slot of the snapshot length, so that its default buffer holds eight.
        """
        capture = self._state / f"{name}.pcap"
        self.start(
            f"tcpdump-{name}",
            f"pktmirror lab exec pktmirror monitor -- tcpdump -i eth0 -U --immediate-mode -s 2048 -B 65536"
            f" -w {capture} udp port 4789",
        )
        wait_until(lambda: capture.exists() and capture.stat().st_size > 0, 10, "tcpdump at the monitor")
        return capture

    def copies(self, capture: Path) -> "list[Copy]":
        fields = [argument for field in Copy.FIELDS for argument in ("-e", field)]
        return [Copy(*line.split("\t")) for line in tshark(capture, "-Y", "udp.port == 4789", "-T", "fields", *fields)]

    def check_copies(self, copies: "list[Copy]", vni: int) -> None:
        for copy in copies:
            expect(copy.outer == (WEB_IP, MONITOR_IP), f"a copy goes from {WEB_IP} to {MONITOR_IP}, not {copy.outer}")
            expect(copy.inner == (CLIENT_IP, WEB_IP), f"only inbound packets are copied, not {copy.inner}")
            expect(int(copy.vni) == vni, f"the VNI is {vni}, not {copy.vni}")
            expect(copy.ip_protocol == "6", f"the filter takes TCP alone, not protocol {copy.ip_protocol}")

    def copies_at_rest(self, capture: Path, sent_before: int) -> "list[Copy]":
        """All copies of a connection that has ended: its last packet is there, and as many as the kernel sent."""
        last = "the copy of a connection's last packet"
        wait_until(lambda: any(copy.is_last for copy in self.copies(capture)), 10, last)
        as_many = "as many copies as the ledger says were sent"
        wait_until(lambda: self.sent() - sent_before == len(self.copies(capture)), 10, as_many)
        return self.copies(capture)

    def sent(self) -> int:
        """The sender's own count, from the kernel of the source's host."""
        rows: dict[str, Any] = json.loads(self.run("pktmirror ledger --json", quiet=True))
        return sum(row["sent"]["packets"] for row in rows["sessions"])

    def aws(self, command: str) -> Any:
        return json.loads(self.run(command))

    def run(self, command: str, *, quiet: bool = False) -> str:
        """Print and run a command; its output. A failure is the step's failure."""
        if not quiet:
            show_command(command)
        done = subprocess.run(
            shlex.split(command), env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )
        if not quiet:
            console.print((done.stdout + done.stderr).rstrip(), markup=False)
        if done.returncode != 0:
            raise StepFailed(f"`{command}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def start(self, name: str, command: str | list[str]) -> "subprocess.Popen[bytes]":
        """Start a service whose log is in the state directory; it is ended at the end."""
        argv = shlex.split(command) if isinstance(command, str) else command
        if isinstance(command, str):
            show_command(f"{command} &")
        with (self._state / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(argv, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._stage.callback(stop, process)
        return process


@dataclass(frozen=True)
class Copy:
    """One line of tshark's answer; a field of both IP headers holds the outer value, a comma, the inner one."""

    FIELDS: ClassVar = (
        "frame.time_epoch", "ip.src", "ip.dst", "vxlan.vni", "ip.proto", "ip.len", "tcp.srcport", "tcp.dstport",
        "tcp.flags.str", "tcp.len", "frame.protocols", "frame.len",
    )  # fmt: skip
    time_s: str
    sources: str
    destinations: str
    vni: str
    ip_protocols: str
    ip_bytes: str
    source_port: str
    destination_port: str
    flags: str
    payload_bytes: str
    protocols: str
    frame_bytes: str

    @property
    def outer(self) -> tuple[str, str]:
        return self.sources.split(",")[0], self.destinations.split(",")[0]

    @property
    def inner(self) -> tuple[str, str]:
        return self.sources.split(",")[-1], self.destinations.split(",")[-1]

    @property
    def ip_protocol(self) -> str:
        return self.ip_protocols.split(",")[-1]

    @property
    def protocol(self) -> str:
        return self.protocols.split(":")[-1].upper()

    @property
    def is_last(self) -> bool:
        """The client has closed its side; what follows are acknowledgements."""
        return "F" in self.flags


def tshark(capture: Path, *arguments: str) -> list[str]:
    """What tshark says of a capture. It runs as nobody: capturing needs root, and a dissector must not have it."""
    with capture.open("rb") as packets:
        done = subprocess.run(
            ["tshark", "-n", "-r", "-", *arguments],
            stdin=packets, capture_output=True, text=True, check=False, user="nobody", group="nogroup",
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        )  # fmt: skip
    return done.stdout.splitlines()


def flow_log_line(copies: list[Copy], account_id: str, interface_id: str) -> str:
    """The record of these packets in AWS's default format, version 2: one flow, seen at one interface."""
    first, last = copies[0], copies[-1]
    ip_bytes = sum(int(copy.ip_bytes.split(",")[-1]) for copy in copies)
    start_s, end_s = int(float(first.time_s)), int(float(last.time_s))
    flow = f"{CLIENT_IP} {WEB_IP} {first.source_port} {first.destination_port} 6"
    return f"2 {account_id} {interface_id} {flow} {len(copies)} {ip_bytes} {start_s} {end_s} ACCEPT OK"


def show_copies(copies: list[Copy], most: int = 12) -> None:
    table = Table(box=SIMPLE, padding=(0, 1), show_edge=False)
    for column in ("outer", "VNI", "inner", "what", "flags", "payload"):
        table.add_column(column, no_wrap=True)
    for copy in copies[:most]:
        outer, inner = " → ".join(copy.outer), " → ".join(copy.inner)
        table.add_row(outer, copy.vni, inner, copy.protocol, copy.flags.strip("·"), f"{copy.payload_bytes} B")
    if len(copies) > most:
        table.add_row("", "", f"… {len(copies) - most} more", "", "", "")
    console.print(table, soft_wrap=False)


def expect(seen: bool, what: str) -> None:
    if not seen:
        raise StepFailed(what)


def show_command(command: str) -> None:
    console.print(f"$ {command}", style="bold cyan", markup=False)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and SIGKILL for what does not listen."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def heading(text: str) -> None:
    console.print(f"\n── {text}", style="bold", markup=False)


def wait_until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise StepFailed(f"{what} did not come within {within_s:g} s")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())

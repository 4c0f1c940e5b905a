"""What a lab has made, written down below /run so that another process, or one after a crash, can take it away.

An edge module: one JSON file a lab, /run/pktmirror/lab/NAME.json. It is there before the first namespace is, and goes
after the last; its creation is what claims the name.
"""

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from pktmirror.lab.topology import LAB_NAME_CHARACTERS_MAX, Topology, decoded
from pktmirror.model.refusal import Refusal

DIRECTORY = Path("/run/pktmirror/lab")


class Process(msgspec.Struct, frozen=True):
    """A process that the lab has started. Both together name it: a pid alone may be another's tomorrow."""

    pid: int
    started_ticks: int  # field 22 of /proc/PID/stat: clock ticks since boot


class State(msgspec.Struct, frozen=True):
    """``namespaces``: each with its inode number, or None while it is about to be made."""

    topology: Topology
    namespaces: dict[str, int | None]
    complete: bool = False
    processes: tuple[Process, ...] = ()


def names() -> list[str]:
    """The names of the labs that are up, or were left half built."""
    return sorted(path.stem for path in DIRECTORY.glob("*.json"))


def claim(state: State) -> None:
    """Write the first state of a lab; FileExistsError where one of this name is there."""
    name = state.topology.name
    draft = DIRECTORY / f".{name}.{os.getpid()}"
    while True:
        DIRECTORY.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(_encoded(state))
            _path(name).hardlink_to(draft)  # whole or not at all, and never over another's
            return
        except FileNotFoundError:  # another lab's end has just removed the empty directory
            continue
        finally:
            draft.unlink(missing_ok=True)


def read(name: str) -> State:
    """The state of a lab; `Refusal` where there is none, or where its file cannot be read."""
    try:
        with _path(name).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return _decoded(name, file.read())
    except FileNotFoundError:
        raise _absent(name) from None


def change(name: str, to: Callable[[State], State]) -> State:
    """Replace the state by what ``to`` makes of it, alone among all processes; `Refusal` where there is none."""
    try:
        with _path(name).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = file.read()
            state = to(_decoded(name, before))
            file.seek(0)
            # Never shorter than before: whoever is killed between writing and cutting must not leave a torn file.
            file.write(_encoded(state).ljust(len(before)))
            return state
    except FileNotFoundError:
        raise _absent(name) from None


def forget(name: str) -> None:
    """Remove the file, and the directories when they are empty."""
    _path(name).unlink(missing_ok=True)
    for directory in (DIRECTORY, DIRECTORY.parent):
        with suppress(OSError):
            directory.rmdir()


def _path(name: str) -> Path:
    if "/" in name or not 0 < len(name) <= LAB_NAME_CHARACTERS_MAX:
        raise Refusal(f"{name!r} cannot be a lab's name.", do="run `pktmirror lab show` for the labs that are up")
    return DIRECTORY / f"{name}.json"


def _encoded(state: State) -> bytes:
    return msgspec.json.encode(state, enc_hook=str)  # addresses and networks


def _decoded(name: str, encoded: bytes) -> State:
    try:
        return msgspec.json.decode(encoded, type=State, dec_hook=decoded)
    except msgspec.MsgspecError as error:
        raise Refusal(
            f"The lab {name} cannot be read from {_path(name)}.",
            found=str(error),
            do=f"remove its namespaces ({name}-…) with `ip netns del`, then the file",
        ) from None


def _absent(name: str) -> Refusal:
    others = names()
    return Refusal(
        f"There is no lab {name!r}.",
        found=f"labs that are up: {', '.join(others)}" if others else "no lab is up",
        do="start one with `pktmirror lab up`",
    )

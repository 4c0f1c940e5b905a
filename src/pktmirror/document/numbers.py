"""Which session gets which number, and how numbers change without two sessions of an interface ever having one."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pktmirror.document.changes import Change, Kind, Verb
from pktmirror.document.state import SessionState
from pktmirror.document.text import Problem
from pktmirror.document.values import SessionEntry
from pktmirror.model.limits import SESSION_NUMBER_MAX

Place = tuple[str, int]
"""An interface, and a number on it."""


def session_numbers(
    entries: Sequence[SessionEntry],
    sources: Mapping[str, str],
    kept: Mapping[str, SessionState],
    others: Iterable[SessionState],
) -> tuple[dict[str, int], list[Problem]]:
    """The number of each entry: its own, else the one it has, else the lowest that is free.

    ``sources`` are interface ids by the entries' names, ``kept`` the sessions of those that have one, ``others`` all
    sessions that will be there beside them.
    """
    problems: list[Problem] = []
    numbers: dict[str, int] = {}
    taken = {
        (each.interface_id, each.number): f"session {each.id}, which the document does not have" for each in others
    }
    for entry in entries:
        if entry.number is not None:
            place = sources[entry.name], entry.number
            if place in taken:
                found = f"session {entry.name} has number {entry.number} on {place[0]}, as has {taken[place]}"
                problems.append(Problem(entry.at, found, "give it another number, or none to take a free one"))
            numbers[entry.name] = entry.number
            taken[place] = f"session {entry.name}"
    for entry in entries:
        if entry.name in kept and entry.name not in numbers:
            place = sources[entry.name], kept[entry.name].number
            if place not in taken:
                numbers[entry.name] = place[1]
                taken[place] = f"session {entry.name}"
    for entry in entries:
        if entry.name not in numbers:
            numbers[entry.name] = _free(sources[entry.name], range(1, SESSION_NUMBER_MAX + 1), taken)
            taken[sources[entry.name], numbers[entry.name]] = f"session {entry.name}"
    return numbers, problems


@dataclass(frozen=True, slots=True)
class Move:
    """A change of a session, and its number before and after."""

    interface_id: str
    before: int
    after: int
    change: Change

    @property
    def is_in_place(self) -> bool:
        return self.before == self.after

    @property
    def wanted(self) -> Place:
        return self.interface_id, self.after


def in_order(moves: Iterable[Move], held: Collection[Place]) -> list[Change]:
    """The changes in an order in which each number is free when it is taken; ``held`` are those in use before."""
    waiting, taken, ordered = list(moves), set(held), list[Change]()
    while waiting:
        ready = next((each for each in waiting if each.is_in_place or each.wanted not in taken), None)
        if ready is None:  # they wait for one another in a ring: one steps aside
            first = waiting[0]
            number = _free(first.interface_id, range(SESSION_NUMBER_MAX, 0, -1), taken)
            ordered.append(_aside(first, number))
            waiting[0] = replace(first, before=number)
            taken = taken - {(first.interface_id, first.before)} | {(first.interface_id, number)}
        else:
            waiting.remove(ready)
            ordered.append(ready.change)
            taken = taken - {(ready.interface_id, ready.before)} | {ready.wanted}
    return ordered


def _aside(move: Move, number: int) -> Change:
    session_id = move.change.id
    return Change(
        Verb.MODIFY,
        Kind.SESSION,
        move.change.name,
        "ModifyTrafficMirrorSession",
        {"TrafficMirrorSessionId": session_id, "SessionNumber": number},
        session_id,
        (f"number {move.before} → {number} for now: several change theirs in a ring",),
    )


def _free(interface_id: str, numbers: Iterable[int], taken: Collection[Place]) -> int:
    """The first that is free; EC2 allows fewer sessions than there are numbers, so there is one."""
    return next(number for number in numbers if (interface_id, number) not in taken)

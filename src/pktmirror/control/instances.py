"""What each instance's interfaces have mirrored, as CloudWatch counts it for EC2 (spec 1.10). Pure.

By instance and direction, summed over its interfaces and their sessions, since the control plane started: the counters
of a session are for its life, so a sum of them would fall with each session that is deleted. What the counters had come
to when a host reports for the first time is of before, and is left out. An instance may have interfaces of several
accounts: each sees what its own sessions have mirrored, and so it stays when they end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pktmirror.desired import Report
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import SessionLedger, Stage, Tally

MINUTE_S = 60
KEPT_MINUTES = 180
SKIPPED = (Stage.CAPPED, Stage.CLONE_FAILED)
"""What matched and was not mirrored because production had priority. What is dropped within a hop is so too, but its
bytes are not known, and its packets cannot be told from those in flight: the ledger shows them by session."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """Copies that were sent, of the length that the session asks for, and packets of which none was made."""

    mirrored: Tally = field(default_factory=Tally)
    skipped: Tally = field(default_factory=Tally)

    def __add__(self, other: "Mirrored") -> "Mirrored":
        return Mirrored(self.mirrored + other.mirrored, self.skipped + other.skipped)


@dataclass(frozen=True, slots=True)
class Source:
    """Whose a session is, by the store's name of the account, and which instance it mirrors; empty for none."""

    account: str
    instance_id: str


Figures = dict[Direction, Mirrored]
Minutes = Mapping[int, Mapping[str, Figures]]
"""By the minute (Unix seconds / 60) and the instance, of one account."""


@dataclass(slots=True)
class Instances:
    """The running sums, by instance; ``minutes`` are those of the last KEPT_MINUTES, by the minute (Unix seconds / 60),
    and of each account for itself."""

    totals: dict[str, Figures] = field(default_factory=dict)
    minutes: dict[int, dict[Source, Figures]] = field(default_factory=dict)
    _sessions: dict[str, Figures] = field(default_factory=dict)  # by session id, at the last report
    _sources: dict[str, Source] = field(default_factory=dict)  # by session id
    _hosts: set[str] = field(default_factory=set)

    def told(self, report: Report, source_of: Callable[[str], Source | None], now_s: float) -> None:
        """Take in an agent's report. ``source_of`` a session is None where the session is not there."""
        is_first = report.host_id not in self._hosts
        self._hosts.add(report.host_id)
        for session in report.sessions:
            source = self._sources.get(session.session_id)
            source = source_of(session.session_id) if source is None else source
            if source is None:
                continue
            self._sources[session.session_id] = source
            now = {direction: _figures(ledger) for direction, ledger in session.directions.items()}
            before = self._sessions.get(session.session_id, now if is_first else {})
            self._sessions[session.session_id] = now
            if source.instance_id:
                for direction, figures in now.items():
                    self._add(source, direction, _increase(before.get(direction), figures), now_s)

    def by_minute(self, account: str) -> Minutes:
        """What does not change any more while it is read."""
        return {
            minute: {
                source.instance_id: dict(figures) for source, figures in found.items() if source.account == account
            }
            for minute, found in self.minutes.items()
        }

    def ended(self, session_id: str) -> None:
        """Forget a session; what it has mirrored stays."""
        self._sessions.pop(session_id, None)
        self._sources.pop(session_id, None)

    def _add(self, source: Source, direction: Direction, more: Mirrored, now_s: float) -> None:
        minute = int(now_s) // MINUTE_S
        if minute not in self.minutes:
            for old in [each for each in self.minutes if each <= minute - KEPT_MINUTES]:
                del self.minutes[old]
        in_minute = self.minutes.setdefault(minute, {})
        for figures in (
            self.totals.setdefault(source.instance_id, dict.fromkeys(Direction, Mirrored())),
            in_minute.setdefault(source, dict.fromkeys(Direction, Mirrored())),
        ):
            figures[direction] += more


def _figures(ledger: SessionLedger) -> Mirrored:
    return Mirrored(ledger.stage(Stage.SENT), sum((ledger.stage(stage) for stage in SKIPPED), Tally()))


def _increase(before: Mirrored | None, now: Mirrored) -> Mirrored:
    """Counters that are smaller than they were began anew."""
    if before is None:
        return now
    return Mirrored(_more(before.mirrored, now.mirrored), _more(before.skipped, now.skipped))


def _more(before: Tally, now: Tally) -> Tally:
    if now.packets < before.packets:
        return now
    return Tally(now.packets - before.packets, max(now.bytes - before.bytes, 0))


def counter(figures: Mapping[Direction, Mirrored], direction: Direction, *, skipped: bool) -> Tally:
    """One of an instance's figures."""
    found = figures.get(direction, Mirrored())
    return found.skipped if skipped else found.mirrored

"""What replicas tell each other, and nobody needs after a restart: reports, and what agents are asked. An edge module.

Each item is a document under a kind and a name; whoever was told it puts it here, and every replica takes in what it
does not know yet. The table is unlogged: an item costs no write to the disk, and a crash of the server empties it,
after which agents and monitors tell again within seconds. In a store of one process nothing is exchanged.
"""

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Column, Connection, Float, LargeBinary, MetaData, Table, delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from pktmirror.control import postgresql, schema
from pktmirror.control.store import Store, Transaction

# Beside the store's tables and their version: other columns would take another name, so that replicas of two versions
# can run side by side for an upgrade.
_METADATA = MetaData()
_TABLE = Table(
    "exchange",
    _METADATA,
    Column("kind", schema.Text, primary_key=True),
    Column("name", schema.Text, primary_key=True),
    Column("told_at_s", Float, nullable=False),
    Column("document", LargeBinary, nullable=False),
    prefixes=["UNLOGGED"],
)
_READ_AT_ONCE = 200

Named = tuple[str, str]
"""Kind and name."""


class Kind(StrEnum):
    """In the order in which they are taken in: what is asked before its answer, whatever the replicas' clocks say."""

    PROBE = "probe"
    PROBE_ANSWER = "probe-answer"
    PROBE_ARRIVED = "probe-arrived"
    TRACE = "trace"
    TRACE_READ = "trace-read"
    TRACE_BATCH = "trace-batch"
    TRACE_STOP = "trace-stop"
    AGENT = "agent"
    MONITOR = "monitor"


LASTING = (Kind.AGENT, Kind.MONITOR)
"""What stays until it is removed; the others are over in minutes."""


@dataclass(frozen=True, slots=True)
class Item:
    kind: Kind
    name: str
    told_at_s: float
    document: bytes


class Exchange:
    """One replica's side. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_shared = store.url is not None
        """Whether there are other replicas, or may be."""
        self._known: dict[Named, float] = {}  # when each item was told that is known here
        self._lock = threading.Lock()
        if self.is_shared:
            with store.apart() as connection:
                postgresql.lock_writers(connection)
                _METADATA.create_all(connection)

    def put(self, item: Item, *, notify: str | None = None, within: Transaction | None = None) -> None:
        """Tell the others, in the place of what had this name; ``notify`` also wakes them.

        ``within`` a transaction it is told when that is committed.
        """
        if not self.is_shared:
            return
        row = {"told_at_s": item.told_at_s, "document": item.document}
        with self._store.apart() if within is None else nullcontext(within.connection) as connection:
            statement = insert(_TABLE).values(kind=item.kind, name=item.name, **row)
            connection.execute(statement.on_conflict_do_update(index_elements=["kind", "name"], set_=row))
            if notify is not None:
                postgresql.notify(connection, notify)
        with self._lock:
            self._known[item.kind, item.name] = item.told_at_s

    def remove(self, kind: str, name: str, within: Transaction) -> None:
        """As soon as the transaction is committed."""
        if not self.is_shared:
            return
        within.connection.execute(delete(_TABLE).where(_TABLE.c.kind == kind, _TABLE.c.name == name))
        with self._lock:
            self._known.pop((kind, name), None)

    def remove_older(self, than_s: float) -> None:
        """Remove what is not lasting and was told before."""
        if not self.is_shared:
            return
        with self._store.apart() as connection:
            connection.execute(delete(_TABLE).where(_TABLE.c.kind.not_in(LASTING), _TABLE.c.told_at_s < than_s))

    def news(self, *only: Named) -> list[Item]:
        """What others have told since the last time it was asked for, of these alone or of all; it may hold what this
        replica has told itself."""
        if not self.is_shared:
            return []
        with self._lock, self._store.apart() as connection:
            items = [*self._read(connection, only)]
            self._known.update(((item.kind, item.name), item.told_at_s) for item in items)
        return sorted(items, key=lambda item: ([*Kind].index(item.kind), item.name))

    def gone(self) -> list[Named]:
        """What was known and is there no more; forgotten here, too."""
        if not self.is_shared:
            return []
        with self._lock, self._store.apart() as connection:
            there = {(kind, name) for kind, name in connection.execute(select(_TABLE.c.kind, _TABLE.c.name))}
            gone = [key for key in self._known if key not in there]
            for key in gone:
                del self._known[key]
            return gone

    def _read(self, connection: Connection, only: tuple[Named, ...]) -> Iterator[Item]:
        key = tuple_(_TABLE.c.kind, _TABLE.c.name)
        # A replica of a later version may tell of kinds that are not known here.
        query = select(_TABLE.c.kind, _TABLE.c.name, _TABLE.c.told_at_s).where(_TABLE.c.kind.in_([*Kind]))
        if only:
            query = query.where(key.in_(only))
        fresh = [
            (kind, name)
            for kind, name, told_at_s in connection.execute(query)
            if self._known.get((kind, name)) != told_at_s
        ]
        for first in range(0, len(fresh), _READ_AT_ONCE):
            some = select(_TABLE).where(key.in_(fresh[first : first + _READ_AT_ONCE]))
            for row in connection.execute(some):
                yield Item(Kind(row.kind), row.name, row.told_at_s, bytes(row.document))

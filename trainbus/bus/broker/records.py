"""What the journal keeps besides events: one record type for each small table, and `Table`, the broker's view of one.

The broker holds these tables whole in memory (their size follows the number of runs, sources and consumers, not of events) and
the journal stores exactly what changed, in the same transaction as the events.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, ClassVar, Generic, TypeVar

from msgspec import Struct


class Record(Struct, frozen=True):
    """One row. The first ``KEYS`` fields are its primary key; fields are columns, in order."""

    TABLE: ClassVar[str] = ""
    KEYS: ClassVar[int] = 1


class SourceRecord(Record, frozen=True):
    """A publisher incarnation. All of its seqs below ``expected`` are in the journal or declared missing there."""

    TABLE: ClassVar[str] = "sources"
    source: str
    id: int
    run: str = ""
    expected: int = 0
    name: str = ""
    host: str = ""
    pid: int = 0
    owner: bool = False


class KindRecord(Record, frozen=True):
    """The number that stands for a kind in the events table."""

    TABLE: ClassVar[str] = "kinds"
    kind: str
    id: int


class RunRecord(Record, frozen=True):
    """A run's summary; it outlives the run's events. ``owner`` is the source whose silence would mean a lost run."""

    TABLE: ClassVar[str] = "runs"
    run: str
    id: int
    name: str = ""
    state: str = "running"
    started: int = 0
    updated: int = 0
    last_step: int | None = None
    total_steps: int | None = None
    host: str = ""
    events: int = 0
    reason: str = ""
    owner: str = ""


class TopicRecord(Record, frozen=True):
    """Last offset and number of events of one run and kind (both by number)."""

    TABLE: ClassVar[str] = "topics"
    KEYS: ClassVar[int] = 2
    run: int
    kind: int
    last: int = -1
    events: int = 0


class CursorRecord(Record, frozen=True):
    """A durable consumer: the last offset that it has finished."""

    TABLE: ClassVar[str] = "consumers"
    consumer: str
    offset: int
    updated: int


class StateRecord(Record, frozen=True):
    """One value of a consumer's durable state."""

    TABLE: ClassVar[str] = "consumer_state"
    KEYS: ClassVar[int] = 2
    consumer: str
    key: str
    value: bytes


class DeadLetterRecord(Record, frozen=True):
    """An event that a consumer died on."""

    TABLE: ClassVar[str] = "dead_letters"
    KEYS: ClassVar[int] = 2
    consumer: str
    offset: int
    attempts: int
    reason: str
    time: int


class LeaseRecord(Record, frozen=True):
    """A granted lease. When it expires is known in memory only: a restarted broker gives each its whole ``ttl`` again."""

    TABLE: ClassVar[str] = "leases"
    id: str
    resource: str
    holder: str
    mode: str
    reason: str
    ttl: float


class CommandRecord(Record, frozen=True):
    """A command that has no final result yet."""

    TABLE: ClassVar[str] = "commands"
    id: str
    run: str
    offset: int
    verb: str
    body: bytes


K = TypeVar("K", bound=Hashable)
R = TypeVar("R", bound=Record)

Change = tuple[str, Any, Record | None]
"""Table, key, and the new record (None: the row is gone)."""


def key_of(record: Record) -> Any:
    """A record's primary key: a value, or a tuple where it has several columns."""
    names = record.__struct_fields__[: record.KEYS]
    return getattr(record, names[0]) if len(names) == 1 else tuple(getattr(record, name) for name in names)


class Table(Generic[K, R]):
    """Committed rows with one layer of uncommitted changes above them.

    Reads see the changes. `commit` makes them the truth once the journal has them, `rollback` forgets them when it could not.
    """

    __slots__ = ("_changes", "_rows", "name")

    def __init__(self, kind: type[R], rows: Iterable[R] = ()) -> None:
        self.name = kind.TABLE
        self._rows: dict[K, R] = {key_of(row): row for row in rows}
        self._changes: dict[K, R | None] = {}

    def get(self, key: K) -> R | None:
        """The row as it will be after the next commit."""
        return self._changes[key] if key in self._changes else self._rows.get(key)

    def committed(self, key: K) -> R | None:
        """The row as the journal has it."""
        return self._rows.get(key)

    def put(self, row: R) -> None:
        """Insert or replace a row."""
        self._changes[key_of(row)] = row

    def drop(self, key: K) -> None:
        """Remove a row; no error when there is none."""
        self._changes[key] = None

    def values(self) -> list[R]:
        """All rows, changes included."""
        if not self._changes:
            return list(self._rows.values())
        return [row for row in (self._rows | self._changes).values() if row is not None]

    def committed_values(self) -> list[R]:
        """All rows as the journal has them."""
        return list(self._rows.values())

    def changes(self) -> list[Change]:
        """What the journal has to write."""
        return [(self.name, key, row) for key, row in self._changes.items()]

    def commit(self) -> None:
        """The changes are durable."""
        for key, row in self._changes.items():
            if row is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row
        self._changes.clear()

    def rollback(self) -> None:
        """The changes never happened."""
        self._changes.clear()


class Tables:
    """All small tables of one journal."""

    def __init__(self) -> None:
        self.sources: Table[str, SourceRecord] = Table(SourceRecord)
        self.kinds: Table[str, KindRecord] = Table(KindRecord)
        self.runs: Table[str, RunRecord] = Table(RunRecord)
        self.topics: Table[tuple[int, int], TopicRecord] = Table(TopicRecord)
        self.cursors: Table[str, CursorRecord] = Table(CursorRecord)
        self.states: Table[tuple[str, str], StateRecord] = Table(StateRecord)
        self.dead_letters: Table[tuple[str, int], DeadLetterRecord] = Table(DeadLetterRecord)
        self.leases: Table[str, LeaseRecord] = Table(LeaseRecord)
        self.commands: Table[str, CommandRecord] = Table(CommandRecord)

    def all(self) -> list[Table[Any, Any]]:
        """Every table, in the order in which they are written."""
        return [
            self.sources, self.kinds, self.runs, self.topics, self.cursors, self.states, self.dead_letters, self.leases, self.commands,
        ]  # fmt: skip

    def changes(self) -> list[Change]:
        """The uncommitted changes of all tables."""
        return [change for table in self.all() for change in table.changes()]

    def commit(self) -> None:
        """All changes are durable."""
        for table in self.all():
            table.commit()

    def rollback(self) -> None:
        """No change happened."""
        for table in self.all():
            table.rollback()


RECORDS: tuple[type[Record], ...] = (
    SourceRecord, KindRecord, RunRecord, TopicRecord, CursorRecord, StateRecord, DeadLetterRecord, LeaseRecord, CommandRecord,
)  # fmt: skip

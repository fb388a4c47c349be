"""What a ``trainbus checkpoints`` command speaks of: the checkpoints of a run that the bus knows, or of a bare directory."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click

from trainbus.bus.client import Client
from trainbus.bus.config_file import load
from trainbus.bus.events import Checkpoint, Eval, RunStarted
from trainbus.bus.home import connection_file
from trainbus.bus.publisher import Publisher
from trainbus.cli.app import UsageError
from trainbus.cli.history import known_run, running_run
from trainbus.errors import RefusedError, UnreachableError
from trainbus.plugins.retention.config import RetentionConfig
from trainbus.plugins.retention.planning import DiskState, Plan, plan
from trainbus.plugins.retention.records import Book, Record, position
from trainbus.plugins.retention.report import checkpoint_event
from trainbus.plugins.retention.scanning import scan
from trainbus.plugins.retention.storage import Storage, look_at, pinned
from trainbus.plugins.retention.trash import Trash

F = TypeVar("F", bound=Callable[..., Any])

LEASE_SECONDS = 30.0
CONNECT_TIMEOUT = 5.0
"""Seconds that the bus has to answer."""
RELEVANT = ("checkpoint", "eval", "run_started")


class Scope:
    """Checkpoints, what is known of them, and the bus where there is one.

    Args:
        name: The run, or the directory.
        records: Whole checkpoints by step.
        marks: Reasons to keep some of them.
        client: The bus; None for a directory without one.
        roots: Directories that hold them, or did.
        unfinished: Directories that are no whole checkpoints.
    """

    def __init__(
        self,
        name: str,
        records: list[Record],
        marks: dict[str, list[str]],
        client: Client | None,
        roots: Iterable[Path],
        unfinished: Sequence[Path] = (),
    ) -> None:
        self.name = name
        self.records = sorted(records, key=position)
        self.marks = marks
        self.client = client
        self.unfinished = unfinished
        self.storage = Storage(person())
        for root in roots:
            self.storage.trash(root)

    def plan(self, config: RetentionConfig, now: int) -> Plan:
        """What would happen to them, with pins and leases as they are at this moment."""
        for record in self.records:
            look_at(record)
        return plan(self.records, config, now, self.reasons(), self.disks())

    def reasons(self) -> dict[str, list[str]]:
        """By id: why a checkpoint must not go whatever any policy says, with pins and leases as they are at this moment."""
        marks = {identity: list(reasons) for identity, reasons in self.marks.items()}
        for identity, pin in pinned(self.records).items():
            if pin not in marks.get(identity, []):
                marks.setdefault(identity, []).append(pin)
        if self.client is not None:
            for lease in self.client.leases():
                marks.setdefault(lease.resource, []).append(f"leased by {lease.holder}{f': {lease.reason}' if lease.reason else ''}")
        return marks

    def disks(self) -> list[DiskState]:
        """The file systems that hold them."""
        return self.storage.disks(self.storage.contents())

    def trash_of(self, record: Record) -> Trash:
        """Where it goes."""
        return self.storage.trash_of(record)

    @contextmanager
    def lease(self, record: Record, mode: Any, reason: str) -> Iterator[None]:
        """Hold a lease while the block runs; without a bus there is nobody who could hold another.

        Raises:
            RefusedError: Somebody holds the opposite side.
        """
        held = self.client.lease(record.id, f"person:{person()}", mode, LEASE_SECONDS, reason) if self.client else nullcontext()
        with held:
            yield

    def tell(self, record: Record, state: Any, reason: str) -> None:
        """Tell the bus what became of a checkpoint; without one there is nobody to tell."""
        if self.client is None:
            return
        publisher = Publisher(record.run, name="trainbus checkpoints")
        try:
            publisher.publish(checkpoint_event(record, socket.gethostname(), state, reason))
            publisher.flush()
        finally:
            publisher.close()


@contextmanager
def scope(target: str | None, *, acting: bool = False, without_bus: bool = False) -> Iterator[Scope]:
    """The checkpoints that a person means: a directory, or a run by its id or the beginning of it; None is the one run that is running.

    Args:
        target: What the person wrote.
        acting: Something will be changed: then the bus of a directory that trainbus made must answer, as it knows what is being read.
        without_bus: The person says that nobody uses the directory.

    Raises:
        UnreachableError: The bus is needed and does not answer; nothing was changed.
        RefusedError: The run is not known.
    """
    path = Path(target).expanduser() if target is not None else None
    if path is not None and path.is_dir():
        with _directory(path.resolve(), acting=acting, without_bus=without_bus) as found:
            yield found
        return
    if target is not None and ("/" in target or target.startswith(".")):
        raise UsageError(f"There is no directory {target}.", hint="Give a directory of checkpoints, or a run's id.", found=target)
    with Client(timeout=CONNECT_TIMEOUT) as client:
        run = (known_run(client, target) if target else running_run(client)).run
        book = read_book(client)
        records = [record for record in book.records.values() if record.run == run and Path(record.path).is_dir()]
        roots = {Path(record.path).parent for record in (*book.records.values(), *book.trashed.values()) if record.run == run}
        yield Scope(run, records, book.marks(records), client, sorted(roots))


@contextmanager
def _directory(path: Path, *, acting: bool, without_bus: bool) -> Iterator[Scope]:
    found = scan(path)
    if without_bus or not (found.ours or connection_file().exists()):
        yield Scope(str(path), found.records, found.marks, None, [path], found.unfinished)
        return
    with Client(timeout=CONNECT_TIMEOUT) as client:
        try:
            book = read_book(client)
        except UnreachableError as error:
            if not acting or not found.ours:
                yield Scope(str(path), found.records, found.marks, None, [path], found.unfinished)
                return
            hint = "Start it with `trainbus up`, or say `--without-bus` when nothing trains, evaluates or copies there."
            problem = f"{path} was written under a trainbus, and its bus does not answer: {error.problem}"
            raise UnreachableError(problem, hint=hint, file=str(path)) from error
        marks = {identity: list(reasons) for identity, reasons in found.marks.items()}
        records = []
        for record in found.records:
            known = book.records.get(record.id)
            if known is not None:
                known.bytes, known.metrics, known.thinned = record.bytes, record.metrics | known.metrics, record.thinned
            records.append(known or record)
        for identity, why in book.marks(records).items():
            marks.setdefault(identity, []).extend(why)
        yield Scope(str(path), records, marks, client, [path], found.unfinished)


def read_book(client: Client) -> Book:
    """All checkpoints of this host that the journal knows."""
    book = Book(socket.gethostname(), {})
    for event in client.events(kinds=RELEVANT):
        if isinstance(event, Checkpoint):
            book.checkpoint(event)
        elif isinstance(event, Eval):
            book.evaluation(event)
        elif isinstance(event, RunStarted):
            book.run_started(event)
    return book


def retention_settings(config_path: Path | None, overrides: Sequence[str]) -> RetentionConfig:
    """``[plugin.retention]`` as it holds here, with ``--set KEY=VALUE`` on top, where ``plugin.retention.`` may be left out."""
    full = [each if each.startswith(("plugin.", "bus.", "trainer.")) else f"plugin.retention.{each}" for each in overrides]
    return load(config_path, overrides=full).section("plugin.retention", RetentionConfig)


def target_argument(function: F) -> F:
    """TARGET: a run or a directory."""
    return click.argument("target", required=False)(function)


def without_bus_option(function: F) -> F:
    """``--without-bus``: nobody uses the directory."""
    return click.option("--without-bus", is_flag=True, help="A directory that nothing trains in, evaluates or copies: ask no bus.")(
        function
    )


def person() -> str:
    """Who does it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in some containers
        return "operator"


def the_record(found: Scope, name: str) -> Record:
    """The checkpoint that a person means by an id, a path, a directory's name or a step.

    Raises:
        RefusedError: There is none, or more than one.
    """
    path = str(Path(name).expanduser().resolve()) if "/" in name else ""
    matching = [
        record
        for record in found.records
        if name in (record.id, Path(record.path).name, str(record.step)) or (path and record.path == path)
    ]
    if len(matching) == 1:
        return matching[0]
    known = ", ".join(str(record.step) for record in found.records[-5:]) or "none"
    problem = f"{found.name} has {'no checkpoint' if not matching else 'several checkpoints called'} {name!r}."
    raise RefusedError(problem, hint=f"Name it by step, id or path. The newest steps: {known}.", code="unknown", found=name)

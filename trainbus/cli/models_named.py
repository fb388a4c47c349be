"""The folder behind a model's name: checkpoints of runs through the bus, or of bare directories, kept from deletion while they are used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from msgspec import Struct

from trainbus.bus.client import Client
from trainbus.bus.events import MARKER
from trainbus.cli.checkpoint_scope import CONNECT_TIMEOUT, Scope, read_book, retention_settings, scope, the_record
from trainbus.cli.history import running_run
from trainbus.errors import ModelError, RefusedError, UnreachableError
from trainbus.inferring.names import Name, choose, parse
from trainbus.plugins.retention.policies import BestConfig
from trainbus.plugins.retention.recognition import STATE_FILE, step_of
from trainbus.plugins.retention.records import Record, position
from trainbus.plugins.retention.verify import kind_of

NAMES_HINT = "Name a folder, RUN:STEP, RUN:latest, RUN:best, RUN:best:METRIC, or OWNER/NAME of the hub."
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class Named(Struct, frozen=True, kw_only=True):
    """A model that was found.

    Args:
        label: What it is called in what is printed.
        place: Its folder; a hub name where it is none.
        why: Why it is this one, as ``the best by accuracy (0.8)``.
        record: What is known of the checkpoint, and ``scope`` the others of its run or folder; None for other models.
        local: Whether ``place`` is a folder on this machine.
    """

    label: str
    place: str
    why: str = ""
    record: Record | None = None
    scope: Scope | None = None
    local: bool = True


@contextmanager
def named_model(
    text: str, *, reason: str = "", policies: Sequence[BestConfig] | None = None, acting: bool = False, without_bus: bool = False
) -> Iterator[Named]:
    """Find a model. While the block runs a shared lease keeps retention from deleting a checkpoint of the bus.

    Args:
        text: What the person wrote, see `trainbus.inferring.names`.
        reason: Stands in the lease; without one there is no lease.
        policies: By what ``best`` is chosen; None for what the configuration says.
        acting: As `trainbus.cli.checkpoint_scope.scope` has it; so is ``without_bus``.

    Raises:
        TrainbusError: There is no such model, or no bus that could know it.
    """
    folder = Path(text).expanduser()
    if folder.is_dir() and kind_of(folder):
        with _checkpoint_or_model(folder.resolve(), reason, acting=acting, without_bus=without_bus) as found:
            yield found
        return
    name = parse(text)
    policies = retention_settings(None, ()).keep_best if policies is None else policies
    with _scope_of(name, text, acting=acting, without_bus=without_bus) as within:
        if within is None:
            yield Named(label=text, place=text, local=False)
            return
        try:
            record, why = choose(within.records, name.which, policies, of=within.name)
        except RefusedError as error:
            raise _with_trash(within, name, error) from error
        with _leased(within, record, reason):
            yield Named(label=label(record, name.target), place=record.path, why=why, record=record, scope=within)


def label(record: Record, target: str = "") -> str:
    """The short name by which a checkpoint can be asked for again: by its run, or by the folder that a person named."""
    return f"{target if target and Path(target).expanduser().is_dir() else record.run}:{record.step}"


def every_checkpoint(client: Client) -> list[Record]:
    """All checkpoints of this host that the bus knows and that are there, by step; the run that was heard of last comes first."""
    order = {run.run: place for place, run in enumerate(client.runs())}
    records = [record for record in read_book(client).records.values() if Path(record.path).is_dir()]
    return sorted(records, key=lambda record: (order.get(record.run, len(order)), record.run, position(record)))


@contextmanager
def _scope_of(name: Name, text: str, **options: bool) -> Iterator[Scope | None]:
    """Where to look; None when the name can only be one of the hub."""
    target = name.target
    if "/" in target and not Path(target).expanduser().is_dir():
        if target != text or not HUB_NAME.fullmatch(text):
            raise ModelError(f"There is no folder {target}.", hint=NAMES_HINT, file=target)
        yield None
        return
    with ExitStack() as stack:
        try:
            within = stack.enter_context(scope(target or _run_that_is_meant(), **options))
        except UnreachableError as error:
            hint = f"Start it with `trainbus up`, or name a folder, such as runs/NAME:{name.which}."
            raise UnreachableError(error.problem, hint=hint, **error.facts) from error
        yield within


def _run_that_is_meant() -> str:
    """The run that is running; without one the last that left a checkpoint here.

    Raises:
        RefusedError: Several are running, or none left one.
    """
    with Client(timeout=CONNECT_TIMEOUT) as client:
        try:
            return running_run(client).run
        except RefusedError as error:
            if error.facts.get("code") != "ended":
                raise
        records = every_checkpoint(client)
        if not records:
            raise RefusedError("No run has a checkpoint on this machine.", hint=NAMES_HINT, code="unknown")
        return records[0].run


@contextmanager
def _checkpoint_or_model(folder: Path, reason: str, **options: bool) -> Iterator[Named]:
    """A folder that was named by its path; a checkpoint that trainbus made is leased, too, where a bus answers."""
    if not (folder / MARKER).is_file() and (step_of(folder.name) is None or not (folder / STATE_FILE).is_file()):
        yield Named(label=str(folder), place=str(folder))
        return
    with scope(str(folder.parent), **options) as within:
        record = the_record(within, str(folder))
        with _leased(within, record, reason):
            yield Named(label=str(folder), place=str(folder), record=record, scope=within)


def _leased(within: Scope, record: Record, reason: str) -> AbstractContextManager[None]:
    return within.lease(record, "shared", reason) if reason else nullcontext()


def _with_trash(within: Scope, name: Name, error: RefusedError) -> RefusedError:
    """The error, and that the checkpoint lies in the trash where it does."""
    thing = within.storage.find(name.which) if name.which.isdigit() else None
    if thing is None or thing[1].thinned:
        return error
    place = thing[1].entry.path
    hint = f"It lies in the trash: `trainbus checkpoints restore {place}` brings it back."
    return RefusedError(error.problem, hint=hint, **error.facts)

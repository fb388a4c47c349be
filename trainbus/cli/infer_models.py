"""Opening the model that a person names: on a server, or on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from trainbus.cli.models_named import Named, named_model
from trainbus.cli.output import stderr
from trainbus.cli.train import need_libraries, quiet_libraries
from trainbus.errors import RefusedError, TrainbusError
from trainbus.inferring.asking import Asked
from trainbus.inferring.server import Server

if TYPE_CHECKING:
    from trainbus.inferring.local import LocalModel


class Where(Struct, frozen=True, kw_only=True):
    """Where models run: on a server; without one on this machine's ``device``, in ``dtype``, on ``base`` where an adapter needs it."""

    server: Server | None = None
    device: str = "auto"
    dtype: str = "auto"
    base: str = ""


@contextmanager
def opened(name: str, where: Where) -> Iterator[Asked]:
    """A model to ask. A checkpoint of the bus that is read on this machine is leased while the block runs.

    Raises:
        TrainbusError: There is no such model, or it can't be loaded.
    """
    if where.server is not None:
        with _name_on(where.server, name) as (asked, label, checkpoint):
            yield where.server.model(asked, label=label, checkpoint=checkpoint)
        return
    with named_model(name, reason="inference") as found:
        with stderr().status(f"loading {found.label}"):
            model = _loaded(found, where)
        with model:
            yield model


def _loaded(found: Named, where: Where) -> LocalModel:
    need_libraries()
    quiet_libraries()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    from trainbus.inferring.local import LocalModel  # loads torch

    return LocalModel.load(found.label, found.place, device=where.device, dtype=where.dtype, base=where.base, checkpoint=_identity(found))


def _identity(found: Named) -> str:
    return found.record.id if found.record is not None else ""


@contextmanager
def _name_on(server: Server, name: str) -> Iterator[tuple[str, str, str]]:
    """What a server calls the model that a person names (the same, or a checkpoint's id or path), what we call it, and its id.

    A server that loads what it is asked for lists nothing of it before; so what isn't listed is asked by its path.
    """
    try:
        listed = server.models() if name else []
    except RefusedError:  # it understood, and has no list for us
        listed = []
    with ExitStack() as stack:
        asked = label = name
        checkpoint = ""
        if name and name not in listed:
            # A server may know models that nobody here does; it says so if it doesn't.
            with suppress(TrainbusError):
                found = stack.enter_context(named_model(name, reason="inference"))
                known = (found.record.id, found.label) if found.record else ()
                asked, label = next((one for one in known if one in listed), found.place), found.label
                checkpoint = _identity(found)
        yield asked, label, checkpoint

"""Opening the model that a person names: on a server, or on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
        yield where.server.model(name_on(where.server, name))
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

    return LocalModel.load(found.label, found.place, device=where.device, dtype=where.dtype, base=where.base)


def name_on(server: Server, name: str) -> str:
    """What a server calls the model that a person names: the same, or a checkpoint's id or path.

    A server that loads what it is asked for lists nothing of it before; so what isn't listed is asked by its path.
    """
    if not name:
        return ""
    try:
        listed = server.models()
    except RefusedError:  # it understood, and has no list for us
        listed = []
    if name in listed:
        return name
    try:
        with named_model(name) as found:
            if found.record is None:
                return found.place
            return next((known for known in (found.record.id, found.label, found.place) if known in listed), found.place)
    except TrainbusError:
        return name  # a server may know models that nobody here does; it says so if it doesn't

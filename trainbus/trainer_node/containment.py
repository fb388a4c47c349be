"""A failure of the monitoring is counted, and never reaches the training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

M = TypeVar("M", bound=Callable[..., None])


class Counting(Protocol):
    """Who has such methods."""

    def failed(self, where: str, error: Exception) -> None:
        """Count a failure of its own."""


def contained(method: M) -> M:
    """A failure in here is counted and logged once, and the training goes on."""

    @functools.wraps(method)
    def call(self: Counting, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - monitoring must never fail the training
            self.failed(method.__name__, error)

    return cast(M, call)

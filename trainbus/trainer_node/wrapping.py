"""Methods of one Trainer object, wrapped and given back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class Wrapper:
    """Puts functions around methods of ``trainer``; each is given the original first."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._wrapped: list[str] = []

    def wrap(self, name: str, around: Callable[..., Any]) -> None:
        """Call ``around(original, ...)`` in place of the method."""
        original = getattr(self._trainer, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        setattr(self._trainer, name, wrapped)
        self._wrapped.append(name)

    def undo(self) -> None:
        """Leave the trainer as it was."""
        for name in self._wrapped:
            vars(self._trainer).pop(name, None)
        self._wrapped.clear()

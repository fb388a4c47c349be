"""Which framework gets what: called by our sitecustomize right after a framework's module has been executed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

INJECTIONS = {
    "transformers.trainer": "trainbus.inject.transformers_trainer",
    "lightning.pytorch.trainer.trainer": "trainbus.inject.lightning_trainer",
    "pytorch_lightning.trainer.trainer": "trainbus.inject.lightning_trainer",
    "accelerate.accelerator": "trainbus.inject.accelerate_trackers",
}
"""Modules with a function ``inject(module)``; each is imported when its framework is there."""

_said: set[str] = set()


def loaded(name: str, module: ModuleType) -> None:
    """A framework's module has been executed: wrap what trains. Wrapping imports nothing; that waits until a training begins."""
    import_module(INJECTIONS[name]).inject(module)


def say(what: str, error: BaseException) -> None:
    """One line on stderr, once for each kind of failure: the program is told, and goes on."""
    if what in _said:
        return
    _said.add(what)
    line = f"{type(error).__name__}: {error}".splitlines()[0]
    print(f"trainbus: {what}: {line} (the training goes on)", file=sys.stderr, flush=True)  # noqa: T201 - the program's own stderr


def guarded(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A failure of the function is said and goes no further; it then gives None."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - nothing of ours may fail somebody's training
                say(what, error)
                return None

        return call

    return decorate


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a method of a class by ``around(original, self, ...)``; twice is once."""
    original = getattr(owner, name)
    if getattr(original, "trainbus_wrapped", False):
        return

    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(original, self, *args, **kwargs)

    wrapped.trainbus_wrapped = True  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)

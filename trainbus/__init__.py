"""Independent monitors for LLM fine-tuning on a durable event bus.

    import trainbus

    with trainbus.init("my-run", config={"lr": 1e-4}) as run:
        for step in range(1000):
            run.step(step, loss=loss)

Names are loaded when they are first used: ``import trainbus`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trainbus.version import __version__

if TYPE_CHECKING:
    from trainbus.bus.client import Client as Client
    from trainbus.bus.publisher import Publisher as Publisher
    from trainbus.bus.run import Run as Run
    from trainbus.bus.run import init as init
    from trainbus.bus.subscriber import AsyncSubscriber as AsyncSubscriber
    from trainbus.bus.subscriber import Subscriber as Subscriber
    from trainbus.errors import TrainbusError as TrainbusError
    from trainbus.hookspecs import HOOK_API as HOOK_API
    from trainbus.hookspecs import Context as Context
    from trainbus.hookspecs import Panel as Panel
    from trainbus.hookspecs import hookimpl as hookimpl
    from trainbus.loggers.accelerate import TrainbusTracker as TrainbusTracker
    from trainbus.loggers.lightning import TrainbusLogger as TrainbusLogger

_WHERE = {
    "AsyncSubscriber": "trainbus.bus.subscriber",
    "Client": "trainbus.bus.client",
    "Context": "trainbus.hookspecs",
    "HOOK_API": "trainbus.hookspecs",
    "Panel": "trainbus.hookspecs",
    "Publisher": "trainbus.bus.publisher",
    "Run": "trainbus.bus.run",
    "Subscriber": "trainbus.bus.subscriber",
    "TrainbusError": "trainbus.errors",
    "TrainbusLogger": "trainbus.loggers.lightning",
    "TrainbusTracker": "trainbus.loggers.accelerate",
    "hookimpl": "trainbus.hookspecs",
    "init": "trainbus.bus.run",
}

__all__ = [
    "HOOK_API",
    "AsyncSubscriber",
    "Client",
    "Context",
    "Panel",
    "Publisher",
    "Run",
    "Subscriber",
    "TrainbusError",
    "TrainbusLogger",
    "TrainbusTracker",
    "__version__",
    "hookimpl",
    "init",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'trainbus' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

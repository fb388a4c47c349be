"""For plugin authors and for trainbus itself: a bus in memory, a clock, a trainer, histories, checkers. docs/testing.md describes it.

Names are loaded when they are first used, so that the pytest plugin costs nothing to those who don't use it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainbus.testing.bus import MemoryBus as MemoryBus
    from trainbus.testing.bus import MemoryRun as MemoryRun
    from trainbus.testing.check import check_plugin as check_plugin
    from trainbus.testing.checker import HistoryChecker as HistoryChecker
    from trainbus.testing.clock import VirtualClock as VirtualClock
    from trainbus.testing.context import MemoryContext as MemoryContext
    from trainbus.testing.context import PluginHarness as PluginHarness
    from trainbus.testing.crash import crash_everywhere as crash_everywhere
    from trainbus.testing.hosted import HostedPlugin as HostedPlugin
    from trainbus.testing.hosted import LocalBus as LocalBus
    from trainbus.testing.live import LiveHarness as LiveHarness
    from trainbus.testing.recordings import RECORDED as RECORDED
    from trainbus.testing.recordings import recorded as recorded
    from trainbus.testing.trainer import FakeTrainer as FakeTrainer

_WHERE = {
    "RECORDED": "recordings",
    "FakeTrainer": "trainer",
    "HistoryChecker": "checker",
    "HostedPlugin": "hosted",
    "LiveHarness": "live",
    "LocalBus": "hosted",
    "MemoryBus": "bus",
    "MemoryContext": "context",
    "MemoryRun": "bus",
    "PluginHarness": "context",
    "VirtualClock": "clock",
    "check_plugin": "check",
    "crash_everywhere": "crash",
    "recorded": "recordings",
}

__all__ = [
    "RECORDED",
    "FakeTrainer",
    "HistoryChecker",
    "HostedPlugin",
    "LiveHarness",
    "LocalBus",
    "MemoryBus",
    "MemoryContext",
    "MemoryRun",
    "PluginHarness",
    "VirtualClock",
    "check_plugin",
    "crash_everywhere",
    "recorded",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'trainbus.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"trainbus.testing.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

"""Fixtures for plugin authors; pytest finds them by itself wherever trainbus is installed. ``-p no:trainbus`` leaves them out.

Loaded in every test run of every project in the environment, so importing it loads pytest and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trainbus.bus.events import AnyEvent
    from trainbus.testing import LocalBus, MemoryBus, PluginHarness, VirtualClock


@pytest.fixture
def trainbus_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory for this test alone, which subprocesses inherit; settings from outside don't shine through."""
    for name in [name for name in os.environ if name.startswith("TRAINBUS_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "trainbus-home"
    monkeypatch.setenv("TRAINBUS_HOME", str(home))
    return home


@pytest.fixture
def trainbus_clock() -> VirtualClock:
    """A clock that the test turns; that of `trainbus_bus`."""
    from trainbus.testing import VirtualClock

    return VirtualClock()


@pytest.fixture
def trainbus_bus(tmp_path: Path, trainbus_clock: VirtualClock) -> Iterator[MemoryBus]:
    """A bus in memory; its plugins are stopped at the end."""
    from trainbus.testing import MemoryBus

    with MemoryBus(clock=trainbus_clock, directory=tmp_path / "plugins") as bus:
        yield bus


@pytest.fixture
def trainbus_harness(tmp_path: Path) -> Iterator[Callable[..., PluginHarness]]:
    """``trainbus_harness(plugin, config={...})`` starts one plugin to be fed by hand; it is stopped at the end."""
    from trainbus.testing import PluginHarness

    made: list[PluginHarness] = []

    def harness(plugin: Any, **arguments: Any) -> PluginHarness:
        made.append(PluginHarness(plugin, **{"directory": tmp_path, **arguments}))
        made[-1].start()
        return made[-1]

    yield harness
    for one in made:
        one.stop()


@pytest.fixture
def trainbus_recorded() -> Callable[[str], list[AnyEvent]]:
    """``trainbus_recorded(NAME)`` gives the events of a recorded history."""
    from trainbus.testing import recorded

    return recorded


@pytest.fixture
def trainbus_local(trainbus_home: Path) -> Iterator[LocalBus]:
    """A real broker in a state directory of its own; `trainbus.init` and commands find it by themselves."""
    from trainbus.testing import LocalBus

    with LocalBus(trainbus_home) as bus:
        yield bus

"""A home of its own for each test, a bench for the core, and no process left behind."""

from __future__ import annotations

import pytest

from tests.broker.broker_bench import Bench
from tests.broker.broker_process import BrokerProcess


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("TRAINBUS_HOME", str(home))
    return home


@pytest.fixture
def bench(root):
    """The core with a real journal, turned by hand."""
    bench = Bench(root / "journal.db")
    yield bench
    bench.close()


@pytest.fixture
def start(root):
    """Starts real broker processes; those that still run at the end are killed."""
    started = []

    def start(**settings):
        started.append(BrokerProcess(root, **settings))
        return started[-1]

    yield start
    for broker in started:
        broker.close()

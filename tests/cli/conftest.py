"""A real broker beside the tests of commands that ask one."""

from __future__ import annotations

import threading

import pytest

import trainbus
from trainbus.bus.broker.loop import run_broker
from trainbus.bus.config import BusConfig


@pytest.fixture
def broker(trainbus_home):
    """A broker in TRAINBUS_HOME, in a thread of this process: commands find it by its connection file."""
    ready, stop, failed = threading.Event(), threading.Event(), []

    def serve():
        try:
            run_broker(BusConfig(heartbeat_interval=0.1), trainbus_home, ready=lambda connection: ready.set(), stop=stop)
        except Exception as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(180), failed
    yield trainbus_home
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    assert not failed


@pytest.fixture
def a_run(broker):
    """A run that has ended, wholly in the journal: ten steps (the last loss is NaN), a checkpoint, an alert; then its id."""
    with trainbus.init("first", run="first-1", config={"lr": 1e-4}) as run:
        for step in range(1, 10):
            run.step(step, total_steps=10, loss=10.0 / step)
        run.checkpoint("out/checkpoint-9", step=9, loss=1.1)
        run.publish(
            trainbus.bus.events.Alert(
                id="a", rule="nan", severity="critical", step=10, message="The loss is NaN.", evidence={"loss": [1.1]}
            )
        )
        run.step(10, total_steps=10, loss=float("nan"))
    assert run.close(timeout=20)
    return "first-1"

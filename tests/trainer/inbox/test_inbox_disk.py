"""The disk of TRAINBUS_HOME (queue, spools, logs, tokenised data) is full in the middle of a job: the trainer waits, and goes on."""

from __future__ import annotations

import signal

import pytest

from tests.broker.broker_process import fill, small_disk
from tests.support import wait_for

LONG = 300.0
MEGABYTES, RESERVE = 256, 100
"""Spools that are closed give some megabytes back: far less than what is to stay free."""


def questions(first, count):
    return [{"question": f"what is {i}?", "answer": str(i)} for i in range(first, first + count)]


@pytest.fixture
def home(trainbus_home, inbox):
    """A home on a file system of its own."""
    inbox.config.write_text(inbox.config.read_text().replace("free_disk = 1", f"free_disk = {RESERVE}"))
    with small_disk(trainbus_home, MEGABYTES) as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_full_home_in_the_middle_of_a_job_costs_nothing(inbox, home, published):
    """The file ends, and what became of it is written down when there is room; the next one begins then, and none is lost or failed."""
    inbox.put("a.jsonl", questions(0, 120))
    inbox.start("--until-empty")
    wait_for(lambda: (m := inbox.newest()) and m.step >= 5, LONG, what="a checkpoint")
    ballast = home / "ballast"
    fill(ballast)
    inbox.put("b.jsonl", questions(1000, 10))
    wait_for(lambda: (m := inbox.newest()) and m.step == 60, LONG, what=f"the last checkpoint of a: {inbox.log.read_text()}")
    wait_for(lambda: inbox.process.poll() is not None or not worker(inbox), LONG, what="the end of the worker")
    assert inbox.process.poll() is None, inbox.log.read_text()
    assert (inbox.folder / "b.jsonl").exists(), "it is not taken before it can be written down"
    ballast.unlink()
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    assert inbox.jobs()["completed"] == ["a.jsonl", "b.jsonl"]
    assert (inbox.newest().step, inbox.newest().examples) == (65, 130)
    assert any("is full" in event.detail for event in published("phase") if event.name == "idle")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_who_is_stopped_with_a_full_home_leaves_the_rest_to_the_next_trainer(inbox, home):
    """SIGTERM ends it at once; the next one goes on where the checkpoint stands, and every example is seen once."""
    inbox.put("a.jsonl", questions(0, 120))
    inbox.start()
    wait_for(lambda: (m := inbox.newest()) and m.step >= 5, LONG, what="a checkpoint")
    ballast = home / "ballast"
    fill(ballast)
    inbox.process.send_signal(signal.SIGTERM)
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    ballast.unlink()
    inbox.start("--until-empty")
    assert inbox.process.wait(LONG) == 0, inbox.log.read_text()
    assert inbox.jobs()["completed"] == ["a.jsonl"]
    assert (inbox.newest().step, inbox.newest().examples) == (60, 120)


def worker(inbox):
    """Whether the daemon has a child."""
    import psutil

    return any(child.status() != psutil.STATUS_ZOMBIE for child in psutil.Process(inbox.process.pid).children())

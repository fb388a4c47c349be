"""When the queue will be done: learned from finished files, and kept with the queue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import trainbus
from trainbus.trainer_node.inbox.daemon import queue_file
from trainbus.trainer_node.inbox.forecast import forecast, told
from trainbus.trainer_node.inbox.queue import Job, Queue, new_id

MB = 1_000_000


def finish(queue, megabytes, seconds):
    queue.add(Job(id=new_id(), name=f"{megabytes}.jsonl", path=Path("x"), bytes=megabytes * MB))
    job = queue.take()
    queue.complete(queue.worked(job, seconds), path=Path("y"), examples=1)


def test_nothing_is_promised_before_a_file_is_done(trainbus_home):
    """The amount is told, the time is not."""
    with Queue(queue_file()) as queue:
        assert told(forecast(queue)) == "Nothing waits."
        queue.add(Job(id=new_id(), name="a", path=Path("x"), bytes=3 * MB))
        found = forecast(queue)
        assert (found.files, found.bytes, found.left, found.megabytes_per_hour) == (1, 3 * MB, None, None)
        assert "3.0 MB left; how long" in told(found)


def test_five_finished_files_tell_the_end_with_its_interval_also_after_a_restart(trainbus_home):
    """At about 100 MB/h, 150 MB and half of a file of 100 MB take two hours."""
    with Queue(queue_file()) as queue:
        for megabytes, hours in ((100, 1.03), (50, 0.48), (200, 1.97), (20, 0.21), (80, 0.81)):
            finish(queue, megabytes, hours * 3600)
        queue.add(Job(id=new_id(), name="now.jsonl", path=Path("x"), bytes=100 * MB))
        current = queue.take()
        queue.add(Job(id=new_id(), name="next.jsonl", path=Path("x"), bytes=150 * MB))
    with Queue(queue_file()) as queue:
        found = forecast(queue, done=0.5)
        assert found.megabytes_per_hour == pytest.approx(100, rel=0.01)
        assert (found.files, found.finished, found.bytes) == (2, 5, 200 * MB)
        assert found.left.seconds == pytest.approx(7200, rel=0.01)
        assert 1.8 * 3600 < found.left.low < 7200 < found.left.high < 2.2 * 3600
        by_time = forecast(queue, now=current.started + 36 * 60 * 10**9)
        assert by_time.bytes == pytest.approx(190 * MB, rel=0.01)
    shown = json.loads(trainbus("queue", "eta", "--json").stdout)
    assert shown["left"]["low"] < shown["left"]["seconds"] < shown["left"]["high"]
    status = trainbus("queue", "status").stdout
    assert "MB/h" in status


def test_a_queue_of_an_earlier_version_gets_its_new_column(tmp_path):
    """Opening it is enough."""
    with Queue(tmp_path / "queue.db") as queue:
        queue._db.execute("ALTER TABLE jobs DROP COLUMN seconds")
    with Queue(tmp_path / "queue.db") as queue:
        finish(queue, 3, 7.0)
        assert queue.jobs(("completed",))[0].seconds == 7.0

"""When the queue will be done, and how long steps take: from events alone."""

import pytest

from trainbus.bus.events import Job
from trainbus.plugins.web.queue_board import QueueBoard
from trainbus.plugins.web.step_times import StepTimes

MINUTE = 60 * 1_000_000_000
MB = 1_000_000


def job(name, state, minute, *, size=10, **fields):
    return Job(id=name, file=f"{name}.jsonl", state=state, bytes=size * MB, time=minute * MINUTE, **fields)


@pytest.fixture
def board():
    """Five files of 10 MB that took 8, 9, 10, 11 and 12 minutes."""
    made, minute = QueueBoard(), 1
    for number, took in enumerate((8, 9, 10, 11, 12)):
        made.apply(job(f"f{number}", "processing", minute), number)
        minute += took
        made.apply(job(f"f{number}", "completed", minute), None)
    assert minute == 51
    return made


def test_the_queue_is_done_at_the_pace_of_the_finished_files(board):
    """A-117: 30 MB at 60 MB an hour take 30 minutes, 24 at the fastest pace, 36 at the slowest."""
    board.apply(job("a", "queued", 51, size=20), None)
    board.apply(job("b", "queued", 51), None)
    found = board.forecast(51 * MINUTE)
    assert (found.files, found.bytes, found.finished) == (2, 30 * MB, 5)
    assert found.bytes_per_second * 3600 == pytest.approx(60 * MB)
    assert [round(end / MINUTE) for end in (found.earliest, found.done, found.latest)] == [75, 81, 87]
    assert [row["done"] and round(row["done"] / MINUTE) for row in board.rows(51 * MINUTE)[-2:]] == [71, 81]


def test_what_is_done_of_a_file_is_not_counted_again_also_after_a_pause(board):
    """Work counts while it is worked on, not while the file waits."""
    board.apply(job("a", "processing", 60), 5)
    assert board.forecast(64 * MINUTE).done == pytest.approx(70 * MINUTE)
    board.apply(job("a", "queued", 64, reason="stopped"), None)
    assert board.forecast(90 * MINUTE).done == pytest.approx(96 * MINUTE)
    board.apply(job("a", "processing", 90), 6)
    assert board.forecast(92 * MINUTE).done == pytest.approx(96 * MINUTE)
    board.apply(job("a", "completed", 96), None)
    assert board.forecast(96 * MINUTE) is None


def test_files_are_done_in_the_order_in_which_they_are_taken(board):
    """The one in work, then by priority; a skipped one is not taken, one of unknown size counts as the mean one."""
    for name, state, priority in (("s", "skipped", "low"), ("l", "queued", "low"), ("n", "queued", "normal"), ("h", "queued", "high")):
        board.apply(job(name, state, 51, priority=priority), None)
    board.apply(Job(id="u", file="u.jsonl", state="queued", priority="normal", time=51 * MINUTE), None)
    ends = {row["id"]: round(row["done"] / MINUTE) for row in board.rows(51 * MINUTE) if row["done"]}
    assert ends == {"h": 61, "n": 71, "u": 81, "l": 91}


def test_before_any_file_is_finished_nothing_is_foretold():
    """No pace, no time."""
    board = QueueBoard()
    board.apply(job("a", "processing", 1), 1)
    board.apply(job("b", "queued", 1), 1)
    assert board.forecast(9 * MINUTE) is None
    assert [row["done"] for row in board.rows(9 * MINUTE)] == [None, None]


def test_the_histogram_counts_every_step_and_its_percentiles_are_near():
    """Bins of 12 %: whatever the run's length, an outlier among a million stays."""
    times = StepTimes()
    assert times.stats().counted == 0
    for _ in range(980):
        times.add(0.2)
    for _ in range(19):
        times.add(1.0)
    times.add(40.0)
    found = times.stats()
    assert (found.counted, sum(found.counts), found.counts[-1], found.longest) == (1000, 1000, 1, 40.0)
    assert len(found.edges) == len(found.counts) + 1
    assert 0.2 <= found.p50 <= 0.2 * 1.13
    assert found.p95 == found.p50
    assert 1.0 <= found.p99 <= 1.13
    times.add(0.0)
    assert times.stats().counts[0] == 1

"""The queue: its order, its states, and that no death loses a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainbus.errors import RefusedError
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.inbox.intervals import Intervals
from trainbus.trainer_node.inbox.queue import ALLOWED, STATES, Flag, Job, Queue, new_id


@pytest.fixture
def queue(tmp_path):
    """An empty queue."""
    with Queue(tmp_path / "queue.db") as queue:
        yield queue


def add(queue, name, priority="normal"):
    return queue.add(Job(id=new_id(), name=name, path=Path(name), priority=priority))


def names(jobs):
    return [job.name for job in jobs]


def test_jobs_are_taken_by_priority_and_within_it_in_the_order_of_arrival(queue):
    """high, normal, low; first come, first served."""
    for name, priority in [("l", "low"), ("n1", "normal"), ("h", "high"), ("n2", "normal")]:
        add(queue, name, priority)
    assert names([queue.take() for _ in range(4)]) == ["h", "n1", "n2", "l"]
    assert queue.take() is None


def test_waiting_jobs_can_be_reordered_reprioritised_and_removed(queue):
    """The order is what `queue.jobs` shows and what `take` follows."""
    a, b, c = (add(queue, name) for name in "abc")
    queue.reorder(c, before=a)
    assert names(queue.jobs(("queued",))) == ["c", "a", "b"]
    queue.reorder(b, before=a)
    assert names(queue.jobs(("queued",))) == ["c", "b", "a"]
    queue.prioritise(a, "high")
    queue.remove(b)
    assert names([queue.take(), queue.take()]) == ["a", "c"]


def test_a_skipped_job_is_laid_aside_and_a_stopped_one_comes_before_all_others(queue):
    """Skip is for a person to take back, also when nothing else waits; a stop puts a file back where it was taken from."""
    for name in "abc":
        add(queue, name)
    skipped = queue.skip(queue.take(), "asked")
    assert names(queue.jobs(("queued",))) == ["b", "c"]
    with pytest.raises(RefusedError, match="a is skipped"):
        queue.prioritise(skipped, "high")
    stopped = queue.take()
    queue.put_back(stopped, "SIGTERM")
    again = queue.take()
    assert (again.name, again.attempts, again.reason) == ("b", 0, "SIGTERM")
    assert (queue.take().name, queue.take()) == ("c", None)
    queue.retry(skipped, path=skipped.path)
    again = queue.take()
    assert (again.name, again.priority) == ("a", "low")


def test_intervals_that_were_set_hold_for_their_run_alone(queue):
    """Also for another daemon; later ones are added, and the learning rate is none."""
    intervals = Intervals(queue, "r-1")
    assert (intervals.known(), intervals.words()) == ({}, "")
    assert intervals.keep(Flag(by="ann"), {"save_steps": 7.0, "learning_rate": 1e-5}) == {"save_steps": 7}
    intervals.keep(Flag(by="ben"), {"eval_steps": 9})
    again = Intervals(queue, "r-1")
    assert again.words().startswith("save_steps = 7, eval_steps = 9: set for this run")
    config = again.applied(TrainerConfig(save_steps=100, logging_steps=3))
    assert (config.save_steps, config.eval_steps, config.logging_steps) == (7, 9, 3)
    assert Intervals(queue, "r-2").applied(TrainerConfig()) == TrainerConfig()


def test_what_a_dead_daemon_had_in_hand_waits_again_once(queue, tmp_path):
    """The queue is a file: another process finds it as it was."""
    add(queue, "a")
    add(queue, "b")
    queue.take()
    with Queue(tmp_path / "queue.db") as other:
        assert names(other.recover()) == ["a"]
        assert other.recover() == []
        assert names(other.jobs(("queued",))) == ["a", "b"]


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_only_the_drawn_changes_of_state_are_possible(queue, before, after):
    """Everything else is refused, says why, and changes nothing."""
    job = add(queue, "a")
    queue._db.execute("UPDATE jobs SET state = ?", (before,))
    changes = {
        "queued": lambda: queue.put_back(job, ""),
        "processing": queue.take,
        "completed": lambda: queue.complete(job, path=Path("a"), examples=1),
        "failed": lambda: queue.fail(job, "no", path=Path("a")),
        "skipped": lambda: queue.skip(job, ""),
    }
    if after in ALLOWED[before]:
        changes[after]()
    elif after == "processing":
        assert changes[after]() is None
    else:
        with pytest.raises(RefusedError, match=f"a is {before} and can't become {after}"):
            changes[after]()
    expected = after if after in ALLOWED[before] else before
    assert [job.state for job in queue.jobs()] == [expected]


def test_a_job_is_found_by_id_beginning_or_name_and_an_unknown_one_is_told(queue):
    """What a person types."""
    job = add(queue, "a.jsonl")
    assert queue.find("a.jsonl") == queue.find(job.id) == queue.find(job.id[:10]) == job
    with pytest.raises(RefusedError, match="no job 'b'"):
        queue.find("b")


def test_what_is_being_trained_on_can_not_be_removed(queue):
    """The daemon has it in hand."""
    add(queue, "a")
    with pytest.raises(RefusedError, match="being trained on"):
        queue.remove(queue.take())

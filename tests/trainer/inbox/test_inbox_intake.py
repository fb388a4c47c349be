"""From a folder into the queue: only whole files, flattened, each once, and what can't be is put aside with a reason."""

from __future__ import annotations

import os

import pytest

from trainbus.errors import DataError
from trainbus.trainer_node.inbox.intake import Intake
from trainbus.trainer_node.inbox.queue import Queue

SETTLE = 2.0


@pytest.fixture
def queue(tmp_path):
    """An empty queue."""
    with Queue(tmp_path / "queue.db") as queue:
        yield queue


@pytest.fixture
def intake(tmp_path, queue):
    """An inbox of its own."""
    return Intake(tmp_path / "inbox", queue, settle=SETTLE)


def put(intake, name, content="{}\n"):
    path = intake.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def take_all(intake):
    intake.look(0.0)
    return intake.look(SETTLE)


def test_a_file_is_taken_only_when_it_has_stopped_growing(intake, queue):
    """Half a copy would be half the data."""
    path = put(intake, "a.jsonl", "{}\n")
    assert intake.look(0.0) == []
    path.write_text("{}\n{}\n")
    assert intake.look(SETTLE) == []
    assert intake.look(2 * SETTLE - 0.1) == []
    assert [taken.job.name for taken in intake.look(2 * SETTLE)] == ["a.jsonl"]
    (job,) = queue.jobs()
    assert (job.state, job.bytes, job.path.read_text()) == ("queued", 6, "{}\n{}\n")
    assert not path.exists()


def test_folders_are_flattened_with_numbers_on_collision_and_the_empty_ones_go(intake, queue):
    """x in a/b becomes x_a_b; folders that give a priority are no part of the name, and stay."""
    for name in ("x.jsonl", "a/x.jsonl", "a/b/x.jsonl", "high/y.jsonl.gz", "x_a.jsonl"):
        put(intake, name)
    take_all(intake)
    intake.look(2 * SETTLE)
    names = sorted(job.name for job in queue.jobs())
    assert names == ["x.jsonl", "x_a.jsonl", "x_a_1.jsonl", "x_a_b.jsonl", "y.jsonl.gz"]
    assert next(job for job in queue.jobs() if job.name == "y.jsonl.gz").priority == "high"
    assert sorted(child.name for child in intake.folder.iterdir()) == [".queue", "completed", "failed", "high"]


@pytest.mark.parametrize(("name", "content", "reason"), [("a.csv", "x", "ends in .csv; allowed: .jsonl"), ("a.jsonl", "", "it is empty")])
def test_what_can_not_be_data_is_put_aside_with_its_reason(intake, queue, name, content, reason):
    """The next file does not wait for it."""
    put(intake, name, content)
    put(intake, "good.jsonl")
    refused = [taken for taken in take_all(intake) if taken.refused]
    assert reason in refused[0].refused
    assert reason in (intake.folder / "failed" / f"{name}.reason.txt").read_text()
    assert [job.name for job in queue.jobs()] == ["good.jsonl"]


def test_a_file_above_ten_gigabytes_is_refused(intake, queue):
    """A sparse file of that size."""
    os.truncate(put(intake, "huge.jsonl"), 10 * 1024**3 + 1)
    (taken,) = take_all(intake)
    assert "10,737,418,241 bytes" in taken.refused


def test_unfinished_downloads_hidden_files_and_links_are_left_alone(intake, queue, tmp_path):
    """They are nobody's data yet, or not ours to move."""
    for name in ("a.jsonl.part", ".b.jsonl"):
        put(intake, name)
    outside = tmp_path / "outside.jsonl"
    outside.write_text("{}\n")
    (intake.folder / "link.jsonl").symlink_to(outside)
    assert take_all(intake) == []
    assert outside.exists()


def test_a_file_that_was_moved_aside_before_it_was_written_down_is_found_again(intake, queue):
    """kill -9 between the two; what the queue knows is not taken twice."""
    put(intake, "known.jsonl")
    take_all(intake)
    (intake.folder / ".queue" / "20260101-000000-abcdef-lost.jsonl").write_text("{}\n")
    assert [job.name for job in intake.recover()] == ["lost.jsonl"]
    assert intake.recover() == []
    assert sorted(job.name for job in queue.jobs()) == ["known.jsonl", "lost.jsonl"]


def test_a_folder_that_can_not_be_is_told_in_words(tmp_path, queue):
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't be used"):
        Intake(tmp_path / "file", queue, settle=SETTLE)

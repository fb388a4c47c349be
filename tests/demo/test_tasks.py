"""Demonstration tasks are the same for the same seed, can be checked, and are not measured on what was trained on."""

from __future__ import annotations

from trainbus.demo import tasks
from trainbus.trainer_node import data


def test_the_same_seed_gives_the_same_tasks():
    """Two runs of a demonstration can be compared."""
    held = tasks.held_out(40)
    assert held == tasks.held_out(40)
    assert tasks.training(50, 3, held) == tasks.training(50, 3, held)
    assert tasks.training(50, 3, held) != tasks.training(50, 4, held)


def test_no_held_out_question_is_trained_on():
    """Exact match then measures the skill and not the memory."""
    held = tasks.held_out(100)
    assert len({task.question for task in held}) == 100
    assert not {task.question for task in held} & {task.question for task in tasks.training(5000, 3, held)}
    assert {task.kind for task in held} == set(tasks.TAUGHT_KINDS)


def test_answers_are_checked():
    """The expected answer is correct, white space aside; another one is not."""
    for task in tasks.held_out(40, kinds=tuple(tasks.KINDS)):
        assert tasks.correct(task, f" {task.answer}\n")
        assert not tasks.correct(task, task.answer + "x")


def test_tasks_are_written_in_a_format_that_the_trainer_reads(tmp_path):
    """Question and answer, one a line."""
    path = tasks.write(tasks.held_out(10), tmp_path / "deep" / "tasks.jsonl")
    loaded = data.load_file(path)
    assert (loaded.format, len(loaded.examples)) == ("question and answer", 10)

"""Which checkpoints are examined, what is remembered, and when one is given up."""

from __future__ import annotations

import pytest

from tests.plugins.inference.tools import QUESTIONS, Journaled, behind, checkpoint, given_up, of, write_set
from trainbus.bus.events import Alert, Eval, Sample
from trainbus.errors import UnreachableError


def steps_of(harness, dataset="sums"):
    return [result.step for result in of(harness, Eval) if result.dataset == dataset]


def test_every_third_checkpoint_of_each_run_is_examined_beginning_with_the_first(examiner, until):
    """Each run is counted for itself; a repeated event counts once."""
    harness = examiner(policy="every", take_every=3)
    for step in range(1, 8):
        harness.feed(checkpoint(step), checkpoint(step), checkpoint(step, run="other"))
    until(lambda: len(of(harness, Eval)) == 6)
    assert [(result.run, result.step) for result in of(harness, Eval)] == [(run, step) for step in (1, 4, 7) for run in ("r", "other")]


def test_a_schedule_of_steps_takes_the_first_checkpoint_at_or_after_each(examiner, until):
    """A-105: the steps that are examined are the steps listed, as far as there are checkpoints at them."""
    harness = examiner(policy="every", at_steps=[10, 25, 50, 1000])
    harness.feed(*(checkpoint(step) for step in range(10, 101, 10)))
    until(lambda: len(of(harness, Eval)) == 3)
    assert steps_of(harness) == [10, 30, 50]


def test_a_scheduled_set_is_not_passed_over_for_a_newer_checkpoint(examiner, server, until, tmp_path):
    """While the examiner is behind, the main set goes to the newest; the schedule of the other is kept all the same."""
    evolution = write_set(tmp_path / "evolution.jsonl", QUESTIONS[:2])
    server.held.clear()
    harness = examiner(sets=[{"questions": evolution, "at_steps": [20, 30]}])
    harness.feed(checkpoint(10))
    until(lambda: server.requests)
    harness.feed(*(checkpoint(step) for step in (20, 30, 40, 50)))
    server.held.set()
    until(lambda: len(of(harness, Eval)) == 4 and not harness.context.state["pending"])
    assert steps_of(harness) == [10, 50]
    assert sorted(steps_of(harness, "evolution")) == [20, 30]


def test_the_same_examples_are_asked_greedily_at_each_step_so_two_runs_are_identical(examiner, server, until):
    """A-105: each example keeps its id from checkpoint to checkpoint, and nothing in the answers but the model can change."""

    def answers(run):
        harness = examiner(policy="every", concurrency=5)
        harness.feed(*(checkpoint(step, run=run) for step in (1, 2)))
        until(lambda: len(of(harness, Eval)) == 2)
        return [(sample.step, sample.example, sample.answer, sample.correct) for sample in of(harness, Sample)]

    first = answers("one")
    assert [row[:2] for row in first] == [(step, f"q{n}") for step in (1, 2) for n in range(1, 6)]
    assert answers("two") == first
    assert {body["temperature"] for body in server.requests} == {0.0}


def test_it_says_how_far_behind_it_is(examiner, server, until):
    """A metric of each run, when the number changes: it goes up with what comes and down with what is done."""
    server.held.clear()
    harness = examiner(policy="every")
    harness.feed(checkpoint(1), checkpoint(2), checkpoint(3))
    assert behind(harness) == [1, 2, 3]
    server.held.set()
    until(lambda: behind(harness)[-1] == 0)
    assert behind(harness) == [1, 2, 3, 2, 1, 0]


def test_a_set_is_resumed_in_the_middle_after_a_crash(examiner, server, until):
    """What was answered and published before is neither asked nor published again."""
    server.answer = lambda prompt: server.held.clear() or "6" if prompt == "3 + 3?" else "x"
    first = examiner(concurrency=1)
    first.feed(checkpoint(1))
    until(lambda: len(server.requests) == 4)
    first.kill()
    assert [sample.example for sample in of(first, Sample)] == ["q1", "q2", "q3"]
    server.answer = lambda prompt: "10"
    server.held.set()
    second = examiner(context=first.context, concurrency=1)
    until(lambda: of(second, Eval))
    assert [body["messages"][0]["content"] for body in server.requests[4:]] == ["4 + 4?", "5 + 5?"]
    assert [sample.example for sample in of(second, Sample)] == ["q1", "q2", "q3", "q4", "q5"]
    (result,) = of(second, Eval)
    assert result.metrics["accuracy"] == 0.4


def test_tries_are_counted_over_restarts(examiner, server, until):
    """A checkpoint that breaks the server does not get new tries with each new process of the plugin."""
    server.mode = "broken json"
    first = examiner(attempts=3, pause=30.0, longest_pause=30.0)
    first.feed(checkpoint(1))
    until(lambda: first.context.state["pending"][0].get("attempts") == 1)
    first.stop()
    second = examiner(context=first.context, attempts=2)
    until(lambda: given_up(second))
    assert given_up(second)[0].evidence["attempts"] == 2


def test_a_server_that_breaks_each_connection_costs_the_checkpoint_its_tries(examiner, server, until):
    """Otherwise a checkpoint that kills the server would be tried for ever."""
    server.mode = "hang up"
    harness = examiner(attempts=2)
    harness.feed(checkpoint(1))
    until(lambda: given_up(harness))
    assert "broke the connection" in given_up(harness)[0].message


def test_a_checkpoint_that_is_deleted_while_it_is_tried_again_is_let_go(examiner, server, until):
    """No alert: nobody misses the result of what is gone."""
    server.mode = "broken json"
    harness = examiner(attempts=1000, pause=0.05)
    harness.feed(checkpoint(1))
    until(lambda: len(server.requests) >= 2)
    harness.feed(checkpoint(1, state="deleted"))
    server.mode = "good"
    harness.feed(checkpoint(2))
    until(lambda: of(harness, Eval))
    assert {result.step for result in of(harness, Eval)} <= {1, 2}
    assert given_up(harness) == []


class Broken(Journaled):
    """The broker refuses at first; for one checkpoint something raises that nobody has foreseen."""

    refusals = 3

    def aquery(self, *, runs=(), **arguments):
        if self.refusals:
            self.refusals -= 1
            raise UnreachableError("No broker answers.", hint="Start it.")
        if runs == ["cursed"]:
            raise ZeroDivisionError("division by zero")
        return super().aquery(runs=runs, **arguments)


def test_what_nobody_foresaw_costs_a_checkpoint_its_tries_and_an_absent_broker_none(examiner, until, tmp_path, monkeypatch):
    """Otherwise one such checkpoint would keep all later ones waiting for ever."""
    monkeypatch.setattr("trainbus.plugins.inference.examiner.AFTER_ERROR", 0.01)
    harness = examiner(context=Broken(name="inference", directory=tmp_path), policy="every", attempts=2)
    harness.feed(checkpoint(1), checkpoint(1, run="cursed"), checkpoint(2))
    until(lambda: len(of(harness, Eval)) == 2)
    assert steps_of(harness) == [1, 2]
    assert [(alert.run, alert.evidence["attempts"]) for alert in given_up(harness)] == [("cursed", 2)]
    assert "division by zero" in given_up(harness)[0].message


def test_a_question_that_the_server_refuses_is_left_out_and_the_others_count(examiner, server, until):
    """Too long for the model's context, for instance: the sample says so, the result is that of the others."""
    answered = server.answer
    server.answer = lambda prompt: setattr(server, "mode", "too long" if prompt == "4 + 4?" else "good") or answered(prompt)
    harness = examiner(concurrency=1)
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    (result,) = of(harness, Eval)
    assert result.evidence == {"judged": 4, "correct": 4, "refused": 1}
    refused = [sample for sample in of(harness, Sample) if sample.example == "q4"]
    assert [(sample.answer, sample.correct, sample.metrics) for sample in refused] == [(None, None, {"refused": 1.0})]


def test_a_checkpoint_of_which_the_first_questions_are_all_refused_is_given_up(examiner, server, until):
    """Then it is not the question that is wrong."""
    server.mode = "too long"
    harness = examiner(concurrency=1)
    harness.feed(checkpoint(1))
    until(lambda: given_up(harness))
    assert len(server.requests) == 3
    assert "maximum context length" in given_up(harness)[0].message


def test_answers_behind_a_question_without_one_are_published_when_the_checkpoint_is_given_up(examiner, server, until):
    """Nothing that the server has said is lost."""
    answered = server.answer
    server.answer = lambda prompt: setattr(server, "mode", "html" if prompt == "1 + 1?" else "good") or answered(prompt)
    harness = examiner(concurrency=2, attempts=2)
    harness.feed(checkpoint(1))
    until(lambda: given_up(harness))
    assert {sample.example for sample in of(harness, Sample)} == {f"q{n}" for n in range(2, 2 + given_up(harness)[0].evidence["answered"])}


def test_a_result_says_whether_it_differs_from_the_checkpoint_before_by_more_than_noise(examiner, server, until, tmp_path):
    """The same questions, pair by pair; also after a restart, when the journal is asked for the answers before."""
    many = write_set(tmp_path / "many.jsonl", [{"id": f"q{n}", "question": f"{n} + 0?", "answer": str(n)} for n in range(12)])
    server.answer = lambda prompt: "x"
    first = examiner(questions=many)
    first.feed(checkpoint(1))
    until(lambda: of(first, Eval))
    first.stop()
    assert "compared" not in of(first, Eval)[0].evidence
    server.answer = lambda prompt: prompt.partition(" ")[0]
    second = examiner(context=first.context, questions=many)
    second.feed(checkpoint(2))
    until(lambda: len(of(second, Eval)) == 2)
    assert of(second, Eval)[1].evidence["compared"] == {
        "checkpoint": "r@1:abc", "judged": 12, "better": 12, "worse": 0, "before": 0.0, "after": 1.0,
        "p_value": pytest.approx(2 / 2**12), "noise": False,
    }  # fmt: skip
    second.feed(checkpoint(3))
    until(lambda: len(of(second, Eval)) == 3)
    assert of(second, Eval)[2].evidence["compared"]["noise"] is True
    assert [alert for alert in of(second, Alert) if alert.state == "raised"] == []
